"""How it is written: fires that are claimed together as one parameter, and texts as they fit."""

import json
from collections.abc import Iterable, Mapping, Sequence
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


def storable(text: str | None) -> str | None:
    """Without what PostgreSQL refuses in a text: NUL, and half of a surrogate pair."""
    if text is None:
        return None
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def as_text(attempts: Sequence[dict[str, Any]]) -> str | None:
    return json.dumps(list(attempts)) if attempts else None
