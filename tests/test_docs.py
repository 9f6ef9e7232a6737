"""Every Python block of the README and the docs runs, top to bottom, each page in a namespace of its own."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COURSE = [page for page in PAGES if page.parent.name == "course"]
# Pages that are about a library, by the module they import.
NEEDS = {"stable-baselines3.md": "stable_baselines3", "envpool.md": "envpool", "rlhf.md": "peft",
         "apex.md": "ray"}  # fmt: skip
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\[`[^`]+`\]\(([^)]+\.py)\)")


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_run(page, tmp_path, monkeypatch, request):
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name], reason=f"{NEEDS[page.name]} is not installed")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))  # some pages set them
    namespace = {"__name__": "__docs__"}
    for i, code in enumerate(blocks(page, "python")):
        file = tmp_path / f"{page.stem}_{i}.py"  # a true one: who compiles functions reads their sources
        file.write_text(code)
        exec(compile(code, str(file), "exec"), namespace)
    if page in COURSE:  # the pictures beside it are its own
        drawn = {path.name for path in tmp_path.glob("*.svg")}
        assert drawn == set(re.findall(r"!\[[^\]]*\]\(([\w-]+\.svg)\)", page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", COURSE, ids=name)
def test_excerpts_are_lines_of_the_file_named_last(page):
    text, checked = page.read_text(), 0
    for block in re.finditer(r"^```py\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        source = (page.parent / FILE.findall(text[: block.start()])[-1]).read_text()
        assert any(textwrap.indent(block[1], " " * n) in source for n in range(0, 24, 4)), block[1]
        checked += 1
    assert checked or page.name == "index.md"


def test_details_are_lines_of_the_file_and_have_the_test_that_they_name():
    page, tests = ROOT / "docs" / "rlhf.md", "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    rows = re.findall(r"^\|[^|]+\| `([^`]+)` in \[[^\]]+\]\(([^)]+)\) \| `(\w+)` \|$", page.read_text(), re.MULTILINE)
    assert len(rows) >= 15
    for line, file, test in rows:
        assert line in (page.parent / file).read_text(), line
        assert f"def {test}(" in tests, test


def test_there_are_blocks_to_run():
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 5
