"""Of a cache without a named model, each function is asked once whether the vectors are its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import files_below

from dejavec import DejavecWarning, EmbeddingCache, cached
from dejavec.errors import IdentityMismatchError, UnconfirmedError

TEXTS = ["embed once", "never again", "a"]


class Counting:
    """A function of texts that knows what it was asked for."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> Any:
        self.asked += texts
        return np.array([[len(text), text.count("e")] for text in texts], np.float32) * np.float32(
            self.factor
        )


def test_another_function_is_noticed_before_its_neighbours_vectors_are_served(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, Counting())
    with EmbeddingCache(tmp_path) as cache:
        for _ in range(2):
            with pytest.raises(IdentityMismatchError, match=r"model=.*prompt=.*role="):
                cache.encode(TEXTS, Counting(2.0))
        assert cache.encode(TEXTS, Counting())[0, 0] == 10


def test_a_function_is_asked_once_for_each_cache_that_is_opened(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, Counting())
    for _ in range(2):
        counting = Counting()
        with EmbeddingCache(tmp_path) as cache:
            for _ in range(3):
                cache.encode(TEXTS, counting)
        assert sorted(counting.asked) == sorted(TEXTS)


def test_a_lambda_made_anew_for_each_call_is_asked_once(tmp_path: Path) -> None:
    counting = Counting()
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, lambda texts: counting(texts) * 1)
    counting.asked.clear()
    with EmbeddingCache(tmp_path) as cache:
        for _ in range(3):
            cache.encode(TEXTS, lambda texts: counting(texts) * 1)
    assert sorted(counting.asked) == sorted(TEXTS)


@pytest.mark.parametrize("keeps_cache", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda: scaled(1.0), id="closure"),
        pytest.param(lambda: defaulted(1.0), id="default"),
        pytest.param(lambda: arrayed(np.ones(2, np.float32)), id="array"),
    ],
)
def test_what_a_function_closes_over_counts(change: Any, keeps_cache: bool, tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.encode(TEXTS, change())
    kinds = {
        "scaled": scaled(2.0),
        "defaulted": defaulted(2.0),
        "arrayed": arrayed(np.full(2, 2, np.float32)),
    }
    other = kinds[change().__qualname__.partition(".")[0]]
    if not keeps_cache:
        cache.close()
        cache = EmbeddingCache(tmp_path)
    with pytest.raises(IdentityMismatchError):
        cache.encode(TEXTS, other)
    cache.encode(TEXTS, change())


def scaled(factor: float) -> Callable[[list[str]], Any]:
    return lambda texts: np.array([[len(text) * factor, 1] for text in texts], np.float32)


def defaulted(factor: float) -> Callable[[list[str]], Any]:
    def embed(texts: list[str], factor: float = factor) -> Any:
        return np.array([[len(text) * factor, 1] for text in texts], np.float32)

    return embed


def arrayed(scale: Any) -> Callable[[list[str]], Any]:
    return lambda texts: np.array([[len(text), 1] for text in texts], np.float32) * scale


def test_a_model_that_is_trained_between_two_calls_is_noticed(tmp_path: Path) -> None:
    import torch

    layer = torch.nn.Linear(2, 2)

    def embed(texts: list[str]) -> Any:
        return layer(torch.tensor([[float(len(text)), 1.0] for text in texts])).detach()

    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, embed)
        cache.encode(TEXTS, embed)
        layer.weight.data.mul_(2)
        with pytest.raises(IdentityMismatchError):
            cache.encode(TEXTS, embed)


def test_with_a_named_model_nothing_is_asked_unless_one_wants_to(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path, model="m@1") as cache:
        cache.encode(TEXTS, Counting())
    other = Counting(2.0)
    with EmbeddingCache(tmp_path, model="m@1") as cache:
        assert cache.encode(TEXTS, other)[0, 0] == 10
    assert other.asked == []
    with EmbeddingCache(tmp_path, model="m@1", confirm=4) as cache, pytest.raises(IdentityMismatchError):
        cache.encode(TEXTS, other)


def test_confirm_0_never_asks(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, Counting())
    other = Counting(2.0)
    with EmbeddingCache(tmp_path, confirm=0) as cache:
        assert cache.encode(TEXTS, other)[0, 0] == 10
    assert other.asked == []


@pytest.mark.parametrize("settings", [{"confirm": -1}, {"confirm_tolerance": -1.0}, {"on_unconfirmed": "x"}])
def test_settings_that_make_no_sense_are_refused(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="confirm"):
        EmbeddingCache(tmp_path, **settings)


def test_a_function_that_fails_raises_its_own_exception(tmp_path: Path) -> None:
    def failing(texts: list[str]) -> Any:
        raise ConnectionError("no answer")

    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, Counting())
    with EmbeddingCache(tmp_path) as cache, pytest.raises(ConnectionError, match=r"^no answer$"):
        cache.encode(TEXTS, failing)


