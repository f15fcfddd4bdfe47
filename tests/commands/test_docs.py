"""Every Python block of the README and of docs/ runs by itself, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import OUTPUT, ROOT, Block, adapter_pages, blocks, cluster_pages, fences

pytestmark = pytest.mark.slow

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The programs of the others run in `make test-adapters` and `make test-scale`.
RUN_HERE = [page for page in PAGES if page not in adapter_pages() + cluster_pages()]
# What a fence of another language than Python may be: shown, not run.
SHOWN = {"sh", "text", "toml", "json"}
WITH_PROGRAMS = {"README.md", "index.md", "mteb.md", "search.md", "moving.md"}


@pytest.mark.filterwarnings("ignore::dejavec.errors.DejavecWarning")
@pytest.mark.parametrize("block", [block for page in RUN_HERE for block in blocks(page, "python")], ids=str)
def test_a_block_runs_by_itself_and_prints_what_the_page_says(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.source, str(block.page), "exec"), {"__name__": "__main__"})
    if block.output is not None:
        assert capsys.readouterr().out == block.output


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in blocks(page, "sh") if block.output is not None],
    ids=str,
)
def test_commands_with_an_output_print_it(block: Block, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-ec", block.code],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", block.output)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_escapes_by_its_language(page: Path) -> None:
    found = fences(page)
    assert {fence["language"] for fence in found} <= SHOWN | {"python"}
    assert page.read_text().count("\n```") == 2 * len(found)


def test_an_output_follows_a_program_that_prints() -> None:
    for page in PAGES:
        found = fences(page)
        for before, fence in zip([None, *found], found, strict=False):
            if OUTPUT in fence["info"]:
                assert before, page.name
                assert before["language"] in ("python", "sh"), page.name
                assert ("print(" if before["language"] == "python" else "dejavec ") in before["code"], (
                    page.name
                )


@pytest.mark.parametrize("name", sorted(WITH_PROGRAMS))
def test_the_pages_for_users_have_programs(name: str) -> None:
    (page,) = (page for page in PAGES if page.name == name and page.parent.name != "api")
    assert list(blocks(page, "python"))


def test_links_within_the_project_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_picture_has_words_for_who_cannot_see_it() -> None:
    pictures = [text for page in PAGES for text in re.findall(r"!\[(.*?)\]\(", page.read_text())]
    assert pictures
    assert all(map(str.strip, pictures))
    assert not any("<img" in page.read_text() for page in PAGES)


def names_in(script: Path) -> dict[str, Any]:
    """The functions of a program that writes a page."""
    names: dict[str, Any] = {"__name__": script.stem, "__file__": str(script)}
    exec(compile(script.read_text(), str(script), "exec"), names)
    return names


def test_the_pages_about_the_command_line_are_what_the_program_says() -> None:
    names = names_in(ROOT / "docs" / "command_line.py")
    for page, made in (("command-line.md", "page"), ("command-line-json.md", "json_page")):
        assert (ROOT / "docs" / page).read_text() == names[made]()


def test_the_table_of_models_is_that_of_the_installed_mteb() -> None:
    page = (ROOT / "docs" / "mteb.md").read_text()
    assert page == names_in(ROOT / "docs" / "model_table.py")["page_with_table"](page)
