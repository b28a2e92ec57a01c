"""Settings are checked before anything starts, and secrets stay where they are."""

import pickle
import runpy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from app.core.settings import InvalidSettings, on_this_machine
from app.settings import Settings
from tests.core.fixtures import FURTHER

CANARY = "canary-4711-secret"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LEASE_SECONDS", "1", "LEASE_SECONDS='1': .*greater than or equal to 2.*default: 30"),
        ("TIMEZONE", "Mars/Base", "TIMEZONE='Mars/Base': is not an IANA .* Europe/Berlin"),
        ("TIMEZONE", "localtime", "TIMEZONE='localtime': is not an IANA .* Europe/Berlin"),
        ("MAX_WORKERS", "many", "MAX_WORKERS='many': .*integer.*default: 2"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT='xml': .*'json' or 'console'"),
        ("RETENTION_DAYS", "1", "RETENTION_DAYS=1 must be longer than CATCH_UP_SECONDS=86400"),
        ("CATCH_UP_SECONDS", "10", "CATCH_UP_SECONDS=10 must be 0 .* LEASE_SECONDS=30"),
        ("DATABASE_URL", f"mysql://{CANARY}@host/x", "DATABASE_URL: must be .* for example"),
        ("MIGRATE_ON_START", "perhaps", "MIGRATE_ON_START='perhaps': .*; for example .*=true$"),
        *(
            (name.upper(), f"redis://:{CANARY}@host:{place}", f"{name.upper()}: must be .*example")
            for name in FURTHER
            for place in ("port/0", "6379/one")
            if place == "port/0" or name != "broker_url"  # whose owner may choose another broker
        ),
    ],
)
def test_a_wrong_setting_is_named_with_a_value_that_works(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettings, match=message) as caught:
        Settings.load()
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_list_that_is_no_json_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    class Listing(Settings):
        model_config = SettingsConfigDict(env_file=tmp_path / ".env")
        regions: tuple[int, ...] = ()

    (tmp_path / ".env").write_text("REGIONS=1,2" if where == "file" else "REGIONS=3,4")
    if where == "environment":
        monkeypatch.setenv("REGIONS", "1,2")
    with pytest.raises(
        InvalidSettings, match=r"REGIONS='1,2': must be JSON; for example REGIONS=\["
    ):
        Listing.load()


def test_a_list_of_secrets_that_is_no_json_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Secrets(Settings):
        keys: tuple[SecretStr, ...] = ()

    monkeypatch.setenv("KEYS", f"{CANARY},2")
    with pytest.raises(InvalidSettings, match=r"^KEYS: must be JSON") as error:
        Secrets.load()
    assert CANARY not in str(error.value)


def test_the_process_ends_with_the_message_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEASE_SECONDS", "soon")
    with pytest.raises(SystemExit, match="cannot start with these settings:\nLEASE_SECONDS='soon'"):
        runpy.run_module("app.main")


def test_a_server_is_looked_for_on_this_machine_in_local_and_test_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Serving(Settings):
        mail_url: SecretStr = on_this_machine("smtp://127.0.0.1")

    on_a_server = urlsplit(
        Settings.model_fields["database_url"].default.get_secret_value()
    ).hostname
    asked = ("database_url",) if on_a_server else ()
    names = sorted(name.upper() for name in (*asked, "mail_url", *FURTHER))
    given: dict[str, Any] = {} if asked else {"database_url": settings.database_url}
    for environment in ("production", "staging"):
        unset = Serving(**given, environment=environment)
        needed = f"{', '.join(names)} must be set where ENVIRONMENT='{environment}': .*for example"
        with pytest.raises(InvalidSettings, match=needed):
            unset.check_servers()
    for environment in ("local", "test"):
        Serving(**given, environment=environment).check_servers()
    urls: dict[str, Any] = {name.lower(): SecretStr("redis://127.0.0.1:6379/0") for name in names}
    urls["database_url"] = settings.database_url
    Serving(**urls, environment="production").check_servers()
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    for name in FURTHER:
        with pytest.raises(SystemExit, match=f"{name.upper()}.* must be set"):
            runpy.run_module("app.main")


def test_levels_and_formats_are_read_in_any_case(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")
    monkeypatch.setenv("LOG_FORMAT", "Console")
    read = Settings.load()
    assert (read.log_level, read.log_format) == ("DEBUG", "console")
    assert pickle.loads(pickle.dumps(read)) == read


def test_every_setting_is_in_the_example_file() -> None:
    example = (Path(__file__).parents[2] / ".env.example").read_text(encoding="utf-8")
    for name in Settings.model_fields:
        assert f"{name.upper()}=" in example, f"say {name.upper()} in .env.example"
