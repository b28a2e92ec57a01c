RUN pip install --no-cache-dir "uv>=0.9"
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
COPY pyproject.toml uv.lock* ./
RUN uv sync --no-dev --compile-bytecode
