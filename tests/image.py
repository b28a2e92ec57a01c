"""A Dockerfile, carried out without an engine: each stage in an overlay of this machine's root.

The machine's own Python stands in for the image that a stage begins with. Takes Linux, root, and
the right to mount: a container seldom has it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

_BASE = Path(sys.base_prefix)
_SET_UP = """
set -e
mount --make-rprivate /
mount -t tmpfs none {folder}
mkdir {folder}/upper {folder}/work {root}
mount -t overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work none {root}
for name in proc dev; do mount --rbind /$name {root}/$name; done
for part in $(echo {base} | sed 's#/[^/]*#& #g'); do
    path=$path$part
    chmod a+rx {root}$path
done
mount -t tmpfs -o mode=1777 none {root}/tmp
echo ready
exec sleep infinity
"""
_PROBE = """
mount --make-rprivate / && mount -t tmpfs none /mnt && mkdir /mnt/upper /mnt/work /mnt/root &&
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work none /mnt/root
"""


def possible() -> bool:
    """Can this machine mount a root of its own, for the processes that are started in it?"""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    asked = ["unshare", "--mount", "sh", "-c", _PROBE]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


class Stage:
    """One stage: a root file system, and what the instructions said of its processes."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.root = folder / "root"
        # What is in it can be seen through the process that holds its mounts.
        self.seen = Path(f"/proc/{process.pid}/root{self.root}")
        self.environment = {"PATH": f"{_BASE}/bin:{os.defpath}"}
        self.workdir = "/"
        self.user = "0:0"
        self.command: list[str] = []
        self.health: list[str] = []
        self.volumes: list[str] = []

    def inside(
        self, *command: str, first: bool = False, more: dict[str, str] | None = None
    ) -> list[str]:
        """What runs this command in it; `first`: as the first process, as engines do."""
        given = {**self.environment, **(more or {})}
        return [
            *("nsenter", f"--target={self._process.pid}", "--mount", "--"),
            *(("unshare", "--pid", "--fork", "--kill-child") if first else ()),
            *("chroot", f"--userspec={self.user}", str(self.root)),
            *("env", "-i", f"--chdir={self.workdir}", *(f"{k}={v}" for k, v in given.items())),
            *command,
        ]

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        line = self.inside(*command, more=more)
        return subprocess.run(line, text=True, capture_output=True, timeout=600)

    def mount(self, *arguments: str) -> None:
        enter = ("nsenter", f"--target={self._process.pid}", "--mount", "--", "mount")
        subprocess.run([*enter, *arguments], check=True)

    def close(self) -> None:
        """Make its root read-only, but for /tmp and its volumes."""
        for volume in self.volumes:
            # A new volume begins with what the image has there, owner included.
            owner = (self.seen / volume.strip("/")).stat()
            options = f"uid={owner.st_uid},gid={owner.st_gid},mode=755"
            self.mount("-t", "tmpfs", "-o", options, "none", f"{self.root}{volume}")
        self.mount("-o", "remount,ro", str(self.root))


@contextmanager
def built(folder: Path, network: dict[str, str]) -> Iterator[Stage]:
    """The last stage of a project's Dockerfile; `network`: what installers find packages by."""
    stages: dict[str, Stage] = {}
    with ExitStack() as stack:
        for name, rest in instructions(folder / "Dockerfile"):
            if name == "FROM":
                stage = stack.enter_context(_stage())
                stages[rest.partition(" AS ")[2]] = stage
            elif name == "WORKDIR":
                stage.workdir = rest
                _of(stage, rest).mkdir(parents=True, exist_ok=True)
            elif name == "ENV":
                for word in shlex.split(rest):
                    key, _, value = word.partition("=")
                    stage.environment[key] = value.replace("$PATH", stage.environment["PATH"])
            elif name == "COPY":
                _copy(folder, stages, stage, rest.split())
            elif name == "RUN":
                done = stage.run("sh", "-c", rest, **network)
                assert done.returncode == 0, f"{rest}\n{done.stdout}{done.stderr}"
            elif name == "HEALTHCHECK":
                stage.health = json.loads(rest.partition("CMD ")[2])
            elif name == "CMD":
                stage.command = json.loads(rest)
            elif name == "USER":
                stage.user = rest
            elif name == "VOLUME":
                stage.volumes.append(rest)
            else:
                assert name == "EXPOSE", f"{name} is not carried out here: see to tests/image.py"
        stage.close()
        yield stage


def instructions(file: Path) -> Iterator[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", file.read_text(encoding="utf-8"))
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


@contextmanager
def _stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = _SET_UP.format(folder=folder, root=folder / "root", base=_BASE)
        command = ["unshare", "--mount", "sh", "-c", script]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Stage(folder, process)
        finally:
            process.kill()
            process.wait()


def _copy(context: Path, stages: dict[str, Stage], stage: Stage, words: list[str]) -> None:
    origin = stages[words.pop(0).partition("=")[2]].seen if words[0].startswith("--") else context
    *sources, target = words
    for source in sources:
        found = sorted(origin.glob(source.strip("/")))
        assert found or "*" in source, f"COPY {source}: it is not there"
        if origin is context:
            found = [path for path in found if path.name in _let_in(context)]
            assert found or "*" in source, f"COPY {source}: .dockerignore leaves it out"
        for path in found:
            into = _of(stage, target) / (path.name if target.endswith("/") else "")
            if path.is_dir():
                shutil.copytree(path, into, symlinks=True, ignore=_caches)
            else:
                shutil.copy(path, into)


def _of(stage: Stage, path: str) -> Path:
    return stage.seen / os.path.join(stage.workdir, path).strip("/")


def _let_in(context: Path) -> set[str]:
    lines = (context / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    return {line[1:] for line in lines if line.startswith("!")}


def _caches(folder: Any, names: list[str]) -> set[str]:
    return (
        {name for name in names if name == "__pycache__"} if ".venv" not in str(folder) else set()
    )
