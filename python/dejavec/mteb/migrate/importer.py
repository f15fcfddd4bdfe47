"""Import of the caches of mteb's own wrapper.

Their files record neither model nor prompt. A single cache becomes an ``EmbeddingCache`` of a named model. A
whole tree goes into the caches that our wrapper of a model opens for its calls. The user answers for it that
this model made the vectors, with these prompts and arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import (
    CorruptCacheError,
    DejavecError,
    ForeignDirectoryError,
    IdentityMismatchError,
)
from dejavec.mteb.migrate.doubts import (
    MEDIA,
    MIXED_ROWS,
    ROLES,
    SHARED,
    UNCOUNTED,
    UNKNOWN,
    doubt,
    doubt_of_path,
    has_roles,
    only_text,
    place_of,
)
from dejavec.mteb.migrate.old_files import OldCache, find_old_caches, open_old_cache
from dejavec.mteb.migrate.targets import EngineCalls
from dejavec.storage.identity import describe, parse_model
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.mteb_files import is_old_cache
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows
from dejavec.vectors.stored import nonfinite

if TYPE_CHECKING:
    from dejavec.mteb.wrapper import CachedEmbeddingWrapper

ZEROS = "all zeros, as rows are that were never written"
NONFINITE = "not finite, so never stored"
ELSEWHERE = "not where mteb's wrapper puts the cache of a task; import the directory above the tasks'"
OTHER_SETTINGS = "of other experiment settings than this model's"


@dataclass
class Imported:
    """The result of importing one old cache.

    Attributes:
        source: the old directory.
        targets: the new directories: two if queries and documents were not separate.
        prompts: the prompt in the identity of each target, for a tree.
        taken: how many vectors were stored in the targets.
        held: how many vectors the targets had already; these do not change.
        left: how many vectors were left out, by reason.
        doubt: why vectors may be wrong, so that they need ``trust``; None if they are certainly right.
        refused: why nothing was imported: the cache is damaged, or this model cannot have made it.
    """

    source: Path
    targets: list[Path] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    taken: int = 0
    held: int = 0
    left: dict[str, int] = field(default_factory=dict)
    doubt: str | None = None
    refused: str | None = None

    def leave(self, reason: str, count: int) -> None:
        """Record that entries are left out."""
        if count:
            self.left[reason] = self.left.get(reason, 0) + count


def import_cache(
    old: Path,
    new: Path,
    model: str,
    *,
    trust: bool = False,
    progress: bool | None = None,
    dry_run: bool = False,
) -> Imported:
    """Import one cache, for ``EmbeddingCache(new, model=model)`` and ``TextVectorMap(new)``.

    Vectors in ``new`` are not replaced. Nothing is written before all of ``old`` was read and checked.

    Args:
        old: a directory with ``index.json``; it is only read.
        new: the directory of the new cache.
        model: the model that made all these vectors, as ``"name@revision"``.
        trust: whether to import vectors that may be wrong, too.
        progress: whether to show a bar; None: on a terminal.
        dry_run: whether everything is read and counted, and nothing is stored.

    Raises:
        CorruptCacheError: the old cache is damaged.
        IdentityMismatchError: ``new`` holds another model's vectors.
        ForeignDirectoryError: one directory lies in the other, or ``new`` holds something else.
    """
    _refuse_overlap(old, new)
    report = Imported(old)
    cache = open_old_cache(old)
    with KeyedCache(new, identity=describe(model, None)) as target:
        report.targets = [target.path]
        selected = _select(cache, report, doubt_of_path(old), trust=trust)
        output = Output("numpy", "float32")
        _copy(cache, selected, [target], output, report, progress=progress, dry_run=dry_run)
    return report


def import_tree(
    old: Path,
    wrapper: CachedEmbeddingWrapper,
    *,
    tasks: Iterable[Any] = (),
    arguments: Mapping[str, Any] | None = None,
    trust: bool = False,
    progress: bool | None = None,
    dry_run: bool = False,
) -> list[Imported]:
    """Import all caches of mteb's wrapper, into the caches of our wrapper.

    The model encodes one text, to find the array kind of its vectors.

    Args:
        old: the ``cache_path`` of mteb's wrapper; it is only read.
        wrapper: dejavec's wrapper of the model that made the vectors.
        tasks: tasks that mteb's registry lacks.
        arguments: arguments of ``encode`` besides mteb's own.
        trust: whether to import vectors that may be wrong, too.
        progress: whether to show bars; None: on a terminal.
        dry_run: whether everything is read and counted, and nothing is stored.

    Returns:
        The result for each cache. If one is refused, the others are still imported.

    Raises:
        CacheNotFoundError: there is no cache of mteb.
        ForeignDirectoryError: one directory lies in the other.
        VectorsError: mteb's cache cannot hold this model's vectors exactly.
        IdentityMismatchError: this model's vectors depend on values that the old directories do not record.
    """
    from dejavec.mteb.wrapper import engine_of

    _refuse_overlap(old, wrapper.cache_path)
    calls = EngineCalls(
        engine_of(wrapper), {task.metadata.name: task for task in tasks}, dict(arguments or {})
    )
    reports = []
    for source in find_old_caches(old):
        report = Imported(source)
        reports.append(report)
        try:
            _import_branch(old, calls, report, trust=trust, progress=progress, dry_run=dry_run)
        except (CorruptCacheError, IdentityMismatchError, ForeignDirectoryError) as error:
            report.refused = str(error)
    return reports


def import_old(
    old: Path, new: Path, model: str, *, trust: bool = False, dry_run: bool = False
) -> tuple[list[Imported], str]:
    """Import one cache, or all caches below a directory.

    A tree is imported for our wrapper of the model as mteb loads it.

    Returns:
        The result for each cache, and the claim that the user answers for.

    Raises:
        DejavecError: nothing could be imported.
    """
    if not all(model.rpartition("@")):
        raise IdentityMismatchError(
            "--model", expected="name@revision", found=repr(model), remedy="name the commit of the model, too"
        )
    with ExitStack() as stack:
        if is_old_cache(old):
            return [import_cache(old, new, model, trust=trust, dry_run=dry_run)], f"{model} made them"
        _refuse_overlap(old, new)
        find_old_caches(old)  # Raises before the model is loaded, if there are none.
        wrapper = stack.enter_context(_wrapper_of(model, new))
        reports = import_tree(old, wrapper, trust=trust, dry_run=dry_run)
        claim = f"{model} made them as mteb loads it now, with these prompts and no further arguments"
        return reports, claim


def _import_branch(
    old: Path,
    calls: EngineCalls,
    report: Imported,
    *,
    trust: bool,
    progress: bool | None,
    dry_run: bool,
) -> None:
    """Import one cache of a tree."""
    cache = open_old_cache(report.source)
    relative = report.source.relative_to(old)
    place = place_of(relative.parts)
    if place is None or place.path(place.task, place.role) != relative:
        report.leave(ELSEWHERE, len(cache) + cache.media + cache.mixed)
        return
    task = calls.task(place.task)
    if task is None:
        report.leave(UNKNOWN, len(cache) + cache.media + cache.mixed)
        return
    if not only_text(task, place.role):
        report.leave(MEDIA, len(cache) + cache.media + cache.mixed)
        return
    selected = _select(cache, report, doubt(task, place.role), trust=trust)
    if not selected.any():
        return
    roles = ROLES if place.role is None and has_roles(task) else (place.role,)
    with ExitStack() as stack:
        found = [calls.cache(place, task, role, stack) for role in roles]
        targets = [target for target in found if target is not None]
        if not targets:
            report.leave(OTHER_SETTINGS, int(selected.sum()))
            return
        dim, output = calls.vectors(task, roles[0])
        if cache.dim != dim:
            raise CorruptCacheError(
                report.source,
                expected=f"dimension {dim}, as this model's",
                found=str(cache.dim),
                remedy="name the model that made it",
            )
        report.targets = [target.path for target, _ in targets]
        report.prompts = [prompt for _, prompt in targets]
        opened = [target for target, _ in targets]
        _copy(cache, selected, opened, output, report, progress=progress, dry_run=dry_run)


def _select(cache: OldCache, report: Imported, doubt: str | None, *, trust: bool) -> NDArray[np.bool_]:
    """Return which entries to import (n,), and record why others are left out."""
    report.leave(MEDIA, cache.media)
    report.leave(MIXED_ROWS, cache.mixed)
    report.doubt = SHARED if cache.shared.any() else UNCOUNTED if cache.uncounted else doubt
    if report.doubt is not None and not trust:
        report.leave(report.doubt, len(cache))
        return np.zeros(len(cache), np.bool_)
    report.leave(SHARED, int(cache.shared.sum()))
    return ~cache.shared


def _copy(
    cache: OldCache,
    selected: NDArray[np.bool_],
    targets: Sequence[KeyedCache],
    output: Output,
    report: Imported,
    *,
    progress: bool | None,
    dry_run: bool,
) -> None:
    """Check all selected vectors, and then append the sound ones; count them for a dry run."""
    from tqdm import tqdm

    if not selected.any():
        return
    with tqdm(
        total=(1 + len(targets)) * len(cache),
        desc=cache.directory.name,
        unit="vector",
        disable=None if progress is None else not progress,
    ) as bar:
        for block, vectors in cache.blocks():
            _drop_unsound(vectors, selected[block], report)
            _as_returned(vectors[selected[block]], output, cache.directory)
            bar.update(len(vectors))
        for target in targets:
            for block, vectors in cache.blocks():
                chosen = selected[block]
                if chosen.any():
                    rows = _as_returned(vectors[chosen], output, cache.directory)
                    keys = np.ascontiguousarray(cache.keys[block][chosen])
                    if dry_run:
                        taken = int((target.lookup(keys) < 0).sum())
                    else:
                        # Without `seen`, a key that has a row already is not replaced.
                        taken = target.append(keys, rows, output)
                    report.taken += taken
                    report.held += len(rows) - taken
                bar.update(len(vectors))
            if not dry_run:
                target.sync()


def _drop_unsound(vectors: NDArray[np.float32], selected: NDArray[np.bool_], report: Imported) -> None:
    """Remove vectors from a block's selection that are all zeros or not finite."""
    zero = selected & ~vectors.any(axis=1)
    infinite = np.zeros_like(selected)
    infinite[nonfinite(vectors)] = True
    infinite &= selected
    report.leave(ZEROS, int(zero.sum()))
    report.leave(NONFINITE, int(infinite.sum()))
    selected &= ~(zero | infinite)


