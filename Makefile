# `make imagen` installs everything into .venv and runs the main job; `make test` installs and runs the tests; `make docs` writes the site.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: imagen test docs clean

imagen: .venv/installed
	$(BIN)/python train.py model=imagen

test: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile $(ARGS)

docs: .venv/installed-docs
	$(BIN)/python -m demo.site

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --prefer-binary -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --prefer-binary -r requirements-dev.txt
	touch $@

.venv/installed-docs: .venv/installed requirements-docs.txt
	$(BIN)/python -m pip install --quiet --prefer-binary -r requirements-docs.txt
	touch $@

clean:
	rm -rf .venv
