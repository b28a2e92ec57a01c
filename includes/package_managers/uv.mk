UV := $(shell command -v uv || echo $(BIN)/uv)

install: ## make .venv and put everything into it
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x "$(UV)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) sync --inexact --quiet
