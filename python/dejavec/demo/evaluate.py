"""``dejavec demo``: one mteb evaluation, uncached, with a cold cache and with a warm cache."""

from __future__ import annotations

import functools
import hashlib
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import mteb
import numpy as np

from dejavec.demo.corpus import read_corpus
from dejavec.demo.models import DESCRIPTIONS, ModelKind, demo_model
from dejavec.demo.task import TextRetrieval, docstring_task
from dejavec.fill.chunks import row_count
from dejavec.mteb import CachedEmbeddingWrapper
from dejavec.mteb.model.methods import Methods
from dejavec.mteb.wrapper import engine_of

LOWEST_SCORE = 0.3
"""The nDCG@10 of the default task and model exceeds this on every Python version."""


@dataclass(frozen=True)
class Options:
    """The options of ``dejavec demo``."""

    cache: Path = Path("demo-cache")
    task: str | None = None
    model: str | None = None
    kind: ModelKind = "dense"
    documents: int = 3000
    queries: int = 1000
    compare: bool = False


@dataclass(frozen=True)
class Run:
    """The measurements of one evaluation."""

    label: str
    score: float
    scores_digest: str
    vectors_digest: str
    seconds: float
    encode_seconds: float
    rows_encoded: int
    hits: int | None = None
    misses: int | None = None
    duplicates: int | None = None
    confirmed: int | None = None
    rows_on_disk: int | None = None


class _Task(Protocol):
    """The used part of an mteb task."""

    metadata: Any

    def load_data(self) -> None: ...


