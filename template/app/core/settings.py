"""The settings that every service has: read from the environment, checked before it starts."""

import re
from typing import Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    SettingsConfigDict,
)

from app.core.zones import named


class InvalidSettings(ValueError):
    """An environment variable holds a value that the service cannot run with."""


_HERE: Any = {"on_this_machine": True}


def on_this_machine(url: str) -> Any:
    """The default address of a server that developers and tests have at hand."""
    return Field(default=SecretStr(url), json_schema_extra=_HERE)


class ServiceSettings(BaseSettings):
    """Each field is the environment variable of the same name in capitals; `.env` is read too.

    Frozen and picklable: a service stores it and opens live resources where the work happens.
    """

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    service_name: ClassVar[str] = ""
    environment: str = "production"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"
    timezone: str = "UTC"
    """The IANA zone that cron expressions and dates without a zone of their own are read in."""

    database_url: SecretStr
    migrate_on_start: bool | None = None
    """Bring the schema up to date at start. Unset: yes in `local` and on SQLite, else no."""

    scheduler_enabled: bool = True
    max_workers: int = Field(default=2, ge=1, le=64)
    """Threads, and worker processes, that run jobs."""

    lease_seconds: float = Field(default=30, ge=2, le=3600)
    """A run whose replica stays silent for this long is taken over."""

    shutdown_grace_seconds: float = Field(default=20, ge=0, le=3600)
    catch_up_seconds: float = Field(default=86_400, ge=0)
    """How far back a fire that was missed while everything was down is still made up for."""

    retention_days: float = Field(default=30, gt=0)
    """For how long the record of a run is kept."""

    @field_validator("environment", "log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: Any, info: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.upper() if info.field_name == "log_level" else value.lower()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return named(value).key

    @model_validator(mode="after")
    def _window_exceeds_lease(self) -> Self:
        if 0 < self.catch_up_seconds <= self.lease_seconds:
            raise ValueError(
                f"CATCH_UP_SECONDS={self.catch_up_seconds:g} must be 0 (catch nothing up) or more "
                f"than LEASE_SECONDS={self.lease_seconds:g}; for example CATCH_UP_SECONDS=86400"
            )
        return self

    @model_validator(mode="after")
    def _retention_exceeds_window(self) -> Self:
        # What is forgotten before that would be owed again.
        if self.retention_days * 86_400 <= self.catch_up_seconds:
            raise ValueError(
                f"RETENTION_DAYS={self.retention_days:g} must be longer than "
                f"CATCH_UP_SECONDS={self.catch_up_seconds:g}; for example RETENTION_DAYS=30"
            )
        return self

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises `InvalidSettings`: a line for each wrong variable."""
        try:
            return cls.model_validate({})
        except ValidationError as error:
            lines = (_explain(cls, problem) for problem in error.errors())
            raise InvalidSettings("\n".join(lines)) from None

    def check_servers(self) -> None:
        """Raises `InvalidSettings` where a server would be looked for on the wrong machine."""
        fields = type(self).model_fields.items()
        unset = {
            name.upper(): field.default.get_secret_value().replace("127.0.0.1", "another-host")
            for name, field in sorted(fields)
            if field.json_schema_extra == _HERE and name not in self.model_fields_set
        }
        if unset and self.environment not in ("local", "test"):
            examples = ", ".join(f"{name}={url}" for name, url in unset.items())
            raise InvalidSettings(
                f"{', '.join(unset)} must be set where ENVIRONMENT={self.environment!r}: 127.0.0.1 "
                f"is the default in local and test only; for example {examples}"
            )

    @property
    def local(self) -> bool:
        """Is this a developer's machine?"""
        return self.environment == "local"

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


def _explain(cls: type[ServiceSettings], problem: Any) -> str:
    """Name the variable, the value found (never a secret's) and a value that works."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if unread := re.match(r'error parsing value for field "(\w+)"', message):
        given = {**DotEnvSettingsSource(cls).env_vars, **EnvSettingsSource(cls).env_vars}
        name, value = unread[1].upper(), given.get(unread[1])
        found = "" if "Secret" in repr(cls.model_fields[unread[1]]) else f"={value!r}"
        return f"{name}{found}: must be JSON; for example {name}=[1, 2]"
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    field = cls.model_fields.get(name) or cls.model_fields["database_url"]
    secret = "Secret" in repr(field.annotation)
    found = "" if secret or problem["type"] == "missing" else f"={problem['input']!r}"
    default = "" if secret or field.is_required() else f" (default: {field.default!r})"
    if problem["type"] == "bool_parsing":
        default = f"; for example {name.upper()}=true"
    return f"{name.upper()}{found}: {message}{default}"
