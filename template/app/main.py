"""The application that a server runs: `uvicorn app.main:app`.

Add middleware and routers as in any FastAPI app. Modules in app/api/ that have a `router`, and
jobs in app/jobs/, are found by themselves.
"""

from app.core.app import create_app

app = create_app()
