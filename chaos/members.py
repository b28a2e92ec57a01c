"""The processes of a service: replicas that serve, workers that work."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from chaos.cables import Cable
from chaos.servers import free_port, freeze, thaw


class Member:
    """One process, started again after each of its deaths under a new name."""

    role = ""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.cables: Sequence[Cable] = ()
        """To its servers."""
        self._cut_off = False
        self._command = [sys.executable, *command]
        self._folder = folder
        self._environment = environment
        self._starts = 0
        self._was_ready = self._leaving = False
        self._frozen: list[psutil.Process] = []
        self.log = folder / f"{name}.log"

    @property
    def incarnation(self) -> str:
        return f"{self.name}.{self._starts}"

    def start(self) -> None:
        self._starts += 1
        self._was_ready = self._leaving = False
        self._read_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**self._environment, "REPLICA": self.incarnation},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def up(self) -> bool:
        """Has it started, and is it neither dead, frozen, cut off nor on its way out?"""
        if not self.running or self._frozen or self._cut_off or self._leaving:
            return False
        self._was_ready = self._was_ready or self._ready()
        return self._was_ready

    def _ready(self) -> bool:
        raise NotImplementedError

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        self._leaving = True
        self._process.terminate()

    def freeze(self) -> None:
        """With its children, as when its machine stands still."""
        self._frozen = freeze(self._process.pid)

    def thaw(self) -> None:
        thaw(self._frozen)
        self._frozen = []

    def cut_off(self) -> None:
        """From all servers: connections stand, and nothing comes through."""
        self._cut_off = True
        for cable in self.cables:
            cable.cut()

    def reconnect(self) -> None:
        for cable in self.cables:
            cable.mend()
        self._cut_off = False


class Replica(Member):
    """`uvicorn`, on a port of its own that it keeps."""

    role = "replica"

    def __init__(
        self, name: str, target: str, folder: Path, environment: Mapping[str, str]
    ) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        serve = ("-m", "uvicorn", target, "--port", str(port), "--no-access-log")
        command = (*serve, "--timeout-graceful-shutdown", "5")
        super().__init__(name, command, folder, environment)

    def _ready(self) -> bool:
        return self.ask("GET", "/health/ready")

    def ask(self, method: str, path: str) -> bool:
        """Did it answer that all is well?"""
        request = urllib.request.Request(self.address + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=1):
                return True
        except (OSError, urllib.error.URLError):
            return False


class Worker(Member):
    """What `make worker` starts."""

    role = "worker"

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, ("-m", "app.core.worker"), folder, environment)

    def _ready(self) -> bool:
        with self.log.open("rb") as log:
            log.seek(self._read_from)
            return b'"working"' in log.read()


def orphans(folder: Path) -> list[int]:
    """Processes that still run in this folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder) and process.pid != os.getpid():
                found.append(process.pid)
    return found
