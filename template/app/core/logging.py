"""Structured logs on the standard library: every line says which request or run it belongs to."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from app.core.settings import ServiceSettings

_context: ContextVar[Mapping[str, Any]] = ContextVar("log_context")
# What the standard library puts on every record; anything else came through `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "context"}


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Put these fields on every line logged inside, whichever library logs it."""
    token = _context.set({**_context.get({}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class _Context(logging.Filter):
    """Note the context while still in the thread and task that logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.context = _context.get({})
        return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = {k: v for k, v in vars(record).items() if k not in _STANDARD and k != "color_message"}
    return {**getattr(record, "context", {}), **extra}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """For people: `12:00:00 INFO  job.report: finished  outcome=succeeded`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        line = f"{time} {record.levelname:<7} {record.name}: {record.getMessage()}"
        line = f"{line}  {fields}" if fields else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def in_words(error: BaseException) -> str:
    """What an error says; some, time-outs above all, say nothing but what they are."""
    return str(error) or type(error).__name__


def configure_logging(settings: ServiceSettings) -> None:
    """Send everything, uvicorn's and APScheduler's lines included, through one handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else ConsoleFormatter())
    handler.addFilter(_Context())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # app.core.requests logs each request
    for name in ("apscheduler", "httpx2", "alembic.runtime.plugins"):
        # APScheduler's two lines a run cost 2.5 times the run; the ledger's one line says it all.
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
