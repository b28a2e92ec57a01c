"""Time zones, by names that mean the same on every host."""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# Files beside the zones, and copies of them with leap seconds: what is in them is each host's own.
_OF_THE_HOST = {"localtime", "posixrules", "Factory", "posix", "right"}
_UNKNOWN = (OSError, ValueError, ZoneInfoNotFoundError)


def named(name: str) -> ZoneInfo:
    """The zone of this name. Raises `ValueError`, which does not say what it is the zone of."""
    try:
        if name.partition("/")[0] not in _OF_THE_HOST:
            return ZoneInfo(name)
    except _UNKNOWN:
        pass
    raise ValueError("is not an IANA time zone name; for example Europe/Berlin, UTC or Etc/GMT-2")
