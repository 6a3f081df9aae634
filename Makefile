# make run: every notebook, executed, as a gallery.  make test: every test.  Needs Python 3.11+ and make.
PYTHON  ?= python3
VENV    ?= .venv
PROFILE ?= fast
NB      ?=
FORCE   ?=
DATASET ?=
SEED    ?=
# of the classroom: make classroom OPTIONS="--large --port 9000"
OPTIONS ?=
# test workers, one thread each
JOBS    ?= 2

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --disable-pip-version-check

export GOMP_SPINCOUNT ?= 10000
export PYDEVD_DISABLE_FILE_VALIDATION = 1

.DEFAULT_GOAL := help
.PHONY: help run test unit browser lab classroom lint format bench realism clean distclean

help:
	@echo "make run    execute the notebooks, write build/$(PROFILE)/index.html   (NB=01 one, FORCE=1 again,"
	@echo "            PROFILE=smoke|fast|paper, DATASET=id-or-folder, SEED=n)"
	@echo "make test   run every test, the notebooks among them    make unit  without the notebooks"
	@echo "make browser  only the tests in a real browser (Chromium; pictures in build/browser/)"
	@echo "make lab    open the notebooks in JupyterLab    make classroom  the widgets as pages, for a class"
	@echo "make lint   check the style        make format   mend it"
	@echo "make bench  run the benchmarks     make realism  phantoms beside real sets (an hour or two)"
	@echo "make clean  remove build/ (distclean: .venv/ too)"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is missing: on Debian or Ubuntu, apt install python3-venv"; exit 1; }

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV): about 7 GB and a few minutes, once."
	@$(PIP) --quiet --editable .
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.run
	@$(PIP) --quiet --editable ".[dev]"
	@touch $@

run: $(VENV)/.run
	@$(BIN)/covidlab run --profile $(PROFILE) $(if $(NB),--only $(NB)) $(if $(FORCE),--force) \
	  $(if $(DATASET),--dataset "$(DATASET)") $(if $(SEED),--seed $(SEED))

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

unit: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not notebooks"

browser: $(VENV)/.test
	OMP_NUM_THREADS=1 COVIDLAB_REQUIRE_BROWSER=1 $(BIN)/python -m pytest -m browser tests/browser

lab: $(VENV)/.run
	$(BIN)/jupyter lab notebooks

classroom: $(VENV)/.run
	@$(BIN)/covidlab classroom --open $(OPTIONS)

lint: $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/nbstripout --extra-keys metadata.papermill --verify notebooks/*.ipynb notebooks/classroom/*.ipynb

format: $(VENV)/.test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/nbstripout --extra-keys metadata.papermill notebooks/*.ipynb notebooks/classroom/*.ipynb

bench: $(VENV)/.run
	$(BIN)/python benchmarks/phantom.py
	$(BIN)/python benchmarks/models.py
	for task in start study precision glue augment gpu; do $(BIN)/python benchmarks/speed.py $$task || exit 1; done
	$(BIN)/python benchmarks/cam.py
	$(BIN)/python benchmarks/tahir.py timings --out build/bench

realism: $(VENV)/.run
	$(BIN)/python benchmarks/realism.py --out build/realism

clean:
	rm -rf build dist .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
