POETRY := $(shell command -v poetry || echo .venv/poetry/bin/poetry)
# Poetry would install into an environment that is active, instead of .venv.
unexport VIRTUAL_ENV

install: ## make .venv and put everything into it
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x "$(POETRY)" || $(PYTHON) -m venv .venv/poetry
	@test -x "$(POETRY)" || .venv/poetry/bin/python -m pip install --quiet --disable-pip-version-check "poetry>=2.2"
	$(POETRY) lock --no-interaction
	$(POETRY) install --no-interaction
