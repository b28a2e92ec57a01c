"""What the database itself costs, through the connections that claims go through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, Insert, Integer, MetaData, String, Table, insert, text

if TYPE_CHECKING:
    from app.core.database import Database

_Id = BigInteger().with_variant(Integer, "sqlite")
_TABLE = Table(
    "plain_rows",
    MetaData(),
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(300), nullable=False),
)
_SELECT = text("SELECT 1")


@dataclass
class Inserts:
    database: Database
    statement: Insert

    @classmethod
    async def into(cls, database: Database) -> Inserts:
        async with database.writing() as connection:
            await connection.run_sync(_TABLE.metadata.create_all)
        return cls(database, insert(_TABLE).values(name="a row").inline())

    async def select(self) -> None:
        async with self.database.reading() as connection:
            await connection.execute(_SELECT)

    async def select_in_a_transaction(self) -> None:
        async with self.database.writing() as connection:
            await connection.execute(_SELECT)

    async def one(self) -> None:
        async with self.database.writing(alone=True) as connection:
            await connection.execute(self.statement)

    async def in_a_transaction(self) -> None:
        async with self.database.writing() as connection:
            await connection.execute(self.statement)
