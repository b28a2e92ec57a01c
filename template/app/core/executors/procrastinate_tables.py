"""Procrastinate's own tables: made and brought up to date with the SQL that it ships."""

from pathlib import Path

from procrastinate.schema import SchemaManager
from sqlalchemy import Connection, inspect, text

_APPLIED = "core_procrastinate_version"


def pending(connection: Connection) -> list[str]:
    """Does the installed version need anything that was not applied yet?"""
    return ["procrastinate"] if _missing(connection) else []


def migrate(connection: Connection) -> None:
    """Apply it, within the caller's transaction."""
    missing = _missing(connection)
    if inspect(connection).has_table(_APPLIED):
        scripts = [path.read_text(encoding="utf-8") for path in missing]
    else:
        connection.execute(text(f"CREATE TABLE {_APPLIED} (name text PRIMARY KEY)"))
        scripts = [SchemaManager.get_schema()]
    for script in scripts:  # "%" is the script's own
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})
    names = [{"name": path.name} for path in missing]
    if names:
        connection.execute(text(f"INSERT INTO {_APPLIED} (name) VALUES (:name)"), names)


def _missing(connection: Connection) -> list[Path]:
    applied: set[str] = set()
    if inspect(connection).has_table(_APPLIED):
        applied.update(connection.scalars(text(f"SELECT name FROM {_APPLIED}")))
    scripts = sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    return [path for path in scripts if path.name not in applied]
