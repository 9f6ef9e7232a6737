"""Draw the course's pictures anew: `python docs/course/draw.py [PAGE ...]` runs the blocks of its pages beside them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import matplotlib

FOLDER = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

if __name__ == "__main__":
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fastrl"  # the same picture is the same file
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    os.chdir(FOLDER)
    for page in sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.md")):
        exec("\n".join(BLOCK.findall(Path(page).read_text())), {"__name__": "__docs__"})
