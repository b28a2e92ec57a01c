"""Aggregation of public contracts: what the job does, apart from when it does it."""

from collections import Counter
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
        """The changed pages of each configured region."""
        async with current().session() as session:
            pages = (await session.scalars(select(EsiPage))).all()
        etags = {page.path: page.etag for page in pages}
        return {
            region: [page async for page in self.esi.public_contracts(region, etags)]
            for region in self.settings.esi_regions
        }

    async def store(self, session: AsyncSession, fetched: dict[int, list[Page]]) -> int:
        """Insert or update what was fetched; returns the number of contracts."""
        stored: Counter[int] = Counter()
        limit = self.settings.aggregation_dev_contract_limit
        for region, pages in fetched.items():
            for page in pages:
                wanted = page.contracts[: limit - stored[region]] if limit else page.contracts
                if wanted:
                    rows = [_row(region, contract) for contract in wanted]
                    await session.execute(_upsert(), rows)
                if len(wanted) == len(page.contracts):
                    await session.merge(EsiPage(path=page.path, etag=page.etag))
                stored[region] += len(wanted)
        return stored.total()

    async def stored(
        self, session: AsyncSession, region: int | None, limit: int, offset: int
    ) -> Sequence[Contract]:
        """What is stored, by id; of one region or of all."""
        statement = select(Contract).order_by(Contract.contract_id).limit(limit).offset(offset)
        if region is not None:
            statement = statement.where(Contract.region_id == region)
        return (await session.scalars(statement)).all()

    async def count(self, session: AsyncSession) -> int:
        return (await session.execute(select(func.count()).select_from(Contract))).scalar_one()


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
