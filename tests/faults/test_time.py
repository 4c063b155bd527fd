# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clocks that step and days of 23 and 25 hours: the wall clock names snapshots, it never waits and never decides."""

from __future__ import annotations

import datetime
import zoneinfo

import pytest
from campaign import IDS, KEEP, check, managed, module, site, state_of
from simulator.running import Running

VIENNA = zoneinfo.ZoneInfo("Europe/Vienna")


@pytest.mark.parametrize("step", [-7200.0, 7200.0])
def test_the_control_node_s_clock_steps_in_mid_run(step: float) -> None:
    """Its wall clock is another one as soon as a file is there."""
    with Running(site(create_seconds=1)) as cluster:
        before = state_of(cluster)
        flag = cluster.directory / "stepped"
        cluster.when_written(flag.touch)
        prelude = "import os, time\nreal = time.time\ntime.time = lambda: real() + ({0} if os.path.exists({1!r}) else 0)".format(
            step, str(flag))
        answer = module(cluster, prelude=prelude, timeout="20s")
        check(cluster, before, answer)
        assert answer.statuses == dict.fromkeys(IDS, "created")
        assert all(len(managed(snapshots)) == KEEP for snapshots in state_of(cluster).values())


@pytest.mark.parametrize("day", [(2026, 3, 29), (2026, 10, 25)])
def test_runs_around_a_change_of_the_clocks_make_names_of_their_own(day: tuple[int, int, int]) -> None:
    """02:30 does not exist in March and comes twice in October: every run makes its snapshot, none is taken for another."""
    start = datetime.datetime(*day, 1, 30, tzinfo=VIENNA).timestamp()
    with Running(site()) as cluster:
        for hours in range(4):
            prelude = "import time\ntime.time = lambda: {0}".format(start + hours * 3600)
            before = state_of(cluster)
            answer = module(cluster, prelude=prelude, keep=KEEP + 2, timezone="Europe/Vienna")
            check(cluster, before, answer, keep=KEEP + 2)
            assert answer.statuses == dict.fromkeys(IDS, "created")
            assert [len(answer.of(vmid)["pruned"]) for vmid in IDS] == [int(hours > 1)] * len(IDS)
        for snapshots in state_of(cluster).values():
            assert len(managed(snapshots)) == KEEP + 2
