"""One call of :func:`dejavec.fill.fill`: encode chunks, store them, and read the vectors back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import (
    CacheNotFoundError,
    DejavecError,
    ForeignDirectoryError,
    IdentityMismatchError,
    LockTimeoutError,
    MissingVectorsError,
    NetworkFileSystemError,
    NonFiniteVectorsError,
    PoisonedWriterError,
    ReadOnlyCacheError,
    StorageError,
    VectorsError,
)
from dejavec.fill.chunks import Batch, Blocks, ChunkSizes, Failed, FirstRows, is_single, row_count
from dejavec.fill.form_check import FormCheck
from dejavec.fill.in_flight import Claim
from dejavec.fill.settings import FillSettings
from dejavec.fill.unstored import Unstored, listed
from dejavec.fill.vector_store import Positions, Seen, VectorStore
from dejavec.keys.items import Keys, as_bytes
from dejavec.support.progress import progress
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows, dim_of, joined, merged, stored_bytes
from dejavec.vectors.stored import convert_list, nonfinite

WRITE_ERRORS = (
    StorageError,
    LockTimeoutError,
    NetworkFileSystemError,
    PoisonedWriterError,
    ReadOnlyCacheError,
    # Another process removed or replaced the directory while the model worked.
    CacheNotFoundError,
    ForeignDirectoryError,
    IdentityMismatchError,
)


class Run:
    """One call of :func:`dejavec.fill.fill`, with the vectors that could not be stored.

    Args:
        store: where vectors are stored.
        keys: the keys of all items (n, 32).
        encode: as in :func:`dejavec.fill.fill`.
        settings: likewise.
        name: likewise.
        maker: likewise.
        warn_unwritten: likewise.
        texts: likewise.
        clock: likewise.

    Attributes:
        encoded: how many items the model encoded.
        appended: how many bytes of rows were stored.
    """

    def __init__(
        self,
        store: VectorStore,
        keys: Keys,
        encode: Callable[[Positions], Any],
        settings: FillSettings,
        *,
        name: Callable[[int], str],
        maker: str,
        warn_unwritten: Callable[[str], None] | None,
        texts: Callable[[Positions], list[str]] | None,
        clock: Callable[[], float],
    ) -> None:
        self.encoded = 0
        self.appended = 0
        self._store = store
        self._keys = keys
        self._encode = encode
        self._settings = settings
        self._name = name
        self._warn_unwritten = warn_unwritten
        self._texts = texts
        self._sizes = ChunkSizes(settings, clock)
        self._advance: Callable[[int], object] = lambda _: None
        self._own_releases = 0
        self._failed: list[tuple[Positions, Exception]] = []
        self._writes = True
        self._is_gone = False
        self._form = FormCheck(store.dim, store.output, settings, maker, name)
        self._unstored = Unstored(len(keys), name)

    def encode(self, positions: Positions, seen: Seen, ended: int | None = None) -> None:
        """Have the model encode items. Each chunk is stored before the next one is encoded.

        Args:
            positions: positions of different items.
            seen: each item's row from the look-up (n,). The new row replaces it.
            ended: the count of ended claims from before the look-up. With it, items that other callers are
                encoding are waited for. None: this call encodes all items itself.
        """
        if len(positions) and self._settings.miss == "raise":
            raise MissingVectorsError(
                self._store.path,
                expected=f"all of {len(self._keys)} items",
                found=f"{len(positions)} missing: {listed(self._name, positions)}",
                remedy='encode them first or open the cache with miss="encode"',
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
        self._blank_failed()

    def lookup(self, keys: Keys) -> Seen:
        """Return each key's newest row; -1 for all if another cache replaced this one."""
        try:
            if not self._is_replaced():
                numbering = self._store.numbering
                rows = self._store.lookup(keys)
                self._form.follow(self._store.dim, self._store.output)
                return Seen(rows, numbering)
        except WRITE_ERRORS as error:
            self._go_on_in_memory(error)
        return Seen(np.full(len(keys), -1, np.int64), None)

    def collect(self, keys: Keys, rows: NDArray[np.int64], source: Positions) -> tuple[Rows, Positions]:
        """Read the vectors of items back, after all of them were encoded.

        Args:
            keys: the keys of the items (m, 32).
            rows: their newest row numbers, -1 for none (m,).
            source: position of the item that this call encoded for each vector, -1 for none (m,).

        Returns:
            The m vectors, and which items have neither a sound row nor a vector in memory.
        """
        lost = rows < 0
        if self._is_replaced() or self._store.dim is None:
            lost[:] = True
            vectors = self._unstored.blank(len(keys), self._form.dim or 0)
        else:
            vectors, damaged = self._store.gather(keys, rows, as_returned=True)
            lost[damaged] = True
        vectors, found = self._unstored.put_into(vectors, source)
        lost[found] = False
        return vectors, np.flatnonzero(lost)

    def collect_again(self, vectors: Rows, lost: Positions, source: Positions) -> tuple[Rows, Positions]:
        """Fill in the vectors of items that were encoded once more.

        Args:
            vectors: the vectors of all n items.
            lost: positions of the items that were encoded once more, ascending (k,).
            source: position of the item that was encoded for each of them (k,).

        Returns:
            The n vectors, and which of the ``lost`` still have no vector.
        """
        keys = self._keys[lost]
        found, still = self.collect(keys, self.lookup(keys).rows, source)
        at = np.zeros(len(vectors), np.bool_)
        at[lost] = True
        return merged(vectors, at, found), still

    def output_of(self, vectors: Rows) -> Output:
        """Return the array kind of the result: float64 if a list was too precise for the store."""
        output = self._form.output
        is_wider = vectors.dtype == np.float64 and output.dtype != "float64"
        return replace(output, dtype="float64") if is_wider else output

    def warn(self) -> None:
        """Warn of vectors that are returned but not stored: they are not finite or would be rounded."""
        self._unstored.warn(self._store.path, self._form.output)

    def _encode_chunk(
        self, chunk: Positions, seen: Seen, ended: int | None
    ) -> tuple[Positions, dict[int, Claim]]:
        """Encode and store the items of a chunk that no other caller is encoding.

        Returns:
            The items that the model has not encoded yet, and other callers' claims by item.
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
        """Return the items that no other caller has stored since the look-up."""
        self._store.refresh()
        stored = self.lookup(self._keys[chunk]).rows >= 0
        self._release(claim, chunk[stored])
        self._advance(int(stored.sum()))
        return chunk[~stored]

    def _make(self, chunk: Positions, seen: Seen, claim: Claim | None) -> Positions:
        """Have the model encode items, and store them; return the items that need another call."""
        made = self._encode(chunk)
        undone = chunk[:0]
        if isinstance(made, Blocks):
            self._sizes.take_all()
            self._store_blocks(made, chunk, seen, claim)
            return undone
        if isinstance(made, FirstRows):
            chunk, undone, made = chunk[: made.count], chunk[made.count :], made.vectors
        kept, rows, error = self._form.rows_of(made, chunk)
        self._keep(kept, rows, seen, claim)
        if error is not None:
            raise error
        self._sizes.end(len(chunk))
        return undone

    def _store_blocks(self, made: Blocks, chunk: Positions, seen: Seen, claim: Claim | None) -> None:
        """Store the vectors that a model yields. If it fails, the vectors before that are stored too."""
        ready: list[tuple[Positions, Rows]] = []
        end = 0

        def commit() -> None:
            if ready:
                kept, rows = zip(*ready, strict=True)
                ready.clear()
                self._keep(np.concatenate(kept), joined(rows), seen, claim)
            self._sizes.start()

        blocks = iter(made.blocks)
        try:
            for block in blocks:
                if isinstance(block, Failed):
                    self._skip(chunk[block.start : block.start + block.rows], block.error, claim)
                    end += block.rows
                    continue
                single = not isinstance(block, Batch) and is_single(block)
                vectors, count = _counted(block, single=single)
                if end == len(chunk) or (count is not None and end + count > len(chunk)):
                    where, found = self._form.where(chunk), f"{end + (count or 1)} or more"
                    raise VectorsError(
                        where, expected=f"{len(chunk)} rows", found=found, remedy=_ONE_FOR_EACH
                    )
                begin = block.start if isinstance(block, Batch) else end
                part = chunk[begin:] if count is None else chunk[begin : begin + count]
                kept, rows, error = self._form.rows_of(vectors, part)
                # Copied, since the model may reuse its output buffer for the next block.
                ready.append((kept, rows.copy()))
                if error is not None:
                    raise error
                end += len(part)
                if (made.commit_each and not single) or self._sizes.is_over:
                    commit()
        finally:
            if isinstance(blocks, Generator):
                blocks.close()
            commit()
        if end < len(chunk):
            raise VectorsError(
                self._form.where(chunk), expected=f"{len(chunk)} rows", found=f"{end}", remedy=_ONE_FOR_EACH
            )

    def _skip(self, chunk: Positions, error: Exception, claim: Claim | None) -> None:
        """Note items that the model did not make. Callers that wait for them encode them themselves."""
        self._failed.append((chunk, error))
        if claim is not None:
            self._release(claim, chunk)
        self._advance(len(chunk))

    def _blank_failed(self) -> None:
        """Give NaN to the items that the model did not make.

        Raises:
            Exception: the model's exception, if NaN cannot stand for a vector, or its form is unknown.
        """
        for chunk, error in self._failed:
            output = self._form.output
            if self._form.dim is None or output.family != "dense" or "float" not in output.dtype:
                raise error
            dtype = "float32" if output.dtype == "bfloat16" else output.dtype
            self._unstored.add(chunk, np.full((len(chunk), self._form.dim), np.nan, dtype))
            self._unstored.failed.append((chunk, error))
        self._failed.clear()

    def _stored_form(self, chunk: Positions, rows: Rows, claim: Claim | None) -> tuple[Positions, Rows]:
        """Return items and rows in the stored dtype. Rows that it would round are kept in memory instead."""
        output = self._form.output
        if rows.dtype != np.float64 or output.dtype == "float64":
            return chunk, rows
        converted, exact = convert_list(rows, output)
        if not exact.all():
            self._unstored.inexact += chunk[~exact].tolist()
            self._remember(chunk[~exact], rows[~exact], claim)
        return chunk[exact], converted[exact]

    def _keep(self, chunk: Positions, rows: Rows, seen: Seen, claim: Claim | None) -> None:
        """Append the vectors of some items. Keep them in memory if they are not finite or not writable."""
        self.encoded += len(chunk)
        whole = chunk
        bad = nonfinite(rows)
        if len(bad):
            if self._settings.on_nonfinite == "raise":
                parts = self._unstored.nonfinite_parts(chunk[bad].tolist())
                raise NonFiniteVectorsError(self._store.path, **parts)
            self._unstored.nonfinite += chunk[bad].tolist()
            self._remember(chunk[bad], rows[bad], claim)
            sound = np.delete(np.arange(len(chunk)), bad)
            chunk, rows = chunk[sound], rows[sound]
        chunk, rows = self._stored_form(chunk, rows, claim)
        if not self._writes:
            self._remember(chunk, rows, claim)
        elif len(chunk):
            try:
                count = self._append(chunk, rows, seen)
                self.appended += count * stored_bytes(rows, self._store.dtype or rows.dtype) // len(rows)
                self._form.output = self._store.output or self._form.output
            except (*WRITE_ERRORS, VectorsError) as error:
                if isinstance(error, VectorsError) and not self._is_replaced():
                    raise
                self._go_on_in_memory(error)
                self._remember(chunk, rows, claim)
        if claim is not None:
            self._release(claim, whole)
        self._advance(len(whole))

    def _append(self, chunk: Positions, rows: Rows, seen: Seen) -> int:
        """Append the vectors of some items, and return how many."""
        keys, output = self._keys[chunk], self._form.output
        texts = None if self._texts is None else self._texts(chunk)
        count = self._store.append(keys, rows, output, seen.at(chunk), texts)
        while count is None:
            # A compaction gave other numbers to the rows. All are sound, and only a refresh replaces them.
            now = self.lookup(keys) if self._settings.refresh else None
            count = self._store.append(keys, rows, output, now, texts)
        return count

    def _go_on_in_memory(self, error: DejavecError) -> None:
        """Stop storing, and warn once.

        Raises:
            DejavecError: ``error`` itself, with ``on_write_error="raise"``.
        """
        if self._settings.on_write_error == "raise":
            raise error
        if self._writes and self._warn_unwritten is not None:
            self._warn_unwritten(
                f"vectors could not be written and are held in memory for this call only: {error}"
            )
        self._writes = False
        self._is_gone |= isinstance(error, IdentityMismatchError | VectorsError)

    def _is_replaced(self) -> bool:
        """Whether another process replaced the cache by one with other vectors."""
        if self._form.dim is None or self._is_gone:
            return self._is_gone
        try:
            output, dim = self._store.output, self._store.dim
        except WRITE_ERRORS as error:
            self._go_on_in_memory(error)
            return True
        form = self._form
        return output is not None and (dim, output.family, output.dtype) != (
            form.dim,
            form.output.family,
            form.output.dtype,
        )

    def _take_over(self, waiting: dict[int, Claim]) -> Positions:
        """Wait for items that other callers are encoding; return the items that they did not encode.

        Raises:
            Exception: the model's exception in another call for one of the items.
        """
        positions = np.fromiter(waiting, np.intp, len(waiting))
        if len(positions) == 0:
            return positions
        keys = as_bytes(self._keys[positions])
        for key, claim in zip(keys, waiting.values(), strict=True):
            self._store.in_flight.wait(key, claim)
        self._store.refresh()
        stored = self.lookup(self._keys[positions]).rows >= 0
        undone = []
        for at in np.flatnonzero(~stored).tolist():
            claim, position = waiting[int(positions[at])], positions[at : at + 1]
            row = claim.rows.get(keys[at])
            if row is not None and self._form.dim in (None, dim_of(row)):
                self._form.follow(dim_of(row), claim.output)
                self._remember(position, row, None)
                if len(nonfinite(row)):
                    self._unstored.nonfinite.append(int(position[0]))
            elif claim.error is not None:
                raise claim.error
            else:
                undone.append(int(position[0]))
        self._advance(len(positions) - len(undone))
        return np.array(undone, np.intp)

    def _remember(self, chunk: Positions, rows: Rows, claim: Claim | None) -> None:
        rows = self._unstored.add(chunk, rows)
        if claim is not None:
            claim.output = self._form.output
            one_each = (rows[at : at + 1] for at in range(len(rows)))
            claim.rows.update(zip(as_bytes(self._keys[chunk]), one_each, strict=True))

    def _release(self, claim: Claim, chunk: Positions, error: BaseException | None = None) -> None:
        self._own_releases += 1
        self._store.in_flight.release(claim, self._keys[chunk], error)


def _counted(block: Any, *, single: bool) -> tuple[Any, int | None]:
    """Return vectors that a model yielded, and the expected number; None if that is unknown."""
    if isinstance(block, Batch):
        return block.vectors, block.rows
    if single:
        return [block], 1
    return block, row_count(block)


_ONE_FOR_EACH = "yield one vector for each text, in their order"
