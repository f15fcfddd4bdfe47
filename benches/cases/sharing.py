"""Rows into an object store in a directory, and back, beside obstore alone with the same bytes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from benches import checks
from benches.cases.base import Case, Measured, Place, measured, timed
from benches.cases.numbered import directory, fill, vectors
from benches.work import Setup

PUSH, PULL = "dejavec push", "dejavec pull"
PUT = "floor: obstore put"
GET = "floor: obstore get"
STORE = "floor: obstore get, write + fsync"


class _Sharing(Case):
    item = "row"
    texts: ClassVar[bool] = False

    def setups(self, small: bool) -> Sequence[Setup]:
        return [Setup(10_000 if small else 1_000_000)]

    def prepare(self, place: Place) -> None:
        fill(place)
        if not _store(place).exists():
            _push(place, _store(place))


class Push(_Sharing):
    """All rows of a cache into an empty store."""

    name = "push"
    title = "All rows of a cache into an object store in a directory"

    def contestants(self) -> Sequence[str]:
        return (PUSH, PUT)

    def measure(self, place: Place) -> Measured:
        new = place.scratch / "store"
        if place.contestant == PUSH:
            found, _ = measured(lambda: _push(place, new), place.setup.rows)
        else:
            import obstore

            store = obstore.store.LocalStore(str(new), mkdir=True)
            seconds = 0.0
            for file in _files(_store(place)):
                content = file.read_bytes()
                name = file.relative_to(_store(place)).as_posix()
                seconds += timed(partial(obstore.put, store, name, io.BytesIO(content)))[0]
            found = Measured(seconds, place.setup.rows)
        sizes = [sum(file.stat().st_size for file in _files(path)) for path in (new, _store(place))]
        checks.equal("bytes in the store", *sizes)
        shutil.rmtree(new)
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
        if place.contestant != PULL:
            import os

            import obstore

            store = obstore.store.LocalStore(str(_store(place)))
            new.mkdir()

            def read() -> None:
                for number, file in enumerate(_files(_store(place))):
                    content = obstore.get(store, file.relative_to(_store(place)).as_posix()).bytes()
                    if place.contestant == STORE:
                        with (new / str(number)).open("wb", buffering=0) as written:
                            written.write(content)
                            os.fsync(written.fileno())

            return measured(read, place.setup.rows)[0]

        def pull() -> None:
            with EmbeddingCache(new, model="numbered@1", durability="close") as cache:
                cache.pull(_url(_store(place)))

        found, _ = measured(pull, place.setup.rows)
        with EmbeddingCache(new, mode="r", model="numbered@1") as cache:
            checks.equal("rows", len(cache), place.setup.rows)
            for first, block in vectors(place.setup):
                names = [str(number) for number in range(first, first + len(block))]
                checks.same(cache.get(names)[1], block)
        return found


def _push(place: Place, store: Path) -> None:
    from dejavec import EmbeddingCache

    with EmbeddingCache(directory(place), mode="r") as cache:
        cache.push(_url(store))


def _store(place: Place) -> Path:
    return place.directory / f"store-{place.setup.slug}"


def _url(store: Path) -> str:
    return f"file://{store.absolute()}"


def _files(store: Path) -> list[Path]:
    return sorted(file for file in store.rglob("*") if file.is_file())
