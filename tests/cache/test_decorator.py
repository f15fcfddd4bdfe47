"""A decorated function is the function with a cache, whatever its arguments."""

from __future__ import annotations

import asyncio
import functools
import inspect
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dejavec
from dejavec import EmbeddingCache, cached
from dejavec.cache import CacheSettings


def rows(texts: list[str], extra: float = 0.0) -> np.ndarray:
    return np.array([[len(text), extra] for text in texts], np.float32)


class TestArguments:
    @pytest.fixture
    def calls(self) -> list[Any]:
        return []

    @pytest.fixture
    def embed(self, tmp_path: Path, calls: list[Any]) -> Any:
        @cached(tmp_path / "c", model="m@1")
        def embed(texts: list[str], prompt: str = "query: ", *, scale: float = 1.0) -> Any:
            calls.append((texts, prompt, scale))
            return rows(texts, len(prompt) * scale)

        return embed

    def test_each_combination_has_its_own_vectors(self, embed: Any, calls: list[Any]) -> None:
        for _ in range(2):
            assert embed(["a"]).tolist() == [[1, 7]]
            assert embed(["a"], "passage: ").tolist() == [[1, 9]]
            assert embed(["a"], prompt="passage: ").tolist() == [[1, 9]]
            assert embed(texts=["a"], scale=2.0).tolist() == [[1, 14]]
        assert len(calls) == 3

    def test_the_arguments_are_in_the_identity(self, embed: Any, tmp_path: Path) -> None:
        embed(["a"], scale=3.0)
        (meta,) = tmp_path.rglob("meta.json")
        assert '"scale":3.0' in meta.read_text().replace(" ", "").replace("\n", "")

    def test_an_argument_without_a_stable_form_is_one_error_at_the_call(
        self, embed: Any, calls: list[Any]
    ) -> None:
        with pytest.raises(TypeError, match=r"argument 'prompt': expected text, numbers.*found object"):
            embed(["a"], object())
        with pytest.raises(TypeError, match="unexpected keyword argument 'prmpt'"):
            embed(["a"], prmpt="x")
        assert calls == []

    def test_the_cache_is_that_of_a_call_without_further_arguments(self, embed: Any) -> None:
        embed(["a"])
        assert len(embed.cache) == 1

    def test_a_function_with_a_required_argument_has_no_such_cache(self, tmp_path: Path) -> None:
        @cached(tmp_path / "c")
        def embed(texts: list[str], prompt: str) -> Any:
            return rows(texts, len(prompt))

        assert embed(["a"], "p").tolist() == [[1, 1]]
        with pytest.raises(AttributeError, match="prompt"):
            _ = embed.cache

    def test_empty_variadic_arguments_are_none(self, tmp_path: Path) -> None:
        @cached(tmp_path / "c")
        def embed(texts: list[str], *args: Any, **kwargs: Any) -> Any:
            return rows(texts, len(args) + len(kwargs))

        assert embed(["a"]).tolist() == [[1, 0]]
        assert embed(["a"], 1, x=2).tolist() == [[1, 2]]
        assert embed.cache.path == tmp_path / "c"

    def test_other_callables(self, tmp_path: Path) -> None:
        def scaled(texts: list[str], scale: float) -> Any:
            return rows(texts, scale)

        class Model:
            def __call__(self, texts: list[str]) -> Any:
                return rows(texts, 5)

        assert cached(tmp_path / "a")(functools.partial(scaled, scale=2))(["a"]).tolist() == [[1, 2]]
        assert cached(tmp_path / "b")(Model())(["a"]).tolist() == [[1, 5]]
        assert cached(tmp_path / "d")(rows)(["a"]).tolist() == [[1, 0]]


