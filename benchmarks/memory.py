"""Memory of an idle service, and how soon it serves, against bare FastAPI and uvicorn."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.figures import REPETITIONS, plain, progress, ratio
from benchmarks.rendered import environment, render

_SETTLED = 2.0
_PATIENCE = 60.0
_BARE = """from fastapi import FastAPI

app = FastAPI()


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "ok"}
"""


def memory(work: Path) -> None:
    service, bare = render(work / "service"), work / "bare"
    (bare / "app").mkdir(parents=True)
    (bare / "app" / "__init__.py").touch()
    (bare / "app" / "main.py").write_text(_BARE)
    served = [
        (idle(service), idle(bare)) for _ in progress("idle services", max(4, REPETITIONS // 2 + 1))
    ]
    ours, theirs = zip(*served[1:], strict=True)  # the first writes bytecode
    for index, (what, unit) in enumerate((("memory", "MB"), ("until the first answer", "s"))):
        full, small = ([each[index] for each in pair] for pair in (ours, theirs))
        plain(f"{what}: the default service", full, unit)
        plain(f"{what}: bare FastAPI", small, unit)
        ratio(f"{what}: ratio", full, small)


def idle(folder: Path) -> tuple[float, float]:
    """Resident megabytes once it is idle, and the seconds until it answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port)]
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            while not answers(f"http://127.0.0.1:{port}/health/live"):
                if server.poll() is not None or time.perf_counter() - started > _PATIENCE:
                    sys.exit(f"`{' '.join(command)}` does not answer in {folder}")
                time.sleep(0.01)
            seconds = time.perf_counter() - started
            time.sleep(_SETTLED)
            asked = ["ps", "-o", "rss=", "-p", str(server.pid)]
            resident = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        finally:
            os.kill(server.pid, signal.SIGTERM)
    return int(resident) / 1024, seconds


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
