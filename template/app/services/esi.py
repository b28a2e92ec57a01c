"""A client of EVE Online's public API, ESI: paged, with ETags, within its error limit."""

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import httpx2
from pydantic import BaseModel

from app.settings import Settings

_FEWEST_ERRORS_LEFT = 10


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
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=20) as http:
            for region in self.settings.esi_regions:
                number, last = 1, 1
                while number <= last:
                    path = f"contracts/public/{region}/?page={number}"
                    response = await self._get(http, path, etags.get(path))
                    if response.status_code != 304:
                        contracts = [EsiContract(region_id=region, **c) for c in response.json()]
                        yield Page(path, response.headers.get("ETag", ""), contracts)
                    number, last = number + 1, int(response.headers.get("X-Pages", "1"))

    async def _get(self, http: httpx2.AsyncClient, path: str, etag: str | None) -> httpx2.Response:
        try:
            response = await http.get(path, headers={"If-None-Match": etag} if etag else {})
        except httpx2.TransportError as error:
            raise EsiUnavailable(f"{self.settings.esi_url}: {error!r}") from error
        if int(response.headers.get("X-ESI-Error-Limit-Remain", "100")) < _FEWEST_ERRORS_LEFT:
            reset = response.headers.get("X-ESI-Error-Limit-Reset", "60")
            raise EsiUnavailable(f"the error limit is near; it is reset in {reset} s")
        if response.status_code not in (200, 304):
            raise EsiUnavailable(f"{path}: HTTP {response.status_code}")
        return response