class Meter:
    """Counts, times and digests the vectors that a model or a wrapper makes.

    It sets an attribute on this object only, and does not change the class.
    """

    def __init__(self, encoder: Any, *, digest: bool) -> None:
        self.rows = 0
        self.seconds = 0.0
        self._sha = hashlib.sha256()
        self._owner, self._name = _maker_of_vectors(encoder)
        encode: Callable[..., Any] = getattr(self._owner, self._name)

        @functools.wraps(encode)
        def metered(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            vectors = encode(*args, **kwargs)
            self.seconds += time.perf_counter() - start
            self.rows += row_count(vectors) or 0
            if digest:
                self._add(vectors)
            return vectors

        setattr(self._owner, self._name, metered)

    def stop(self) -> None:
        """Remove the replacement, so that the object has the method of its class again."""
        delattr(self._owner, self._name)

    def digest(self) -> str:
        """Return the SHA-256 of all vectors so far, with their shapes and types."""
        return self._sha.hexdigest()

    def _add(self, vectors: Any) -> None:
        if isinstance(vectors, list | tuple):
            for part in vectors:
                self._add(part)
            return
        self._sha.update(f"{type(vectors).__name__} {vectors.dtype} {tuple(vectors.shape)}".encode())
        if hasattr(vectors, "detach"):
            vectors = vectors.detach().cpu()
            if vectors.is_sparse:
                self._add([vectors._indices(), vectors._values()])
                return
            vectors = vectors.float() if "bfloat16" in str(vectors.dtype) else vectors
        self._sha.update(np.ascontiguousarray(vectors).tobytes())


def _maker_of_vectors(encoder: Any) -> tuple[Any, str]:
    """Return the object and the name of the method that makes vectors; for our wrapper, that reads them."""
    if isinstance(encoder, CachedEmbeddingWrapper) and not Methods.of(encoder).encodes:
        return engine_of(encoder), "encode"
    return encoder, "_encode" if Methods.of(encoder).hides_encode else "encode"


def demo(options: Options, out: Callable[[str], object] = print) -> tuple[list[Run], bool]:
    """Run the evaluations, print the table, and check the promises.

    Returns:
        The runs, and whether every promise held.
    """
    # They are about other libraries, and would be printed between the lines of the report.
    warnings.filterwarnings("ignore", category=FutureWarning)
    task = _task(options, out)
    model = _model(options, out)
    known = rows_on_disk(options.cache)
    if known:
        out(f"Cache: {options.cache} holds {known:,} rows from before")
    else:
        out(f"Cache: {options.cache} is empty; another run will find the vectors of this one there")
    out("")

    runs = [_run("uncached", model, task())]
    out(_progress(runs[-1]))
    for label in (None, "warm"):
        runs.append(_cached_run(label, model, task(), options.cache))
        out(_progress(runs[-1]))
    others = _mteb_runs(model, task, out) if options.compare else []

    out("")
    out(table([*runs, *others]))
    out("")
    return [*runs, *others], not verdict(runs, others, options, out)


def _task(options: Options, out: Callable[[str], object]) -> Callable[[], _Task]:
    """Return a function that makes a new task for each evaluation: mteb's tasks keep state."""
    name = options.task
    if name is not None:
        out(f"Task:  {name}, from mteb")
        return lambda: mteb.get_task(name)
    corpus = read_corpus(options.documents, options.queries)
    out(
        f"Task:  find {len(corpus.documents):,} docstrings of Python {platform.python_version()}'s library "
        f"by {len(corpus.queries):,} of their first lines"
    )
    return lambda: docstring_task(corpus)


def _model(options: Options, out: Callable[[str], object]) -> Any:
    if options.model is not None:
        out(f"Model: {options.model}, from mteb")
        return mteb.get_model(options.model)
    out(f"Model: {DESCRIPTIONS[options.kind]}")
    return demo_model(options.kind)


def _run(label: str, encoder: Any, task: _Task, model: Any = None) -> Run:
    """Evaluate ``encoder``. If it wraps a model, ``model`` is that model, and its ``encode`` is counted."""
    task.load_data()
    outer = Meter(encoder, digest=True)
    inner = outer if model is None else Meter(model, digest=False)
    start = time.perf_counter()
    try:
        # mteb's own cache of results would replace the evaluation, also for other models without a name.
        result = mteb.evaluate(encoder, task, cache=None, co2_tracker=False, encode_kwargs=_encode_kwargs())
    finally:
        outer.stop()
        if inner is not outer:
            inner.stop()
    seconds = time.perf_counter() - start
    return Run(
        label=label,
        score=float(result.task_results[0].get_score()),
        scores_digest=task.digest() if isinstance(task, TextRetrieval) else "",
        vectors_digest=outer.digest(),
        seconds=seconds,
        encode_seconds=outer.seconds,
        rows_encoded=inner.rows,
    )


def _encode_kwargs() -> dict[str, Any]:
    return {"batch_size": 32, "show_progress_bar": sys.stderr.isatty()}


def _cached_run(label: str | None, model: Any, task: _Task, cache: Path) -> Run:
    """Evaluate through the cache. Without a label, the label says what the run found there."""
    before = rows_on_disk(cache)
    with CachedEmbeddingWrapper(model, cache) as wrapper:
        # A meter around the model would hide it from the wrapper. The wrapper counts by itself.
        run = _run("", wrapper, task, None)
        totals = wrapper.totals
    found = "cold" if not (before and totals.hits) else "partly warm" if totals.misses else "found warm"
    return replace(
        run,
        label=label or found,
        rows_encoded=totals.misses,
        hits=totals.hits,
        misses=totals.misses,
        duplicates=totals.duplicates,
        confirmed=totals.confirmed,
        rows_on_disk=rows_on_disk(cache),
    )


def _mteb_runs(model: Any, task: Callable[[], _Task], out: Callable[[str], object]) -> list[Run]:
    """Run the same evaluations with mteb's own wrapper, in a temporary directory."""
    from mteb.models.cache_wrappers import CachedEmbeddingWrapper as MtebWrapper

    runs = []
    with tempfile.TemporaryDirectory(prefix="mteb-cache-") as directory:
        for label in ("mteb's cold", "mteb's warm"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                wrapper = MtebWrapper(model, directory)
                runs.append(_run(label, wrapper, task(), model))
                wrapper.close()
            out(_progress(runs[-1]))
    return runs


def rows_on_disk(cache: Path) -> int:
    """Return the number of rows in all caches below a directory, as any reader of ``.npy`` files sees it."""
    ragged = [path.parent for path in cache.rglob("indptr.npy")]
    dense = [path for path in cache.rglob("vectors.npy") if path.parent not in ragged]
    rows = sum(len(np.load(path, mmap_mode="r")) for path in dense)
    return rows + sum(len(np.load(place / "indptr.npy", mmap_mode="r")) - 1 for place in ragged)


def _progress(run: Run) -> str:
    return f"{run.label}: {run.seconds:.1f} s, the model encoded {run.rows_encoded:,} rows"


def table(runs: list[Run]) -> str:
    """Return the runs as aligned columns. Empty columns are left out."""

    def count(value: int | None) -> str:
        return "" if value is None else f"{value:,}"

    columns: list[tuple[str, list[str]]] = [
        ("", [run.label for run in runs]),
        ("score", [f"{run.score:.5f}" for run in runs]),
        ("raw scores", [run.scores_digest[:12] for run in runs]),
        ("vectors", [run.vectors_digest[:12] for run in runs]),
        ("seconds", [f"{run.seconds:.2f}" for run in runs]),
        ("encode", [f"{run.encode_seconds:.3f}" for run in runs]),
        ("hits", [count(run.hits) for run in runs]),
        ("misses", [count(run.misses) for run in runs]),
        ("duplicates", [count(run.duplicates) for run in runs]),
        ("encoded", [count(run.rows_encoded) for run in runs]),
        ("asked", [count(run.confirmed) for run in runs]),
        ("on disk", [count(run.rows_on_disk) for run in runs]),
    ]
    filled = [(head, cells) for head, cells in columns if any(cells)]
    widths = [max(len(head), *map(len, cells)) for head, cells in filled]
    lines = [[head for head, _ in filled], *zip(*(cells for _, cells in filled), strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def verdict(runs: list[Run], others: list[Run], options: Options, out: Callable[[str], object]) -> int:
    """Print the result of the runs. Return 1 if a promise did not hold, otherwise 0."""
    uncached, first, warm = runs
    problems = []
    if warm.rows_encoded:
        problems.append(f"the warm run encoded {warm.rows_encoded:,} rows; none were expected")
    if not _same(first, warm):
        problems.append("the two cached runs differ")
    # A model that pads returns other last bits in another batch. Duplicates and partial hits change batches.
    fresh = not first.duplicates and (not first.hits or not first.misses)
    if not _same(uncached, warm):
        if fresh:
            problems.append("the cached runs differ from the uncached one")
        else:
            out(
                f"The scores differ by {warm.score - uncached.score:+.5f}: "
                "in other batches, the model returns other last bits."
            )
    is_default = options.task is None and options.model is None and options.kind == "dense"
    if is_default and uncached.score <= LOWEST_SCORE:
        problems.append(f"nDCG@10 is {uncached.score:.5f}; more than {LOWEST_SCORE} was expected")

    for problem in problems:
        out(f"FAILED: {problem}.")
    if not problems:
        if _same(uncached, warm):
            asked = f"{warm.confirmed} rows, to confirm the cache" if warm.confirmed else "nothing"
            out(
                f"Scores and vectors are equal to the last bit, and the warm run asked the model for {asked}."
            )
        before, after = uncached.encode_seconds, warm.encode_seconds
        out(f"Encode step: {before:.2f} s uncached, {after:.3f} s warm, {before / after:,.0f} times faster.")
    for other in others:
        same = "the uncached score" if other.score == uncached.score else "not the uncached score"
        out(f"{other.label}: {other.score:.5f}, {same}; encode step {other.encode_seconds:.3f} s.")
    return 1 if problems else 0


def _same(a: Run, b: Run) -> bool:
    return (a.score, a.scores_digest, a.vectors_digest) == (b.score, b.scores_digest, b.vectors_digest)
