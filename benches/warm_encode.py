"""What a fully cached run costs, in dejavec and in mteb's own cache, measured side by side.

Each measurement has a process of its own; the contestants take turns, and medians are compared. Every
result that is timed is checked against the vectors that were stored.

    python benches/warm_encode.py [--rounds 5] [--json bench-results.json]
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from english import number_of, texts
from numpy.typing import NDArray

DIM = 384
BLOCK = 10_000
OPEN_BLOCK = 100_000
CONTESTANTS = ("dejavec", "mteb")
SHAPES = {"texts": "texts, as in classification or STS", "corpus": "titled documents, as in retrieval"}
MODEL = "bench/numbered@" + "0" * 40


def vectors(start: int, stop: int) -> NDArray[np.float32]:
    """The rows that belong to the texts of these numbers; ``start`` is a multiple of the block."""
    blocks = [
        np.random.default_rng(block).standard_normal((BLOCK, DIM), np.float32)
        for block in range(start // BLOCK, -(-stop // BLOCK))
    ]
    return np.concatenate(blocks)[: stop - start]


class NumberedModel:
    """An mteb encoder that knows the vector of each text by its number."""

    def __init__(self, texts: int) -> None:
        from mteb.models import ModelMeta

        name, revision = MODEL.split("@")
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": name, "revision": revision})
        self.texts = texts
        self.encoded = 0

    def encode(self, inputs: Any, **_: Any) -> NDArray[np.float32]:
        # The loader of a corpus has identifiers, and texts that begin with a title.
        numbers = [
            int(number)
            for batch in inputs
            for number in (batch["id"] if "id" in batch else map(number_of, batch["text"]))
        ]
        self.encoded += len(numbers)
        return vectors(0, self.texts)[numbers]

    def similarity(self, one: Any, other: Any) -> Any:
        return one @ other.T

    def similarity_pairwise(self, one: Any, other: Any) -> Any:
        return (one * other).sum(axis=1)


def task_metadata(shape: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    retrieval = shape == "corpus"
    return TaskMetadata(
        name=f"Bench-{shape}",
        description="Numbered English texts.",
        dataset={"path": "bench", "revision": "1"},
        type="Retrieval" if retrieval else "Classification",
        category="t2t" if retrieval else "t2c",
        modalities=["text"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10" if retrieval else "accuracy",
    )


def loader(work: Path, shape: str) -> Any:
    """The texts as mteb hands them to a model."""
    from datasets import load_from_disk
    from mteb._create_dataloaders import create_dataloader
    from mteb.types import PromptType

    return create_dataloader(
        load_from_disk(str(work / "data")),
        task_metadata=task_metadata(shape),
        prompt_type=PromptType.document if shape == "corpus" else None,
        input_column="text" if shape == "texts" else None,
        batch_size=32,
    )


def wrapper(contestant: str, model: NumberedModel, path: Path) -> Any:
    package = "dejavec" if contestant == "dejavec" else "mteb.models.cache_wrappers"
    return importlib.import_module(package).CachedEmbeddingWrapper(model, path)


# What a child process does. Each returns what it measured.


def child_texts(work: Path, count: int) -> dict[str, Any]:
    from datasets import Dataset

    found = texts(count)
    titles = [" ".join(text.split()[1:4]) for text in found]
    numbers = [str(number) for number in range(count)]
    Dataset.from_dict({"id": numbers, "title": titles, "text": found}).save_to_disk(str(work / "data"))
    return {"mean_bytes": sum(len(text.encode()) for text in found) / count}


def child_encode(work: Path, contestant: str, shape: str, count: int) -> dict[str, Any]:
    """Encode all texts twice with one wrapper. The first call opens the cache, and fills it if it is new."""
    from mteb.types import PromptType

    model = NumberedModel(count)
    inputs = loader(work, shape)
    subject = wrapper(contestant, model, work / contestant)
    arguments: dict[str, Any] = {
        "task_metadata": task_metadata(shape),
        "hf_split": "test",
        "hf_subset": "default",
        "prompt_type": PromptType.document if shape == "corpus" else None,
        "batch_size": 32,
    }
    touch(inputs.dataset)
    before = reset_peak()
    start = time.perf_counter()
    result = subject.encode(inputs, **arguments)
    first = time.perf_counter() - start
    peak = peak_bytes() - before
    encoded = model.encoded
    size = result.nbytes
    check(result, count)
    del result
    start = time.perf_counter()
    result = subject.encode(inputs, **arguments)
    second = time.perf_counter() - start
    check(result, count)
    return {"first": first, "second": second, "peak": peak, "size": size, "encoded": encoded}


def child_fill(work: Path, contestant: str, rows: int) -> dict[str, Any]:
    """Store ``rows`` vectors for the numbers as texts."""
    path = work / f"{contestant}-open"
    if contestant == "dejavec":
        from dejavec import EmbeddingCache

        with EmbeddingCache(path, model=MODEL, durability="close") as cache:
            for start in range(0, rows, OPEN_BLOCK):
                stop = min(start + OPEN_BLOCK, rows)
                cache.put([str(number) for number in range(start, stop)], vectors(start, stop))
    else:
        from mteb.models.cache_wrappers.cache_backends import NumpyCache

        backend = NumpyCache(path)
        for start in range(0, rows, OPEN_BLOCK):
            stop = min(start + OPEN_BLOCK, rows)
            backend.add([{"text": str(number)} for number in range(start, stop)], vectors(start, stop))
        backend.save()
        backend.close()
    return {}


def child_open(work: Path, contestant: str, rows: int) -> dict[str, Any]:
    """Open a full cache and look one text up."""
    path = work / f"{contestant}-open"
    number = rows - 1
    if contestant == "dejavec":
        from dejavec import EmbeddingCache

        start = time.perf_counter()
        cache = EmbeddingCache(path, model=MODEL, mode="r")
        opened = time.perf_counter() - start
        found, found_vectors = cache.get([str(number)])
        looked_up = time.perf_counter() - start
        assert found.all()
        vector = found_vectors[0]
    else:
        from mteb.models.cache_wrappers.cache_backends import NumpyCache

        start = time.perf_counter()
        backend = NumpyCache(path)
        backend.load()
        opened = time.perf_counter() - start
        vector = backend.get_vector({"text": str(number)})
        looked_up = time.perf_counter() - start
    expected = vectors(number // BLOCK * BLOCK, number + 1)[-1]
    assert np.array_equal(vector, expected)
    return {"opened": opened, "looked_up": looked_up}


def child_import() -> dict[str, Any]:
    start = time.perf_counter()
    import dejavec  # noqa: F401

    return {"seconds": time.perf_counter() - start}


def check(result: Any, count: int) -> None:
    """Compare a result with the vectors of the model, a block at a time."""
    assert result.shape == (count, DIM)
    assert result.dtype == np.float32
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        assert np.array_equal(result[start:stop], vectors(start, stop)), f"rows from {start} on differ"


def touch(dataset: Any) -> None:
    """Read the texts once: pages of a mapped input are nobody's result."""
    for column in dataset.data.columns:
        for chunk in column.chunks:
            for buffer in filter(None, chunk.buffers()):
                np.frombuffer(buffer, np.uint8).sum()


