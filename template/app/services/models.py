"""What the example stores. A table is a class under `Base`, and a step in migrations/."""

from sqlalchemy import BigInteger, Float, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base


class Contract(Base):
    __tablename__ = "contracts"

    contract_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    region_id: Mapped[int] = mapped_column(BigInteger)
    title: Mapped[str] = mapped_column(String(500))
    price: Mapped[float] = mapped_column(Float)
    date_expired: Mapped[str] = mapped_column(String(30))


class EsiPage(Base):
    """The ETag of a page that is stored: unchanged pages are not sent again."""

    __tablename__ = "esi_pages"

    path: Mapped[str] = mapped_column(String(200), primary_key=True)
    etag: Mapped[str] = mapped_column(String(200))


class PriceQuantile(Base):
    __tablename__ = "price_quantiles"

    quantile: Mapped[float] = mapped_column(Float, primary_key=True)
    price: Mapped[float] = mapped_column(Float)
