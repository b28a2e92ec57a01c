"""A rendered service under the real server."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from subprocess import PIPE, STDOUT

from tests.conftest import Render, run
from tests.variants import REFERENCES

SERVE = ("-m", "uvicorn", "app.main:app", "--port", "0")


def test_every_line_that_it_writes_is_in_its_own_format(render: Render, tmp_path: Path) -> None:
    """Those of uvicorn, too: at its start, of a request that is none, and at its end."""
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/service.db"}
    command = [sys.executable, *SERVE]
    lines = []
    server = subprocess.Popen(
        command, cwd=render(), env=environment, stdout=PIPE, stderr=STDOUT, text=True
    )
    try:
        assert server.stdout
        for line in server.stdout:
            lines.append(json.loads(line))
            if address := re.match(r"Uvicorn running on http://(.*?):(\d+)", lines[-1]["message"]):
                host, port = address[1], int(address[2])
                with urllib.request.urlopen(f"http://{host}:{port}/health/live", timeout=30):
                    pass
                with socket.create_connection((host, port), timeout=30) as nonsense:
                    nonsense.sendall(b"no such thing\r\n\r\n")
                    assert nonsense.recv(1024)
                server.terminate()
    finally:
        server.kill()
        server.wait()
    assert {"timestamp", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    told = {f"{line['logger']}: {line['message']}" for line in lines}
    assert told >= {
        "uvicorn.error: Waiting for application startup.",
        "uvicorn.error: Invalid HTTP request received.",
        "uvicorn.error: Application shutdown complete.",
        "app.requests: request",
    }
    assert not [line for line in lines if line["logger"] == "uvicorn.access"]


def test_a_worker_starts_with_what_the_service_starts_with(render: Render) -> None:
    """`make worker` asks for no setting that `make dev` does without."""
    folder = render(**REFERENCES["taskiq"])
    dev, worker = (
        [word for word in shlex.split(run("make", "-n", target, cwd=folder)) if "=" in word]
        for target in ("dev", "worker")
    )
    assert dev == worker
    assert "ENVIRONMENT=local" in worker
