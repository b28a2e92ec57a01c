"""In `local` only: a recorded sample of ESI's contracts, so that the service works offline."""

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from app.core.dependencies import CurrentSettings

_PAGE = 10


async def _only_local(settings: CurrentSettings) -> None:
    if not settings.local:
        raise HTTPException(404)


router = APIRouter(prefix="/sample", include_in_schema=False, dependencies=[Depends(_only_local)])


@cache
def _recorded() -> dict[str, list[dict[str, Any]]]:
    file = Path(__file__).with_name("sample.json")
    sample: dict[str, list[dict[str, Any]]] = json.loads(file.read_text(encoding="utf-8"))
    return sample


@router.get("/contracts/public/{region}/")
async def public_contracts(request: Request, region: str, page: int = 1) -> Response:
    """A page as ESI sends it, with its headers."""
    contracts = _recorded().get(region, [])
    pages = max(1, -(-len(contracts) // _PAGE))
    if not 1 <= page <= pages:
        raise HTTPException(404, "requested page does not exist")
    part = contracts[(page - 1) * _PAGE : page * _PAGE]
    etag = f'"{sha256(json.dumps(part).encode()).hexdigest()[:40]}"'
    headers = {"X-Pages": str(pages), "ETag": etag, "X-ESI-Error-Limit-Remain": "100"}
    if request.headers.get("If-None-Match") == etag:
        return Response(status_code=304, headers=headers)
    return JSONResponse(part, headers=headers)
