# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: Proxmox's own words and meaning, bent by the laws."""

from __future__ import annotations

import dataclasses
import datetime
import random
import zoneinfo
from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.model import Snapshot
from ansible_collections.pve.autosnap.plugins.module_utils.policy import naming, retention
from ansible_collections.pve.autosnap.plugins.module_utils.policy.retention import (
    PERIODS,
    Decision,
    Retention,
    decide,
    sort_snapshots,
)
from hypothesis import example, given
from hypothesis import strategies as st

UTC = datetime.timezone.utc
VIENNA = zoneinfo.ZoneInfo("Europe/Vienna")
NOW = 1_800_000_000
OURS = naming.Recognition("auto", naming.TimestampFormat(naming.DEFAULT_FORMAT), naming.LEGACY_MARKERS, UTC)

counts = st.integers(0, 5)
retentions = st.builds(
    Retention, last=counts, hourly=counts, daily=counts, weekly=counts, monthly=counts, yearly=counts,
    within=st.sampled_from([0, 3600, 86400, 604800]),
)
steps = st.lists(st.integers(0, 400_000), min_size=0, max_size=40)
zones = st.sampled_from([UTC, VIENNA, None])


def chain(times: list[int], label: str = "daily") -> list[Snapshot]:
    """A line of snapshots, oldest first, each the parent of the next."""
    made: list[Snapshot] = []
    for number, time in enumerate(times):
        made.append(Snapshot(
            "auto{0}{1}".format(label, OURS.format.format(naming.local_time(1_000_000_000 + number, UTC))), time,
            "cv4pve-autosnap", made[-1].name if made else None))
    return made


def times_of(steps: list[int]) -> list[int]:
    times, at = [], NOW
    for step in steps:
        at -= step
        times.append(at)
    return times[::-1]


def kept(decisions: list[Decision]) -> list[str]:
    return [d.snapshot.name for d in decisions if d.keep]


@given(steps, retentions, zones)
@example([], Retention(), UTC)
def test_the_newest_always_stays(steps: list[int], retention: Retention, zone: datetime.tzinfo | None) -> None:
    """Law 3."""
    whole = chain(times_of(steps))
    decisions = decide(whole, retention, zone)
    assert [d.snapshot for d in decisions] == whole
    if whole:
        assert decisions[-1].keep


@given(steps, retentions, zones)
def test_every_decision_has_a_reason(steps: list[int], retention: Retention, zone: datetime.tzinfo | None) -> None:
    for decision in decide(chain(times_of(steps)), retention, zone):
        assert decision.why and all(decision.why)


@given(steps, retentions, zones, st.data())
def test_protected_names_stay(
    steps: list[int], retention: Retention, zone: datetime.tzinfo | None, data: st.DataObject
) -> None:
    """Law 1 for the snapshot just made, law 13 for a disagreement about time."""
    whole = chain(times_of(steps))
    protected = frozenset(data.draw(st.sets(st.sampled_from([s.name for s in whole]))) if whole else ())
    decisions = decide(whole, retention, zone, protected, keep_newest=False)
    assert protected <= set(kept(decisions))


@given(steps, retentions, zones)
def test_without_the_create_nothing_goes_that_it_would_keep(
    steps: list[int], retention: Retention, zone: datetime.tzinfo | None
) -> None:
    """Law 4: the plan without a create is made of the existing snapshots alone, whatever else was planned."""
    whole = chain(times_of(steps))
    with_create = decide([*whole, Snapshot("autodaily991231235959", NOW + 1, "cv4pve-autosnap")], retention, zone)
    without = decide(whole, retention, zone)
    if retention.nothing:
        return
    assert len(kept(without)) >= min(len(whole), 1)
    assert len(kept(with_create)) >= len(kept(without)) or len(kept(with_create)) >= 1


@given(steps, st.integers(0, 10))
def test_keep_counts_snapshots_not_times(steps: list[int], keep: int) -> None:
    whole = chain(times_of([0] * len(steps)))
    decisions = decide(whole, Retention(last=keep), UTC, keep_newest=False)
    assert kept(decisions) == [s.name for s in whole[max(0, len(whole) - keep):]]


