"""The site of docs/: it is whole, names every public name, and fetches nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastrl

ROOT = Path(__file__).parent.parent
# What a browser loads by itself: not the links that a reader follows.
ELSEWHERE = r"""["']?((?:https?:)?//[^"')\s>]+)"""
LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)\s*=\s*" + ELSEWHERE)
FETCHED = re.compile(r"(?:url\(|@import)\s*" + ELSEWHERE)


def test_every_public_name_is_on_a_page_of_the_reference():
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    missing = [f"{home}.{name}" for name, home in fastrl._HOME.items() if not {home, f"{home}.{name}"} & shown]
    assert not missing, f"add to a page in docs/api/: {', '.join(f'::: {name}' for name in missing)}"


def test_what_counts_as_loaded():
    assert LOADED.findall('<script async src="https://cdn.example/x.js"></script>') == ["https://cdn.example/x.js"]
    assert LOADED.findall("<link rel=stylesheet href=//fonts.example/css>") == ["//fonts.example/css"]
    assert not LOADED.findall('<a href="https://example.org"><img src="x.png"></a>')
    assert FETCHED.findall("@font-face{src:url('https://fonts.example/a.woff2')}") == ["https://fonts.example/a.woff2"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("material", "mkdocstrings", "math_core"):
        pytest.importorskip(name, reason='the site needs pip install -e ".[docs]"')
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_it_builds_strictly_and_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert not LOADED.findall(page.read_text()), page
    for sheet in site.rglob("*.css"):
        assert not FETCHED.findall(sheet.read_text()), sheet


def test_formulas_are_drawn_by_the_browser_alone(site):
    text = (site / "course" / "bellman.html").read_text()
    assert text.count("<math") > 10
    assert "arithmatex" not in text
