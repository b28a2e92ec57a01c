"""Other forms of a trigger put into ours: APScheduler's, `add_job(f, "cron", hour=2)`, and JSON."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from datetime import date as day
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Row

from app.core.scheduling.triggers import Date, Interval, Trigger, cron, date, interval
from app.core.zones import named

_INTERVAL = ("weeks", "days", "hours", "minutes", "seconds")
# As APScheduler orders them; what is finer than the finest field given starts at its minimum.
_CRON = {"month": "1", "day": "1", "day_of_week": "*", "hour": "0", "minute": "0", "second": "0"}

_OPTIONS = {"args", "kwargs", "id", "name", "jobstore", "executor", "replace_existing"}
_NOT_HERE = {
    "max_instances": "say @job(overlap=...)",
    "coalesce": "say @job(catch_up=...)",
    "misfire_grace_time": "say @job(catch_up=...), and CATCH_UP_SECONDS",
    "next_run_time": "a trigger says when it runs, pause_job() that it does not",
}


def take_trigger(trigger: object, options: dict[str, Any], zone: ZoneInfo) -> Trigger:
    """The trigger of an `add_job`; its arguments are taken out of the options."""
    for name, instead in _NOT_HERE.items():
        if name in options:
            raise TypeError(f"{name} has no effect here: {instead}")
    arguments = {name: options.pop(name) for name in list(options) if name not in _OPTIONS}
    return translate(trigger, arguments, zone)


def translate(trigger: object, arguments: Mapping[str, Any], zone: ZoneInfo) -> Trigger:
    """Raises `TypeError` naming what replicas would not compute alike, or we cannot express."""
    if isinstance(trigger, Trigger):
        _refuse(arguments, (), type(trigger).__name__)
        return trigger.in_zone(zone)
    match trigger:
        case None:
            _refuse(arguments, (), "no trigger")
            return Date(datetime.now(UTC))
        case "date":
            _refuse(arguments, ("run_date", "timezone"), "date")
            given: Any = arguments.get("run_date")
            if isinstance(given, day) and not isinstance(given, datetime):
                given = datetime(given.year, given.month, given.day)
            return (date(given) if given else Date(datetime.now(UTC))).in_zone(
                _zone(arguments, zone)
            )
        case "interval":
            _refuse(arguments, _INTERVAL, "interval")
            return interval(**arguments)
        case "cron":
            _refuse(arguments, (*_CRON, "timezone"), "cron")
            return cron(_crontab(arguments)).in_zone(_zone(arguments, zone))
    raise TypeError(
        f"trigger {trigger!r}: replicas would not compute its fire times alike; use "
        "interval(), cron() or date() of app.core.scheduling"
    )


def _refuse(arguments: Mapping[str, Any], known: tuple[str, ...], trigger: str) -> None:
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise TypeError(
            f"{', '.join(unknown)}: not an argument of the trigger {trigger!r} here; "
            f"it takes {', '.join(known) or 'none'}"
        )


def _zone(arguments: Mapping[str, Any], default: ZoneInfo) -> ZoneInfo:
    given = arguments.get("timezone")
    try:
        return named(str(given)) if given else default
    except ValueError as error:
        raise ValueError(f"add_job(timezone={str(given)!r}): {error}") from None


def _crontab(arguments: Mapping[str, Any]) -> str:
    fields = {
        name: str(value) for name, value in arguments.items() if name in _CRON and value is not None
    }
    if not fields:
        raise TypeError('trigger "cron" needs a field; for example add_job(f, "cron", hour=2)')
    weekday = fields.get("day_of_week", "*")
    if any(character.isdigit() for character in weekday):
        raise TypeError(
            f"day_of_week={weekday!r}: APScheduler counts from Monday, crontab from Sunday; "
            "name the days, as in day_of_week='mon-fri'"
        )
    if "day" in fields and weekday != "*":
        raise TypeError("day and day_of_week together: cron('0 2 1 * mon') says what you mean")
    finest = max(list(_CRON).index(name) for name in fields)
    whole = {
        name: fields.get(name, "*" if position < finest else least)
        for position, (name, least) in enumerate(_CRON.items())
    }
    order = ("minute", "hour", "day", "month", "day_of_week")
    five = " ".join(whole[name] for name in order)
    return five if whole["second"] == "0" else f"{whole['second']} {five}"


def schedule_of(cursor: Row[Any]) -> Trigger:
    """What the job goes by, whichever version of the service gave it that. Raises `ValueError`."""
    return trigger_from_json(json.loads(cursor.trigger or cursor.fingerprint))


def trigger_from_json(data: dict[str, Any]) -> Trigger:
    """Read what `Trigger.to_json` wrote. Raises `ValueError` on anything else."""
    match data:
        case {"type": "interval", "step": int(step), "offset": int(offset)} if step > 0:
            return Interval(timedelta(microseconds=step), timedelta(microseconds=offset))
        case {"type": "cron", "expression": str(expression), "zone": zone}:
            return cron(expression, zone)
        case {"type": "date", "at": str(at)}:
            return date(at)
    raise ValueError(f"not a trigger: {data!r}")
