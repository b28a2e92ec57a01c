"""Alembic's entry to the core's history."""

from app.core.migrate import run_migrations

run_migrations("core_alembic_version")
