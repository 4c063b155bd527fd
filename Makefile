# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

.PHONY: help demo test test-all benchmark benchmark-full clean

help:
	@echo "make demo      take, prune and list snapshots of a simulated cluster"
	@echo "make test      what CI runs"
	@echo "make test-all  the same with every ansible-core version and more random cases"
	@echo "make benchmark how fast runs are beside others, and what is possible (under an hour)"
	@echo "make clean     remove everything that the others made"

demo:
	@tests/demo/run

test:
	@tests/run

test-all:
	@tests/run --all

benchmark:
	@tests/benchmark/run

benchmark-full:
	@tests/benchmark/run --full

clean:
	rm -rf .venv .venv-test .cache dist .ansible .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/output
