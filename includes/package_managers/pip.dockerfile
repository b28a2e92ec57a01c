COPY pyproject.toml ./
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir .
