"""Clients of OpenAI's protocol, against a server on this machine that has troubles."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from embedding_server import EmbeddingServer, serving
from openai import AsyncOpenAI, OpenAI
from toys import same

from dejavec.errors import DejavecWarning, VectorsError
from dejavec.openai import cached_openai

MODEL = "small"
CLIENTS = [OpenAI, AsyncOpenAI]


@pytest.fixture(params=[True, False], ids=["base64", "lists"])
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddingServer]:
    with serving() as found:
        found.knows_base64 = request.param
        yield found


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, server: EmbeddingServer) -> Any:
    return request.param(api_key="k", base_url=server.url, max_retries=0)


async def create(client: Any, items: Any, **arguments: Any) -> Any:
    made = client.embeddings.create(input=items, **{"model": MODEL, **arguments})
    return await made if inspect.isawaitable(made) else made


def rows(response: Any) -> list[Any]:
    assert [part.index for part in response.data] == list(range(len(response.data)))
    return [part.embedding for part in response.data]


INPUTS = ["a", ["a", "b", "a"], [1, 2, 3], [[1, 2], [3]]]


@pytest.mark.parametrize("items", INPUTS, ids=str)
@pytest.mark.parametrize("encoding", [None, "float", "base64"])
async def test_an_answer_is_the_clients_own_to_the_bit(
    client: Any, server: EmbeddingServer, tmp_path: Path, items: Any, encoding: str | None
) -> None:
    arguments = {"encoding_format": encoding} if encoding else {}
    expected = await create(client, items, **arguments)
    cached = cached_openai(client, tmp_path)
    for _ in range(2):
        found = await create(cached, items, **arguments)
        assert type(found) is type(expected)
        assert (found.model, found.object) == (expected.model, expected.object)
        assert [part.object for part in found.data] == ["embedding"] * len(found.data)
        assert same(rows(found), rows(expected))
    assert len(server.requests) == 2


async def test_usage_counts_only_what_was_sent(client: Any, server: EmbeddingServer, tmp_path: Path) -> None:
    cached = cached_openai(client, tmp_path)
    assert (await create(cached, ["four", "seven77", "four"])).usage.total_tokens == 11
    assert (await create(cached, ["four", "a"])).usage.prompt_tokens == 1
    assert (await create(cached, ["a", "four"])).usage.total_tokens == 0
    assert [request["input"] for request in server.requests] == [["four", "seven77"], ["a"]]


async def test_one_call_sends_one_request_at_most(
    client: Any, server: EmbeddingServer, tmp_path: Path
) -> None:
    await create(cached_openai(client, tmp_path), [f"text {number}" for number in range(2048)])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "large"},
        {"dimensions": 2},
        {"extra_body": {"input_type": "query"}},
        {"extra_body": {"scale": 2.0}},
    ],
    ids=str,
)
async def test_what_changes_vectors_is_part_of_the_key(
    client: Any, server: EmbeddingServer, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    cached = cached_openai(client, tmp_path)
    first = await create(cached, ["a"])
    for _ in range(2):
        found = await create(cached, ["a"], **arguments)
        assert rows(found) == rows(await create(client, ["a"], **arguments)) != rows(first)
    assert rows(await create(cached, ["a"])) == rows(first)


async def test_a_user_and_a_timeout_are_no_part_of_it(
    client: Any, server: EmbeddingServer, tmp_path: Path
) -> None:
    cached = cached_openai(client, tmp_path)
    for arguments in ({}, {"user": "me"}, {"timeout": 5}, {"dimensions": openai.omit}):
        await create(cached, ["a"], **arguments)
    assert len(server.requests) == 1


async def test_another_server_has_vectors_of_its_own(
    client: Any, server: EmbeddingServer, tmp_path: Path
) -> None:
    await create(cached_openai(client, tmp_path), ["a"])
    with serving() as other:
        elsewhere = type(client)(api_key="k", base_url=other.url.replace("//", "//me:secret@"))
        with pytest.warns(DejavecWarning, match="these vectors go to"):
            await create(cached_openai(elsewhere, tmp_path), ["a"])
        assert len(other.requests) == 1
    stored = [path.read_text() for path in tmp_path.rglob("meta.json")]
    assert len(stored) == 2
    assert not any("secret" in text for text in stored)


async def test_vectors_out_of_order_are_put_in_order(
    client: Any, server: EmbeddingServer, tmp_path: Path
) -> None:
    expected = rows(await create(client, ["a", "b", "c"]))
    server.out_of_order = True
    cached = cached_openai(client, tmp_path)
    for _ in range(2):
        assert rows(await create(cached, ["a", "b", "c"])) == expected


async def test_an_answer_that_numbers_its_vectors_wrongly_is_not_stored(
    client: Any, server: EmbeddingServer, tmp_path: Path
) -> None:
    server.indexed = 1
    cached = cached_openai(client, tmp_path)
    with pytest.raises(VectorsError, match="indices"):
        await create(cached, ["a", "b"])
    server.indexed = None
    await create(cached, ["a", "b"])
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 500, 400])
async def test_an_error_of_the_server_is_the_clients_own_and_costs_nothing_that_is_cached(
    client: Any, server: EmbeddingServer, tmp_path: Path, status: int
) -> None:
    cached = cached_openai(client, tmp_path)
    await create(cached, ["a"])
    server.trouble = [status]
    with pytest.raises(openai.APIStatusError) as raised:
        await create(cached, ["a", "b"])
    assert raised.value.status_code == status
    assert (await create(cached, ["a"])).usage.total_tokens == 0
    assert rows(await create(cached, ["a", "b"])) == rows(await create(client, ["a", "b"]))


async def test_the_client_tries_again_as_it_is_told_to(
    client: Any, server: EmbeddingServer, tmp_path: Path
) -> None:
    server.trouble = [429, 429]
    patient = cached_openai(client, tmp_path).with_options(max_retries=3)
    assert len(rows(await create(patient, ["a"]))) == 1
    assert len(server.requests) == 3
    await create(patient, ["a"])
    assert len(server.requests) == 3


async def test_a_timeout_is_the_clients_own(client: Any, server: EmbeddingServer, tmp_path: Path) -> None:
    server.trouble = ["stall"]
    cached = cached_openai(client, tmp_path)
    with pytest.raises(openai.APITimeoutError):
        await create(cached, ["a"], timeout=0.2)
    assert len(rows(await create(cached, ["a"]))) == 1


async def test_headers_of_a_call_keep_it_from_the_cache(
    client: Any, server: EmbeddingServer, tmp_path: Path
) -> None:
    cached = cached_openai(client, tmp_path)
    with pytest.warns(DejavecWarning, match="extra_headers"):
        await create(cached, ["a"], extra_headers={"X-Model": "b"})
    await create(cached, ["a"], extra_headers={"X-Model": "b"})
    assert len(server.requests) == 2


@pytest.mark.parametrize("items", [[], ["a", 3], [["a"]]], ids=str)
async def test_other_input_goes_to_the_server_unchanged(
    client: Any, server: EmbeddingServer, tmp_path: Path, items: Any
) -> None:
    for some in (client, cached_openai(client, tmp_path)):
        with suppress(openai.BadRequestError):
            await create(some, items)
    assert server.requests[0] == server.requests[1]


async def test_input_may_be_an_iterator(client: Any, server: EmbeddingServer, tmp_path: Path) -> None:
    cached = cached_openai(client, tmp_path)
    assert rows(await create(cached, iter(["a", "b"]))) == rows(await create(client, ["a", "b"]))


@pytest.mark.parametrize("made", CLIENTS)
async def test_a_server_that_learns_base64_keeps_its_cache(made: Any, tmp_path: Path) -> None:
    with serving() as server:
        client = made(api_key="k", base_url=server.url)
        cached = cached_openai(client, tmp_path)
        for knows in (False, True):
            server.knows_base64 = knows
            for _ in range(2):
                assert rows(await create(cached, [str(knows)])) == rows(await create(client, [str(knows)]))


async def test_confirm_notices_a_server_with_another_model_of_that_name(
    client: Any, server: EmbeddingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(cached_openai(client, tmp_path, confirm=4), ["a"])
    answer = server.answer
    monkeypatch.setattr(server, "answer", lambda body: answer({**body, "scale": 2.0}))
    again = cached_openai(client, tmp_path, confirm=4)
    with pytest.raises(ValueError, match="expected vectors that this function makes"):
        await create(again, ["a"])


async def test_it_is_the_client_in_all_else(client: Any, tmp_path: Path) -> None:
    cached = cached_openai(client, tmp_path)
    assert isinstance(cached, type(client))
    assert cached.base_url == client.base_url
    assert cached.with_options(timeout=3).timeout == 3
    assert cached.embeddings.with_raw_response is not None
    cached.max_retries = 7
    assert client.max_retries == 7
    if isinstance(client, OpenAI):
        with cached as entered:
            assert entered is cached
    else:
        async with cached as entered:
            assert entered is cached
    assert client.is_closed()


def test_an_object_without_embeddings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="with embeddings"):
        cached_openai(object(), tmp_path)
    with pytest.raises(TypeError, match="model"):
        cached_openai(OpenAI(api_key="k"), tmp_path, model="small@1")


async def test_tasks_that_miss_one_text_send_one_request(server: EmbeddingServer, tmp_path: Path) -> None:
    cached = cached_openai(AsyncOpenAI(api_key="k", base_url=server.url), tmp_path)
    found = await asyncio.gather(*(create(cached, ["a", "b"]) for _ in range(10)))
    assert all(rows(one) == rows(found[0]) for one in found)
    assert sorted(text for request in server.requests for text in request["input"]) == ["a", "b"]
    assert sum(one.usage.total_tokens for one in found) == 2
