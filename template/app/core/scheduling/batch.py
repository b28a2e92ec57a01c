"""Fires that are claimed together: the one parameter of a statement, as JSON."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import BigInteger, Boolean, Integer, String
from sqlalchemy.types import TypeEngine

COLUMNS: Mapping[str, TypeEngine[Any]] = {
    "position": BigInteger(),
    "job": String(),
    "fire_time": BigInteger(),
    "active_key": String(),
    "late": Boolean(),
    "fence": BigInteger(),
    "sent": Integer(),
    "outcome": String(),
}


def as_json(fires: Iterable[tuple[Any, ...]]) -> str:
    """Each with its position, and with the outcome that it is recorded with, if any."""
    return json.dumps(
        [
            {
                "position": position,
                "job": fire.job,
                "fire_time": fire.time,
                "active_key": fire.active_key,
                "late": fire.late,
                "fence": fire.fence,
                "sent": 1 if fire.message and not any(outcome) else None,
                "outcome": outcome[0] if outcome else None,
            }
            for position, fire, *outcome in fires
        ]
    )
