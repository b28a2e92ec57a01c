"""Your settings. Each field is an environment variable; say it in .env.example too."""

from pydantic import Field, SecretStr

from app.core.wiring import CoreSettings


class Settings(CoreSettings):
    esi_base_url: str = ""
    """Where contracts come from. Unset: in `local` this service's own sample, else EVE Online."""

    esi_api_key: SecretStr | None = None
    esi_regions: tuple[int, ...] = (10000002, 10000043)
    aggregation_interval_minutes: int = Field(default=5, ge=1, le=1440)
    aggregation_dev_contract_limit: int = Field(default=0, ge=0)
    """Store at most so many contracts; 0 stores all."""

    # yours

    @property
    def esi_url(self) -> str:
        own = "http://127.0.0.1:8000/sample" if self.local else "https://esi.evetech.net/latest"
        return self.esi_base_url.rstrip("/") or own
