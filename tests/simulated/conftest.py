# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The waits of real life, shortened for the tests in this process."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import acting
from ansible_collections.pve.autosnap.plugins.module_utils.pve import tasks, watcher


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """Poll and give up sooner; runs leave nothing in the home of who tests."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setattr(watcher, "POLL_FIRST", 0.05)
    monkeypatch.setattr(watcher, "POLL_MIN", 0.05)
    monkeypatch.setattr(tasks, "LOST_WAIT", 1.0)
    monkeypatch.setattr(tasks, "LOST_POLL", 0.1)
    monkeypatch.setattr(acting, "LOCK_POLL", 0.2)
