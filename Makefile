# `make imagen` installs everything into .venv and runs the main job; `make test` installs and runs the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: imagen test clean

imagen: .venv/installed
	$(BIN)/python train.py model=imagen

test: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile $(ARGS)

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --prefer-binary -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --prefer-binary -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv
