"""Every Python block of the README and of docs/ runs, page by page, in an empty directory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
# What a fence of another language than Python may be: shown, not run.
SHOWN = {"sh", "text", "toml", "json"}


def python_blocks(page: Path) -> Iterator[str]:
    """The blocks of a page, each moved down to its lines there, which a traceback then names."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        if block["language"] == "python":
            yield "\n" * text.count("\n", 0, block.start("code")) + block["code"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_escapes_by_its_language(page: Path) -> None:
    languages = [block["language"] for block in BLOCK.finditer(page.read_text())]
    assert set(languages) <= SHOWN | {"python"}
    assert page.read_text().count("\n```") == 2 * len(languages)


@pytest.mark.parametrize("name", ["README.md", "mteb.md"])
def test_the_pages_for_users_have_programs(name: str) -> None:
    (page,) = (page for page in PAGES if page.name == name)
    assert list(python_blocks(page))


def test_links_within_the_project_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
