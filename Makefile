# Two commands do everything: `make demo` and `make test`.
# Each target makes the environment that it needs; only git, make and python3 are assumed.
PYTHON ?= python3
VENV ?= .venv
DJANGO ?= Django>=5.2
# Spawned tasks are fresh interpreters: without bytecode each would compile the project.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
SPACE := $(subst ,, )
# Interpreters beside those that PATH has; empty where there is no pyenv.
PYENV := $(subst $(SPACE),,$(addprefix :,$(wildcard $(HOME)/.pyenv/versions/3.*/bin)))
# setuptools warns about every editable install; nobody can do anything about it.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet
DEMO := $(VENV)/.demo
TESTING := $(VENV)/.testing
LINTING := $(VENV)/.linting
# The peers, with versions of their own; django-background-tasks 1.2.8 in a folder, since
# it has our import names.
BENCH := $(VENV)-bench
BENCHING := $(BENCH)/.benching
BENCH_PIP := PYTHONWARNINGS=ignore $(BENCH)/bin/python -m pip install --quiet

.PHONY: demo admin test soak chaos handover scale lint matrix bench bench-claims bench-limits bench-pages screenshots clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

$(DEMO): $(BIN)/python setup.cfg pyproject.toml
	$(PIP) --editable '.[example]' '$(DJANGO)'
	touch $@

$(TESTING): $(BIN)/python setup.cfg pyproject.toml
	$(PIP) --editable '.[test]' '$(DJANGO)'
	touch $@

$(LINTING): $(TESTING)
	$(PIP) --editable '.[lint]' build
	touch $@

demo: $(DEMO)  ## real certificates, and tasks that misbehave, under the supervisor
	$(BIN)/python example/demo.py

admin: $(DEMO)  ## the admin of the demo's database at http://127.0.0.1:8000/admin/
	$(BIN)/python example/demo.py --admin

test: $(TESTING)  ## every test, on every database that is found
	$(BIN)/python -m tests.every_database $(ARGS)

soak: $(TESTING)  ## 2,000 tasks, one of two supervisors killed; 100,000 no-ops
	$(BIN)/python -m tests.every_database --only postgresql -m soak -s

chaos: $(TESTING)  ## break everything at random for a while; ARGS="--database mariadb --seed 7"
	$(BIN)/python -m tests.chaos $(ARGS)

handover: $(TESTING)  ## how long until lost tasks run again; ARGS="--seeds 50" cuts hosts off
	$(BIN)/python -m tests.chaos.handover $(or $(ARGS),--times)

scale: $(TESTING)  ## what a task and an idle host cost PostgreSQL; ARGS="--hosts 1 8"
	TEST_DATABASE_URL=postgresql:// $(BIN)/python -m tests.chaos.scale $(ARGS)

lint: $(LINTING)  ## ruff and mypy, strict; the wheel and the sdist hold what they should
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.check_dist

matrix: $(BIN)/python  ## every Python and Django of tox.ini that is found here
	$(PIP) tox
	PATH="$$PATH$(PYENV)" $(BIN)/tox run $(ARGS)

$(BENCHING): benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH_PIP) --upgrade pip
	$(BENCH_PIP) --requirement $<
	$(BENCH_PIP) --upgrade --no-deps --target $(BENCH)/upstream \
		django-background-tasks==1.2.8 six==1.17.0
	touch $@

bench: $(BENCHING)  ## speed beside the peers, into docs/benchmarks.md; ARGS=--resume
	BENCH_UPSTREAM=$(abspath $(BENCH)/upstream) $(BENCH)/bin/python -m benchmarks speed $(ARGS)

bench-claims: $(BENCHING)  ## claims in a table of a million rows; ARGS=--resume
	$(BENCH)/bin/python -m benchmarks claims $(ARGS)

bench-limits: $(BENCHING)  ## how late limits act, and what watching costs
	$(BENCH)/bin/python -m benchmarks limits $(ARGS)

bench-pages: $(BENCHING)  ## the admin's pages on a million rows
	$(BENCH)/bin/python -m benchmarks pages $(ARGS)

screenshots: $(TESTING)  ## the pictures of docs/screenshots, by a browser without a screen
	$(PIP) pillow
	$(BIN)/python docs/screenshots.py

clean:
	rm -rf .venv* .tox build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -f example/*.sqlite3* example/demo.log
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
