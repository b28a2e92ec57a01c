"""Triggers mean what crontab means, and are pure functions of time."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.scheduling import Trigger, cron, date, interval
from app.core.scheduling.translation import translate, trigger_from_json
from app.core.zones import named

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour
    "America/Sao_Paulo",  # at midnight, until 2019
    "Africa/Cairo",  # at midnight, since 2023
)


def _changes(zone: ZoneInfo) -> list[datetime]:
    """The days, by their noon, on which the zone changed its offset, over some years."""
    noons = [datetime(2017, 1, 1, 12, tzinfo=UTC) + timedelta(days=day) for day in range(3000)]
    offsets = [(noon - timedelta(hours=12)).astimezone(zone).utcoffset() for noon in noons]
    following = zip(noons, pairwise(offsets), strict=False)
    return [noon for noon, (before, after) in following if before != after]


CHANGES = [(ZoneInfo(zone), at) for zone in ZONES for at in _changes(ZoneInfo(zone))]
_minute = st.sampled_from(["*", "*/5", "*/7", "0", "30", "3,48", "15-45"])
_hour = st.sampled_from(["*", "*/2", "0", "1", "2", "3", "1-3", "12,23", "23"])
_expressions = st.tuples(
    _minute,
    _hour,
    st.sampled_from(["*", "*/2", "1", "15", "28"]),
    st.sampled_from(["*", "3", "10-11"]),
    st.sampled_from(["*", "0", "7", "1-5", "sun", "MON,FRI"]),
).map(" ".join)


def _reference(expression: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Fixed hours: cronsim, from well before. Wildcards: each minute, held against the fields."""
    minute, hour = expression.split()[:2]
    if "*" in minute[0] + hour[0]:
        rule = CronSim(expression, datetime(2017, 1, 1))
        minutes = (
            start + timedelta(minutes=m) for m in range((end - start) // timedelta(minutes=1))
        )
        wall = ((at, at.astimezone(zone)) for at in minutes)
        return [
            at
            for at, local in wall
            if local.minute in rule.minutes
            and local.hour in rule.hours
            and local.month in rule.months
            and rule.match_day(local.date())
        ]
    fires = []
    for fire in CronSim(expression, (start - timedelta(days=2)).astimezone(zone)):
        if fire >= end:
            break
        fires.append(fire.astimezone(UTC))
    return [fire for fire in dict.fromkeys(fires) if fire >= start]


@settings(max_examples=25, deadline=None)
@given(_expressions, st.sampled_from(CHANGES), st.integers(-1400, 1400))
def test_cron_is_crontab_when_the_clocks_change(
    expression: str, change: tuple[ZoneInfo, datetime], minutes: int
) -> None:
    zone, at = change
    start, end = at - timedelta(days=1), at + timedelta(days=1)
    expected = _reference(expression, zone, start, end)
    trigger = cron(expression, zone.key)
    assert list(trigger.between(start - timedelta(microseconds=1), end - timedelta(seconds=1))) == (
        expected
    )
    probe = at + timedelta(minutes=minutes, seconds=17)
    before = [fire for fire in expected if fire <= probe]
    after = [fire for fire in expected if fire > probe]
    if before:
        assert trigger.last(probe) == before[-1]
    if after:
        assert trigger.next(probe) == after[0]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 59), st.integers(0, 23), st.sampled_from(CHANGES))
def test_a_daily_job_runs_once_per_wall_clock_day(
    minute: int, hour: int, change: tuple[ZoneInfo, datetime]
) -> None:
    zone, at = change
    trigger = cron(f"{minute} {hour} * * *", zone.key)
    fires = trigger.between(at - timedelta(days=4), at + timedelta(days=4))
    days = [fire.astimezone(zone).date() for fire in fires]
    assert len(days) >= 7
    assert {(b - a).days for a, b in pairwise(days)} == {1}


@settings(max_examples=30, deadline=None)
@given(
    _expressions
    | st.sampled_from(["*/20 */15 * * * *", "7 */10 1-3 * * *", "0 0 L * *", "0 0 * * 5L"]),
    st.sampled_from(CHANGES),
    st.integers(-2 * 86_400, 86_400),
    st.integers(0, 3 * 86_400),
)
def test_fires_are_counted_as_if_each_were_looked_at(
    expression: str, change: tuple[ZoneInfo, datetime], start: int, seconds: int
) -> None:
    zone, at = change
    trigger = cron(expression, zone.key)
    after = at + timedelta(seconds=start, microseconds=start % 2)
    until = after + timedelta(seconds=seconds)
    assert trigger.count(after, until) == sum(1 for _ in trigger.between(after, until))


@pytest.mark.parametrize(
    ("zone", "start"), [("America/Nuuk", "2025-03-26"), ("Pacific/Apia", "2011-12-26")]
)
def test_fires_are_counted_where_a_day_begins_in_a_jump(zone: str, start: str) -> None:
    """In Nuuk 23:00 is followed by midnight, in Samoa a day is left out."""
    after = datetime.fromisoformat(start).replace(tzinfo=UTC)
    for trigger in (cron("30 23 * * *", zone), cron("*/37 * * * *", zone)):
        for hours in range(60, 192, 19):
            span = after, after + timedelta(hours=hours)
            assert trigger.count(*span) == sum(1 for _ in trigger.between(*span))


