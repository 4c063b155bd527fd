# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plugin of pytest: coverage in every process that runs tests; COVERAGE_PROCESS_START names its settings."""

from __future__ import annotations

import coverage

MEASURE = coverage.process_startup()


def pytest_unconfigure() -> None:
    """Processes of xdist end without their own good-bye."""
    if MEASURE is not None:
        MEASURE.stop()
        MEASURE.save()
