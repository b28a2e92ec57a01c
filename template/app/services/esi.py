"""A client of EVE Online's public API, ESI: paged, with ETags, within its error limit."""

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from typing import NamedTuple

import httpx2
from pydantic import BaseModel

from app.settings import Settings

_FEWEST_ERRORS_LEFT = 10
_LIMITED = (420, 429)
_PATIENCE = 180.0
"""Seconds in which a run may wait for ESI's error limit: its time-out leaves it 60 to work in."""


_certificates = functools.cache(httpx2.create_ssl_context)
"""Read once: it holds the event loop for 20 ms."""


class EsiUnavailable(RuntimeError):
    """ESI does not answer as it should, or has had enough of our errors: try again later."""


class EsiContract(BaseModel, from_attributes=True):
    """What is kept of a contract."""

    contract_id: int
    region_id: int
    title: str = ""
    price: float = 0
    date_expired: str


class Page(NamedTuple):
    """One page of contracts that has changed since its ETag was taken."""

    path: str
    etag: str
    contracts: list[EsiContract]


class EsiClient:
    """Stores settings only, so it can be sent to a worker process; connects where it works."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def public_contracts(self, etags: Mapping[str, str]) -> AsyncIterator[Page]:
        """The changed pages of all configured regions. Raises `EsiUnavailable`."""
        url, key = f"{self.settings.esi_url}/", self.settings.esi_api_key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        deadline = monotonic() + _PATIENCE
        tls = _certificates()
        async with httpx2.AsyncClient(
            base_url=url, headers=headers, timeout=20, verify=tls
        ) as http:
            for region in self.settings.esi_regions:
                number, last = 1, 1
                while number <= last:
                    path = f"contracts/public/{region}/?page={number}"
                    response = await self._get(http, path, etags.get(path), deadline)
                    if response.status_code != 304:
                        contracts = [EsiContract(region_id=region, **c) for c in response.json()]
                        yield Page(path, response.headers.get("ETag", ""), contracts)
                    number, last = number + 1, int(response.headers.get("X-Pages", "1"))

    async def _get(
        self, http: httpx2.AsyncClient, path: str, etag: str | None, deadline: float
    ) -> httpx2.Response:
        """Once more after each reset of the error limit, if that comes before the deadline."""
        while True:
            try:
                response = await http.get(path, headers={"If-None-Match": etag} if etag else {})
            except httpx2.TransportError as error:
                raise EsiUnavailable(f"{self.settings.esi_url}: {error!r}") from error
            if response.status_code not in (200, 304, *_LIMITED):
                raise EsiUnavailable(f"{path}: HTTP {response.status_code}")
            left = int(response.headers.get("X-ESI-Error-Limit-Remain", "100"))
            if response.status_code in _LIMITED or left < _FEWEST_ERRORS_LEFT:
                await _reset(response.headers, deadline)
            if response.status_code not in _LIMITED:
                return response


async def _reset(headers: Mapping[str, str], deadline: float) -> None:
    """Wait until errors are forgiven; whoever goes on asking before that is shut out."""
    said = headers.get("X-ESI-Error-Limit-Reset") or headers.get("Retry-After", "60")
    try:
        seconds = float(said)
    except ValueError:  # Retry-After may be a date
        seconds = 60
    if monotonic() + seconds > deadline:
        raise EsiUnavailable(f"the error limit is near; it is reset in {said} s")
    await asyncio.sleep(seconds)
