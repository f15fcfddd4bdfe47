"""Machines with addresses of their own fill one store, and one of them is cut off from the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from counted_models import encoded
from machines import Machine, machines
from stand_ins import s3_environment

TEXTS = [f"text {number}" for number in range(6_000)]
BATCH = 250

SERVER = """
    import http.client, sys
    from moto.server import ThreadedMotoServer
    address = sys.argv[1]
    server = ThreadedMotoServer(ip_address=address, port=9000, verbose=False)
    server.start()
    connection = http.client.HTTPConnection(address, 9000)
    connection.request("PUT", "/team")
    print(connection.getresponse().status, flush=True)
    sys.stdin.read()
"""

# A line for each batch; the end of its input ends it after that batch.
WORKER = """
    import sys
    from pathlib import Path
    from counted_models import stand_in
    from dejavec.cluster import CachedEmbedder
    from dejavec.errors import DejavecError
    from dejavec.remote import urls
    path, log, first, last, batch = *sys.argv[1:3], *map(int, sys.argv[3:])
    urls._REQUEST["timeout"] = urls._REQUEST["connect_timeout"] = "1s"
    urls._RETRIES.update(max_retries=1)
    build = lambda: stand_in(Path(log), Path(path).name)
    place = {"url": "s3://team/models", "path": path, "model": "stand-in@1"}
    embedder = CachedEmbedder(**place, build=build, push_bytes=1 << 18)
    for start in range(first, last, batch):
        embedder({"text": [f"text {number}" for number in range(start, start + batch)]})
        print(start, flush=True)
        sys.stdin.readline()
    try:
        embedder.close()
        print("closed")
    except DejavecError as error:
        print(type(error).__name__, error)
"""

READER = """
    import sys
    import numpy as np
    from counted_models import vectors
    from dejavec import EmbeddingCache
    texts = [f"text {number}" for number in range(int(sys.argv[2]))]
    with EmbeddingCache(sys.argv[1], model="stand-in@1") as cache:
        pulled = cache.pull("s3://team/models")
        found, got = cache.get(texts)
        assert found.all() and np.array_equal(got, vectors(texts)), found.sum()
        print(pulled.rows, len(cache))
"""


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Machine]]:
    """A machine with an S3 server, and three others."""
    with machines(["store", "one", "two", "three"]) as made:
        store = made[0]
        for name, value in s3_environment(f"http://{store.address}:9000").items():
            monkeypatch.setenv(name, value)
        with store.start(SERVER, store.address) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "200\n"
            yield made[1:]
            server.kill()


def test_a_machine_that_is_cut_off_keeps_what_it_made_and_pushes_it_later(
    network: list[Machine], tmp_path: Path
) -> None:
    one, two, three = network
    log, half = tmp_path / "log", len(TEXTS) // 2
    parts = {one: (0, half + BATCH), two: (half - BATCH, len(TEXTS))}

    def worker(machine: Machine) -> subprocess.Popen[str]:
        return machine.start(WORKER, tmp_path / machine.name, log, *parts[machine], BATCH)

    with worker(one) as first, worker(two) as second:
        assert first.stdout is not None
        assert first.stdin is not None
        for _ in range(4):
            first.stdout.readline()
            first.stdin.write("\n")
            first.stdin.flush()
        one.unplug()
        told, warned = first.communicate("\n" * 100)
        assert "StorageError" in told.splitlines()[-1]
        assert told.splitlines()[-1].count("StorageError") == 1
        assert "goes on without s3://team/models" in warned
        assert second.communicate("\n" * 100)[0].splitlines()[-1] == "closed"
    one.plug()
    with worker(one) as again:
        assert again.communicate("\n" * 100)[0].splitlines()[-1] == "closed"
    assert set(encoded(log)) == set(TEXTS)
    # Both were given two batches, and nothing else is encoded twice.
    assert len(encoded(log)) <= len(TEXTS) + 2 * BATCH
    with three.start(READER, tmp_path / "read", len(TEXTS)) as reader:
        told, wrong = reader.communicate()
        assert told.split() == [str(len(TEXTS))] * 2, wrong


# Prints the address and the number of each node, and what became of the job.
DRIVER = """
    import json, sys
    from pathlib import Path
    import ray
    from check_ray import TEXTS, check_rows, rows, run, until_all_are_stored
    from dejavec.ray import filter_missing
    head, path, log, count = *sys.argv[1:3], Path(sys.argv[3]), int(sys.argv[4])
    while True:
        ray.init(address=head, log_to_driver=False)
        nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if len(nodes) == 3:
            break
        ray.shutdown()
    print(json.dumps(nodes), flush=True)
    ray.data.DataContext.get_current().enable_progress_bars = False
    place = {"url": "s3://team/models", "path": path, "model": "stand-in@1"}
    dataset = rows(TEXTS[:count]).materialize()
    done = run(dataset, place, log)
    lost = run(filter_missing(dataset, **place), place, log)
    until_all_are_stored(place, count)
    check_rows(place, TEXTS[:count], Path(path) / "fresh")
    print(json.dumps([done, lost]), flush=True)
"""


def test_a_cluster_of_ray_over_a_network_outlives_a_machine_that_loses_its_power(
    network: list[Machine], tmp_path: Path
) -> None:
    head, one, two = network
    log, count = tmp_path / "log", 20_000
    ray = str(Path(sys.executable).parent / "ray")
    each = ["--num-cpus=2", '--resources={"slot": 1}', "--object-store-memory=100000000"]
    quickly = '{"health_check_period_ms": 500, "health_check_failure_threshold": 3}'
    options = ["--head", "--port=6379", "--include-dashboard=false", f"--system-config={quickly}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0"}
    for machine in (head, one, two):
        joins = options if machine is head else [f"--address={head.address}:6379"]
        words = [ray, "start", f"--node-ip-address={machine.address}", *joins, *each]
        subprocess.run(machine.command(*words), env=environment, check=True, capture_output=True, timeout=120)
    with head.start(DRIVER, f"{head.address}:6379", tmp_path, log, count) as driver:
        assert driver.stdout is not None
        nodes = json.loads(driver.stdout.readline())

        def busy() -> list[Machine]:
            return [machine for machine in (one, two) if list(log.glob(f"{nodes[machine.address]}-*"))]

        while len(encoded(log)) < count // 3 or not busy():
            assert driver.poll() is None
            os.sched_yield()
        busy()[0].power_off()
        told, wrong = driver.communicate()
        assert told, wrong
        # Ray says more.
        done, lost = json.loads(next(line for line in told.splitlines() if line.startswith("[")))
        print(f"\n{count:,} texts, a machine without power: {lost:,} missing after the job")
        assert done == count
        assert set(encoded(log)) == {f"text {number}" for number in range(count)}
