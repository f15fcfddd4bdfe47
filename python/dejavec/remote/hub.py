"""Data set repositories of the Hugging Face Hub: read as a store, written by one commit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dejavec.errors import MissingPackageError, StorageError
from dejavec.remote.card import FILE as CARD
from dejavec.remote.card import card, with_facts
from dejavec.remote.namespace import namespace_of
from dejavec.remote.objects import Found, GoneError, Objects, plain_error
from dejavec.remote.push import push
from dejavec.remote.urls import Place, split
from dejavec.storage.keyed_cache import KeyedCache

T = TypeVar("T")

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def is_data_set(url: str) -> bool:
    """Return whether an address is that of a data set repository.

    Example:
        >>> is_data_set("hf://datasets/org/name@v1"), is_data_set("hf://buckets/org/name")
        (True, False)
    """
    return split(url)[:2] == ("hf", "datasets")


class DataSetObjects(Objects):
    """The files of a data set repository at one commit, which cannot be written.

    Args:
        url: ``hf://datasets/owner/name``, and ``@revision`` if it is not the newest.

    Attributes:
        commit: the commit, 40 hex digits.
    """

    def __init__(self, url: str) -> None:
        super().__init__(Place(url, "", None))
        self._repository, self._revision = _repository(url)
        self._hub = _hub()
        info = self._asked("it", "read", lambda: self._api().repo_info(**self._which(self._revision)))
        self.commit: str = info.sha
        self._files: dict[str, Path] = {}

    def below(self, directory: str) -> Iterator[Found]:
        """Yield the files whose names begin with a directory."""
        try:
            found = self._asked(
                directory,
                "listed",
                lambda: list(
                    self._api().list_repo_tree(
                        path_in_repo=directory or None, recursive=True, **self._which(self.commit)
                    )
                ),
            )
        except GoneError:
            return
        for entry in found:
            if hasattr(entry, "size"):
                yield Found(entry.path, int(entry.size), _LONG_AGO)

    def top(self) -> tuple[list[str], list[str]]:
        """Return the directories at the top; other files there are the repository's own."""
        found = self._asked(
            "it", "listed", lambda: list(self._api().list_repo_tree(**self._which(self.commit)))
        )
        return sorted(entry.path for entry in found if not hasattr(entry, "size")), []

    def get_small(self, name: str, most: int) -> bytes | None:
        """Read a file; None if it is gone, or larger than ``most``."""
        try:
            path = self._downloaded(name)
        except GoneError:
            return None
        return path.read_bytes() if path.stat().st_size <= most else None

    def ranges(self, name: str, starts: Sequence[int], ends: Sequence[int]) -> list[memoryview] | None:
        """Read ranges of a file, which is downloaded whole; None if it is gone or shorter."""
        try:
            path = self._downloaded(name)
        except GoneError:
            return None
        found = []
        with path.open("rb") as file:
            for start, end in zip(starts, ends, strict=True):
                file.seek(start)
                part = np.empty(end - start, np.uint8).data
                if file.readinto(part) != end - start:
                    return None
                found.append(part)
        return found

    def put(self, name: str, parts: Sequence[Any]) -> None:
        """Refuse to write."""
        del name, parts
        raise self._read_only()

    def remove(self, names: Sequence[str]) -> None:
        """Refuse to remove."""
        del names
        raise self._read_only()

    def _read_only(self) -> StorageError:
        return StorageError(
            self.url,
            expected="an address that can be written",
            found="a data set repository, which has versions",
            remedy=f"write one with `dejavec publish CACHE {self.url}`",
        )

    def _api(self) -> Any:
        return self._hub.HfApi()

    def _which(self, revision: str | None) -> dict[str, Any]:
        return {"repo_id": self._repository, "repo_type": "dataset", "revision": revision}

    def _downloaded(self, name: str) -> Path:
        if name not in self._files:
            path = self._asked(
                name,
                "read",
                lambda: self._hub.hf_hub_download(filename=name, **self._which(self.commit)),
            )
            self._files[name] = Path(path)
            self.requests += 1
            self.read_bytes += self._files[name].stat().st_size
        return self._files[name]

    def _asked(self, name: str, done: str, work: Callable[[], T]) -> T:
        return asked(self.url, name, done, work)


