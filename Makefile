# Everything a contributor does. Each target builds the environment first when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export SOTAVISION_HOME ?= $(CURDIR)/.cache

.PHONY: help demo test lint fmt docs chapters export lab clean distclean

help:                   ## What there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(READY): constraints.txt settings.ini setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)          ## Train on Toynette and look at the results
	$(BIN)/sotavision train --data toynette --arch xresnet18 --size 64 --epochs 5 --seed 42 --out demo

test: $(READY)          ## All that CI checks
	$(BIN)/python tools/check.py

lint: $(READY)          ## Find unused names, wide lines, imports out of order
	$(BIN)/ruff check

fmt: $(READY)           ## Mend what can be mended safely
	$(BIN)/ruff check --fix

docs: $(READY)          ## The site, in _docs/
	$(BIN)/python tools/docs.py

chapters: $(READY)      ## Run every notebook in place and keep its outputs
	$(BIN)/python tools/chapters.py

export: $(READY)        ## Notebooks to modules, and tidy notebooks
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

lab: $(READY)           ## Open the course in JupyterLab
	$(BIN)/jupyter lab nbs

clean:                  ## Remove what is built; runs and downloads stay
	rm -rf _docs _proc build dist *.egg-info .pytest_cache .ruff_cache

distclean: clean        ## Remove the environment, runs, downloads and the demo too
	rm -rf .venv demo runs .cache
