"""The application that a server runs: `uvicorn app.main:app`.

Add middleware as in any FastAPI app. What is in app/api/ and app/jobs/ is found by itself.
"""

from app.core.app import create_app

app = create_app()
