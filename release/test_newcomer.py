"""Somebody new installs the wheel as the page says, and does what the page says, in its order.

Each page gets an empty folder and an empty environment. What it tells to install comes from `dist/`, and the
packages of others in the versions of `requirements.txt`.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from installing import ROOT, UV, native, run
from pages import Block, blocks

PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md"]


class Newcomer:
    """Somebody with an empty folder and an empty environment.

    Args:
        folder: where everything lies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "folder"
        self._folder.mkdir()
        programs = folder / "environment" / "bin"
        run(*UV, "venv", "--python", sys.executable, programs.parent)
        # uv installs what is in its own cache in a second, and pip would fetch gigabytes.
        pip = programs / "pip"
        pip.write_text(f'#!/bin/sh\nexec {shlex.join(UV)} pip "$@" --python {programs / "python"}\n')
        pip.chmod(0o755)
        versions = folder / "versions.txt"
        pinned = (ROOT / "requirements.txt").read_text()
        versions.write_text(f"{pinned}dejavec @ {native().as_uri()}\n")
        self._python = programs / "python"
        self._variables = {
            **{name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS")},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "UV_CONSTRAINT": str(versions),
        }

    def does(self, block: Block) -> str:
        """Do what a block says; what it printed."""
        if block.language == "python":
            return self._run(self._python, "-c", block.source)
        if block.code.startswith("make "):
            return self._dry_run(block)
        return self._run("bash", "-euc", block.code)

    def _dry_run(self, block: Block) -> str:
        """Ask make whether it knows its targets: they need the source, and other tests run them."""
        for line in block.code.splitlines():
            run(*shlex.split(line, comments=True), "--dry-run", cwd=ROOT, env=self._variables)
        return ""

    def _run(self, *command: object) -> str:
        return run(*command, cwd=self._folder, env=self._variables)


def follow(steps: Iterable[Block], newcomer: Newcomer) -> None:
    """Take the steps of a page, one after the other; the first that prints something else fails."""
    for step in steps:
        printed = newcomer.does(step)
        assert step.output in (None, printed), f"{step} prints\n{printed}"


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    return Newcomer(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_newcomer_who_follows_a_page_gets_what_it_prints(page: Path, newcomer: Newcomer) -> None:
    steps = list(blocks(page, "sh", "python"))
    assert steps[0].code.startswith("pip install dejavec")
    follow(steps, newcomer)


def test_a_page_that_prints_something_else_is_noticed(newcomer: Newcomer) -> None:
    install, first = list(blocks(ROOT / "docs" / "index.md", "sh", "python"))[:2]
    assert first.output
    wrong = replace(first, output=first.output.replace("2 vectors", "3 vectors"))
    with pytest.raises(AssertionError, match="2 vectors stored"):
        follow([install, wrong], newcomer)
