"""An owner's realistic work on a service, and whether all of it is still there."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import yaml

from tests.conftest import commit, git

YOURS = ("app/jobs/", "app/services/", "app/api/", "app/main.py", "app/settings.py", "migrations/")
TEMPLATES = ("app/core/", "tests/core/", "tests/faults/")
FILES = {
    "app/services/invoices.py": '''"""What is billed."""

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base


class Invoice(Base):
    __tablename__ = "invoices"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    customer: Mapped[str] = mapped_column(String(200))
''',
    "migrations/versions/0001_invoices.py": '''"""Invoices."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "invoices",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("customer", sa.String(200), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("invoices")
''',
    "app/jobs/billing.py": '''"""What is billed, and when."""

from app.core.scheduling import Run, cron, interval, job
from app.services.invoices import Invoice


@job(cron("0 6 1 * *", timezone="Europe/Berlin"), retries=2, executor="asyncio")
async def bill(run: Run) -> None:
    """On the first of each month."""
    async with run.unit_of_work() as session:
        session.add(Invoice(id=int(run.fire_time.timestamp()), customer=run.settings.biller))


@job(interval(minutes=10), overlap="allow", executor="threadpool")
def remind(run: Run) -> None:
    run.log.info("nobody has to be reminded")
''',
    "app/jobs/cleaning.py": '''"""What nobody needs any more."""

from sqlalchemy import delete

from app.core.scheduling import Run, interval, job
from app.services.invoices import Invoice


@job(interval(hours=1), timeout=60)
def clean(run: Run) -> None:
    with run.unit_of_work() as session:
        session.execute(delete(Invoice).where(Invoice.id < 0))
''',
    "app/api/invoices.py": '''"""Invoices over HTTP."""

from fastapi import APIRouter
from sqlalchemy import select

from app.core.dependencies import UnitOfWork
from app.services.invoices import Invoice

router = APIRouter(prefix="/invoices")


@router.get("")
async def invoices(session: UnitOfWork) -> list[str]:
    return list(await session.scalars(select(Invoice.customer)))
''',
    "tests/test_billing.py": '''"""Billing."""

import pytest
from fastapi.testclient import TestClient

from app.core.scheduling import Run
from app.jobs.billing import bill


@pytest.mark.anyio
async def test_a_bill_is_written(run: Run) -> None:
    await bill(run)


def test_there_is_none_at_first(client: TestClient) -> None:
    assert client.get("/invoices").json() == []
