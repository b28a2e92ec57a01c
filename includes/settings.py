"""Your settings. Each field is an environment variable; say it in .env.example too."""

from app.core.wiring import CoreSettings


class Settings(CoreSettings):
    pass

    # yours
