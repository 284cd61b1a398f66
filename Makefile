# Two commands do everything: `make demo` and `make test`.
# Each target makes the environment that it needs; only git, make and python3 are assumed.
PYTHON ?= python3
VENV ?= .venv
DJANGO ?= Django>=5.2
export PYTHONDONTWRITEBYTECODE ?= 1
BIN := $(VENV)/bin
TESTING := $(VENV)/.testing
LINTING := $(VENV)/.linting

.PHONY: demo admin test soak lint matrix dist-check clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(TESTING): $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]' '$(DJANGO)'
	touch $@

$(LINTING): $(TESTING)
	$(BIN)/python -m pip install --quiet --editable '.[lint]' build
	touch $@

demo: $(TESTING)  ## real certificates, and tasks that misbehave, under the supervisor
	$(BIN)/python example/demo.py

admin: $(TESTING)  ## the admin of the demo's database at http://127.0.0.1:8000/admin/
	$(BIN)/python example/demo.py --admin

test: $(TESTING)  ## every test, on every database that is found
	PYTHONDEVMODE=1 $(BIN)/python -m tests.every_database $(ARGS)

soak: $(TESTING)  ## 2,000 tasks under two supervisors on PostgreSQL, one of them killed
	PYTHONDEVMODE=1 $(BIN)/python -m tests.every_database --only postgresql -m soak -s

lint: $(LINTING)  ## ruff and mypy, strict; the wheel and the sdist hold what they should
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.check_dist

matrix: $(BIN)/python  ## every Python and Django of tox.ini that is found here
	$(BIN)/python -m pip install --quiet tox
	$(BIN)/tox run

clean:
	rm -rf .venv* .tox build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -f example/*.sqlite3* example/demo.log
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
