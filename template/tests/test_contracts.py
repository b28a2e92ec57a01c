"""The example, over real HTTP: a server of its own serves the sample."""

import asyncio
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest
import uvicorn
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import func, select, update

from app.core.app import create_app
from app.core.database import Database
from app.core.scheduling import Run, last_run
from app.jobs.contracts import aggregate_public_contracts, refresh_contracts
from app.jobs.statistics import price_quantiles
from app.services.contracts import ContractAggregation
from app.services.esi import EsiClient, EsiUnavailable
from app.services.models import Contract, EsiPage, PriceQuantile
from app.settings import Settings
from tests.core.fixtures import Scheduling
from tests.core.waiting import outcomes, until

SAMPLE = 61
QUIET = 0.05


@pytest.fixture(scope="session")
def esi(new_database: Callable[[], str]) -> Iterator[str]:
    """The service itself, serving its sample on a free port; gives the base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        local = Settings(
            environment="local", scheduler_enabled=False, database_url=SecretStr(new_database())
        )
        server = uvicorn.Server(uvicorn.Config(create_app(local), log_config=None))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/sample"
        server.should_exit = True
        thread.join()


@pytest.fixture
def settings(make_settings: Callable[..., Settings], esi: str) -> Settings:
    return make_settings(esi_base_url=esi)


def stored(database: Database) -> int:
    with database.session_sync() as session:
        return len(session.scalars(select(Contract)).all())


@pytest.mark.anyio
async def test_the_job_stores_every_contract_in_one_transaction(
    run: Run, database: Database
) -> None:
    await aggregate_public_contracts(run)
    async with database.session() as session:
        assert len((await session.scalars(select(Contract))).all()) == SAMPLE
        assert len((await session.scalars(select(EsiPage))).all()) == 7


def test_the_services_can_be_sent_to_a_worker(settings: Settings) -> None:
    """They store settings, and open what is live where it is used."""
    esi = EsiClient(settings)
    for service in (esi, ContractAggregation(settings, esi)):
        copy = pickle.loads(pickle.dumps(service))
        assert type(copy) is type(service)
        assert vars(copy).get("settings") == vars(service).get("settings")


@pytest.mark.anyio
async def test_unchanged_pages_are_not_fetched_again(run: Run, settings: Settings) -> None:
    service = ContractAggregation(settings, EsiClient(settings))
    fetched = await service.fetch()
    async with run.unit_of_work() as session:
        assert await service.store(session, fetched) == SAMPLE
    assert await service.fetch() == []


@pytest.mark.anyio
async def test_a_crash_between_two_writes_stores_nothing(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ContractAggregation.store

    async def crash_at_the_end(*args: Any) -> None:
        await whole(*args)
        raise ZeroDivisionError

    monkeypatch.setattr(ContractAggregation, "store", crash_at_the_end)
    with pytest.raises(ZeroDivisionError):
        await aggregate_public_contracts(run)
    assert await asyncio.to_thread(stored, database) == 0


@pytest.mark.anyio
async def test_the_limit_for_development_is_kept(
    make_settings: Callable[..., Settings], esi: str, run: Run, database: Database
) -> None:
    limited = make_settings(esi_base_url=esi, aggregation_dev_contract_limit=12)
    prices = []
    for _ in range(2):
        await aggregate_public_contracts(Run(settings=limited, database=database))
        assert await asyncio.to_thread(stored, database) == 12
        async with database.session() as session:
            prices.append((await session.scalars(select(func.sum(Contract.price)))).one())
            await session.execute(update(Contract).values(price=0))  # as if it had changed at ESI
            await session.commit()
    assert prices[0] == prices[1] > 0, "what is there already is updated"


@pytest.mark.anyio
async def test_quantiles_of_the_prices_are_stored_by_a_worker_process(
    run: Run, database: Database, scheduling: Scheduling
) -> None:
    await aggregate_public_contracts(run)
    async with scheduling() as service:
        asked = {"quantiles": [0.0, 1.0]}
        added = await service.scheduler.add_job_async(price_quantiles, kwargs=asked)
        assert await outcomes(service.database, added.id) == ["succeeded"]
        assert vars(service.runner.executors["processpool"])["_all"]
    async with database.session() as session:
        rows = (await session.scalars(select(PriceQuantile))).all()
        prices = (await session.scalars(select(Contract.price))).all()
    assert {row.quantile: row.price for row in rows} == {0: min(prices), 1: max(prices)}


@pytest.mark.anyio
async def test_esi_that_is_not_there_is_a_clear_error(settings: Settings, run: Run) -> None:
    run.settings = settings.model_copy(update={"esi_base_url": "http://127.0.0.1:1"})
    with pytest.raises(EsiUnavailable, match=r"http://127\.0\.0\.1:1: ConnectError"):
        await aggregate_public_contracts(run)
    run.settings = settings.model_copy(update={"esi_base_url": f"{settings.esi_url}/nowhere"})
    with pytest.raises(EsiUnavailable, match="HTTP 404"):
        await aggregate_public_contracts(run)


class Limiting(ThreadingHTTPServer):
    """An ESI of two empty pages: after its first answer it wants to hear nothing for a while."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.first = (status, {name.replace("_", "-"): text for name, text in headers.items()})
        self.quiet_until = 0.0
        self.keys: list[str | None] = []
        self.too_early = 0

    @property
    def settings(self) -> dict[str, Any]:
        return {"esi_base_url": f"http://127.0.0.1:{self.server_port}", "esi_regions": (1,)}

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.shutdown()
        super().__exit__(*error)


