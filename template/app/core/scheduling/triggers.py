"""When a job is due: `interval()`, `cron()`, `date()`.

Each is a pure function of time: every replica computes the same instants, whatever it ran before.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from app.core.zones import named

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Zones move their clocks by up to an hour or two; a wall clock never jumps further than this,
# but for the date line (Samoa lost 2011-12-30 whole).
_LONGEST_JUMP = timedelta(hours=25)
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
        return self._fire(after, forward=True)

    def last(self, until: datetime) -> datetime | None:
        return self._fire(until + _MICROSECOND, forward=False)

    def _fire(self, start: datetime, forward: bool) -> datetime | None:
        """The fire time nearest to `start`, but not at it."""
        fields = self.expression.split()
        fixed = len(fields) == 5 and "*" not in (fields[0][0], fields[1][0])
        try:
            walk = self._on_the_wall_clock if fixed else self._in_real_time
            return walk(start, forward)
        except StopIteration:
            return None

    def _on_the_wall_clock(self, start: datetime, forward: bool) -> datetime:
        """For jobs at fixed hours: cronsim moves what the clocks skip, and runs once what repeats.

        It starts from the wall clock, where an instant can lie before an earlier one.
        """
        margin = -_LONGEST_JUMP if forward else _LONGEST_JUMP
        local = (start + margin).astimezone(self.zone or UTC)
        fires = (fire.astimezone(UTC) for fire in CronSim(self.expression, local, not forward))
        return next(fire for fire in fires if (fire > start if forward else fire < start))

    def _in_real_time(self, start: datetime, forward: bool) -> datetime:
        """For jobs with a wildcard hour or minute: from one change of the clocks to the next.

        cronsim walks across a change by whole hours, and so comes to other instants in the half
        hours of Lord Howe, or where a day repeats its last hour.
        """
        zone, side = self.zone or UTC, -_MICROSECOND if forward else timedelta()
        offset = (start + (timedelta() if forward else -_MICROSECOND)).astimezone(zone).utcoffset()
        while True:
            assert offset is not None
            local = (start + offset).replace(tzinfo=None)
            fire = next(CronSim(self.expression, local, not forward)).replace(tzinfo=UTC) - offset
            change = _clock_change(zone, offset, start, fire)
            if change is None:
                return fire
            start = change + side
            offset = (change if forward else change - _MICROSECOND).astimezone(zone).utcoffset()

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

    def in_zone(self, zone: ZoneInfo) -> Self:
        return self if self.at.tzinfo else replace(self, at=self.at.replace(tzinfo=zone))

    def to_json(self) -> dict[str, Any]:
        return {"type": "date", "at": self.at.isoformat()}


def only_fire_time(trigger: Trigger) -> int | None:
    """Of a one-off job, in microseconds; None of a recurring one."""
    return microseconds(trigger.at.astimezone(UTC)) if isinstance(trigger, Date) else None


def _clock_change(
    zone: tzinfo, offset: timedelta, start: datetime, end: datetime
) -> datetime | None:
    """The instant nearest to `start`, on the way to `end`, at which `zone` leaves `offset`."""
    forward = end > start

    def changed(at: datetime) -> bool:
        return (at if forward else at - _MICROSECOND).astimezone(zone).utcoffset() != offset

    near = start + (_LONGEST_JUMP if forward else -_LONGEST_JUMP)
    for limit in (near, end):  # near first: half a year later another change undoes this one
        if changed(limit):
            same, other = start, limit
            while abs(other - same) > _MICROSECOND:
                middle = same + (other - same) // 2
                same, other = (same, middle) if changed(middle) else (middle, other)
            on_the_way = other <= end if forward else other > end
            return other if on_the_way else None
    return None


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