def reset_peak() -> int:
    """Start to measure the peak of resident memory anew; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak_bytes() -> int:
    return status_bytes("VmHWM")


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "texts": child_texts,
    "encode": child_encode,
    "fill": child_fill,
    "open": child_open,
    "import": child_import,
}


def run_child(role: str, *arguments: object) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps([role, *map(str, arguments)])]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def answer_as_child(role: str, *arguments: str) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    values = [
        Path(argument) if "/" in argument else int(argument) if argument.isdigit() else argument
        for argument in arguments
    ]
    print(json.dumps(CHILDREN[role](*values)))


# The parent.


def measure(work: Path, count: int, rows: int, rounds: int) -> dict[str, Any]:
    say(f"reading {count:,} texts from installed packages")
    figures: dict[str, Any] = {"count": count, "open_rows": rows, "rounds": rounds}
    figures["mean_bytes"] = run_child("texts", work, count)["mean_bytes"]
    for shape, label in SHAPES.items():
        say(f"filling the caches: {label}")
        for contestant in CONTESTANTS:
            assert run_child("encode", work, contestant, shape, count)["encoded"] == count
        taken: dict[str, list[dict[str, Any]]] = {contestant: [] for contestant in CONTESTANTS}
        for number in range(rounds):
            say(f"warm encode: {label}, round {number + 1} of {rounds}")
            for contestant in CONTESTANTS:
                taken[contestant].append(run_child("encode", work, contestant, shape, count))
                assert taken[contestant][-1]["encoded"] == 0
        figures[shape] = {contestant: medians(taken[contestant]) for contestant in CONTESTANTS}
    say(f"filling the caches with {rows:,} rows")
    for contestant in CONTESTANTS:
        run_child("fill", work, contestant, rows)
    opened: dict[str, list[dict[str, Any]]] = {contestant: [] for contestant in CONTESTANTS}
    for number in range(rounds):
        say(f"opening, round {number + 1} of {rounds}")
        for contestant in CONTESTANTS:
            opened[contestant].append(run_child("open", work, contestant, rows))
    figures["open"] = {contestant: medians(opened[contestant]) for contestant in CONTESTANTS}
    figures["import"] = medians([run_child("import") for _ in range(rounds)])
    return figures


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def machine() -> dict[str, str]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{
            name: metadata.version(name)
            for name in ("dejavec", "mteb", "numpy", "datasets", "pyarrow", "torch")
        },
    }


def report(figures: dict[str, Any], on: dict[str, str]) -> str:
    lines = [["", "dejavec", "mteb", "ratio"]]

    def compare(label: str, ours: float, theirs: float, unit: float, name: str) -> None:
        lines.append(
            [label, f"{ours * unit:,.1f} {name}", f"{theirs * unit:,.1f} {name}", f"{theirs / ours:,.1f}"]
        )

    for shape, label in SHAPES.items():
        ours, theirs = (figures[shape][contestant] for contestant in CONTESTANTS)
        compare(f"warm encode, {label}", ours["first"], theirs["first"], 1e3, "ms")
        compare("  the same call again", ours["second"], theirs["second"], 1e3, "ms")
        compare("  peak memory", ours["peak"], theirs["peak"], 1e-6, "MB")
        sizes = [run["peak"] / run["size"] for run in (ours, theirs)]
        lines.append(
            ["  peak memory / result", *(f"{size:.2f}" for size in sizes), f"{sizes[1] / sizes[0]:,.1f}"]
        )
    ours, theirs = (figures["open"][contestant] for contestant in CONTESTANTS)
    compare(f"open, {figures['open_rows']:,} rows", ours["opened"], theirs["opened"], 1e3, "ms")
    compare("  and look one text up", ours["looked_up"], theirs["looked_up"], 1e3, "ms")
    lines.append(["import dejavec, after numpy", f"{figures['import']['seconds'] * 1e3:.1f} ms", "", ""])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = "\n".join(
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    heading = (
        f"{figures['count']:,} texts of {figures['mean_bytes']:.0f} bytes, {DIM} float32; "
        f"medians of {figures['rounds']} rounds"
    )
    return f"{heading}\n{', '.join(f'{name} {value}' for name, value in on.items())}\n\n{table}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the caches to open")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), metavar="FILE")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        answer_as_child(*options.child)
        return
    with tempfile.TemporaryDirectory(prefix="dejavec-bench-") as work:
        figures = measure(Path(work), options.texts, options.rows, options.rounds)
    on = machine()
    options.json.write_text(json.dumps({"machine": on, "figures": figures}, indent=2) + "\n")
    print(report(figures, on))


if __name__ == "__main__":
    main()
