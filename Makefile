# The targets that users call. Each installs what it uses, and nothing else, on the first call.

PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
# `make install` writes $(PREFIX)/lib/tcp-truth-lab, $(PREFIX)/bin/lab and the shells' completions.
PREFIX := /usr/local
# Packages of the distribution: for every command, for the suite, for `lab bench`, for guests.
PACKAGES := python3-bpfcc python3-venv linux-libc-dev gcc libc6-dev
TEST_PACKAGES := bpftrace curl iperf3 iproute2 libbpf-tools nftables openssl redis-tools stress-ng tcpdump tshark
BENCH_PACKAGES := bpfcc-tools bpftrace libbpf-tools tcpdump tshark
VM_PACKAGES := qemu-system-x86 busybox-static kmod
# The suite starts thousands of Python processes. Without compiled modules each of them compiles the lab again.
unexport PYTHONDONTWRITEBYTECODE
# Scenarios run in parallel, since each has its own hosts. The scenarios of one file share a process and its fixtures.
PARALLEL := --numprocesses 6 --dist loadfile --no-loadscope-reorder
# Download as root: apt's own user may have no access to the folder.
DOWNLOAD := apt-get -qq -o APT::Sandbox::User=root download
SOAK_RUNS := 20
SOAK_OF := scenarios
ROUNDS := 200
OF := bpf
SAMPLE := 30
SINCE :=
# Chapters and options for `make bench`: BENCH="--quick events".
BENCH :=
KERNEL := 6.1
KERNELS := 5.10 6.1 6.12 newest
ATTACH := fentry kprobe tracepoint
CLOCK := real
HOME_OF_LAB := $(PREFIX)/lib/tcp-truth-lab
INSTALLED := $(addprefix $(PREFIX)/,bin/lab share/bash-completion/completions/lab share/zsh/site-functions/_lab)
C_FILES = $(shell git ls-files "bpf/*.[ch]" "wire/*.[ch]")

# Install the packages of the distribution that are missing.
define APT
dpkg -s $(1) >/dev/null 2>&1 || { \
	command -v apt-get >/dev/null || { echo "make: set-up supports Debian and Ubuntu only: install BCC's Python package yourself" >&2; exit 2; }; \
	[ "$$(id -u)" -eq 0 ] || { echo "make: some of the packages $(1) are missing: run as root (sudo make $(MAKECMDGOALS)) once" >&2; exit 2; }; \
	apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $(1); }
endef
# Install the lab in the environment of the checkout, with the packages of some extras (pyproject.toml).
PIP_INSTALL = $(BIN)/pip install --quiet --quiet --editable

.PHONY: install uninstall demo test rootless check soak torture mutants bench bench-gate sharpness-gate format clean vm vm-matrix \
	setup test-setup check-setup bench-setup vm-setup
.NOTPARALLEL: # apt and pip have one lock each

# The command `lab` for every user of this machine, in an environment of its own.
install:
	@$(call APT,$(PACKAGES))
	@# BCC's module is installed for the distribution's Python: create the environment with it, and with its packages.
	@umask 022 && { test -x $(HOME_OF_LAB)/bin/python || $(PYTHON) -m venv --system-site-packages $(HOME_OF_LAB); } && \
		$(HOME_OF_LAB)/bin/pip install --quiet --quiet . && rm -rf build && \
		mkdir -p $(dir $(INSTALLED)) && ln -sfn ../lib/tcp-truth-lab/bin/lab $(PREFIX)/bin/lab && \
		$(PREFIX)/bin/lab completion bash >$(word 2,$(INSTALLED)) && \
		$(PREFIX)/bin/lab completion zsh >$(word 3,$(INSTALLED))
	@echo "installed $$($(PREFIX)/bin/lab --version) as $(PREFIX)/bin/lab"

uninstall:
	@rm -rf $(HOME_OF_LAB)
	@rm -f $(INSTALLED)

demo: setup
	@$(BIN)/lab demo

test: test-setup
	@$(BIN)/pytest scenarios $(PARALLEL)

# Tests that need no privileges and no particular kernel; they take seconds.
rootless: test-setup
	@$(BIN)/pytest scenarios $(PARALLEL) -m rootless

# The same checks as in pre-commit.
check: check-setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache >/dev/null || $(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-actions action.yml
	@$(BIN)/zizmor --quiet --offline --config .github/zizmor.yml .github action.yml
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: check-setup
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(C_FILES)

# Search for tests that fail falsely: every second run shares all processors with stress-ng.
soak: test-setup
	@trap 'test -z "$$load" || kill $$load' EXIT; trap 'exit 130' INT TERM; for run in $$(seq $(SOAK_RUNS)); do \
		load=""; \
		if [ $$((run % 2)) -eq 0 ]; then stress-ng --quiet --cpu 0 --timeout 1h & load=$$!; fi; \
		echo "run $$run of $(SOAK_RUNS)$${load:+, all processors busy}"; \
		$(BIN)/pytest $(SOAK_OF) $(PARALLEL) -q -m "not rootless"; status=$$?; \
		if [ -n "$$load" ]; then kill $$load; wait $$load 2>/dev/null; load=""; fi; \
		if [ $$status -ne 0 ]; then exit $$status; fi; \
	done; echo "$(SOAK_RUNS) runs without a failure"

# Signals and kills at random moments.
torture: test-setup
	@$(BIN)/pytest scenarios/robustness --rounds $(ROUNDS)

# Changes of the probes, or with OF=python of what judges them: how many do the scenarios notice? With SINCE=<commit>, five
# minutes with those of the files that have changed since.
mutants: test-setup
	@$(BIN)/python scenarios/mutation/mutants.py --of $(OF) --sample $(SAMPLE) $(if $(SINCE),--since $(SINCE) --minutes 5)

# Cost and accuracy of the probes and of comparable tools. Use an idle machine.
bench: bench-setup
	@$(BIN)/lab bench $(BENCH)

# Compare each program's executed instructions with the baseline. The numbers are the same on every machine.
bench-gate: setup $(VENV)/vm-ready
	@$(BIN)/lab gate

# Compare the widths of the brackets in the last run of `make vm CLOCK=virtual` with the baseline. They are the same on every
# machine.
sharpness-gate: setup
	@$(BIN)/lab sharpness latest --baseline results/sharpness.json

# Run the suite on another kernel in a virtual machine. KERNEL is a version or the path of a vmlinuz. vm-matrix runs
# several kernels. ATTACH lists the mechanisms, one run each.
vm: vm-setup
	@$(BIN)/lab vm --kernel $(KERNEL) --attach $(ATTACH) --clock $(CLOCK)

vm-matrix: vm-setup
	@$(BIN)/lab vm --kernel $(KERNELS) --attach $(ATTACH) --clock $(CLOCK)

# What each group of targets needs. `setup` is what every command of the lab needs in a checkout.
setup: $(VENV)/ready $(BIN)/lab-relay $(BIN)/lab-tap $(BIN)/lab-load
test-setup: setup $(VENV)/test-ready $(VENV)/servers $(VENV)/browser
check-setup: $(VENV)/check-ready
bench-setup: setup $(VENV)/bench-ready
# Guests run the suite over this machine's own root file system.
vm-setup: test-setup $(VENV)/vm-ready

$(VENV)/ready: pyproject.toml Makefile
	@$(call APT,$(PACKAGES))
	@# BCC's module is installed for the distribution's Python: create the environment with it, and with its packages.
	@test -x $(BIN)/python || $(PYTHON) -m venv --system-site-packages $(VENV)
	@$(PIP_INSTALL) .
	@touch $@

$(VENV)/test-ready: pyproject.toml Makefile | $(VENV)/ready
	@$(call APT,$(TEST_PACKAGES))
	@# Debian has a package bpftool. On Ubuntu it is part of the kernel's tools.
	@command -v bpftool >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends bpftool || \
		DEBIAN_FRONTEND=noninteractive apt-get -q install -y linux-tools-common linux-tools-$$(uname -r)
	@$(PIP_INSTALL) '.[test]'
	@touch $@

$(VENV)/check-ready: pyproject.toml Makefile | $(VENV)/ready
	@$(PIP_INSTALL) '.[check]'
	@touch $@

$(VENV)/bench-ready: pyproject.toml Makefile | $(VENV)/ready
	@$(call APT,$(BENCH_PACKAGES))
	@touch $@

$(VENV)/vm-ready: pyproject.toml Makefile | $(VENV)/ready
	@$(call APT,$(VM_PACKAGES))
	@$(PIP_INSTALL) '.[vm]'
	@touch $@

# The suite opens the report in a browser. Ubuntu's Chromium is a snap, which cannot read root's files; there Playwright
# installs one.
$(VENV)/browser: | $(VENV)/test-ready
	@{ command -v chromium || command -v google-chrome; } >/dev/null || { apt-get -q update && \
		DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends chromium fonts-dejavu-core; } || \
		$(BIN)/playwright install --with-deps chromium
	@touch $@

# The wire's relay, for kernels without netem and for tests that need a log of every frame.
$(BIN)/lab-relay: $(wildcard wire/relay/*) wire/clock.h wire/process.h | $(VENV)/ready
	@gcc -O2 -std=gnu11 -Wall -Wextra -Werror -o $@ wire/relay/relay.c

# The taps at the hosts' interfaces.
$(BIN)/lab-tap: wire/tap.c wire/clock.h wire/process.h | $(VENV)/ready
	@gcc -O2 -std=gnu11 -Wall -Wextra -Werror -pthread -o $@ wire/tap.c

# The load generator of the bench.
$(BIN)/lab-load: wire/load.c wire/clock.h | $(VENV)/ready
	@gcc -O2 -std=gnu11 -Wall -Wextra -Werror -o $@ wire/load.c

# The scenarios' servers must not become services of this machine.
# - iperf3's package asks before it installs a service. Without an answer the default is no.
# - redis-tools has no service, and contains the server: redis-check-rdb is redis-server under another name.
# - The packages of the others are extracted and not installed; only the libraries that they need are. Those of PostgreSQL's
#   compiler (LLVM) and of Prometheus' old web pages (libjs) are not needed.
$(VENV)/servers: | $(VENV)/ready
	@rm -rf $@ $@.new && mkdir -p $@.new && cd $@.new && { apt-cache show postgresql >/dev/null 2>&1 || apt-get -q update; } && \
		database=$$(apt-cache depends --important postgresql | sed -n 's/.*Depends: //p') && \
		packages="nginx haproxy memcached rsync prometheus $$database $$(echo $$database | sed s/-/-client-/)" && \
		{ $(DOWNLOAD) $$packages || { apt-get -q update && $(DOWNLOAD) $$packages; }; } && \
		libraries=$$(for it in *.deb; do dpkg-deb --field $$it Depends | tr ',' '\n'; done | sed -n '/llvm\|libjs/d; s/^ *\(lib.*\)/\1,/p') && \
		DEBIAN_FRONTEND=noninteractive apt-get -q satisfy -y --no-install-recommends "$${libraries%,}" >/dev/null && \
		for it in *.deb; do dpkg-deb --extract $$it .; done && \
		rm -r *.deb usr/share/doc usr/share/locale usr/share/man && mkdir bin && cd bin && \
		ln -s ../usr/sbin/nginx ../usr/sbin/haproxy ../usr/bin/memcached ../usr/bin/rsync ../usr/bin/prometheus ../usr/lib/postgresql/*/bin/* . && \
		mv "$(CURDIR)/$@.new" "$(CURDIR)/$@" || \
		{ echo "make: cannot download servers from the distribution: check the network and apt's sources" >&2; exit 2; }

clean:
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/tcp-truth-lab/programs"
