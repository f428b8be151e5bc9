# Every target is one command of make.py, which also runs where make does not.
PYTHON ?= python3

.PHONY: demo test lint
demo test lint:
	@$(PYTHON) make.py $@
