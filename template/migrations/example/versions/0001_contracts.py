"""The tables of the example."""

import sqlalchemy as sa
from alembic import op

revision = "contracts"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "contracts",
        sa.Column("contract_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("region_id", sa.BigInteger, nullable=False),
        sa.Column("title", sa.String(500), nullable=False),
        sa.Column("price", sa.Float, nullable=False),
        sa.Column("date_expired", sa.String(30), nullable=False),
    )
    op.create_table(
        "esi_pages",
        sa.Column("path", sa.String(200), primary_key=True),
        sa.Column("etag", sa.String(200), nullable=False),
    )
    op.create_table(
        "price_quantiles",
        sa.Column("quantile", sa.Float, primary_key=True),
        sa.Column("price", sa.Float, nullable=False),
    )


def downgrade() -> None:
    for table in ("price_quantiles", "esi_pages", "contracts"):
        op.drop_table(table)
