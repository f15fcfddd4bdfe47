"""What is installed: light to import, complete, and honest about what it needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import dejavec

ROOT = Path(__file__).parents[2]
HEAVY = frozenset(
    {"click", "datasets", "faiss", "mteb", "pandas", "pyarrow", "rich", "sentence_transformers", "torch"}
)
PROMISED = frozenset(
    {"CacheBackendProtocol", "CachedEmbeddingWrapper", "DejavecError", "EmbeddingCache", "NumpyCache"}
    | {"TextVectorMap", "cached", "install", "uninstall"}
)


def modules_after(statement: str) -> set[str]:
    """The top-level modules of a fresh interpreter after a statement."""
    program = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_importing_it_imports_nothing_heavy() -> None:
    assert not modules_after("import dejavec") & HEAVY


def test_the_command_line_imports_click_and_without_a_terminal_nothing_heavier(tmp_path: Path) -> None:
    with dejavec.EmbeddingCache(tmp_path / "cache") as cache:
        cache.put(["a"], [[1.0]])
    called = ["['--help']", f"['ls', {str(tmp_path)!r}]", f"['info', {str(tmp_path / 'cache')!r}, '--json']"]
    calls = "\n".join(f"    main({words})" for words in called)
    imported = modules_after(
        "import contextlib, os\nfrom dejavec.cli.main import main\n"
        f"with contextlib.redirect_stdout(open(os.devnull, 'w')):\n{calls}"
    )
    assert imported & HEAVY == {"click"}


def test_the_public_names_are_there() -> None:
    assert set(dejavec.__all__) >= PROMISED
    for name in dejavec.__all__:
        assert getattr(dejavec, name) is not None
    with pytest.raises(AttributeError):
        dejavec.no_such_name  # noqa: B018


def test_both_names_of_the_map_are_one_class() -> None:
    assert dejavec.TextVectorMap is dejavec.NumpyCache


def test_the_version_is_the_workspaces() -> None:
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    assert dejavec.__version__ == metadata.version("dejavec") == workspace["package"]["version"]


def test_only_these_are_required() -> None:
    required = {
        re.split(r"[ <>=!~;\[]", requirement)[0]
        for requirement in metadata.requires("dejavec") or []
        if "extra ==" not in requirement
    }
    assert required == {"click", "numpy", "rich", "tqdm"}


def test_the_build_uses_the_pinned_maturin() -> None:
    (build,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert build in (ROOT / "requirements.txt").read_text().splitlines()


def test_requirements_name_no_index() -> None:
    for name in ("requirements.in", "requirements.txt"):
        assert "://" not in (ROOT / name).read_text()
