"""When a job is due: `interval()`, `cron()`, `date()`.

Each is a pure function of time: every replica computes the same instants, whatever it ran before.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from app.core.scheduling import crontab
from app.core.zones import named

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def microseconds(moment: datetime) -> int:
    """A moment as the ledger keeps it: microseconds since the epoch, UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime:
    """The ledger's microseconds as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


class Trigger(ABC):
    """A rule for fire times. All datetimes taken and given are aware, those given are in UTC."""

    @abstractmethod
    def next(self, after: datetime) -> datetime | None:
        """The first fire time later than `after`."""

    @abstractmethod
    def last(self, until: datetime) -> datetime | None:
        """The latest fire time that is not later than `until`; found without walking there."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything about the trigger; `translation.trigger_from_json` reads it back."""

    def in_zone(self, zone: ZoneInfo) -> Self:
        """The same trigger, in `zone` unless it names one itself."""
        return self

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Each fire time later than `after` and not later than `until`, in order."""
        fire = self.next(after)
        while fire is not None and fire <= until:
            yield fire
            fire = self.next(fire)

    @abstractmethod
    def count(self, after: datetime, until: datetime) -> int:
        """How many fire times `between` gives, without going through each of them."""

    @cached_property
    def fingerprint(self) -> str:
        """The same for two triggers if and only if they fire at the same instants."""
        return json.dumps(self.to_json(), sort_keys=True)


@dataclass(frozen=True)
class Interval(Trigger):
    """See `interval()`."""

    step: timedelta
    offset: timedelta = timedelta()

    def next(self, after: datetime) -> datetime | None:
        return self._at((after - _EPOCH - self.offset) // self.step + 1)

    def last(self, until: datetime) -> datetime | None:
        return self._at((until - _EPOCH - self.offset) // self.step)

    def count(self, after: datetime, until: datetime) -> int:
        since = _EPOCH + self.offset
        return max(0, (until - since) // self.step - (after - since) // self.step)

    def _at(self, count: int) -> datetime:
        return _EPOCH + self.offset + count * self.step

    def to_json(self) -> dict[str, Any]:
        step, offset = self.step // _MICROSECOND, self.offset // _MICROSECOND
        return {"type": "interval", "step": step, "offset": offset}


@dataclass(frozen=True)
class Cron(Trigger):
    """See `cron()`."""

    expression: str
    zone: ZoneInfo | None = None

    def next(self, after: datetime) -> datetime | None:
        return crontab.fire(self.expression, self.zone or UTC, after, forward=True)

    def last(self, until: datetime) -> datetime | None:
        return crontab.fire(self.expression, self.zone or UTC, until + _MICROSECOND, forward=False)

    def count(self, after: datetime, until: datetime) -> int:
        return crontab.count(self.expression, self.zone or UTC, after, until)

    def in_zone(self, zone: ZoneInfo) -> Self:
        return self if self.zone else replace(self, zone=zone)

    def to_json(self) -> dict[str, Any]:
        zone = self.zone.key if self.zone else None
        return {"type": "cron", "expression": self.expression, "zone": zone}


@dataclass(frozen=True)
class Date(Trigger):
    """See `date()`."""

    at: datetime

    def next(self, after: datetime) -> datetime | None:
        at = self.at.astimezone(UTC)
        return at if at > after else None

    def last(self, until: datetime) -> datetime | None:
        at = self.at.astimezone(UTC)
        return at if at <= until else None

    def count(self, after: datetime, until: datetime) -> int:
        return int(after < self.at.astimezone(UTC) <= until)

    def in_zone(self, zone: ZoneInfo) -> Self:
        return self if self.at.tzinfo else replace(self, at=self.at.replace(tzinfo=zone))

    def to_json(self) -> dict[str, Any]:
        return {"type": "date", "at": self.at.isoformat()}


def only_fire_time(trigger: Trigger) -> int | None:
    """Of a one-off job, in microseconds; None of a recurring one."""
    return microseconds(trigger.at.astimezone(UTC)) if isinstance(trigger, Date) else None


def interval(
    *,
    weeks: float = 0,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    offset: float = 0,
) -> Interval:
    """Fire at equal distances, counted from 1970-01-01 00:00 UTC and not from the start.

    So that all replicas agree, and a restart moves nothing. `offset`, in seconds, shifts the
    instants: not everything need fire at the full hour.
    """
    step = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    if step < timedelta(milliseconds=100):
        raise ValueError(f"interval() of {step}: at least 0.1 s; for example interval(minutes=5)")
    return Interval(step, timedelta(seconds=offset) % step)


def cron(expression: str, timezone: str | None = None) -> Cron:
    """Fire when crontab(5) says so: five fields, or six with seconds first, or @daily and its like.

    Weekdays count from Sunday = 0 = 7; a restricted day of month OR a restricted weekday matches.
    A time that summer time skips fires right after the gap, one that comes twice fires once.
    `timezone` is an IANA name; without one it is TIMEZONE's.
    """
    fields = _SHORTHANDS.get(expression.strip().lower(), " ".join(expression.split()))
    try:
        CronSim(fields, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(
            f"cron({expression!r}): {error}; for example cron('30 2 * * 1-5')"
        ) from None
    try:
        return Cron(fields.upper(), named(timezone) if timezone else None)
    except ValueError as error:
        raise ValueError(f"cron(timezone={timezone!r}): {error}") from None


def date(at: datetime | str) -> Date:
    """Fire once. A datetime without a zone, or ISO text without one, is read in TIMEZONE."""
    try:
        return Date(datetime.fromisoformat(at) if isinstance(at, str) else at)
    except ValueError:
        raise ValueError(f"date({at!r}): ISO 8601; for example 2030-01-01T08:00") from None