def asked(url: str, name: str, done: str, work: Callable[[], T]) -> T:
    """Return what the Hub answers.

    Raises:
        StorageError: it refused or failed.
        GoneError: there is no such file.
    """
    hub = _hub()
    try:
        return work()
    except hub.errors.EntryNotFoundError:
        raise GoneError(name) from None
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise StorageError(
            f"{url}: {name} could not be {done}: {plain_error(error)}",
            remedy="check the address, the token (`hf auth login`) and the connection, then run it again",
        ) from None


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        rows: how many rows the repository has.
        bytes: the bytes of their data files.
        files: how many files were added.
        removed: how many files of an earlier version were removed.
        commit: the commit, which can be cited; empty with ``dry_run``.
    """

    rows: int
    bytes: int
    files: int
    removed: int
    commit: str


def publish(
    cache: KeyedCache,
    url: str,
    *,
    texts: bool = False,
    dry_run: bool = False,
    total: Callable[[int], Callable[[int], object]] = lambda _: lambda _: None,
) -> Published:
    """Write a cache into a data set repository, as one commit.

    The repository has this cache and nothing else of dejavec's afterwards. Its card keeps what people wrote.
    The repository has to be there. The segments are first written into a temporary directory.

    Args:
        cache: the cache.
        url: ``hf://datasets/owner/name``.
        texts: whether kept texts are published, too.
        dry_run: whether nothing is written.
        total: as in :func:`dejavec.remote.push.push`.

    Raises:
        StorageError: there is no such repository, or it cannot be written.
        VectorsError: there are no vectors, or no model is named.
    """
    hub = _hub()
    namespace = namespace_of(cache)
    repository, revision = _repository(url)
    with tempfile.TemporaryDirectory(prefix="dejavec-") as directory:
        pushed = push(cache, f"file://{directory}", texts=texts, dry_run=dry_run, kept=False, total=total)
        if dry_run:
            return Published(pushed.rows, pushed.bytes, 0, 0, "")
        there = DataSetObjects(url)
        names = {one.name for one in there.below("")}
        files = [path for path in sorted(Path(directory).rglob("*")) if path.is_file()]
        written = {path.relative_to(directory).as_posix(): path for path in files}
        facts = card(namespace, pushed.rows, pushed.bytes, url)
        old = there.get_small(CARD, 1 << 20)
        operations = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
            for name, path in written.items()
        ]
        operations.append(
            hub.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=with_facts(old, facts).encode())
        )
        stale = sorted(name for name in names - set(written) if _is_ours(name))
        operations += [hub.CommitOperationDelete(path_in_repo=name) for name in stale]
        done = asked(
            url,
            "it",
            "written",
            lambda: hub.HfApi().create_commit(
                repository,
                operations,
                commit_message=f"{pushed.rows:,} vectors",
                repo_type="dataset",
                revision=revision,
                parent_commit=there.commit,
            ),
        )
    return Published(pushed.rows, pushed.bytes, len(written), len(stale), str(done.oid))


def _is_ours(name: str) -> bool:
    directory, _, rest = name.partition("/")
    return len(directory) == 64 and rest.startswith(("seg/", "tomb/", "meta.json"))


def _repository(url: str) -> tuple[str, str | None]:
    owner, name = split(url)[2]
    name, _, revision = name.partition("@")
    return f"{owner}/{name}", revision or None


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise MissingPackageError(
            "a data set repository",
            expected="the package huggingface_hub",
            found="none",
            remedy="run `pip install huggingface_hub`",
        ) from None
    return huggingface_hub