class TestMethods:
    def test_a_dataclass_is_told_by_its_fields(self, tmp_path: Path) -> None:
        calls = []

        @dataclass
        class Model:
            scale: float

            @cached(tmp_path / "c", model="m@1")
            def embed(self, texts: list[str]) -> Any:
                calls.append(texts)
                return rows(texts, self.scale)

        for scale in (2.0, 3.0, 2.0):
            assert Model(scale).embed(["a"]).tolist() == [[1, scale]]
        assert len(calls) == 2

    def test_an_object_says_what_it_is_by_its_cache_identity(self, tmp_path: Path) -> None:
        class Model:
            def __init__(self, name: str) -> None:
                self.name = name

            @property
            def cache_identity(self) -> str:
                return self.name

            @cached(tmp_path / "c")
            def embed(self, texts: list[str], prompt: str = "") -> Any:
                return rows(texts, len(self.name) + len(prompt))

        assert Model("abc").embed(["a"]).tolist() == [[1, 3]]
        assert Model("abcd").embed(["a"]).tolist() == [[1, 4]]
        assert Model("abcd").embed(["a"], "p").tolist() == [[1, 5]]
        assert Model.embed(Model("abc"), ["a"]).tolist() == [[1, 3]]
        assert len(list(tmp_path.rglob("meta.json"))) == 3

    def test_an_object_that_says_nothing_is_an_error_at_the_first_call(self, tmp_path: Path) -> None:
        class Model:
            @cached(tmp_path / "c")
            def embed(self, texts: list[str]) -> Any:
                raise AssertionError

        with pytest.raises(TypeError, match=r"found .*Model without cache_identity; give it this attribute"):
            Model().embed(["a"])

    def test_static_and_class_methods(self, tmp_path: Path) -> None:
        class Model:
            @staticmethod
            @cached(tmp_path / "static")
            def one(texts: list[str]) -> Any:
                return rows(texts, 1)

            @classmethod
            @cached(tmp_path / "class")
            def two(cls, texts: list[str]) -> Any:
                return rows(texts, 2)

        assert Model.one(["a"]).tolist() == Model().one(["a"]).tolist() == [[1, 1]]
        assert Model.two(["a"]).tolist() == Model().two(["a"]).tolist() == [[1, 2]]  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="write @classmethod above @cached"):
            cached(tmp_path / "x")(Model.__dict__["two"])  # type: ignore[arg-type]


class TestAsync:
    def test_a_coroutine_function_is_awaited(self, tmp_path: Path) -> None:
        calls = []

        @cached(tmp_path / "c", model="m@1")
        async def embed(texts: list[str], scale: float = 1.0) -> Any:
            calls.append(texts)
            await asyncio.sleep(0)
            return rows(texts, scale)

        async def main() -> None:
            for _ in range(2):
                assert (await embed(["a", "b"])).tolist() == [[1, 1], [1, 1]]
                assert (await embed(["a"], scale=2.0)).tolist() == [[1, 2]]

        asyncio.run(main())
        assert calls == [["a", "b"], ["a"]]

    def test_many_tasks_that_miss_the_same_texts_call_it_once(self, tmp_path: Path) -> None:
        calls: list[list[str]] = []

        @cached(tmp_path / "c", model="m@1")
        async def embed(texts: list[str]) -> Any:
            calls.append(texts)
            # It needs a thread of the loop's own, which waiting calls must not have taken.
            await asyncio.to_thread(lambda: None)
            return rows(texts)

        async def main() -> list[Any]:
            return await asyncio.gather(*(embed(["x", "y"]) for _ in range(50)))

        assert all(found.tolist() == [[1, 0], [1, 0]] for found in asyncio.run(main()))
        assert calls == [["x", "y"]]

    def test_the_loop_goes_on_while_the_cache_works(self, tmp_path: Path) -> None:
        order = []

        @cached(tmp_path / "c")
        async def embed(texts: list[str]) -> Any:
            await other_done.wait()
            order.append("embedded")
            return rows(texts)

        async def other() -> None:
            order.append("other")
            other_done.set()

        async def main() -> None:
            global_event = asyncio.Event()
            nonlocal other_done  # type: ignore[misc]
            other_done = global_event
            await asyncio.gather(embed(["a"]), other())

        other_done: Any = None
        asyncio.run(main())
        assert order == ["other", "embedded"]

    def test_its_exception_is_the_callers(self, tmp_path: Path) -> None:
        @cached(tmp_path / "c")
        async def embed(texts: list[str]) -> Any:
            raise ConnectionError("429")

        with pytest.raises(ConnectionError, match="429"):
            asyncio.run(embed(["a"]))

    def test_cancelling_the_call_cancels_the_coroutine(self, tmp_path: Path) -> None:
        cancelled = threading.Event()

        @cached(tmp_path / "c")
        async def embed(texts: list[str]) -> Any:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async def main() -> None:
            nonlocal begun  # type: ignore[misc]
            begun = asyncio.Event()
            task = asyncio.create_task(embed(["a"]))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(cancelled.wait, 60)

        begun: Any = None
        asyncio.run(main())
        assert cancelled.is_set()

    def test_an_async_method(self, tmp_path: Path) -> None:
        @dataclass
        class Client:
            scale: float

            @cached(tmp_path / "c")
            async def embed(self, texts: list[str]) -> Any:
                return rows(texts, self.scale)

        assert asyncio.run(Client(2.0).embed(["a"])).tolist() == [[1, 2]]