@given(steps, retentions, zones)
def test_rules_only_add(steps: list[int], retention: Retention, zone: datetime.tzinfo | None) -> None:
    """As Proxmox's: a rule more never keeps fewer snapshots in all, and each rule's count is a limit."""
    whole = chain(times_of(steps))
    decisions = decide(whole, retention, zone)
    for rule in PERIODS:
        taken = [d for d in decisions if d.keep and d.why[0].startswith(rule + " ")]
        assert len(taken) <= getattr(retention, rule)
    last = [d for d in decisions if d.keep and d.why[0].startswith("last ")]
    assert len(last) <= retention.last


def reference_prune(whole: list[Snapshot], retention: Retention, zone: datetime.tzinfo) -> set[str]:
    """Proxmox's marking, written again from api-facts 7 in another shape: the names that stay."""
    marks: dict[str, str] = {}
    newest_first = sorted(whole, key=lambda s: s.snaptime, reverse=True)
    ids = {
        "hourly": "%Y/%m/%d/%H", "daily": "%Y/%m/%d", "weekly": "%G/%V", "monthly": "%Y/%m", "yearly": "%Y",
    }
    for snapshot in newest_first[:retention.last]:
        marks[snapshot.name] = "keep"
    for rule, pattern in ids.items():
        number = getattr(retention, rule)
        if number <= 0:
            continue

        def period(snapshot: Snapshot, pattern: str = pattern) -> str:
            return datetime.datetime.fromtimestamp(snapshot.snaptime, zone).strftime(pattern)

        already = {period(s) for s in newest_first if marks.get(s.name) == "keep"}
        new: set[str] = set()
        for snapshot in newest_first:
            if snapshot.name in marks or period(snapshot) in already:
                continue
            if period(snapshot) not in new:
                if len(new) >= number:
                    break
                new.add(period(snapshot))
                marks[snapshot.name] = "keep"
            else:
                marks[snapshot.name] = "remove"
    return {name for name, mark in marks.items() if mark == "keep"}


@given(st.lists(st.integers(1, 400_000), min_size=1, max_size=40), retentions, st.sampled_from([UTC, VIENNA]))
def test_as_proxmox_marks(steps: list[int], retention: Retention, zone: datetime.tzinfo) -> None:
    retention = dataclasses.replace(retention, within=0)
    whole = chain(times_of(steps))
    ours = set(kept(decide(whole, retention, zone, keep_newest=False)))
    assert ours == reference_prune(whole, retention, zone)


def six_hourly() -> list[Snapshot]:
    last = int(datetime.datetime(2026, 3, 31, 12, tzinfo=VIENNA).timestamp())
    return chain([last - 6 * 3600 * n for n in range(39, -1, -1)])


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (Retention(daily=3), ["03-29 18", "03-30 18", "03-31 12"]),
        (Retention(last=2, daily=3), ["03-28 23", "03-29 18", "03-30 18", "03-31 06", "03-31 12"]),
    ],
)
def test_the_worked_example_of_the_facts(retention: Retention, expected: list[str]) -> None:
    decisions = decide(six_hourly(), retention, VIENNA)
    assert [naming.local_time(d.snapshot.snaptime, VIENNA).strftime("%m-%d %H") for d in decisions if d.keep] == expected


def test_within_counts_back_from_the_newest_not_from_now() -> None:
    """Law 3: a guest that was off for a year keeps its last week."""
    whole = chain([NOW - 400 * 86400 + day * 86400 for day in range(30)])
    decisions = decide(whole, Retention(within=7 * 86400), UTC)
    assert len(kept(decisions)) == 7


def test_the_repeated_hour_is_one_period() -> None:
    """DST: both 02:xx of the fall-back hour have one hourly id, as in Proxmox VE."""
    first = int(datetime.datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp())
    whole = chain([first, first + 3600])
    assert len(kept(decide(whole, Retention(hourly=5), VIENNA))) == 1
    assert len(kept(decide(whole, Retention(hourly=5), UTC))) == 2


