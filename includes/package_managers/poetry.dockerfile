RUN python -m venv .poetry && .poetry/bin/pip install --no-cache-dir "poetry>=2.2"
COPY pyproject.toml poetry.toml poetry.lock* ./
RUN .poetry/bin/poetry install --only main --compile --no-interaction
