# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kit for two clusters, as a team would write it."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Any

import pytest
import yaml
from harness import RUNNER
from unsafe import Loader

HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long, or tools that nothing else needs, is for AUTOSNAP_ALL."""
    if not os.environ.get("AUTOSNAP_ALL"):
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The mount point of the jobs goes when no process uses it any more."""
    if not hasattr(session.config, "workerinput"):
        with contextlib.suppress(OSError):
            RUNNER.rmdir()


@pytest.fixture(name="kit")
def fixture_kit() -> dict[str, Any]:
    """Variables of the role."""
    return yaml.load((HERE / "kit.yml").read_text(), Loader)
