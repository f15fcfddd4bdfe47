"""The programs and commands in the pages, and what the pages say they print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = 'title="output"'


@dataclass(frozen=True)
class Block:
    """A program in a page, or commands.

    Attributes:
        page: the page.
        line: how many lines are above the code.
        language: the language of the code.
        code: the program, or the commands.
        output: what the page says it prints; None if it says nothing.
    """

    page: Path
    line: int
    language: str
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def source(self) -> str:
        """The code below as many lines as in the page, so that a traceback names the line of the page."""
        return "\n" * self.line + self.code


def framework_pages() -> list[Path]:
    """The pages about frameworks that have an adapter."""
    return sorted((ROOT / "docs" / "frameworks").glob("*.md"))


def adapter_pages() -> list[Path]:
    """The pages whose programs need packages that only the environment of ``make test-adapters`` has."""
    recipes = ("bertopic", "celery", "dspy", "txtai")
    return framework_pages() + [ROOT / "docs" / "recipes" / f"{name}.md" for name in recipes]


def cluster_pages() -> list[Path]:
    """The pages whose programs need a cluster, as ``make test-scale`` has."""
    return [ROOT / "docs" / "cluster.md"]


def fences(page: Path) -> list[re.Match[str]]:
    """Everything in a page that stands between fences."""
    return list(FENCE.finditer(page.read_text()))


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """The blocks of a page in these languages, in the order of the page."""
    text, found = page.read_text(), fences(page)
    for fence, follower in zip_longest(found, found[1:]):
        if fence["language"] in languages:
            output = follower["code"] if follower and OUTPUT in follower["info"] else None
            line = text.count("\n", 0, fence.start("code"))
            yield Block(page, line, fence["language"], fence["code"], output)
