"""A rendered service to measure in: one set of backends, and real servers for them."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from copier import run_copy

if TYPE_CHECKING:
    from app.settings import Settings

ROOT = Path(__file__).parents[1]


def render(folder: Path, **answers: str | bool) -> Path:
    data = {"profile": "custom", **answers}
    run_copy(str(ROOT), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


def rendered(
    work: Path, variants: Iterable[Mapping[str, str]], what: str, **answers: str | bool
) -> Iterator[Path]:
    """Each variant in a folder of its own, with a line that says which one it is."""
    for number, variant in enumerate(variants):
        named = ", ".join(f"{key}={value}" for key, value in variant.items())
        print(f"\n  {what}{named}", flush=True)
        yield render(work / str(number), **answers, **variant)


def measure(module: str, folder: Path) -> None:
    """Run `benchmarks.<module>` where this service's own `app` is the one that is imported."""
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    subprocess.run(command, cwd=folder, env=environment(), check=True)


def environment() -> dict[str, str]:
    """For a process in a rendered service: nothing of the caller's settings, and these modules."""
    theirs = {"DATABASE_URL", "JOB_STORE_URL", "LOCK_URL", "BROKER_URL"}
    kept = {name: value for name, value in os.environ.items() if name not in theirs}
    return {**kept, "ENVIRONMENT": "test", "PYTHONPATH": str(ROOT)}


@contextmanager
def settings() -> Iterator[Settings]:
    """Inside a rendered service: settings that lead to servers of its tests, with nothing on them.

    The lease is so long that no heartbeat and no late fire gets in between.
    """
    from app.core import wiring
    from app.settings import Settings
    from pydantic import SecretStr

    servers = importlib.import_module(f"tests.core.servers.{wiring.DATABASE}")
    further = [n for n in Settings.model_fields if re.fullmatch("(job_store|lock|broker)_url", n)]
    with tempfile.TemporaryDirectory() as folder, servers.databases(Path(folder)) as (new, _):
        urls = {"database_url": SecretStr(new())}
        if wiring.DATABASE == "postgresql":
            _durable(urls["database_url"].get_secret_value())
        for name in further:
            valkey = importlib.import_module("tests.core.servers.valkey")
            urls[name] = SecretStr(valkey.new(name.upper()))
        yield Settings.model_validate({**urls, "environment": "test", "lease_seconds": 600})


def urls(given: Settings) -> dict[str, str]:
    """The variables that lead a process of the service to the same servers."""
    named = {name: getattr(given, name) for name in type(given).model_fields if "_url" in name}
    secret = {n.upper(): v for n, v in named.items() if hasattr(v, "get_secret_value")}
    return {name: value.get_secret_value() for name, value in secret.items()}


def _durable(url: str) -> None:
    """As in production; the tests do without."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM RESET fsync")
        connection.execute("SELECT pg_reload_conf()")