def test_456_of_720() -> None:
    """peers B2: hourly, keep 24, 30 days from 20 April with ddMMyyHHmmss; by name 456 runs delete the new one."""
    ours = naming.Recognition("auto", naming.TimestampFormat("ddMMyyHHmmss"), naming.LEGACY_MARKERS, UTC)
    start = int(datetime.datetime(2026, 4, 20, tzinfo=UTC).timestamp())
    by_time: list[Snapshot] = []
    by_name: list[Snapshot] = []
    wrong_by_time = wrong_by_name = 0
    for hour in range(720):
        new = Snapshot(ours.name("hourly", start + hour * 3600), start + hour * 3600, "cv4pve-autosnap")
        by_name = sorted([*by_name, new], key=lambda s: s.name, reverse=True)[:24]
        wrong_by_name += new not in by_name
        found = sort_snapshots([*by_time, new], ours, start + hour * 3600, locked=False)
        decisions = decide(found.whole["hourly"], Retention(last=24), UTC, frozenset([new.name]))
        by_time = [d.snapshot for d in decisions if d.keep]
        expected = {start + h * 3600 for h in range(max(0, hour - 23), hour + 1)}
        wrong_by_time += {s.snaptime for s in by_time} != expected
    assert (wrong_by_name, wrong_by_time) == (456, 0)


# ------------------------------------------------------------------ sorting


def listed(*snapshots: Snapshot) -> list[Snapshot]:
    mixed = list(snapshots)
    random.shuffle(mixed)
    return mixed


def test_foreign_broken_and_running_ones_are_told_apart() -> None:
    """Laws 1 and 2."""
    good, half = chain([NOW - 100, NOW - 50])
    half = dataclasses.replace(half, snapstate="delete")
    foreign = Snapshot("before_upgrade", NOW - 999, "by hand")
    pinned = Snapshot("autodaily261122021500", NOW - 800, "cv4pve-autosnap\nkeep me")
    snapshots = listed(good, half, foreign, pinned)
    unlocked = sort_snapshots(snapshots, OURS, NOW, locked=False)
    assert unlocked.whole == {"daily": (good,)}
    assert [s for _label, s in unlocked.broken] == [half]
    assert set(unlocked.foreign) == {foreign, pinned}
    locked = sort_snapshots(snapshots, OURS, NOW, locked=True)
    assert not locked.broken
    assert [s for _label, s in locked.in_progress] == [half]


@pytest.mark.parametrize("snaptime", [0, NOW + 301])
def test_a_time_that_cannot_be_true_is_never_counted(snaptime: int) -> None:
    """Law 13."""
    first, second = chain([NOW - 100, snaptime])
    found = sort_snapshots(listed(first, second), OURS, NOW, locked=False)
    assert found.whole == {"daily": (first,)}
    assert [s for _label, s in found.suspect] == [second]


def test_a_clock_a_little_ahead_is_fine() -> None:
    found = sort_snapshots(chain([NOW + 299]), OURS, NOW, locked=False)
    assert found.whole["daily"][0].snaptime == NOW + 299


def test_ties_go_by_parent_then_by_name() -> None:
    """Law 13."""
    whole = chain([NOW, NOW, NOW])
    assert sort_snapshots(listed(*whole), OURS, NOW, locked=False).whole["daily"] == tuple(whole)
    twins = [dataclasses.replace(s, parent=None) for s in whole]
    assert sort_snapshots(listed(*twins), OURS, NOW, locked=False).whole["daily"] == tuple(
        sorted(twins, key=lambda s: s.name))


def test_clock_skew_is_reported_and_protects_both_sides() -> None:
    """Law 13: the parent is newer by its time than the child."""
    old, parent, child = chain([NOW - 5000, NOW - 100, NOW - 400])
    found = sort_snapshots(listed(old, parent, child), OURS, NOW, locked=False)
    assert found.skewed == {parent.name, child.name}
    decisions = decide(found.whole["daily"], Retention(last=1), UTC, found.skewed)
    assert [d.snapshot.name for d in decisions if not d.keep] == [old.name]


