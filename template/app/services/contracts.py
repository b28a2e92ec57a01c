"""Aggregation of public contracts: what the job does, apart from when it does it."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database import current
from app.services.esi import EsiClient, Page
from app.services.models import Contract, EsiPage
from app.settings import Settings


class ContractAggregation:
    """Fetches over the network first, then stores in one short transaction."""

    def __init__(self, settings: Settings, esi: EsiClient) -> None:
        self.settings = settings
        self.esi = esi

    async def fetch(self) -> list[Page]:
        """The pages that have changed; with a limit, as many as it takes, changed or not."""
        limit = self.settings.aggregation_dev_contract_limit
        async with current().session() as session:
            etags = {page.path: page.etag for page in await session.scalars(select(EsiPage))}
        pages: list[Page] = []
        async for page in self.esi.public_contracts({} if limit else etags):
            pages.append(page)
            if limit and sum(len(page.contracts) for page in pages) >= limit:
                break
        return pages

    async def store(self, session: AsyncSession, pages: Sequence[Page]) -> int:
        """Insert or update what was fetched; returns the number of contracts."""
        limit = self.settings.aggregation_dev_contract_limit
        rows = [contract.model_dump() for page in pages for contract in page.contracts]
        if rows := rows[: limit or None]:
            insert = current().dialect.insert(Contract)
            new = {name: insert.excluded[name] for name in ("title", "price", "date_expired")}
            upsert = insert.on_conflict_do_update(index_elements=["contract_id"], set_=new)
            await session.execute(upsert, rows)
        for page in pages if not limit else ():
            await session.merge(EsiPage(path=page.path, etag=page.etag))
        return len(rows)

    async def stored(self, session: AsyncSession, after: int, limit: int) -> Sequence[Contract]:
        """What is stored, by id."""
        later = select(Contract).where(Contract.contract_id > after)
        return (await session.scalars(later.order_by(Contract.contract_id).limit(limit))).all()
