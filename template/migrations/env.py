"""Alembic's entry to your history. `make migration m="add a table"` writes the next step of it."""

from app.core.migrate import run_migrations

run_migrations("alembic_version")