''',
    "README.md": "# Billing\n\nOurs, from the first line to the last.\n",
}
# Where it is; after which text; what an owner puts there.
LINES = [
    ("app/settings.py", "    # yours\n", '    biller: str = "ACME"\n'),
    ("app/main.py", "app = create_app()\n", 'app.title = "Billing"\n'),
    ("pyproject.toml", "    # yours\n", '    "stamina>=25",\n'),
    (".env.example", "# yours\n", "# BILLER=ACME\n"),
    (".gitignore", "# yours\n", "/notes/\n"),
    (".editorconfig", "# yours\n", "[*.csv]\ntrim_trailing_whitespace = false\n"),
    ("Makefile", "# yours\n", "\n.PHONY: deploy\ndeploy: ## ship it\n\techo mine\n"),
    ("AGENTS.md", "make install ", "        # ours is slow\nmake install "),
    (".pre-commit-config.yaml", "      # yours\n", "      - id: mine\n        name: mine\n"),
    ("Dockerfile", "# yours\n", "COPY fonts fonts\n"),
    (".dockerignore", "# yours\n", "!fonts\n"),
    ("compose.yaml", "    # yours\n", "    BILLER: ACME\n"),
    ("compose.yaml", "\n  # yours\n", "\n  mail:\n    image: axllent/mailpit\n"),
    (".github/workflows/ci.yml", "          # yours\n", "          - deploy\n"),
    (".github/workflows/ci.yml", "\n  # yours\n", "\n  pages:\n    uses: ./.github/pages.yml\n"),
    (".github/dependabot.yml", "  # yours\n", "  - package-ecosystem: npm\n"),
    (".gitlab-ci.yml", "  # yours\n", "  - local: .gitlab/pages.yml\n"),
    (".gitlab-ci.yml", "          # yours\n", "          - deploy\n"),
    ("kubernetes/base/kustomization.yaml", "  # yours\n", "  - mail.yaml\n"),
    ("kubernetes/overlays/production/kustomization.yaml", "  # yours\n", "  - tls.yaml\n"),
    (
        "kubernetes/overlays/production/kustomization.yaml",
        "      # yours\n",
        "      - BILLER=ACME\n",
    ),
]
DELETED = ("tests/test_service.py", "app/jobs/statistics.py")


def change(path: Path, before: str, after: str) -> None:
    """Change one place. Fails if it is not there."""
    text = path.read_text(encoding="utf-8")
    assert before in text, f"{before!r} is not in {path}"
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def is_yours(name: str) -> bool:
    """Is it of the zone that an update leaves byte-identical?"""
    in_tests = name.startswith("tests/") and name.count("/") == 1
    return name.startswith(YOURS) or in_tests or name == "README.md"


class Work:
    """What its owner did to a service, committed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name, text in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        for name, after, text in LINES:
            if (folder / name).exists():
                change(folder / name, after, after + text)
        change(folder / "pyproject.toml", 'version = "0.1.0"', 'version = "3.2.0"')
        if (folder / DELETED[-1]).exists():
            self._edit_the_example()
        for name in DELETED:
            (folder / name).unlink(missing_ok=True)
        base = git("rev-parse", "HEAD", cwd=folder).strip()
        commit(folder)
        self._deleted = self._names("--diff-filter=D", base)
        self._yours = {name: self._read(name) for name in self._tracked() if is_yours(name)}
        self._added = {
            name: Counter(self._added_to(name, base))
            for name in self._names("--diff-filter=AM", base)
            if not is_yours(name)
        }

    def at(self, folder: Path) -> Work:
        """The same work, in a copy of that service."""
        moved = copy.copy(self)
        moved._folder = folder
        return moved

    def _edit_the_example(self) -> None:
        change(self._folder / "app/jobs/contracts.py", "timeout=240", "timeout=300")
        tests = self._folder / "tests/test_contracts.py"
        text = tests.read_text(encoding="utf-8")
        start = text.index("@pytest.mark.anyio\nasync def test_quantiles")
        end = text.index("@pytest.mark.anyio", start + 1)
        text = text[:start] + text[end:]
        text = text.replace("from app.jobs.statistics import price_quantiles\n", "")
        text = text.replace("EsiPage, PriceQuantile", "EsiPage")
        tests.write_text(text, encoding="utf-8")

    def assert_is_kept(self, rendering: Path | None = None) -> None:
        """No line lost, no file back. What the `rendering` does not have may be gone."""
        assert [name for name in self._deleted if (self._folder / name).exists()] == []
        for name, text in self._yours.items():
            assert self._read(name) == text, f"{name} is not as its owner left it"
        for name, lines in self._added.items():
            if rendering and not (rendering / name).exists():
                continue
            lost = lines - Counter(self._read(name).splitlines())
            assert not lost, f"{name} has lost {lost}"
            if name.endswith((".yml", ".yaml")):
                yaml.safe_load(self._read(name))

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8")

    def _tracked(self) -> list[str]:
        return git("ls-files", cwd=self._folder).splitlines()

    def _names(self, kind: str, base: str) -> list[str]:
        return git("diff", "--name-only", kind, base, "HEAD", cwd=self._folder).splitlines()

    def _added_to(self, name: str, base: str) -> list[str]:
        diff = git("diff", "--unified=0", base, "HEAD", "--", name, cwd=self._folder)
        return [line[1:] for line in diff.splitlines() if line.startswith("+") and line[1:2] != "+"]
