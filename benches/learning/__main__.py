"""python -m benches.learning"""

from __future__ import annotations

import tyro

from benches.learning.command import main

if __name__ == "__main__":
    tyro.cli(main)
