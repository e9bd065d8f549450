# Every command does its own set-up; what is set up already is not set up again.
.PHONY: help demo compare experiment test lint types check environment clean
.DEFAULT_GOAL := help

PYTEST = TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m pytest

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: environment  ## logs, pipeline, server, one list re-ranked (DATASET=lastfm DATA=folder)
	@DATASET="$(DATASET)" DATA="$(DATA)" LISTS="$(LISTS)" WORLD="$(WORLD)" OUTPUT="$(OUTPUT)" scripts/demo.sh

compare: environment  ## every model on a log (DATASET=simulated, lastfm or cpcd, DATA=folder)
	@DATASET="$(DATASET)" DATA="$(DATA)" scripts/compare.sh

experiment: environment  ## models online in a simulated world (WORLD of worlds/, POLICIES of experiments/, SEED)
	@WORLD="$(WORLD)" POLICIES="$(POLICIES)" SEED="$(SEED)" scripts/experiment.sh

# In the order of files: by number of tests, the longest file, of one test, would come last and alone.
test: environment  ## every test, two files at a time
	@$(PYTEST) --numprocesses=2 --dist=loadfile --no-loadscope-reorder

lint: environment  ## ruff
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

types: environment  ## mypy on the library, the server and the events job
	@.venv/bin/mypy piano_tf serving tfx_pipeline/events

check: lint types test  ## all three

environment:  ## .venv, made once (PYTHON=/path/to/python3.10 chooses the interpreter)
	@PYTHON="$(PYTHON)" scripts/environment.sh

clean:  ## removes environment, caches and demo; comparisons and experiments stay
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
