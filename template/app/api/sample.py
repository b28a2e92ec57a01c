"""In `local` only: a recorded sample of ESI's contracts, so that the service works offline."""

import json
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from app.core.dependencies import CurrentSettings

_RECORDED = Path(__file__).with_name("sample.json")
_PAGE = 10
router = APIRouter(prefix="/sample", include_in_schema=False)


@router.get("/contracts/public/{region}/")
async def public_contracts(
    request: Request, settings: CurrentSettings, region: str, page: int = 1
) -> Response:
    """A page as ESI sends it, with its headers."""
    contracts = json.loads(_RECORDED.read_text(encoding="utf-8")).get(region, [])
    pages = max(1, -(-len(contracts) // _PAGE))
    if not settings.local or not 1 <= page <= pages:
        raise HTTPException(404, "requested page does not exist")
    part = contracts[(page - 1) * _PAGE : page * _PAGE]
    etag = f'"{sha256(json.dumps(part).encode()).hexdigest()}"'
    headers = {"X-Pages": str(pages), "ETag": etag, "X-ESI-Error-Limit-Remain": "100"}
    if request.headers.get("If-None-Match") == etag:
        return Response(status_code=304, headers=headers)
    return JSONResponse(part, headers=headers)
