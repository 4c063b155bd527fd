# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a guest has the snapshots that are expected of it: rules, and properties for all inputs."""

from __future__ import annotations

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.model import Snapshot
from ansible_collections.pve.autosnap.plugins.module_utils.policy import health, naming
from ansible_collections.pve.autosnap.plugins.module_utils.policy.retention import sort_snapshots
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000
HOUR = 3600
RECOGNITION = naming.Recognition("auto", naming.TimestampFormat(naming.DEFAULT_FORMAT), naming.LEGACY_MARKERS)


def snapshot(age: int, label: str = "daily", **more: object) -> Snapshot:
    made = NOW - age
    return Snapshot(**{
        "name": RECOGNITION.name(label, made), "snaptime": made, "description": "cv4pve-autosnap", **more})  # type: ignore[arg-type]


def verdict(snapshots: list[Snapshot], locked: bool = False, **expectation: int) -> health.Verdict:
    found = sort_snapshots(snapshots, RECOGNITION, NOW, locked)
    return health.judge(health.Expectation("daily", **expectation), found, NOW)


@pytest.mark.parametrize(("snapshots", "given_", "status", "level", "words"), [
    ([snapshot(HOUR)], {"max_age": 26 * HOUR}, "ok", "ok", ""),
    ([snapshot(26 * HOUR)], {"max_age": 26 * HOUR}, "ok", "ok", ""),
    ([snapshot(26 * HOUR + 1)], {"max_age": 26 * HOUR}, "stale", "critical", "26 h old, max_age is 26 h"),
    ([snapshot(500 * HOUR)], {}, "ok", "ok", ""),
    ([], {}, "missing", "critical", "no whole snapshot of label daily"),
    ([snapshot(HOUR, "weekly")], {}, "missing", "critical", "no whole snapshot of label daily"),
    ([snapshot(HOUR, description="mine")], {}, "missing", "critical", "no whole snapshot"),
    ([snapshot(HOUR), snapshot(25 * HOUR)], {"min_count": 3}, "missing", "critical", "2 of at least 3"),
    ([snapshot(HOUR), snapshot(25 * HOUR, snapstate="delete")], {}, "broken", "warning", "broken: autodaily"),
    ([snapshot(HOUR, snapstate="prepare")], {}, "broken", "critical", "no whole snapshot of label daily; broken: "),
    ([snapshot(99 * HOUR), snapshot(HOUR, snapstate="prepare")], {"max_age": 26 * HOUR}, "broken", "critical", "4 d old"),
    ([snapshot(HOUR, "weekly", snapstate="delete"), snapshot(HOUR)], {}, "ok", "ok", ""),
    ([snapshot(-2 * HOUR)], {}, "missing", "critical", "cannot be true"),
])
def test_verdicts(snapshots: list[Snapshot], given_: dict[str, int], status: str, level: str, words: str) -> None:
    made = verdict(snapshots, **given_)
    assert (made.status, made.level) == (status, level)
    assert words in made.reason


def test_a_snapshot_in_progress_protects_nobody_and_is_not_broken() -> None:
    assert verdict([snapshot(1, snapstate="prepare")], locked=True).status == "missing"
    assert verdict([snapshot(1, snapstate="prepare"), snapshot(HOUR)], locked=True).status == "ok"


def test_the_worst_verdict_counts() -> None:
    good, warning = verdict([snapshot(1)]), verdict([snapshot(1), snapshot(2, snapstate="delete")])
    assert health.worst([good, warning, health.unreachable(health.Expectation("x"), "node pve3 is offline")]).level == "critical"
    assert health.worst([good, warning]) == warning
    assert health.worst([]) is None
    assert health.highest([]) == "ok"


@given(
    ages=st.lists(st.integers(1, 10_000_000), unique=True, max_size=8),
    max_age=st.integers(0, 5_000_000), min_count=st.integers(1, 5), extra=st.integers(1, 10_000_000))
def test_never_ok_without_a_fresh_whole_snapshot_and_one_more_never_hurts(
    ages: list[int], max_age: int, min_count: int, extra: int
) -> None:
    made = verdict([snapshot(age) for age in ages], max_age=max_age, min_count=min_count)
    fresh = [age for age in ages if not max_age or age <= max_age]
    assert (made.status == "ok") == (len(ages) >= min_count and bool(fresh))
    if made.status == "ok" and extra not in ages:
        assert verdict([snapshot(age) for age in [*ages, extra]], max_age=max_age, min_count=min_count).status == "ok"


@pytest.mark.parametrize(("seconds", "text"), [(90, "90 s"), (4500, "75 min"), (108000, "30 h"), (1_036_800, "12 d")])
def test_durations_for_people(seconds: int, text: str) -> None:
    assert health.human_duration(seconds) == text
