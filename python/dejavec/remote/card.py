"""The card of a published cache: what a program knows is written by one, and the rest by people."""

from __future__ import annotations

from typing import Any

from dejavec.remote.namespace import Namespace
from dejavec.storage.identity import model_text
from dejavec.storage.summary import size_text
from dejavec.support.canonical import canonical_json

FILE = "README.md"
_BEGIN, _END = "<!-- dejavec: begin -->", "<!-- dejavec: end -->"

_FRONT = """---
license: unknown
tags: [embeddings, dejavec]
---

# Embeddings of …

Fill in: which texts these vectors are of, where they come from, and the licence above.

"""


def card(namespace: Namespace, rows: int, size: int, url: str) -> str:
    """Return the facts of a cache as Markdown.

    Args:
        namespace: what the rows are.
        rows: how many there are.
        size: their bytes.
        url: where they are.

    Example:
        >>> from dejavec.remote.namespace import Form
        >>> from dejavec.vectors.output import Output
        >>> model = {"model": {"name": "m", "revision": "1"}}
        >>> what = Namespace(model, Form("dense", 3, "<f4", "float32"), Output("numpy", "float32"))
        >>> print(card(what, 10, 120, "hf://datasets/o/n").splitlines()[4])
        | model | `m` |
    """
    identity, form = namespace.identity, namespace.form
    model = identity.get("model")
    entries = model if isinstance(model, dict) else {}
    facts: list[tuple[str, Any]] = [
        ("model", entries.get("name") or model_text(identity)),
        ("revision", entries.get("revision")),
        ("role", identity.get("role")),
        ("prompt", identity.get("prompt")),
        ("vectors", f"{rows:,}"),
        ("numbers in a vector", f"{form.dim:,}"),
        ("dtype", form.returned),
        ("form", form.rows),
        ("size", size_text(size)),
    ]
    lines = [f"| {name} | {_code(value)} |" for name, value in facts if value is not None]
    return "\n".join(
        [
            _BEGIN,
            "",
            "| | |",
            "|---|---|",
            *lines,
            "",
            "```sh",
            'pip install "dejavec[remote]"',
            f"dejavec pull {url} embeddings",
            "```",
            "",
            "Vectors can be inverted to text, and keys can be probed: treat them like the texts.",
            "",
            _END,
        ]
    )


def with_facts(old: bytes | None, facts: str) -> str:
    """Return the card of a repository with new facts. What people wrote stays.

    Args:
        old: the card that is there; None for none.
        facts: what :func:`card` returned.

    Example:
        >>> first = with_facts(None, f"{_BEGIN} one {_END}")
        >>> with_facts(first.replace("unknown", "mit").encode(), f"{_BEGIN} two {_END}").count("mit")
        1
    """
    text = _FRONT if old is None else old.decode("utf-8", "replace")
    begin, end = text.find(_BEGIN), text.find(_END)
    if 0 <= begin < end:
        return text[:begin] + facts + text[end + len(_END) :]
    return f"{text.rstrip()}\n\n{facts}\n"


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    shown = "".join(character if character.isprintable() else " " for character in text)
    return f"`{shown[:300]}`".replace("|", "\\|")
