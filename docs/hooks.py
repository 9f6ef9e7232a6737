"""What MkDocs does to these pages beyond its own: formulas, links out of the folder, the changelog."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from math_core import LatexError, LatexToMathML
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)]*)?\)")
latex = LatexToMathML()


def on_files(files: Any, config: Any) -> Any:
    """CHANGELOG.md stands beside the docs, not among them."""
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links to files outside the docs lead to the repository, where its address is known; else they are plain text."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def outside(match: re.Match[str]) -> str:
        text, target = match[1], (folder / match[2]).resolve()
        if not target.is_file() or target.is_relative_to(ROOT / "docs"):
            return match[0]
        address = target.relative_to(ROOT).as_posix()
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{address})" if config.repo_url else text

    return LINK.sub(outside, markdown)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Formulas become MathML, which browsers draw by themselves; one that cannot be read ends the build."""

    def mathml(match: re.Match[str]) -> str:
        try:
            return latex.convert_with_local_state(html.unescape(match[3]).strip(), displaystyle=match[2] == "[")
        except LatexError as error:
            raise PluginError(f"{page.file.src_uri}: {match[3].strip()}: {error}") from error

    return FORMULA.sub(lambda m: f'<{m[1]} class="formula">{mathml(m)}</{m[1]}>', content)
