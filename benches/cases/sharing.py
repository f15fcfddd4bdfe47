"""Rows into an object store and back, beside obstore alone with the same bytes; and look-ups in its keys."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benches import checks
from benches.cases.base import Case, Measured, Place, measured
from benches.cases.numbered import directory, fill, vectors
from benches.s3_server import s3_bucket
from benches.work import Setup

PUSH, PULL = "dejavec push", "dejavec pull"
PUT = "floor: obstore put"
GET = "floor: obstore get"
STORE = "floor: obstore get, write + fsync"
PULLED, LOCAL = "dejavec, keys of a store", "dejavec, a cache"


class _Sharing(Case):
    item = "row"
    texts: ClassVar[bool] = False

    def setups(self, small: bool) -> Sequence[Setup]:
        return [Setup(10_000 if small else 1_000_000)]

    def prepare(self, place: Place) -> None:
        fill(place)
        if not _store(place).exists():
            _push(place, _url(_store(place)))

    @contextmanager
    def address(self, place: Place, *, filled: bool) -> Iterator[tuple[str, Any]]:
        """An address, and obstore's store for it: a new one, or one with the objects of the cache."""
        from obstore.store import LocalStore

        path = _store(place) if filled else place.scratch / "store"
        yield _url(path), LocalStore(str(path), mkdir=True)


class _OnS3(_Sharing):
    def setups(self, small: bool) -> Sequence[Setup]:
        return [Setup(10_000 if small else 100_000)]

    @contextmanager
    def address(self, place: Place, *, filled: bool) -> Iterator[tuple[str, Any]]:
        from obstore.store import S3Store

        with s3_bucket("team") as url:
            store = S3Store.from_url(url, client_options={"allow_http": True})
            if filled:
                _put(place, store)
            yield url, store


class Push(_Sharing):
    """All rows of a cache into an empty store."""

    name = "push"
    title = "All rows of a cache into an object store in a directory"

    def contestants(self) -> Sequence[str]:
        return (PUSH, PUT)

    def measure(self, place: Place) -> Measured:
        with self.address(place, filled=False) as (url, store):
            # Read before, so that obstore does not read from the disk.
            contents = {} if place.contestant == PUSH else _contents(place)

            def push() -> None:
                if place.contestant == PUSH:
                    _push(place, url)
                for name, content in contents.items():
                    store.put(name, io.BytesIO(content))

            found, _ = measured(push, place.setup.rows)
            stored = sum(entry["size"] for entries in store.list() for entry in entries)
        checks.equal("bytes in the store", stored, sum(map(len, _contents(place).values())))
        return found


class Pull(_Sharing):
    """All rows of a store into a new cache, digests checked, and synced."""

    name = "pull"
    title = "All rows of an object store in a directory into a new cache, synced"

    def contestants(self) -> Sequence[str]:
        return (PULL, GET, STORE)

    def measure(self, place: Place) -> Measured:
        from dejavec import EmbeddingCache

        new = place.scratch / "new"
        with self.address(place, filled=True) as (url, store):
            if place.contestant != PULL:
                new.mkdir()
                return measured(lambda: self._get(place, store, new), place.setup.rows)[0]

            def pull() -> None:
                with EmbeddingCache(new, model="numbered@1", durability="close") as cache:
                    cache.pull(url)

            found, _ = measured(pull, place.setup.rows)
        with EmbeddingCache(new, mode="r", model="numbered@1") as cache:
            checks.equal("rows", len(cache), place.setup.rows)
            for first, block in vectors(place.setup):
                names = [str(number) for number in range(first, first + len(block))]
                checks.same(cache.get(names)[1], block)
        return found

    def _get(self, place: Place, store: Any, new: Path) -> None:
        for number, name in enumerate(_names(place)):
            content = store.get(name).bytes()
            if place.contestant == STORE:
                with (new / str(number)).open("wb", buffering=0) as written:
                    written.write(content)
                    os.fsync(written.fileno())


class PushToS3(_OnS3, Push):
    """The same, over HTTP."""

    name = "push-s3"
    title = "All rows of a cache into an S3 server on this machine"


class PullFromS3(_OnS3, Pull):
    """The same, over HTTP."""

    name = "pull-s3"
    title = "All rows of an S3 server on this machine into a new cache, synced"


class StoredKeys(_Sharing):
    """Look-ups of texts in the pulled keys of a store, and in a cache with the same texts."""

    name = "stored-keys"
    title = "Look-ups of 100,000 keys, half of them there"
    item = "key"

    def contestants(self) -> Sequence[str]:
        return (PULLED, LOCAL)

    def measure(self, place: Place) -> Measured:
        from dejavec.cluster import StoredKeys as Stored
        from dejavec.keys.items import text_keys
        from dejavec.storage.keyed_cache import KeyedCache

        rows = place.setup.rows
        draw = np.random.default_rng(0)
        numbers = draw.integers(0, 2 * rows, 100_000)
        texts = [str(number) for number in numbers.tolist()]
        with (
            Stored(_url(_store(place)), path=place.scratch / "keys", model="numbered@1") as stored,
            KeyedCache(directory(place), mode="r") as cache,
        ):

            def look_up(texts: list[str]) -> Any:
                return (
                    stored.has(texts) if place.contestant == PULLED else cache.lookup(text_keys(texts)) >= 0
                )

            look_up(texts[:1000])
            found, flags = measured(lambda: look_up(texts), len(texts))
        checks.equal("flags", flags.tolist(), (numbers < rows).tolist())
        return found


def _push(place: Place, url: str) -> None:
    from dejavec import EmbeddingCache

    with EmbeddingCache(directory(place), mode="r") as cache:
        cache.push(url)


def _put(place: Place, store: Any) -> None:
    for name, content in _contents(place).items():
        store.put(name, content)


def _store(place: Place) -> Path:
    return place.directory / f"store-{place.setup.slug}"


def _url(store: Path) -> str:
    return f"file://{store.absolute()}"


def _names(place: Place) -> list[str]:
    store = _store(place)
    return sorted(file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file())


def _contents(place: Place) -> dict[str, bytes]:
    return {name: (_store(place) / name).read_bytes() for name in _names(place)}
