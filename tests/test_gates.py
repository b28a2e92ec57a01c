"""A gate that cannot go red is none: each is shown a planted defect."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import test_source, test_variants
from tests.conftest import Render
from tests.owner import change

Defect = tuple[str, str, str]

# In a rendered service: a file, what to replace, by what, and the command that must object.
IN_A_SERVICE: dict[str, tuple[Defect, tuple[str, ...]]] = {
    "format": (("app/main.py", "app = create_app()", "app=create_app()"), ("ruff", "format", "--check", ".")),
    "lint": (("app/main.py", "app = create_app()", "import os\n\napp = create_app()"), ("ruff", "check", ".")),
    "types": (("app/jobs/contracts.py", "-> None:", "-> int:"), ("mypy", "app/jobs")),
    "layers": (
        ("app/core/settings.py", "from zoneinfo", "import app.core.database\nfrom zoneinfo"),
        test_variants.LAYERS,
    ),
    "migrations": (
        ("app/services/models.py", "    quantile:", "    sold: Mapped[int] = mapped_column(BigInteger)\n    quantile:"),
        ("pytest", "-q", "tests/core/test_migrations.py", "-k", "models_agree"),
    ),
    "one run for each fire": (
        ("app/core/scheduling/claims.py", "= Taken(settled=row.outcome is not None)", "= Won(row.id, row.id)"),
        ("pytest", "-q", "tests/core/test_ledger.py", "-k", "won_once", "--hypothesis-seed=0"),
    ),
    "the fence of a transaction": (
        ("app/core/scheduling/run.py", "if result.rowcount != 1:", "if result.rowcount > 1:"),
        ("pytest", "-q", "tests/core/test_runs.py", "-k", "zombie"),
    ),
    "the heartbeat": (
        ("app/core/scheduling/claims.py", "elif row.fence in alive:", "elif False:"),
        ("pytest", "-q", "tests/core/test_ledger.py", "-k", "still_runs"),
    ),
    "readiness": (
        ("app/core/health.py", "if (age := time.monotonic() - stamp) > _OLDEST:", "if (age := 0.0) > _OLDEST:"),
        ("pytest", "-q", "tests/core/test_health.py", "-k", "stopped"),
    ),
    "crontab's weekdays": (
        ("app/core/scheduling/triggers.py", "return Cron(fields.upper()", "return Cron(fields.upper().replace('7', '6')"),
        ("pytest", "-q", "tests/core/test_triggers.py", "-k", "weekdays"),
    ),
    "settings": (
        ("app/core/settings.py", "ge=2, le=3600", "ge=0, le=3600"),
        ("pytest", "-q", "tests/core/test_settings.py", "-k", "LEASE_SECONDS"),
    ),
    "secrets": (
        ("app/core/scheduling/runner.py", "        self._stopping = False", "        self._stopping = False\n        _log.info('%s', ledger.database.settings.canary.get_secret_value())"),
        ("pytest", "-q", "tests/core/test_traces.py", "-k", "secret"),
    ),
    "atomicity": (
        ("app/core/database.py", "async with session, session.begin():", "async with session:"),
        ("pytest", "-q", "tests/core/test_runs.py", "-k", "leaves_neither or one_transaction"),
    ),
}  # fmt: skip

# In the template's source: what to append to a file, and the test that must object.
IN_THE_TEMPLATE = {
    "jinja in Python": ("template/app/main.py", '\nX = "{{ database }}"\n'),
    "an unknown name": ("template/README.md.jinja", "\n{{ databse }}\n"),
    "trust": ("copier.yml", '\n_tasks: ["true"]\n'),
    "a question without use": ("copier.yml", "\nidle:\n  type: str\n  default: x\n"),
    "much jinja": ("template/README.md.jinja", "{% if docker %}\n{% endif %}\n" * 200),
    "a long module": ("template/app/core/app.py", "# \n" * 250),
}


@pytest.mark.parametrize("name", IN_A_SERVICE)
def test_a_service_objects_to(fresh: Render, name: str) -> None:
    (file, before, after), command = IN_A_SERVICE[name]
    folder = fresh()
    assert objects(folder, command) == "", "it must be green without the defect"
    change(folder / file, before, after)
    assert objects(folder, command), f"{' '.join(command)} did not notice"


def objects(folder: Path, command: tuple[str, ...]) -> str:
    """What the command says, if it fails."""
    if command[0] == "pytest":
        command = (*test_variants.PYTEST, *command[2:])
    arguments = command if command[0] == "-c" else ("-m", *command)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, text=True, capture_output=True, timeout=120
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr or "failed"


@pytest.mark.parametrize("name", IN_THE_TEMPLATE)
def test_the_template_objects_to(
    name: str, snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "template"
    shutil.copytree(snapshot, root)
    monkeypatch.setattr(test_source, "TEMPLATE", root / "template")
    monkeypatch.setattr(test_source, "ROOT", root)
    every_check(root)
    file, addition = IN_THE_TEMPLATE[name]
    with (root / file).open("a", encoding="utf-8") as source:
        source.write(addition)
    config = yaml.safe_load((root / "copier.yml").read_text(encoding="utf-8"))
    monkeypatch.setattr(test_source, "CONFIG", config)
    asked = {name: it for name, it in config.items() if not name.startswith("_")}
    monkeypatch.setattr(test_source, "QUESTIONS", asked)
    with pytest.raises(AssertionError):
        every_check(root)


def every_check(root: Path) -> None:
    test_source.test_python_holds_no_jinja_but_in_the_wiring()
    test_source.test_every_name_is_a_question(root / "template/README.md.jinja")
    test_source.test_nothing_needs_trust()
    test_source.test_every_question_is_used()
    test_source.test_there_is_little_jinja()
    test_source.test_no_module_holds_a_second_room()
