# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Short waits, and the long form with ``make test-all``."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import acting
from ansible_collections.pve.autosnap.plugins.module_utils.pve import session, tasks, watcher


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """Poll and give up sooner; runs leave nothing in the home of who tests."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    for module, values in (
        (watcher, {"POLL_FIRST": 0.05, "POLL_MIN": 0.05, "PATIENCE": 1.5, "HOST_PATIENCE": 1.5}),
        (tasks, {"LOST_WAIT": 1.0, "LOST_POLL": 0.1}),
        (acting, {"LOCK_POLL": 0.2}),
        (session, {"RETRY_FIRST": 0.02, "RETRY_MAX": 0.2}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
