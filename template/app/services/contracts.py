"""Aggregation of public contracts: what the job does, apart from when it does it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Executable, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from app.core.database import current
from app.services.esi import EsiClient, Page
from app.services.models import Contract, EsiPage, PriceQuantile
from app.settings import Settings


class ContractAggregation:
    """Fetches over the network first, then stores in one short transaction."""

    def __init__(self, settings: Settings, esi: EsiClient) -> None:
        self.settings = settings
        self.esi = esi

    async def fetch(self) -> dict[int, list[Page]]:
        """The changed pages of each configured region; with a limit, as many as it takes."""
        limit = self.settings.aggregation_dev_contract_limit
        async with current().session() as session:
            pages = (await session.scalars(select(EsiPage))).all()
        etags = {} if limit else {page.path: page.etag for page in pages}
        fetched: dict[int, list[Page]] = {}
        for region in self.settings.esi_regions:
            fetched[region] = []
            async for page in self.esi.public_contracts(region, etags):
                fetched[region].append(page)
                if limit and sum(len(p.contracts) for p in fetched[region]) >= limit:
                    break
        return fetched

    async def store(self, session: AsyncSession, fetched: dict[int, list[Page]]) -> int:
        """Insert or update what was fetched; returns the number of contracts."""
        limit, stored = self.settings.aggregation_dev_contract_limit, 0
        for region, pages in fetched.items():
            contracts = [_row(region, contract) for page in pages for contract in page.contracts]
            if rows := contracts[: limit or None]:
                await session.execute(_upsert(), rows)
            stored += len(rows)
            for page in pages if not limit else ():
                await session.merge(EsiPage(path=page.path, etag=page.etag))
        return stored

    async def stored(
        self, session: AsyncSession, region: int | None, limit: int, offset: int
    ) -> Sequence[Contract]:
        """What is stored, by id; of one region or of all."""
        statement = select(Contract).order_by(Contract.contract_id).limit(limit).offset(offset)
        if region is not None:
            statement = statement.where(Contract.region_id == region)
        return (await session.scalars(statement)).all()

    async def count(self, session: AsyncSession, region: int | None) -> int:
        statement = select(func.count()).select_from(Contract)
        if region is not None:
            statement = statement.where(Contract.region_id == region)
        return (await session.execute(statement)).scalar_one()


class PriceStatistics:
    """Work for the processor: quantiles of the prices of each region."""

    def compute(self, session: Session, quantiles: Sequence[float]) -> list[PriceQuantile]:
        regions = session.scalars(select(Contract.region_id).distinct()).all()
        return [
            PriceQuantile(region_id=region, quantile=q, price=prices[int(q * (len(prices) - 1))])
            for region in regions
            for prices in [self._prices(session, region)]
            for q in quantiles
        ]

    def store(self, session: Session, computed: Sequence[PriceQuantile]) -> None:
        session.execute(delete(PriceQuantile))
        session.add_all(computed)

    def _prices(self, session: Session, region: int) -> list[float]:
        return sorted(session.scalars(select(Contract.price).where(Contract.region_id == region)))


def _upsert() -> Executable:
    insert = current().dialect.insert(Contract)
    changed = {name: insert.excluded[name] for name in ("title", "price", "date_expired")}
    return insert.on_conflict_do_update(index_elements=["contract_id"], set_=changed)


def _row(region: int, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "contract_id": data["contract_id"],
        "region_id": region,
        "type": data["type"],
        "title": data.get("title") or "",
        "price": data.get("price") or 0.0,
        "date_expired": data["date_expired"],
    }
