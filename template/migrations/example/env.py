"""Alembic's entry to the example's own history: it goes when the example goes."""

from app.core.migrate import run_migrations

run_migrations("example_alembic_version")
