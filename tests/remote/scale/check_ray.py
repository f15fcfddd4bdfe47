"""A cluster of Ray fills a shared cache: three nodes on this machine, and one of them dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from counted_models import calls, encoded, stand_in, vectors
from pages import Block, blocks, cluster_pages
from ray.cluster_utils import Cluster

from dejavec import EmbeddingCache
from dejavec.cluster import StoredKeys
from dejavec.ray import CachedEmbedder, Progress, filter_missing, progress

MODEL = "stand-in@1"
TEXTS = [f"text {number}" for number in range(50_000)]
BATCH = 250
ROW_BYTES = 64 * 4 + 40
PUSH_ROWS = 4_000
TEXTS_A_SECOND = 2_500

# An actor takes one processor of a node, and leaves one for the filter before it.
NODE: dict[str, Any] = {"num_cpus": 2, "resources": {"slot": 1}, "object_store_memory": 100 << 20}

pytestmark = pytest.mark.timeout(900)


class OnNode(CachedEmbedder):
    """A worker whose disk is lost with its node: here, all nodes have one disk."""

    def __init__(self, *, path: str, log: str, **settings: Any) -> None:
        node = ray.get_runtime_context().get_node_id()
        super().__init__(
            path=f"{path}/{node}", build=lambda: stand_in(Path(log), node, TEXTS_A_SECOND), **settings
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Workers import this module, and send nothing home.
    os.environ.update(PYTHONPATH=os.pathsep.join(sys.path), RAY_USAGE_STATS_ENABLED="0")
    quickly = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = {**NODE, "include_dashboard": False, "_system_config": quickly}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(**NODE)
    ray.init(address=made.address, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    """Where the store and the local directories are, and whose vectors these are."""
    return {"url": f"file://{tmp_path}/team", "path": str(tmp_path / "nodes"), "model": MODEL}


def rows(texts: Sequence[str]) -> Any:
    return ray.data.from_items([{"id": at, "text": text} for at, text in enumerate(texts)])


def run(dataset: Any, place: dict[str, Any], log: Path, *, workers: int = 2, **settings: Any) -> int:
    """Embed the rows of a data set, and return how many came out."""
    arguments = {**place, "log": str(log), "to": None, "push_bytes": PUSH_ROWS * ROW_BYTES, **settings}
    filled = dataset.map_batches(
        OnNode,
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=BATCH,
        num_cpus=1,
        resources={"slot": 1},
    )
    return sum(len(batch["id"]) for batch in filled.iter_batches(batch_size=None))


def until_all_are_stored(place: dict[str, Any], count: int) -> None:
    """Wait for the workers, which push the rest when Ray drops them."""
    deadline = time.monotonic() + 120
    with StoredKeys(**{**place, "path": f"{place['path']}/keys of the test"}) as stored:
        while len(stored) < count and time.monotonic() < deadline:
            os.sched_yield()
            stored.refresh()
        assert len(stored) == count


def check_rows(place: dict[str, Any], texts: list[str], fresh: Path) -> None:
    with EmbeddingCache(fresh, model=MODEL) as cache:
        cache.pull(place["url"])
        found, got = cache.get(texts)
        assert found.all()
        assert np.array_equal(got, vectors(texts))
        assert len(cache) == len(texts)


def test_a_node_that_dies_costs_at_most_a_segment_and_no_row(
    cluster: Cluster, place: dict[str, Any], tmp_path: Path
) -> None:
    dataset, log, done = rows(TEXTS).materialize(), tmp_path / "log", list[int]()
    began = time.monotonic()
    job = threading.Thread(target=lambda: done.append(run(dataset, place, log)))
    job.start()
    others = {node.node_id: node for node in cluster.list_all_nodes() if node is not cluster.head_node}

    def workers() -> list[list[str]]:
        return [parts for path in log.glob("*-*") if (parts := path.name.split("-"))[0] in others]

    while (len(encoded(log)) < len(TEXTS) // 3 or not workers()) and job.is_alive():
        job.join(0.1)
    dead, worker = workers()[0]
    # It stops at once, as on a machine without power, and is never told to end.
    os.kill(int(worker), signal.SIGSTOP)
    cluster.remove_node(others[dead], allow_graceful=False)
    with suppress(ProcessLookupError):
        os.kill(int(worker), signal.SIGKILL)
    job.join()
    assert done == [len(TEXTS)]
    seconds = time.monotonic() - began
    # Ray does not repeat batches that came out, and their vectors may have been lost with the node.
    lost = run(filter_missing(dataset, **place), place, log)
    until_all_are_stored(place, len(TEXTS))
    twice = len(encoded(log)) - len(TEXTS)
    print(
        f"\n{len(TEXTS):,} texts in {seconds:.1f} s, a node killed: {lost:,} missing, {twice:,} encoded twice"
    )
    assert set(encoded(log)) == set(TEXTS)
    assert twice <= PUSH_ROWS + BATCH
    check_rows(place, TEXTS, tmp_path / "fresh")

    found = progress(dataset, **place)
    assert (found, str(found)) == (Progress(50_000, 50_000), "50,000 of 50,000 rows (100.0%)")
    assert filter_missing(dataset, **place).count() == 0
    assert run(dataset, place, tmp_path / "again", workers=1) == len(TEXTS)
    assert encoded(tmp_path / "again") == []
    assert run(rows(TEXTS[:1000]), place, tmp_path / "asked", workers=1, confirm=4) == 1000
    # 16 texts for a model that is not known here, and 4 in each of the other batches.
    assert 0 < len(encoded(tmp_path / "asked")) <= 16 + 4 * 3
    cluster.add_node(**NODE)


def test_what_is_stored_is_filtered_out_on_all_nodes_and_types_stay(
    cluster: Cluster, place: dict[str, Any], tmp_path: Path
) -> None:
    texts = TEXTS[:3000]
    with EmbeddingCache(tmp_path / "mine", model=MODEL, remote=place["url"]) as mine:
        mine.encode(texts[::3], vectors)
    dataset = rows(texts).repartition(6)
    missing = filter_missing(dataset, **place, batch_size=300)
    assert missing.schema().types == dataset.schema().types
    assert sorted(row["id"] for row in missing.take_all()) == [at for at in range(3000) if at % 3]
    assert progress(dataset, **place).stored == 1000
    other = {**place, "model": "another@1"}
    assert filter_missing(dataset, **other).count() == 3000
    assert run(missing, place, tmp_path / "log") == 2000
    until_all_are_stored(place, 3000)
    assert sorted(encoded(tmp_path / "log")) == sorted(set(texts) - set(texts[::3]))
    check_rows(place, texts, tmp_path / "fresh")


def test_vectors_are_a_column(cluster: Cluster, place: dict[str, Any], tmp_path: Path) -> None:
    texts = TEXTS[:600]
    filled = rows(texts).map_batches(
        OnNode,
        fn_constructor_kwargs={**place, "log": str(tmp_path / "log")},
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=BATCH,
        num_cpus=1,
    )
    found = sorted(filled.take_all(), key=lambda row: row["id"])
    assert [row["text"] for row in found] == texts
    assert np.array_equal(np.stack([row["embedding"] for row in found]), vectors(texts))


@pytest.mark.parametrize("block", [block for page in cluster_pages() for block in blocks(page, "python")])
def test_the_page_prints_what_it_says(
    cluster: Cluster,
    block: Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.source, str(block.page), "exec", dont_inherit=True), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[-1:] == (block.output or "").splitlines()


@pytest.mark.parametrize("workers", [1, 2])
def test_throughput(cluster: Cluster, place: dict[str, Any], tmp_path: Path, workers: int) -> None:
    texts = TEXTS[:20_000]
    began = time.monotonic()
    assert run(rows(texts), place, tmp_path / "log", workers=workers) == len(texts)
    seconds = time.monotonic() - began
    begins, ends, _ = zip(*calls(tmp_path / "log"), strict=True)
    while_encoding = len(texts) / (max(ends) - min(begins))
    whole = len(texts) / seconds
    print(f"\n{workers} workers: {whole:,.0f} texts/s, {while_encoding:,.0f} from the first batch on")
    until_all_are_stored(place, len(texts))
    assert sorted(encoded(tmp_path / "log")) == sorted(texts)