class _Page(BaseHTTPRequestHandler):
    server: Limiting

    def do_GET(self) -> None:
        esi, (status, headers) = self.server, (200, dict[str, str]())
        if not esi.keys:
            status, headers = esi.first
            esi.quiet_until = time.monotonic() + QUIET
        esi.too_early += bool(esi.keys) and time.monotonic() < esi.quiet_until
        esi.keys.append(self.headers["Authorization"])
        self.send_response(status)
        for name, text in {"X-Pages": "2", "Content-Length": "2", **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "headers", "asked"),
    [
        (420, {"X_ESI_Error_Limit_Reset": str(QUIET)}, 3),
        (429, {"Retry_After": str(QUIET)}, 3),
        (200, {"X_ESI_Error_Limit_Remain": "5", "X_ESI_Error_Limit_Reset": str(QUIET)}, 2),
    ],
)
async def test_at_the_error_limit_it_asks_again_after_the_reset(
    make_settings: Callable[..., Settings], status: int, headers: dict[str, str], asked: int
) -> None:
    with Limiting(status, **headers) as esi:
        client = EsiClient(make_settings(**esi.settings))
        assert len([page async for page in client.public_contracts({})]) == 2
        assert len(esi.keys) == asked
        assert esi.too_early == 0


@pytest.mark.anyio
@pytest.mark.parametrize("status", [420, 200])
async def test_a_reset_that_is_too_far_away_is_an_error_at_once(
    make_settings: Callable[..., Settings], status: int
) -> None:
    headers = {"X_ESI_Error_Limit_Remain": "5", "X_ESI_Error_Limit_Reset": "3600"}
    with Limiting(status, **headers) as esi:
        client = EsiClient(make_settings(**esi.settings))
        with pytest.raises(EsiUnavailable, match="reset in 3600 s"):
            [page async for page in client.public_contracts({})]
        assert len(esi.keys) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(("key", "sent"), [("k-1", "Bearer k-1"), (None, None)])
async def test_the_key_goes_with_each_request(
    make_settings: Callable[..., Settings], key: str | None, sent: str | None
) -> None:
    with Limiting(200) as esi:
        client = EsiClient(make_settings(**esi.settings, esi_api_key=key))
        assert len([page async for page in client.public_contracts({})]) == 2
        assert esi.keys == [sent, sent]


def test_contracts_are_listed(client: TestClient) -> None:
    assert client.get("/contracts").json() == []
    assert client.get("/contracts", params={"limit": 0}).status_code == 422
    assert client.get("/contracts", params={"after": 10**30}).status_code == 422
    with client.app.state.database.unit_of_work_sync() as session:  # type: ignore[attr-defined]
        for number in (3, 1, 2):
            what = {"title": "x", "price": 1.0, "date_expired": "2030"}
            session.add(Contract(contract_id=number, region_id=7, **what))
    listed = client.get("/contracts", params={"after": 1, "limit": 1}).json()
    assert [(contract["contract_id"], contract["region_id"]) for contract in listed] == [(2, 7)]


def test_the_sample_is_served_in_local_only(client: TestClient, esi: str) -> None:
    assert client.get("/sample/contracts/public/10000002/").status_code == 404


@pytest.mark.anyio
async def test_a_refresh_that_is_asked_for_runs_once(
    settings: Settings, scheduling: Scheduling
) -> None:
    async with scheduling() as service:
        job = await service.scheduler.add_job_async(refresh_contracts)

        async def finished() -> bool:
            async with service.database.session() as session:
                record = await last_run(session, job.id)
            return record is not None and record.outcome == "succeeded"

        await until(finished)
        assert await asyncio.to_thread(stored, service.database) == SAMPLE


def test_a_refresh_is_asked_for_over_http(client: TestClient) -> None:
    answer = client.post("/contracts/refresh")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/contracts/refresh/{answer.json()['id']}"
    assert client.get(answer.headers["location"]).status_code == 404


def test_a_refresh_that_is_asked_for_survives_a_restart_if_the_job_store_does(
    settings: Settings,
) -> None:
    idle = settings.model_copy(update={"scheduler_enabled": False})
    with TestClient(create_app(idle)) as client:
        asked = client.post("/contracts/refresh").headers["location"]
        assert client.get(asked).status_code == 404
    app = create_app(settings)
    with TestClient(app) as client:
        service = app.state.service

        async def owed_no_more() -> bool:
            return not [j async for j in service.scheduler.get_jobs_async() if asked.endswith(j.id)]

        assert client.portal
        client.portal.call(until, owed_no_more)
        became = client.get(asked).json()
    assert became.get("outcome") == ("succeeded" if service.definitions else None)