class TestMistakes:
    def test_without_a_directory(self) -> None:
        with pytest.raises(TypeError, match=r'as in @cached\("embeddings".*found the function'):
            cached(rows)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (lambda: None, "without parameters"),
            (lambda *texts: None, "first parameter is for texts"),
            (lambda **texts: None, "first parameter is for texts"),
            (7, "found int"),
        ],
    )
    def test_what_is_no_function_of_texts_is_refused_at_decoration(
        self, tmp_path: Path, wrong: Any, message: str
    ) -> None:
        with pytest.raises(TypeError, match=message):
            cached(tmp_path / "c")(wrong)

    def test_unknown_settings_are_refused_at_decoration(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="modle"):
            cached(tmp_path / "c", modle="m@1")(rows)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="modle"):
            cached(tmp_path / "c", modle="m@1")(lambda texts, p="": rows(texts))  # type: ignore[call-arg]

    def test_a_type_checker_flags_unknown_settings_and_wrong_functions(self, tmp_path: Path) -> None:
        script = tmp_path / "checked.py"
        script.write_text(
            """
from dejavec import cached

@cached("c", model="m@1")
def right(texts: list[str], prompt: str = "") -> list[list[float]]: ...

right(["a"], prompt="x")

class Model:
    @cached("c")
    def embed(self, texts: list[str]) -> list[list[float]]: ...

Model().embed(["a"])

@cached("c", modle="m@1")  # 15
def unknown(texts: list[str]) -> list[list[float]]: ...

@cached("c")  # 18
def wrong(text: int) -> list[float]: ...

right(["a"], prompt=7)  # 21
"""
        )
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(script)],
            capture_output=True,
            text=True,
            check=False,
        )
        flagged = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
        assert {line for line in flagged if "empty" not in str(line)} - {5, 11, 16, 19} == {15, 18, 21}, done

    def test_the_function_looks_like_itself(self, tmp_path: Path) -> None:
        @cached(tmp_path / "c")
        def embed(texts: list[str]) -> Any:
            """Embed."""
            return rows(texts)

        assert embed.__name__ == "embed"  # type: ignore[attr-defined]
        assert embed.__doc__ == "Embed."
        assert "embed" in repr(embed)
        assert isinstance(embed.cache, EmbeddingCache)
        assert dejavec.cached is cached

    def test_it_takes_every_setting_of_a_cache(self) -> None:
        of_a_cache = set(inspect.signature(EmbeddingCache).parameters) - {"path"}
        assert set(CacheSettings.__annotations__) == of_a_cache
