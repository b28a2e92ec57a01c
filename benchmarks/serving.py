"""Services as processes, under uvicorn."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rendered import environment

_PATIENCE = 60.0
_BARE = """from fastapi import FastAPI

app = FastAPI()


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "ok"}
"""


@dataclass(frozen=True)
class Served:
    port: int
    pid: int
    seconds: float
    """From its start to its first answer."""


def bare(folder: Path) -> Path:
    """FastAPI with one route, and nothing else."""
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "__init__.py").touch()
    (folder / "app" / "main.py").write_text(_BARE)
    return folder


@contextmanager
def served(folder: Path, **variables: str) -> Iterator[Served]:
    """`app.main:app` of this folder, until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "warning"]
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**environment(), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            while not answers(f"http://127.0.0.1:{port}/health/live"):
                if server.poll() is not None or time.perf_counter() - started > _PATIENCE:
                    sys.exit(f"`{' '.join(command)}` does not answer in {folder}")
                time.sleep(0.01)
            yield Served(port, server.pid, time.perf_counter() - started)
        finally:
            server.send_signal(signal.SIGTERM)


def resident(pid: int) -> float:
    """The memory that a process has, in MB."""
    asked = ["ps", "-o", "rss=", "-p", str(pid)]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout) / 1024


def weight(pid: int | None) -> float:
    """A process's share of the memory, in MB: what it shares with others counts in parts."""
    fields = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").split("Pss:")
    return int(fields[1].split()[0]) / 1024


def descendants(pid: int) -> list[int]:
    """The processes below this one."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [below for child in map(int, text.split()) for below in (child, *descendants(child))]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
