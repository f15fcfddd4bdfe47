"""What a cache says of itself, and of mistakes: one clear sentence, at the caller's line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from mteb_models import FieldsModel, encode
from processes import run

import dejavec
from dejavec import CachedEmbeddingWrapper, DejavecWarning, EmbeddingCache, cached
from dejavec.errors import IdentityMismatchError, VectorsError


def ones(texts: list[str]) -> Any:
    return np.ones((len(texts), 4), np.float32)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    with EmbeddingCache(tmp_path / "filled", model="m@1") as cache:
        cache.encode(["a", "b"], ones)
    return tmp_path / "filled"


class TestWhatACacheSaysOfItself:
    def test_its_repr_names_model_count_and_size(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path / "emb", model="m@1", durability="close")
        assert repr(cache) == f"EmbeddingCache({str(tmp_path / 'emb')!r}, model='m@1', empty)"
        cache.put([str(number) for number in range(1000)], np.ones((1000, 384), np.float32))
        assert repr(cache).startswith(
            f"EmbeddingCache({str(tmp_path / 'emb')!r}, model='m@1', 1,000 × 384 float32, 1.6 MB"
        )
        shown = cache._repr_html_()
        for part in ("m@1", "1,000", "384", "float32"):
            assert part in shown
        cache.close()
        assert repr(cache) == f"EmbeddingCache({str(tmp_path / 'emb')!r}, closed)"
        assert "closed" in cache._repr_html_()

    def test_markup_in_a_name_is_no_markup(self, tmp_path: Path) -> None:
        assert "<script>" not in EmbeddingCache(tmp_path / "c", model="<script>@1")._repr_html_()

    def test_a_damaged_cache_has_a_repr(self, filled: Path) -> None:
        cache = EmbeddingCache(filled, model="m@1")
        shutil.rmtree(filled)
        assert str(filled) in repr(cache)

    def test_model_identity_and_closed(self, tmp_path: Path, filled: Path) -> None:
        cache = EmbeddingCache(filled, mode="r")
        assert (cache.model, cache.identity) == ("m@1", {"model": {"name": "m", "revision": "1"}})
        assert not cache.closed
        cache.close()
        assert cache.closed
        nameless = EmbeddingCache(tmp_path / "c")
        assert (nameless.model, nameless.identity) == (None, {})
        assert EmbeddingCache(tmp_path / "d", model="m").model == "m"

    def test_a_wrapper_names_model_and_path(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        assert repr(wrapper) == f"CachedEmbeddingWrapper('tests/model', {str(tmp_path)!r})"

    def test_counts_of_what_happened_are_no_plan(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        encode(wrapper, ["a", "a"])
        assert type(wrapper.totals) is dejavec.Counts
        assert (wrapper.totals.misses, wrapper.totals.duplicates) == (1, 1)
        assert type(EmbeddingCache(tmp_path / "c").plan(["a"])) is dejavec.Plan


def nan(texts: list[str]) -> Any:
    return np.full((len(texts), 2), np.nan, np.float32)


def _open_directory(path: Path) -> None:
    EmbeddingCache(path, model="m@1").put(["a"], ones(["a"]))
    path.chmod(0o777)
    EmbeddingCache(path, model="m@1")


def _another_model(path: Path) -> None:
    EmbeddingCache(path, model="m@1").put(["a"], ones(["a"]))
    EmbeddingCache(path, model="m@2", on_mismatch="sibling")


def _unwritable(path: Path) -> None:
    EmbeddingCache(path, model="m@1").put(["a"], ones(["a"]))
    EmbeddingCache(path, mode="r").encode(["b"], ones)


WARNINGS: dict[str, Callable[[Path], object]] = {
    "an open directory": _open_directory,
    "a sibling": _another_model,
    "encode": lambda path: EmbeddingCache(path).encode(["a"], nan),
    "put": lambda path: EmbeddingCache(path).put(["a"], nan(["a"])),
    "decorator": lambda path: cached(path)(nan)(["a"]),
    "add": lambda path: dejavec.NumpyCache(path).add(["a"], nan(["a"])),
    "unwritable": _unwritable,
    "wrapper": lambda path: CachedEmbeddingWrapper(FieldsModel(), path).encode(
        [{"text": "a"}], task_metadata=None, hf_split="", hf_subset=""
    ),
}


@pytest.mark.parametrize("kind", list(WARNINGS))
def test_a_warning_names_the_callers_line(tmp_path: Path, kind: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            WARNINGS[kind](tmp_path / "c")
        except (TypeError, AttributeError, ValueError):
            assert kind == "wrapper"
    found = [warning for warning in caught if warning.category is DejavecWarning]
    assert [Path(warning.filename).name for warning in found] == ["test_messages.py"]


MISTAKES: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "model is not named": (
        EmbeddingCache,
        IdentityMismatchError,
        r"filled: expected vectors of no named model, found those of m@1; pass model='m@1'$",
    ),
    "another model": (
        lambda path: EmbeddingCache(path, model="other@1"),
        IdentityMismatchError,
        "expected model other@1, found model m@1; use another directory",
    ),
    "no revision": (
        lambda path: EmbeddingCache(path, model="m"),
        IdentityMismatchError,
        "expected model m, found model m@1",
    ),
    "a function of one text": (
        lambda path: EmbeddingCache(path, model="m@1").encode(["x", "y"], lambda texts: np.ones(4)),
        VectorsError,
        r"^encode_fn, for 2 items from item 0 \('x'\) on: expected shape \(2, dim\), found shape \(4,\)",
    ),
    "a tuple with more": (
        lambda path: EmbeddingCache(path, model="m@1").encode(["x"], lambda texts: (ones(texts), 7)),
        VectorsError,
        "expected one array of vectors, found a tuple of ndarray, int; return the vectors alone",
    ),
    "a dict": (
        lambda path: EmbeddingCache(path, model="m@1").encode(["x"], lambda texts: {"data": [[1.0]]}),
        VectorsError,
        "found a dict with the keys data",
    ),
    "model is an object": (
        lambda path: EmbeddingCache(path, model=ones),  # type: ignore[arg-type]
        TypeError,
        "expected model to be a str .* found function",
    ),
    "identity is a text": (
        lambda path: EmbeddingCache(path, identity="m@1"),  # type: ignore[arg-type]
        TypeError,
        "expected identity to be a dict, found str",
    ),
    "identity is no JSON": (
        lambda path: EmbeddingCache(path, identity={"f": ones}),
        TypeError,
        "expected an identity of JSON values",
    ),
    "refresh": (
        lambda path: EmbeddingCache(path, refresh="yes"),  # type: ignore[arg-type]
        TypeError,
        "expected refresh to be True or False, found str",
    ),
    "lock_timeout": (
        lambda path: EmbeddingCache(path, lock_timeout="1"),  # type: ignore[arg-type]
        TypeError,
        "expected lock_timeout to be a number",
    ),
    "queries are texts": (
        lambda path: EmbeddingCache(path, model="m@1").search(["a"], 1),
        VectorsError,
        "the queries: expected vectors .*, found texts; embed them",
    ),
}


@pytest.mark.parametrize("kind", list(MISTAKES))
def test_a_mistake_is_one_clear_sentence(filled: Path, kind: str) -> None:
    call, error, message = MISTAKES[kind]
    with pytest.raises(error, match=message):
        call(filled)


def test_an_async_function_is_told_what_to_do(tmp_path: Path) -> None:
    async def embed(texts: list[str]) -> Any:
        return ones(texts)

    with pytest.raises(VectorsError, match=r"found a coroutine .*@cached"):
        EmbeddingCache(tmp_path / "c").encode(["a"], embed)


def test_without_mteb_the_wrapper_says_what_to_install(tmp_path: Path) -> None:
    run(
        """
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "mteb" else find(name, *rest)
        from dejavec import CachedEmbeddingWrapper
        try:
            CachedEmbeddingWrapper(object(), path)
        except ImportError as error:
            assert "pip install 'dejavec[mteb]'" in str(error), error
        else:
            raise AssertionError
        """,
        tmp_path,
    )


def nested(levels: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(levels - 1):
        made = {"a": made}
    return made


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"prompt": "x" * 70_000}, "at most 65,024 bytes of JSON, found 70,0"),
        ({"prompt": "ä" * 33_000}, "at most 65,024 bytes"),
        ({"p": nested(200)}, "at most 100 levels"),
        ({"p": nested(100_000)}, "at most 100 levels"),
    ],
)
def test_an_identity_that_cannot_be_stored_is_refused_when_the_cache_is_made(
    tmp_path: Path, identity: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        EmbeddingCache(tmp_path / "c", model="m@1", identity=identity)


@pytest.mark.parametrize("identity", [{"prompt": "x" * 64_000}, {"p": nested(98)}, {"many": ["x"] * 5_000}])
def test_an_identity_that_is_taken_can_be_stored_and_read(tmp_path: Path, identity: Any) -> None:
    with EmbeddingCache(tmp_path / "c", identity=identity) as cache:
        cache.encode(["a"], ones)
    assert EmbeddingCache(tmp_path / "c", identity=identity).get(["a"])[0].all()


@pytest.mark.parametrize("then", ["removed", "foreign", "other model", "other dim", "other dtype"])
@pytest.mark.parametrize("was_there", [True, False])
def test_a_cache_that_is_replaced_while_the_model_works_costs_a_warning_not_the_result(
    tmp_path: Path, then: str, was_there: bool
) -> None:
    path = tmp_path / "c"
    cache = EmbeddingCache(path, model="m@1", chunk_rows=2)
    if was_there:
        cache.encode(["x", "y"], ones)
    done: list[str] = []

    def replacing(texts: list[str]) -> Any:
        if not done:
            shutil.rmtree(path, ignore_errors=True)
            if then == "foreign":
                path.mkdir()
                (path / "notes.txt").touch()
            elif then != "removed":
                other = np.ones(
                    (1, 3 if then == "other dim" else 4), np.float64 if then == "other dtype" else np.float32
                )
                EmbeddingCache(path, model="b@1" if then == "other model" else "m@1").put(["z"], other)
        done.extend(texts)
        return np.array([[len(text), 1, 2, ord(text[0])] for text in texts], np.float32)

    texts = ["p", "q", "r"] if not was_there else ["x", "p", "q", "r", "y"]
    if then == "removed" and not was_there:
        found = cache.encode(texts, replacing)
    else:
        with pytest.warns(DejavecWarning, match="could not be written") as warned:
            found = cache.encode(texts, replacing)
        assert len(warned) == 1
    assert found.shape == (len(texts), 4)
    assert [row[3] for row, text in zip(found, texts, strict=True) if text in "pqr"] == [112, 113, 114]


class TestCommandLine:
    def command(self, *arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
        settings = {"capture_output": True, "text": True, **settings}
        return subprocess.run(
            [sys.executable, "-m", "dejavec", *map(str, arguments)], check=False, **settings
        )

    def test_a_terminal_that_is_not_unicode_gets_escapes(self, tmp_path: Path) -> None:
        EmbeddingCache(tmp_path / "c", model="模型@1", identity={"prompt": "查询: "}).put(["a"], ones(["a"]))
        done = self.command("ls", tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
        assert done.returncode == 0, done.stderr
        assert "\\u6a21" in done.stdout

    def test_a_closed_pipe_is_no_error(self, tmp_path: Path) -> None:
        for number in range(3):
            EmbeddingCache(tmp_path / str(number), model="m@1").put(["a"], ones(["a"]))
        reader, writer = os.pipe()
        os.close(reader)
        done = self.command("ls", tmp_path, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    def test_a_full_disk_is_one_sentence(self, filled: Path) -> None:
        with Path("/dev/full").open("w") as full:
            done = self.command("ls", filled, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 1
        assert done.stderr == "dejavec: the output could not be written: No space left on device\n"

    def test_one_unreadable_directory_does_not_hide_the_others(
        self,
        tmp_path: Path,
        filled: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from dejavec.cli.main import main

        (tmp_path / "secret").mkdir()
        scandir = os.scandir

        def refusing(path: Any) -> Any:
            if str(path).endswith("secret"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)
        assert main(["ls", str(tmp_path)]) == 1
        printed = capsys.readouterr().out
        assert "m@1" in printed
        assert f"{tmp_path / 'secret'}: could not be read: Permission denied" in printed

    @pytest.mark.parametrize(
        ("command", "said"), [("ls", "nothing was changed"), ("import", "what was imported is kept")]
    )
    def test_an_interrupt_says_what_is_true_there(
        self, command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from dejavec.cli.main import main, program

        def interrupted(**options: Any) -> int:
            raise KeyboardInterrupt

        found = program.get_command(click.Context(program), command)
        monkeypatch.setattr(found, "callback", interrupted)
        arguments = ["ls"] if command == "ls" else ["import", "a", "b", "--model", "m@1"]
        assert main(arguments) == 130
        assert said in capsys.readouterr().err