def test_what_another_function_stored_meanwhile_is_asked_about(tmp_path: Path) -> None:
    one, other = Counting(), Counting(2.0)
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS[:1], one)
        cache.encode(TEXTS[1:2], other)  # Nothing of it is there, so that nobody can compare.
        with pytest.raises(IdentityMismatchError):
            cache.encode(TEXTS[1:2], one)
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS[:1], one)
        with pytest.raises(IdentityMismatchError):
            cache.encode(TEXTS[1:2], one)


def test_a_function_that_changed_unseen_is_not_asked_about_what_it_has_just_made_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def served(texts: list[str]) -> Any:
        factor = np.float32(os.environ["TEST_SERVER_FACTOR"])
        return np.array([[len(text), text.count("e")] for text in texts], np.float32) * factor

    monkeypatch.setenv("TEST_SERVER_FACTOR", "1")
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, served)
    monkeypatch.setenv("TEST_SERVER_FACTOR", "2")
    with EmbeddingCache(tmp_path) as cache:
        new = ["another text", "one more"]
        for _ in range(2):
            assert (cache.encode(new, served) == served(new)).all()
        with pytest.raises(IdentityMismatchError, match="found others"):
            cache.encode([*TEXTS, *new], served)


def test_a_generator_is_asked_too(tmp_path: Path) -> None:
    def blocks(texts: list[str]) -> Any:
        for text in texts:
            yield np.array([len(text), 1], np.float32)

    def others(texts: list[str]) -> Any:
        for text in texts:
            yield np.array([len(text), 2], np.float32)

    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, blocks)
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, blocks, batch_size=2)
        with pytest.raises(IdentityMismatchError):
            cache.encode(TEXTS, others)


def test_a_cache_that_is_only_read_is_not_written_to(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(TEXTS, Counting())
    before = files_below(tmp_path)
    with EmbeddingCache(tmp_path, mode="r") as cache:
        cache.encode(TEXTS, scaled_like_counting)
    assert files_below(tmp_path) == before


def scaled_like_counting(texts: list[str]) -> Any:
    return Counting()(texts)


def test_the_decorator_asks_too(tmp_path: Path) -> None:
    @cached(tmp_path)
    def embed(texts: list[str]) -> Any:
        return np.array([[len(text)] for text in texts], np.float32)

    embed(TEXTS)
    embed.cache.close()

    @cached(tmp_path)
    def edited(texts: list[str]) -> Any:
        return np.array([[len(text) + 1] for text in texts], np.float32)

    with pytest.raises(IdentityMismatchError, match="prompt="):
        edited(TEXTS)


class TestPromptAndRole:
    def test_they_are_a_part_of_the_identity(self, tmp_path: Path) -> None:
        query, document = Counting(), Counting(2.0)
        with EmbeddingCache(tmp_path, model="m@1", prompt="query: ", role="query") as cache:
            cache.encode(TEXTS, query)
        others: list[dict[str, Any]] = [
            {"prompt": "q: ", "role": "query"},
            {"prompt": "query: "},
            {"role": "document"},
            {},
        ]
        for settings in others:
            with pytest.raises(IdentityMismatchError, match=r"prompt|role"):
                EmbeddingCache(tmp_path, model="m@1", **settings)
        with pytest.warns(DejavecWarning, match="role"):
            beside = EmbeddingCache(tmp_path, model="m@1", role="document", on_mismatch="sibling")
        assert beside.encode(TEXTS, document)[0, 0] == 20

    @pytest.mark.parametrize("name", ["prompt", "role"])
    def test_they_are_given_once(self, name: str, tmp_path: Path) -> None:
        given: dict[str, Any] = {name: "a"}
        with pytest.raises(ValueError, match="found both"):
            EmbeddingCache(tmp_path, identity={name: "a"}, **given)


class Noisy:
    """A function whose answers come from elsewhere, and may fail."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers  # An iterator: nobody sees into it.

    def __call__(self, texts: list[str]) -> Any:
        factor = next(self.answers)
        if factor is None:
            raise ConnectionError("no answer")
        return np.array([[len(text), 1] for text in texts], np.float32) * np.float32(factor)


@pytest.mark.parametrize(
    ("answers", "doubt"),
    [([1.0, None], "no answer"), ([1.0, 1.001, 1.002], "differently each time")],
    ids=["down", "noisy"],
)
def test_a_known_function_that_cannot_confirm_is_believed_with_a_warning(
    answers: list[float | None], doubt: str, tmp_path: Path
) -> None:
    first, *later = answers
    with EmbeddingCache(tmp_path) as cache:
        vectors = cache.encode(TEXTS, Noisy(iter([first])))
    with (
        EmbeddingCache(tmp_path, on_unconfirmed="raise") as cache,
        pytest.raises(UnconfirmedError, match=doubt),
    ):
        cache.encode(TEXTS, Noisy(iter(later)))
    with EmbeddingCache(tmp_path) as cache, pytest.warns(DejavecWarning, match=doubt):
        assert np.array_equal(cache.encode(TEXTS, Noisy(iter(later))), vectors)
