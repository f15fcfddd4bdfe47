"""Machines with addresses of their own fill one store, and one of them is cut off from the network."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from counted_models import encoded
from machines import Machine, machines
from stand_ins import KEY_ID, SECRET

MODEL = "stand-in@1"
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
        for name, value in (
            ("AWS_ACCESS_KEY_ID", KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://{store.address}:9000"),
        ):
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
