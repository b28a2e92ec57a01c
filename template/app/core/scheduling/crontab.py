"""Crontab's instants: where a zone's clocks change, and counted without walking through them."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo

from cronsim import CronSim

_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)
# Zones move their clocks by up to an hour or two; a wall clock never jumps further than this,
# but for the date line (Samoa lost 2011-12-30 whole).
_LONGEST_JUMP = timedelta(hours=25)


def fire(expression: str, zone: tzinfo, start: datetime, forward: bool) -> datetime | None:
    """The fire time nearest to `start`, in UTC, but not at it."""
    fields = expression.split()
    fixed = len(fields) == 5 and "*" not in (fields[0][0], fields[1][0])
    try:
        walk = _on_the_wall_clock if fixed else _in_real_time
        return walk(expression, zone, start, forward)
    except StopIteration:
        return None


def count(expression: str, zone: tzinfo, after: datetime, until: datetime) -> int:
    """How many fire times are later than `after` and not later than `until`, day by day.

    A second of a job that fires each second is thus not looked at, but on days next to a change of
    the clocks.
    """
    rule = CronSim(expression, datetime(2000, 1, 1))
    found = 0
    for day, start, end in _days(zone, after, until):
        if _is_plain(zone, start, end):
            found += _fires_of_day(rule, day, after - start, until - start)
        else:
            first, last = max(after, start - _MICROSECOND), min(until, end - _MICROSECOND)
            found += _walked(expression, zone, first, last)
    return max(0, found)


def _on_the_wall_clock(expression: str, zone: tzinfo, start: datetime, forward: bool) -> datetime:
    """For jobs at fixed hours: cronsim moves what the clocks skip, and runs once what repeats.

    It starts from the wall clock, where an instant can lie before an earlier one.
    """
    margin = -_LONGEST_JUMP if forward else _LONGEST_JUMP
    local = (start + margin).astimezone(zone)
    fires = (fire.astimezone(UTC) for fire in CronSim(expression, local, not forward))
    return next(fire for fire in fires if (fire > start if forward else fire < start))


def _in_real_time(expression: str, zone: tzinfo, start: datetime, forward: bool) -> datetime:
    """For jobs with a wildcard hour or minute: from one change of the clocks to the next.

    cronsim walks across a change by whole hours, and so comes to other instants in the half
    hours of Lord Howe, or where a day repeats its last hour.
    """
    side = -_MICROSECOND if forward else timedelta()
    offset = (start + (timedelta() if forward else -_MICROSECOND)).astimezone(zone).utcoffset()
    while True:
        assert offset is not None
        local = (start + offset).replace(tzinfo=None)
        fire = next(CronSim(expression, local, not forward)).replace(tzinfo=UTC) - offset
        change = _clock_change(zone, offset, start, fire)
        if change is None:
            return fire
        start = change + side
        offset = (change if forward else change - _MICROSECOND).astimezone(zone).utcoffset()


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


def _days(
    zone: tzinfo, after: datetime, until: datetime
) -> Iterator[tuple[date, datetime, datetime]]:
    """Each local day that has a part in the span, from the instant it begins to the next one's."""

    def begin(day: date) -> datetime:
        return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)

    day = (after - _DAY).astimezone(zone).date()
    start = begin(day)
    while start <= until:
        end = begin(day + _DAY)
        if end > after:
            yield day, start, end
        day, start = day + _DAY, end


def _is_plain(zone: tzinfo, start: datetime, end: datetime) -> bool:
    """Do the clocks stand still on that day and the one before, whose fires they may move here?"""
    seen = {at.astimezone(zone).utcoffset() for at in (start - _DAY, start, end)}
    return end - start == _DAY and len(seen) == 1


def _fires_of_day(rule: CronSim, day: date, after: timedelta, until: timedelta) -> int:
    """Of a day that matches, those later than one time of the day and not later than another."""
    if day.month not in rule.months or not rule.match_day(day):
        return 0
    return _fires_until(rule, until) - _fires_until(rule, after)


def _fires_until(rule: CronSim, time: timedelta) -> int:
    """How many times of the day match and are not later than this one."""
    if time < timedelta():
        return 0
    whole = min(time // timedelta(seconds=1), 86_399)
    (hour, minute), second = divmod(whole // 60, 60), whole % 60
    hours = sum(h < hour for h in rule.hours)
    minutes = sum(m < minute for m in rule.minutes) if hour in rule.hours else 0
    this_minute = hour in rule.hours and minute in rule.minutes
    seconds = sum(s <= second for s in rule.seconds) if this_minute else 0
    return (hours * len(rule.minutes) + minutes) * len(rule.seconds) + seconds


def _walked(expression: str, zone: tzinfo, after: datetime, until: datetime) -> int:
    found, at = 0, fire(expression, zone, after, forward=True)
    while at is not None and at <= until:
        found += 1
        at = fire(expression, zone, at, forward=True)
    return found
