# make test    run the tests                          make lint    check style and types
# make demo    train on synthetic songs, separate     make docs    build the documentation site in build/docs
# make venv    only install                           make release build and check what is published
# make fuzz    the nightly form of the tests that make input up: damaged files, and properties
# make clean   remove what make has made
# make newest  run the tests on the newest release of everything, weekly (TORCH=torch==2.13.0 chooses the torch)
# make load    200 uploads to the page at once, some hostile, nightly (UPLOADS=200)
#
# Variables: PYTHON=python3.12      the interpreter that .venv is made with, if there is no .venv yet
#            SONG="my song.mp3"     a song for the demo to separate
#            STEPS=80               how long the demo trains, 520 by default
#            DEMO_ARGS="..."        anything else for recipes/demo/run.sh
#            SEED=20261127          of make fuzz, today by default; CASES=10000
#
# make faults kills every long operation 20 times at random moments, starts it again, and compares what it leaves with
# what an undisturbed run leaves; then it fills its disk, if it may mount one. It takes an hour. Its variable:
#            FAULTS_ARGS="..."      such as "--kills 5 separate train-nussl"
#
# make test-hosts runs the hosts' own tests under this package, and compares with tests/hosts/*.toml. Its variables:
#            NUSSL_REPO=nussl       a folder or an archive of nussl's repository, at the commit of 1.1.9
#            ASTEROID_REPO=asteroid of asteroid's, at v0.7.0
#            HOSTS_ARGS="..."       anything else for tests/hosts/suite.py, as asteroid -k stoi

VENV := .venv
PY := $(VENV)/bin/python
# Exists only after everything has been installed.
STAMP := $(VENV)/installed

# PYTHON, SONG and STEPS reach the commands as environment variables, so that spaces and quotes survive.
export PYTHON SONG STEPS TORCH NUSSL_REPO ASTEROID_REPO

.PHONY: venv test test-hosts faults fuzz demo docs lint release newest load clean

venv: $(STAMP)
	@sh scripts/system_needs.sh

$(STAMP): setup.py constraints.txt
	@sh scripts/create_venv.sh

test: venv
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile

test-hosts: venv
	$(PY) tests/hosts/suite.py $(HOSTS_ARGS)

faults: venv
	OMP_NUM_THREADS=1 $(PY) tests/faults $(FAULTS_ARGS)

SEED ?= $(shell date +%Y%m%d)
CASES ?= 10000

fuzz: venv
	$(PY) tests/fuzz --cases $(CASES) --seed $(SEED)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --hypothesis-profile nightly tests/test_properties.py

demo: venv
	recipes/demo/run.sh --python_path "$(abspath $(PY))" $${SONG:+--song "$$SONG"} $${STEPS:+--steps "$$STEPS"} $(DEMO_ARGS)

docs: venv
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

release: venv
	scripts/release.sh

newest: venv
	scripts/test_newest.sh

load: venv
	$(PY) benchmarks/page_load.py --uploads $(or $(UPLOADS),200)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
