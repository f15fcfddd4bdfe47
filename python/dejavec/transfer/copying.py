"""Copy a cache into a new one: another dtype, another container, with or without texts."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from dejavec.errors import CorruptCacheError, ForeignDirectoryError, VectorsError
from dejavec.fill.settings import check_choice, check_flag
from dejavec.identity.proven import FILE
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.ahead import one_ahead
from dejavec.support.durable import sync_directory
from dejavec.support.paths import with_suffix
from dejavec.transfer.pieces import pieces, stored_form
from dejavec.vectors.output import Container, Output, family_of
from dejavec.vectors.stored import rounded

CopyDtype = Literal["float16", "float32"]
"""The dtypes to which a copy rounds."""


def copy_to(
    source: KeyedCache,
    path: Path,
    *,
    dtype: CopyDtype | None,
    container: Container | None,
    texts: bool,
    advance: Callable[[int], object],
    dry_run: bool = False,
) -> int:
    """Do what ``EmbeddingCache.copy_to`` says.

    Args:
        source: the cache.
        path: the directory of the copy.
        dtype: as in ``EmbeddingCache.copy_to``.
        container: likewise.
        texts: likewise.
        advance: is called with the number of rows that were read.
        dry_run: whether everything is read and checked, and nothing is written.
    """
    if dtype is not None:
        check_choice("dtype", dtype, CopyDtype)
    if container is not None:
        check_choice("container", container, Container)
    check_flag("texts", texts)
    source.refresh()
    output = source.output
    if output is None:
        raise VectorsError(source.path, expected="vectors to copy", found="none", remedy="store some first")
    identity, kind = _described(source, output, dtype)
    container = container or source.container
    if family_of(container) != output.family:
        raise VectorsError(
            source.path,
            expected=f"{family_of(container)} vectors, for the container {container}",
            found=f"{output.family} ones",
            remedy="leave container out",
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ForeignDirectoryError(
            path, expected="no such directory, or an empty one", found="files in it", remedy="choose another"
        )
    singles: Literal["float32"] | None = "float32" if dtype == "float32" else None
    # float16 that the model returned is not rounded.
    halves: Literal["float16"] | None = "float16" if dtype and "store_dtype" in identity else None
    temporary = with_suffix(path, f".tmp-{secrets.token_hex(4)}")
    target = KeyedCache(temporary, identity=identity or None, containers=(container,), durability="close")
    copied = 0
    try:
        with target:
            for piece in one_ahead(pieces(source, texts=texts)):
                if piece.damaged:
                    raise CorruptCacheError(
                        source.path,
                        expected="sound rows",
                        found=f"{piece.damaged} damaged ones",
                        remedy="repair it first",
                    )
                form = stored_form(piece.rows.dtype, source.container, output, source.identity)
                rows = piece.rows.astype(form, copy=False)
                rows, _ = rounded(rows, output, singles, halves, str(source.path))
                advance(len(piece.keys))
                if dry_run:
                    copied += len(piece.keys)
                else:
                    copied += target.append(piece.keys, rows, kind, None, piece.texts)
        if dry_run:
            return copied
        if dtype is None and (proven := source.path / FILE).is_file():
            shutil.copy(proven, temporary / FILE)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)
    return copied


def _described(source: KeyedCache, output: Output, dtype: CopyDtype | None) -> tuple[dict[str, Any], Output]:
    """Return the identity and the array kind of the copy.

    Halves are in the identity, so that they never serve a call that did not ask for them.
    """
    identity = source.identity
    if dtype is None:
        return identity, output
    if "store_dtype" in identity:
        raise VectorsError(
            source.path,
            expected="vectors that were not rounded",
            found='those of store_dtype="float16"',
            remedy="leave dtype out",
        )
    if dtype == "float16" and output.dtype != "float16":
        return {**identity, "store_dtype": "float16"}, output
    return identity, replace(output, dtype=dtype)
