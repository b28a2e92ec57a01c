"""`make demo`: render the default service, install it, run it, and show a job that really ran.

Serves until Ctrl-C, or for DEMO_SECONDS. Exits with 0 only if the job succeeded.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARK = ".demo"
PATIENCE = 60.0
_started = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - _started:5.1f} s] {text}", flush=True)


def main(destination: Path) -> int:
    if destination.exists() and any(destination.iterdir()):
        if not (destination / MARK).exists() or (destination / ".git").exists():
            say(f"{destination} is there and no demo made it: another one, as DEST=demo-service")
            return 1
        shutil.rmtree(destination)
    say(f"rendering the default service into {destination}")
    copier = str(Path(sys.executable).with_name("copier"))
    source = ("--quiet", "--defaults", "--vcs-ref", "HEAD", str(ROOT))
    subprocess.run([copier, "copy", *source, str(destination)], check=True)
    (destination / MARK).write_text("`make demo` deletes this folder when it runs again.\n")
    say("installing it (make install)")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["make", "--silent", "-C", destination, "install", f"PYTHON={sys.executable}"],
        check=True,
        env={**os.environ, "PATH": path},
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    say(f"starting it at {address}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    server = start(destination.resolve(), address)
    try:
        return show(server, address)
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
        say("stopped")


def start(folder: Path, address: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "ENVIRONMENT": "local",
        "LOG_FORMAT": "console",
        "LOG_LEVEL": "WARNING",
        "ESI_BASE_URL": f"{address}/sample",
        "DATABASE_URL": "sqlite:///./demo.db",
    }
    port = address.rpartition(":")[2]
    command = [str(folder / ".venv/bin/uvicorn"), "app.main:app", "--port", port]
    return subprocess.Popen(
        [*command, "--timeout-graceful-shutdown", "5"],
        cwd=folder,
        env=environment,
        start_new_session=True,  # Ctrl-C comes to this script first
    )


def show(server: subprocess.Popen[bytes], address: str) -> int:
    wait_for(server, f"{address}/health/ready", "the service is ready")
    say("asking for a job: POST /contracts/refresh")
    asked = get(f"{address}/contracts/refresh", method="POST")
    run = wait_for(server, f"{address}/contracts/refresh/{asked['id']}", "", "outcome")
    took = moment(run["finished_at"]) - moment(run["claimed_at"])
    total = len(get(f"{address}/contracts?limit=1000"))
    print(
        "\n  job        contracts.refresh_contracts"
        f"\n  fire time  {run['fire_time']}"
        f"\n  outcome    {run['outcome']}, attempt {run['attempt']}"
        f"\n  duration   {took.total_seconds() * 1000:.0f} ms"
        f"\n  stored     {total} contracts\n",
        flush=True,
    )
    if run["outcome"] != "succeeded" or not total:
        say(f"the job did not succeed: {run['error']}")
        return 1
    seconds = float(os.environ.get("DEMO_SECONDS") or "inf")
    say(f"serving at {address}/docs" + ("; Ctrl-C ends it" if seconds == float("inf") else ""))
    try:
        server.wait(None if seconds == float("inf") else seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        return 0
    say(f"the service has ended by itself, with exit code {server.returncode}")
    return 1


def wait_for(
    server: subprocess.Popen[bytes], url: str, what: str, member: str | None = None
) -> dict[str, Any]:
    """The answer, once it is there and, if asked, once a member of it is set."""
    deadline = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < deadline:
        try:
            answer: dict[str, Any] = get(url)
            if member is None or answer[member] is not None:
                if what:
                    say(what)
                return answer
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.1)
    sys.exit(f"nothing came of {url} within {PATIENCE:g} s; exit code: {server.returncode}")


def get(url: str, method: str = "GET") -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as response:
        return json.load(response)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-service")))
