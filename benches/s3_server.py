"""An S3 server on this machine, in a process of its own."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CODE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_bucket(name: str) -> Iterator[str]:
    """Run moto with an empty bucket, set obstore's environment for it, and yield the bucket's address."""
    # It has an environment of its own: not all that it needs agrees with what the benchmarks need.
    python = str(Path(sys.prefix) / "scale" / "bin" / "python")
    with subprocess.Popen(
        [python, "-c", _CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("PUT", f"/{name}")
        if connection.getresponse().status != 200:
            raise RuntimeError("the server makes no bucket")
        connection.close()
        os.environ.update(
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
            AWS_ACCESS_KEY_ID="benchmark",
            AWS_SECRET_ACCESS_KEY="benchmark",
            AWS_REGION="us-east-1",
        )
        try:
            yield f"s3://{name}"
        finally:
            server.terminate()
