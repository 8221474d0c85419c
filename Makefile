# The two commands of the README are `make book` and `make test`. `make` alone lists all of them.
# Each makes what it needs: the environment in .venv first of all.

WINDOWS := $(filter Windows_NT,$(OS))
PYTHON ?= $(if $(WINDOWS),python,python3)
PORT ?= 8000
TORCH ?= 2.13.0

VENV := .venv
# On Windows a virtual environment keeps its programs elsewhere.
BIN := $(VENV)/$(if $(WINDOWS),Scripts,bin)
RUN := $(BIN)/python
BOOK := $(RUN) -m book.pipeline
READY := $(VENV)/ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup book test lint notebooks execute fast colab pages scan bench serve browser screenshots lock clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY) ## make the environment in .venv with the locked versions

# The stamp is written last, so that an interrupted installation goes on where it stopped.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "error: $(PYTHON) is Python %d.%d (%s), but the book needs 3.11 or newer.\nInstall one and name it: make PYTHON=python3.12" % (v[0], v[1], sys.executable))'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements.txt
	$(RUN) -m pip install --quiet --no-deps --editable .
	@touch $(READY)

book: $(READY) ## run the chapters that changed, build and check the pages, print where they are
	$(BOOK) book

test: $(READY) ## test the library and the pipeline
	$(RUN) -m pytest --numprocesses auto --dist worksteal

lint: $(READY) ## check style, spelling, notebook pairs and the rules for chapters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BOOK) pair --check
	$(BOOK) rules

notebooks: $(READY) ## write notebooks/*.ipynb from their sources
	$(BOOK) pair

execute: $(READY) ## run the chapters that changed
	$(BOOK) execute

fast: $(READY) ## run every chapter with small sizes, its claims unchecked (CHAPTERS=07 for one)
	$(BOOK) execute --fast $(CHAPTERS)

# Where the index has no build of Colab's torch without CUDA, name another release: COLAB="--torch 2.13.0".
colab: $(READY) ## run the notebooks as Colab does, beside its packages (minutes)
	$(BOOK) colab $(COLAB) $(CHAPTERS)

pages: $(READY) ## build the pages from the finished runs
	$(BOOK) pages

scan: $(READY) ## look for faults in the runs and the pages
	$(BOOK) scan

bench: $(READY) ## measure how fast the library is, beside the machine's own matrix products (minutes)
	$(RUN) -m benchmarks

serve: $(READY) ## show the book on localhost (PORT=8000)
	@test -f _build/html/index.html || { echo "error: there are no pages in _build/html; run make book first" >&2; exit 1; }
	$(RUN) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

browser: $(READY) ## open every page in a browser without a network and check it (after make book)
	$(RUN) -m pytest tests/browser

screenshots: $(READY) ## take a picture of every page, two widths, light and dark (after make book)
	$(BOOK) screenshots

# From a fresh environment, so that nothing stands in the lock that the packages do not ask for.
lock: ## write requirements.txt anew from pyproject.toml (TORCH=2.13.0)
	rm -rf .cache/lock && $(PYTHON) -m venv .cache/lock
	.cache/lock/bin/python -m pip install --quiet torch==$(TORCH) '.[chapters,test,book]'
	{ grep '^#' requirements.txt; .cache/lock/bin/python -m pip freeze --exclude gausstools | sed 's/+[a-z0-9]*$$//'; } > .cache/lock.txt
	mv .cache/lock.txt requirements.txt && rm -rf .cache/lock

clean: ## remove the pages and the runs, keep the environment
	rm -rf _build .cache
