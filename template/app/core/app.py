"""The application: its routes, and how it starts and stops."""

import gc
import importlib
import pkgutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

import app.api
import app.jobs
from app.core import health, wiring
from app.core.logging import configure_logging
from app.core.problems import add_problem_details
from app.core.requests import RequestLog
from app.core.scheduling.declaration import discover
from app.core.service import Service
from app.core.settings import InvalidSettings
from app.core.signals import on_stop
from app.settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application. Ends the process, with a message, if a setting is wrong."""
    if settings is None:
        try:
            settings = Settings.load()
            settings.check_servers()
        except InvalidSettings as error:
            sys.exit(f"The service cannot start with these settings:\n{error}")
    configure_logging(settings)
    jobs = discover(app.jobs)
    api = FastAPI(title=wiring.SERVICE_NAME, lifespan=_lifespan)
    api.state.settings = settings
    api.state.jobs = jobs
    api.add_middleware(RequestLog)
    add_problem_details(api)
    api.include_router(health.router)
    for found in pkgutil.iter_modules(app.api.__path__, "app.api."):
        router = getattr(importlib.import_module(found.name), "router", None)
        if isinstance(router, APIRouter):
            api.include_router(router)
    return api


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    service = Service(api.state.settings, api.state.jobs)
    api.state.service = service
    api.state.database = service.database
    api.state.scheduler = service.scheduler
    with on_stop(service.runner.stop_claims, service.runner.hurry):
        try:
            await service.start()
            gc.freeze()  # what is there by now stays, and is no more looked through for garbage
            yield
        finally:
            gc.unfreeze()
            # Inside the handlers: a second signal cuts the drain short.
            await service.stop()
