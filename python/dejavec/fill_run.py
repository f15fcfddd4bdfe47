"""One call of :func:`dejavec.fill.fill`: what the model made, and what of it could not be stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.chunks import Batch, Blocks, ChunkSizes, FirstRows, is_single
from dejavec.errors import (
    CacheNotFoundError,
    ForeignDirectoryError,
    LockTimeoutError,
    MissingVectorsError,
    NetworkFileSystemError,
    NonFiniteVectorsError,
    PoisonedWriterError,
    ReadOnlyCacheError,
    StorageError,
)
from dejavec.in_flight import Claim, as_bytes
from dejavec.keys import Keys
from dejavec.progress import progress
from dejavec.settings import FillSettings
from dejavec.values import Output, Rows, check_kind, nonfinite, refusal, to_rows
from dejavec.vector_store import Positions, VectorStore
from dejavec.warn import warn

_NAMED = 5
WRITE_ERRORS = (
    StorageError,
    LockTimeoutError,
    NetworkFileSystemError,
    PoisonedWriterError,
    ReadOnlyCacheError,
    # The directory was removed, or replaced by others, while the model worked.
    CacheNotFoundError,
    ForeignDirectoryError,
)


class Run:
    """What the model made in one call.

    Args:
        store: where vectors are stored.
        keys: the keys of all items (n, 32).
        encode: as in :func:`dejavec.fill.fill`, like the following.
        settings: likewise.
        name: likewise.
        warn_unwritten: likewise.
        clock: likewise.

    Attributes:
        encoded: how many items the model encoded.
        appended: how many rows were stored.
        output: the kind of array of the vectors.
    """

    def __init__(
        self,
        store: VectorStore,
        keys: Keys,
        encode: Callable[[Positions], Any],
        settings: FillSettings,
        *,
        name: Callable[[int], str],
        warn_unwritten: Callable[[str], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.encoded = 0
        self.appended = 0
        self.output = store.output or Output("numpy", "float32")
        self._dim = store.dim
        self._store = store
        self._keys = keys
        self._encode = encode
        self._settings = settings
        self._name = name
        self._warn_unwritten = warn_unwritten
        self._sizes = ChunkSizes(settings, clock)
        self._advance: Callable[[int], object] = lambda _: None
        self._own_releases = 0
        self._writes = True
        self._nonfinite: list[int] = []
        self._in_memory: list[Rows] = []
        # Of each item: which row of all those in memory is its vector; -1 if it is stored.
        self._slot = np.full(len(keys), -1, np.int64)

    def encode(self, positions: Positions, seen: NDArray[np.int64], ended: int | None = None) -> None:
        """Have the model encode these items; store a chunk before the next is asked for.

        Args:
            positions: of different items.
            seen: the row of every item as it was looked up, which a new row replaces.
            ended: how many claims of the store had ended before that, so that items which other callers are
                encoding are waited for; None: all are encoded here.
        """
        if len(positions) and self._settings.miss == "raise":
            raise MissingVectorsError(
                f"{self._store.path}: expected all of {len(self._keys)} items, found {len(positions)} "
                f'missing: {self._list(positions)}; encode them first or open the cache with miss="encode"',
                path=str(self._store.path),
            )
        with progress(self._settings.progress, len(positions)) as self._advance:
            while len(positions):
                waiting: dict[int, Claim] = {}
                while len(positions):
                    chunk = positions[: self._sizes.rows]
                    undone, others = self._encode_chunk(chunk, seen, ended)
                    waiting |= others
                    positions = positions[len(chunk) :]
                    if len(undone):
                        positions = np.concatenate([undone, positions])
                positions = self._take_over(waiting)

    def lookup(self, keys: Keys) -> NDArray[np.int64]:
        """Return each key's newest row or -1."""
        return self._store.lookup(keys)

    def collect(self, keys: Keys, rows: NDArray[np.int64], source: Positions) -> tuple[Rows, Positions]:
        """Read the vectors of items back, once all of them were encoded.

        Args:
            keys: of the items, (m, 32).
            rows: their newest rows, -1 for none; shape (m,).
            source: which item's encoding made each vector, -1 for none; shape (m,).

        Returns:
            The vectors (m, dim), and which items have neither a sound row nor a vector in memory.
        """
        lost = rows < 0
        if self._store.dim is None:
            dtype = self._in_memory[0].dtype if self._in_memory else np.float32
            vectors: Rows = np.zeros((len(keys), self._dim or 0), dtype)
        else:
            vectors, damaged = self._store.gather(keys, rows, as_returned=True)
            lost[damaged] = True
        if self._in_memory:
            slot = np.where(source < 0, -1, self._slot[source])
            found = slot >= 0
            vectors[found] = np.concatenate(self._in_memory)[slot[found]]
            lost[found] = False
        return vectors, np.flatnonzero(lost)

    def collect_again(self, vectors: Rows, lost: Positions, source: Positions) -> tuple[Rows, Positions]:
        """Fill in the vectors of items that were encoded once more.

        Args:
            vectors: of all items (n, dim).
            lost: the items that were (k,).
            source: which item's encoding made each of their vectors (k,).

        Returns:
            The vectors (n, dim), and which of the ``lost`` have none still.
        """
        keys = self._keys[lost]
        vectors[lost], still = self.collect(keys, self.lookup(keys), source)
        return vectors, still

    def warn_of_nonfinite(self) -> None:
        """Say once which items' vectors were not stored because they are not finite."""
        if self._nonfinite:
            warn(self._describe_nonfinite(self._nonfinite))

    def _encode_chunk(
        self, chunk: Positions, seen: NDArray[np.int64], ended: int | None
    ) -> tuple[Positions, dict[int, Claim]]:
        """Have those of some items encoded and stored that no other caller is encoding.

        Returns:
            The items that the model has not encoded yet, and the claims of others by the item.
        """
        self._sizes.start()
        if ended is None:
            return self._make(chunk, seen, None), {}
        in_flight = self._store.in_flight
        claim, others = in_flight.claim(self._keys[chunk])
        waiting = {int(chunk[at]): other for at, other in others.items()}
        mine = np.delete(chunk, list(others)) if others else chunk
        try:
            if in_flight.ended - self._own_releases != ended:
                mine = self._without_stored(mine, claim)
            return (self._make(mine, seen, claim) if len(mine) else mine), waiting
        except BaseException as error:
            self._release(claim, mine, error)
            raise
        finally:
            self._release(claim, mine)

    def _without_stored(self, chunk: Positions, claim: Claim) -> Positions:
        """Return which items are not stored yet, though other callers have encoded some since the look-up."""
        self._store.refresh()
        stored = self.lookup(self._keys[chunk]) >= 0
        self._release(claim, chunk[stored])
        self._advance(int(stored.sum()))
        return chunk[~stored]

    def _make(self, chunk: Positions, seen: NDArray[np.int64], claim: Claim | None) -> Positions:
        """Have the model encode these items, and store them; return those that it left for another call."""
        made = self._encode(chunk)
        undone = chunk[:0]
        if isinstance(made, Blocks):
            self._sizes.take_all()
            self._store_blocks(made, chunk, seen, claim)
            return undone
        if isinstance(made, FirstRows):
            chunk, undone, made = chunk[: made.count], chunk[made.count :], made.vectors
        where = f"the vectors of {len(chunk)} items from {self._name(int(chunk[0]))} on"
        rows, output = to_rows(made, len(chunk), where)
        self._check(rows, output, where)
        self._keep(chunk, rows, seen, claim)
        self._sizes.end(len(chunk))
        return undone

    def _store_blocks(
        self, made: Blocks, chunk: Positions, seen: NDArray[np.int64], claim: Claim | None
    ) -> None:
        """Store what a model yields, at the latest when it fails."""
        where = f"the vectors of {len(chunk)} items from {self._name(int(chunk[0]))} on"
        ready: list[Rows] = []
        begun = end = 0

        def commit() -> None:
            nonlocal begun
            if ready:
                rows = ready[0] if len(ready) == 1 else np.concatenate(ready)
                ready.clear()
                part, begun = chunk[begun:end], end
                self._keep(part, rows, seen, claim)
            self._sizes.start()

        try:
            for block in made.blocks:
                single, count = False, None
                if isinstance(block, Batch):
                    block, count = block.vectors, block.rows  # noqa: PLW2901
                else:
                    single = is_single(block)
                rows, output = to_rows([block] if single else block, count, where)
                if end + len(rows) > len(chunk):
                    raise refusal(where, f"{len(chunk)} rows", f"{end + len(rows)} or more", _ONE_FOR_EACH)
                self._check(rows, output, where)
                # A copy: the model may use its output buffer again for the next block.
                ready.append(rows.copy())
                end += len(rows)
                if (made.commit_each and not single) or self._sizes.is_over:
                    commit()
        finally:
            commit()
        if end < len(chunk):
            raise refusal(where, f"{len(chunk)} rows", f"{end}", _ONE_FOR_EACH)

    def _check(self, rows: Rows, output: Output, where: str) -> None:
        """Check that rows fit those that were made or stored before."""
        if self._dim is not None:
            check_kind(rows, output, self._dim, self.output.dtype, where)
        else:
            self._dim, self.output = rows.shape[1], output

    def _keep(self, chunk: Positions, rows: Rows, seen: NDArray[np.int64], claim: Claim | None) -> None:
        """Append the vectors of some items; keep in memory what is not finite or cannot be written."""
        self.encoded += len(chunk)
        whole = chunk
        bad = nonfinite(rows)
        if len(bad):
            if self._settings.on_nonfinite == "raise":
                message = self._describe_nonfinite(chunk[bad].tolist())
                raise NonFiniteVectorsError(message, path=str(self._store.path))
            self._nonfinite += chunk[bad].tolist()
            self._remember(chunk[bad], rows[bad], claim)
            chunk, rows = (np.delete(part, bad, axis=0) for part in (chunk, rows))
        if not self._writes:
            self._remember(chunk, rows, claim)
        elif len(chunk):
            try:
                self.appended += self._store.append(self._keys[chunk], rows, self.output, seen[chunk])
                self.output = self._store.output or self.output
            except WRITE_ERRORS as error:
                if self._settings.on_write_error == "raise":
                    raise
                self._writes = False
                self._remember(chunk, rows, claim)
                if self._warn_unwritten is not None:
                    self._warn_unwritten(
                        f"vectors could not be written and are held in memory for this call only: {error}"
                    )
        if claim is not None:
            self._release(claim, whole)
        self._advance(len(whole))

    def _take_over(self, waiting: dict[int, Claim]) -> Positions:
        """Wait for what other callers are encoding; return the items that nobody has made after all.

        Raises:
            Exception: what the model raised for one of them in another call.
        """
        positions = np.fromiter(waiting, np.intp, len(waiting))
        if len(positions) == 0:
            return positions
        keys = as_bytes(self._keys[positions])
        for key, claim in zip(keys, waiting.values(), strict=True):
            self._store.in_flight.wait(key, claim)
        self._store.refresh()
        stored = self.lookup(self._keys[positions]) >= 0
        undone = []
        for at in np.flatnonzero(~stored).tolist():
            claim, position = waiting[int(positions[at])], positions[at : at + 1]
            vector = claim.vectors.get(keys[at])
            if vector is not None and self._dim in (None, len(vector)):
                self._dim = len(vector)
                self._remember(position, vector[None], None)
                if len(nonfinite(vector[None])):
                    self._nonfinite.append(int(position[0]))
            elif claim.error is not None:
                raise claim.error
            else:
                undone.append(int(position[0]))
        self._advance(len(positions) - len(undone))
        return np.array(undone, np.intp)

    def _remember(self, chunk: Positions, rows: Rows, claim: Claim | None) -> None:
        start = sum(map(len, self._in_memory))
        self._slot[chunk] = np.arange(start, start + len(chunk))
        # A copy: the model may use its output buffer again for the next chunk.
        rows = rows.copy()
        self._in_memory.append(rows)
        if claim is not None:
            claim.vectors.update(zip(as_bytes(self._keys[chunk]), rows, strict=True))

    def _release(self, claim: Claim, chunk: Positions, error: BaseException | None = None) -> None:
        self._own_releases += 1
        self._store.in_flight.release(claim, self._keys[chunk], error)

    def _list(self, positions: Positions) -> str:
        names = [self._name(int(position)) for position in positions[:_NAMED]]
        more = len(positions) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")

    def _describe_nonfinite(self, positions: list[int]) -> str:
        return (
            f"{self._store.path}: expected finite vectors, found NaN or infinity in those of "
            f"{self._list(np.array(positions))}; they are not stored"
        )


_ONE_FOR_EACH = "yield one vector for each text, in their order"
