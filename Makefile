# Every target is one command of make.py, which also runs where make does not.
PYTHON ?= python3

.PHONY: demo up down cluster test test-faults test-cluster bench lint
demo up down cluster test test-faults test-cluster bench lint:
	@$(PYTHON) make.py $@
