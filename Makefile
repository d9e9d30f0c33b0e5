# The one list of what can be done here; `make help` prints it. Set-up is in scripts/setup, once and only when needed.

PY      := .venv/bin/python
STAMP   := .venv/.installed
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard csrc/*.c csrc/*.h contiv/_fastpath/*.pyx contiv/_fastpath/*.pxd contiv/_fastpath/*.pxi)
C_FILES := $(filter-out cni/contiv-cni,$(wildcard cni/*.c cni/*.h cni/*.proto cni/Makefile contiv/cni/*.proto))
TESTS   ?= tests
SECONDS ?= 60
MINUTES ?= 10
SEED    ?= 1
DATAPLANE ?= emulator

.PHONY: help install demo test test-slow chaos truth vm lint bench fuzz sanitize generate clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) cni/contiv-cni ## set everything up: Debian packages, .venv, C and Cython

$(STAMP): $(SOURCES) scripts/setup
	@scripts/setup

cni/contiv-cni: $(STAMP) $(C_FILES)
	@$(MAKE) --no-print-directory -s -C cni
	@touch $@

demo: install ## two nodes on this machine, pods that talk through VPP (or its emulator), a table at the end
	@scripts/need-root demo
	@$(PY) -m contiv.cli.main demo $(ARGS)

test: install ## the whole suite; the data-plane part runs on the emulator and, where installed, on VPP
	@scripts/need-root test
	@$(PY) -m pytest -q -m "not slow" --reruns 1 $(TESTS) $(ARGS)

test-slow: install ## the long tests: scale, churn
	@scripts/need-root test-slow
	@$(PY) -m pytest -q -m slow $(TESTS) $(ARGS)

chaos: install ## churn and faults on a demo cluster, then the invariants: MINUTES=10 SEED=1 DATAPLANE=emulator
	@scripts/need-root chaos
	@$(PY) -m tests.chaos --minutes $(MINUTES) --seed $(SEED) --dataplane $(DATAPLANE)

truth: install ## every policy truth case with real packets; DATAPLANE=vpp for VPP instead of the emulator
	@scripts/need-root truth
	@$(PY) -m pytest -q tests/truth -k "test_cases or test_connectivity or $(DATAPLANE)-" $(ARGS)

vm: install ## a virtual machine: VPP takes its NIC on PCI, pods hang on TAPs, all goes back; needs qemu and VPP
	@scripts/need-root vm
	@$(PY) -m tests.vm

lint: install ## ruff, mypy strict, import contracts, warnings of C as errors
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@$(MAKE) --no-print-directory -C csrc lint
	@$(MAKE) --no-print-directory -C cni lint

bench: install ## every benchmark; see bench/README.md for single ones
	@scripts/need-root bench
	@for bench in "store.py" "ksr.py" "cni.py --dataplane auto" "dataplane.py" "connections.py" "events.py" "fastpath.py" "acl.py" "service.py" "scheduler.py" "resync.py" "policy.py" "policy_events.py"; do \
		echo "== bench/$$bench"; $(PY) bench/$$bench || exit 1; done

fuzz: install ## mutated input for SECONDS against codec and CNI plugin, under ASan and UBSan
	@$(MAKE) --no-print-directory -C csrc fuzz FUZZ_SECONDS=$(SECONDS)
	@$(MAKE) --no-print-directory -C cni fuzz FUZZ_SECONDS=$(SECONDS)

sanitize: install ## the C and Cython tests under ASan and UBSan
	@$(MAKE) --no-print-directory -C csrc sanitize
	@$(MAKE) --no-print-directory -C cni sanitized

generate: install ## generated sources: the CNI protocol in Python
	@$(MAKE) --no-print-directory -C cni generate

clean: ## remove what was built; .venv stays
	@rm -rf build *.egg-info contiv/_fastpath/*.so
	@$(MAKE) --no-print-directory -s -C cni clean
	@rm -f $(STAMP)