def test_a_rolled_back_tree_is_no_skew() -> None:
    root, left = chain([NOW - 300, NOW - 200])
    right = dataclasses.replace(left, name="autodaily261122021500", snaptime=NOW - 100)
    assert not sort_snapshots([root, left, right], OURS, NOW, locked=False).skewed


def test_a_circle_of_parents_ends() -> None:
    one, two = chain([NOW - 200, NOW - 100])
    one = dataclasses.replace(one, parent=two.name)
    assert len(sort_snapshots([one, two], OURS, NOW, locked=False).whole["daily"]) == 2


def test_daily_and_daily2_leave_each_other_alone() -> None:
    both = chain([NOW - n for n in range(10, 0, -1)], "daily") + chain([NOW - n for n in range(20, 10, -1)], "daily2")
    found = sort_snapshots(listed(*both), OURS, NOW, locked=False)
    assert {label: len(group) for label, group in found.whole.items()} == {"daily": 10, "daily2": 10}
    pruned = {d.snapshot.name for d in decide(found.whole["daily"], Retention(last=1), UTC) if not d.keep}
    assert len(pruned) == 9
    assert not any(name.startswith("autodaily2") and len(name) == len("autodaily2") + 12 for name in pruned)


def ancestors(of: Snapshot, by_name: dict[str, Snapshot]) -> list[Snapshot]:
    """The plain way, which takes time by the square of the length."""
    found: list[Snapshot] = []
    parent = of.parent
    while parent is not None and parent in by_name and by_name[parent] not in found:
        found.append(by_name[parent])
        parent = by_name[parent].parent
    return found


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9), st.sampled_from(["a", "b", ""])), max_size=10), st.randoms())
def test_law_13_disagreements_are_those_that_the_plain_way_finds(shape: list[tuple[int, int, str]], order: Any) -> None:
    made = [Snapshot(str(number), time, parent=str(parent) if parent < number else None)
            for number, (time, parent, _label) in enumerate(shape)]
    label_of = {str(number): label for number, (_time, _parent, label) in enumerate(shape) if label}
    by_name = {snapshot.name: snapshot for snapshot in made}
    expected = {
        name for snapshot in made for above in ancestors(snapshot, by_name)
        if label_of.get(snapshot.name) and label_of.get(above.name) == label_of[snapshot.name]
        and above.snaptime > snapshot.snaptime for name in (above.name, snapshot.name)}
    order.shuffle(made)
    walked, looped = retention._from_the_roots(made)
    assert not looped and sorted(s.name for s in walked) == sorted(by_name)
    assert retention._skewed(walked, label_of, looped) == expected


def test_law_13_parents_that_go_in_a_circle_are_a_disagreement() -> None:
    made = [Snapshot("a", 1, parent="b"), Snapshot("b", 2, parent="a"), Snapshot("c", 3, parent="b"), Snapshot("d", 4)]
    walked, looped = retention._from_the_roots(made)
    assert retention._skewed(walked, dict.fromkeys("abcd", "x"), looped) == {"a", "b", "c"}


def test_a_long_chain_takes_no_time() -> None:
    chain = [snap(1_700_000_000 + number, parent=number) for number in range(20_000)]
    assert len(sort_snapshots(chain, RECOGNITION, 1_800_000_000, False).whole["daily"]) == 20_000


RECOGNITION = naming.Recognition("auto", naming.TimestampFormat("yyMMddHHmmss"), ("cv4pve-autosnap",), datetime.timezone.utc)


def snap(time: int, parent: int) -> Snapshot:
    """One of a chain, a second after the other."""
    return Snapshot(RECOGNITION.name("daily", time), time, "cv4pve-autosnap",
                    RECOGNITION.name("daily", time - 1) if parent else None)