def test_the_fires_of_a_long_outage_are_counted_at_once() -> None:
    year = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    assert cron("* * * * * *").count(*year) == 365 * 86_400
    assert interval(seconds=0.5).count(*year) == 365 * 86_400 * 2
    assert date(year[1]).count(*year) == 1
    assert [trigger.count(year[1], year[0]) for trigger in (cron("@daily"), interval(hours=1))] == [
        0,
        0,
    ]


def test_weekdays_count_from_sunday_and_day_or_weekday_matches() -> None:
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    assert cron("0 8 * * 1").next(monday) == monday + timedelta(hours=8)
    assert cron("0 8 * * 7").next(monday) == cron("0 8 * * 0").next(monday)
    either = cron("0 0 25 * 5").between(monday, monday + timedelta(days=7))
    assert [fire.day for fire in either] == [25, 27]


def test_a_far_and_a_second_cron() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert cron("0 0 29 2 *").next(start) == datetime(2028, 2, 29, tzinfo=UTC)
    assert cron("*/10 * * * * *").next(start) == start + timedelta(seconds=10)
    assert cron("@daily").next(start) == start + timedelta(days=1)
    with pytest.raises(ValueError, match="day-of-month"):
        cron("0 0 31 2 *")


@given(st.integers(1, 10_000_000), st.integers(0, 100_000), st.datetimes(timezones=st.just(UTC)))
def test_intervals_count_from_the_epoch(tenths: int, offset: int, at: datetime) -> None:
    trigger = interval(seconds=tenths / 10, offset=offset)
    if not datetime(1975, 1, 1, tzinfo=UTC) < at < datetime(2900, 1, 1, tzinfo=UTC):
        return
    following, last = trigger.next(at), trigger.last(at)
    assert following
    assert last
    assert last <= at < following
    assert following - last == timedelta(seconds=tenths / 10)
    since = following - datetime(1970, 1, 1, tzinfo=UTC) - timedelta(seconds=offset)
    assert since % timedelta(seconds=tenths / 10) == timedelta(0)


def test_a_date_fires_once_in_the_zone_of_the_settings() -> None:
    at = date("2026-12-01T08:00").in_zone(ZoneInfo("Europe/Berlin"))
    due = datetime(2026, 12, 1, 7, tzinfo=UTC)
    assert at.next(due - timedelta(days=1)) == due
    assert at.next(due) is None
    assert at.last(due) == due
    assert at.last(due - timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    "trigger", [interval(minutes=5, offset=7), cron("5 4 * * *", "Asia/Tokyo"), date("2026-12-01")]
)
def test_a_trigger_survives_json(trigger: Trigger) -> None:
    assert trigger_from_json(trigger.to_json()) == trigger
    assert trigger_from_json(trigger.to_json()).fingerprint == trigger.fingerprint


@pytest.mark.parametrize("name", ["localtime", "posixrules", "Factory", "right/UTC", "", "../x"])
def test_what_is_no_zone_or_each_hosts_own_is_refused_by_name(name: str) -> None:
    """Replicas on several hosts would not compute the same instants."""
    with pytest.raises(ValueError, match="not an IANA time zone name; for example Europe/Berlin"):
        named(name)


@pytest.mark.parametrize("zone", ["localtime", timezone(timedelta(hours=2)), "Mars"])
def test_a_timezone_of_add_job_has_a_name_that_each_host_knows(zone: object) -> None:
    refused = r"add_job\(timezone=.*for example Europe/Berlin, UTC or Etc/GMT-2"
    with pytest.raises(ValueError, match=refused):
        translate("cron", {"hour": 2, "timezone": zone}, ZoneInfo("UTC"))
    with pytest.raises(ValueError, match=refused):
        translate("date", {"run_date": "2030-01-01", "timezone": zone}, ZoneInfo("UTC"))


def test_errors_say_what_works() -> None:
    with pytest.raises(ValueError, match=r"at least 0.1 s; for example interval\(minutes=5\)"):
        interval(seconds=0)
    with pytest.raises(ValueError, match=r"cron\('61 \* \* \* \*'\): Bad minute; for example"):
        cron("61 * * * *")
    with pytest.raises(ValueError, match=r"timezone='Mars'\): is not an IANA"):
        cron("0 0 * * *", "Mars")
    with pytest.raises(ValueError, match=r"timezone='localtime'\): is not an IANA"):
        cron("0 0 * * *", "localtime")
    with pytest.raises(ValueError, match=r"date\('tomorrow'\): ISO 8601"):
        date("tomorrow")
    with pytest.raises(ValueError, match="not a trigger"):
        trigger_from_json({"type": "interval", "step": 0, "offset": 0})
