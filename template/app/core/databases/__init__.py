"""What is peculiar to the database that this service runs on, in one file."""

from app.core.databases.protocol import AlreadyScheduling, Dialect, parsed

__all__ = ["AlreadyScheduling", "Dialect", "parsed"]
