# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages that several tests look at."""

from __future__ import annotations

import pathlib

import pytest
from clusters import report


@pytest.fixture(scope="session", name="pages")
def fixture_pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, pathlib.Path]:
    """Pages of 40 and of 1,000 guests."""
    return {count: report(tmp_path_factory.mktemp("page"), count) for count in (40, 1000)}
