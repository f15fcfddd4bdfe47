"""The pages whose programs need frameworks, and the examples of the adapters: each prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest
from pages import Block, adapter_pages, blocks

import dejavec.adapters

BLOCKS = [block for page in adapter_pages() for block in blocks(page, "python")]
MODULES = [module.name for module in pkgutil.iter_modules(dejavec.adapters.__path__)]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_runs_by_itself_and_prints_what_the_page_says(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.source, str(block.page), "exec", dont_inherit=True), {"__name__": "__main__"})
    if block.output is not None:
        assert capsys.readouterr().out == block.output


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_an_adapter_are_right(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"dejavec.adapters.{name}")).failed == 0
