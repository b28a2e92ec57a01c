"""A service under chaos: rendered with the template of this working tree, with jobs of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rendered import render as rendered
from chaos.cables import cables
from chaos.effects import Effects
from chaos.members import Member, Replica, Worker
from chaos.pairs import Pair
from chaos.servers import Postgresql, Valkey, until

OWNED = Path(__file__).parent / "owned"


@dataclass
class UnderChaos:
    folder: Path
    url: str
    members: list[Member]
    effects: Effects
    postgresql: Postgresql | None
    valkey: Valkey | None

    def start(self) -> None:
        for member in self.members:
            member.start()
        until(lambda: all(member.up for member in self.members), f"all of {self.folder}")

    def stop(self) -> None:
        for member in self.members:
            if member.running:
                member.thaw()
                member.reconnect()
                member.terminate()
        deadline = time.monotonic() + 30
        for member in self.members:
            while member.running and time.monotonic() < deadline:
                time.sleep(0.05)
            if member.running:
                member.kill()


def render(pair: Pair, folder: Path) -> None:
    """The service as the template gives it, and what its owner has added."""
    if pair.guide:
        folder.mkdir()
        shutil.copy(OWNED / "guide.py", folder)
        return
    rendered(folder, example=False, **pair.answers)
    jobs = (OWNED / "jobs.py").read_text(encoding="utf-8")
    for old, new in pair.edits.items():
        assert old in jobs, f"{pair.name}: {old!r} is not in the jobs"
        jobs = jobs.replace(old, new)
    (folder / "app" / "jobs" / "chaos.py").write_text(jobs, encoding="utf-8")
    shutil.copy(OWNED / "api.py", folder / "app" / "api" / "reminders.py")


@contextmanager
def under_chaos(pair: Pair, folder: Path, replicas: int, lease: float) -> Iterator[UnderChaos]:
    """The service with its servers, not started yet. At the end nothing of it is left running."""
    service = folder / pair.name
    render(pair, service)
    postgresql = None if pair.on_sqlite else Postgresql()
    valkey = Valkey(pair.keeps_jobs_in_redis) if pair.has_redis else None
    url = postgresql.url if postgresql else f"sqlite:///{service / 'service.db'}"
    environment = _environment(url, valkey, lease)
    if not pair.guide:
        migrate = [sys.executable, "-m", "app.core.migrate"]
        subprocess.run(migrate, cwd=service, env=environment, check=True, capture_output=True)
    effects = Effects(url)
    effects.create()
    target = "guide:app" if pair.guide else "app.main:app"
    roles = ["worker" if pair.workers and n >= replicas / 2 else "web" for n in range(replicas)]
    servers = [server.url for server in (postgresql, valkey) if server]
    with cables() as lay:
        members: list[Member] = []
        for n, role in enumerate(roles):
            laid, own = [(server, lay(server)) for server in servers], environment
            for server, cable in laid:
                own = {name: value.replace(server, cable.url) for name, value in own.items()}
            members.append(
                Worker(f"worker-{n}", service, own)
                if role == "worker"
                else Replica(f"replica-{n}", target, service, own)
            )
            members[-1].cables = [cable for _, cable in laid]
        made = UnderChaos(service, url, members, effects, postgresql, valkey)
        try:
            yield made
        finally:
            made.stop()
            if postgresql:
                postgresql.close()
            if valkey:
                valkey.close()


def _environment(url: str, valkey: Valkey | None, lease: float) -> dict[str, str]:
    theirs = {"DATABASE_URL", "JOB_STORE_URL", "LOCK_URL", "BROKER_URL", "PYTHONPATH"}
    kept = {name: value for name, value in os.environ.items() if name not in theirs}
    redis = {}
    if valkey:
        names = ("JOB_STORE_URL", "LOCK_URL", "BROKER_URL")
        redis = {name: f"{valkey.url}/{number}" for number, name in enumerate(names)}
    return {
        **kept,
        **redis,
        "DATABASE_URL": url,
        "LEASE_SECONDS": f"{lease:g}",
        "SHUTDOWN_GRACE_SECONDS": "2",
    }