def _as_returned(vectors: NDArray[np.float32], output: Output, directory: Path) -> Rows:
    """Return float32 rows in the stored form for a model of this array kind.

    Raises:
        CorruptCacheError: such a model cannot have made these rows.
    """
    rows: Rows = vectors
    if output.dtype == "float16":
        with np.errstate(over="ignore"):
            rows = vectors.astype("<f2")
        exact = bool((rows.astype(np.float32) == vectors).all())
    else:
        exact = output.dtype == "float32" or not (vectors.view(np.uint32) & 0xFFFF).any()
    if not exact:
        raise CorruptCacheError(
            directory,
            expected=f"vectors of dtype {output.dtype}, as this model's",
            found="more exact ones",
            remedy="name the model that made them",
        )
    return rows


def _refuse_overlap(old: Path, new: Path) -> None:
    one, other = old.resolve(), new.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise ForeignDirectoryError(
            new,
            expected=f"a directory apart from {old}, which is only read",
            found="one in it" if one != other and other.is_relative_to(one) else "one that holds it",
            remedy="choose another",
        )


def _wrapper_of(model: str, new: Path) -> CachedEmbeddingWrapper:
    """Return the wrapper of a model as mteb loads it.

    Raises:
        DejavecError: mteb cannot load it.
    """
    name = parse_model(model)
    try:
        import mteb

        from dejavec.mteb.wrapper import CachedEmbeddingWrapper

        loaded = mteb.get_model(name["name"], revision=name["revision"])
    except (ImportError, KeyError, ValueError, OSError) as error:
        raise DejavecError(
            "--model",
            expected=f"a model that mteb loads as {model}",
            found=f"{type(error).__name__}: {error}",
            remedy="check name and revision, or import in Python with the loaded model: `import_tree`",
        ) from error
    return CachedEmbeddingWrapper(loaded, new)
