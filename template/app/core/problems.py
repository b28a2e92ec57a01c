"""Errors as RFC 9457 problem details, `application/problem+json`."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.core.logging import log_context

_log = logging.getLogger(__name__)


def problem(status: int, detail: object = None, **more: Any) -> JSONResponse:
    """A response that says what is wrong; `more` are members of its own."""
    title = HTTPStatus(status).phrase
    content = {"title": title, "status": status, "detail": jsonable_encoder(detail), **more}
    return JSONResponse(content, status, media_type="application/problem+json")


def add_problem_details(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        response = problem(error.status_code, error.detail)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [{"loc": e["loc"], "msg": e["msg"]} for e in error.errors()]
        return problem(422, "the request is not valid", errors=found)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        # Starlette calls this outside of every middleware, RequestLog too, so its id is put back.
        request_id = getattr(request.state, "request_id", "none")
        with log_context(request_id=request_id):
            _log.error("unhandled error", exc_info=error)
        response = problem(500, "an unexpected error; the log says more")
        response.headers["X-Request-ID"] = request_id
        return response
