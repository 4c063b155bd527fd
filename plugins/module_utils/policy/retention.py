# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Which snapshots of one guest and label stay (api-facts 7, bent by laws 1 to 4 and 13).

The rules have Proxmox's own words and meaning: they run in the order within, last, hourly, daily,
weekly, monthly, yearly; each keeps the newest snapshot of N further periods, and a period in which
an earlier rule kept one is not counted again.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Set, Tuple

from ..model import Snapshot
from .lookalike import ambiguous
from .naming import Recognition, local_time

PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly")
FUTURE_TOLERANCE = 300  # law 13, seconds ahead of the server's clock


@dataclass(frozen=True)
class Retention:
    """What to keep: counts per rule, ``within`` in seconds; all zero keeps nothing but the newest."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: int = 0

    @property
    def nothing(self) -> bool:
        """True when no rule keeps anything."""
        return self == Retention()


@dataclass(frozen=True)
class Decision:
    """What becomes of one snapshot, and why (``daily 2026-11-22``, ``last 2 of 3``)."""

    snapshot: Snapshot
    keep: bool
    why: Tuple[str, ...]


@dataclass(frozen=True)
class Sorted:
    """A guest's snapshots, told apart.

    ``whole``: managed ones by label, oldest first. ``broken``: unfinished ones on an unlocked guest,
    foreign ones among them with an empty label.
    ``in_progress``: the same under a lock. ``suspect``: whole ones whose ``snaptime`` cannot be
    trusted (law 13). ``skewed``: names of whole ones whose order by time and by parent differ. ``ambiguous``: what may be of
    another label in another timestamp format.
    """

    whole: Dict[str, Tuple[Snapshot, ...]]
    broken: Tuple[Tuple[str, Snapshot], ...]
    in_progress: Tuple[Tuple[str, Snapshot], ...]
    suspect: Tuple[Tuple[str, Snapshot], ...]
    foreign: Tuple[Snapshot, ...]
    skewed: frozenset[str]
    ambiguous: Tuple[Tuple[str, Snapshot], ...] = ()


def sort_snapshots(
    snapshots: Sequence[Snapshot], recognition: Recognition, server_time: int, locked: bool, named: Sequence[str] = ()
) -> Sorted:
    """Tell managed, broken and foreign snapshots apart and put the whole ones in order.

    ``server_time`` is the server's clock as Unix time; ``locked`` says whether the guest has a lock. A label that the user
    ``named`` is one whatever else it may be.
    """
    order, looped = _from_the_roots(snapshots)
    depths: Dict[str, int] = {}
    for snapshot in order:
        depths[snapshot.name] = depths.get(snapshot.parent or "", -1) + 1
    whole: Dict[str, List[Snapshot]] = {}
    unfinished: List[Tuple[str, Snapshot]] = []
    suspect: List[Tuple[str, Snapshot]] = []
    foreign: List[Snapshot] = []
    unsure: List[Tuple[str, Snapshot]] = []
    for snapshot in snapshots:
        label = recognition.label_of(snapshot)
        if label is None:
            foreign.append(snapshot)
            if snapshot.snapstate:
                unfinished.append(("", snapshot))
        elif snapshot.snapstate:
            unfinished.append((label, snapshot))
        elif label not in named and ambiguous(recognition, snapshot.name, label):
            unsure.append((label, snapshot))
        elif not believable(snapshot, server_time):
            suspect.append((label, snapshot))
        else:
            whole.setdefault(label, []).append(snapshot)
    ordered = {
        label: tuple(sorted(group, key=lambda s: (s.snaptime, depths[s.name], s.name)))
        for label, group in whole.items()
    }
    return Sorted(
        whole=ordered,
        broken=() if locked else tuple(unfinished),
        in_progress=tuple(unfinished) if locked else (),
        suspect=tuple(suspect),
        foreign=tuple(foreign),
        skewed=_skewed(order, {s.name: label for label, group in ordered.items() for s in group}, looped),
        ambiguous=tuple(unsure),
    )


def believable(snapshot: Snapshot, server_time: int) -> bool:
    """False for a time of 0 or one that lies ahead of the server's clock (law 13)."""
    return 0 < snapshot.snaptime <= server_time + FUTURE_TOLERANCE


def _from_the_roots(snapshots: Sequence[Snapshot]) -> Tuple[List[Snapshot], Set[str]]:
    """All snapshots, each after its parent, a branch at a time; and the names of those whose parents go in a circle."""
    names = {snapshot.name for snapshot in snapshots}
    children: Dict[str, List[Snapshot]] = {}
    todo: List[Snapshot] = []
    for snapshot in reversed(snapshots):
        if snapshot.parent is not None and snapshot.parent in names:
            children.setdefault(snapshot.parent, []).append(snapshot)
        else:
            todo.append(snapshot)
    order: List[Snapshot] = []
    while todo:
        snapshot = todo.pop()
        order.append(snapshot)
        todo += children.get(snapshot.name, ())
    reached = {snapshot.name for snapshot in order}
    lost = [snapshot for snapshot in snapshots if snapshot.name not in reached]
    return order + lost, {snapshot.name for snapshot in lost}


def _skewed(order: Sequence[Snapshot], label_of: Dict[str, str], looped: Set[str]) -> frozenset[str]:
    """Names of both sides of every pair of one label whose ancestor has the later time (law 13).

    ``order`` has each snapshot after its parent, a branch at a time, so that one walk in linear time will do. Of each
    label it keeps the latest times down the way from the root, and those on the way that nothing below contradicts
    yet: these never go down in time. What goes in a circle, or hangs on one, has no order at all.
    """
    found = {name for name in looped if name in label_of}
    way: List[Snapshot] = []
    latest: Dict[str, List[int]] = {}
    uncontradicted: Dict[str, List[Snapshot]] = {}
    for snapshot in order:
        if snapshot.name in looped:
            break
        while way and way[-1].name != snapshot.parent:
            left = way.pop()
            if left.name in label_of:
                latest[label_of[left.name]].pop()
                open_ones = uncontradicted[label_of[left.name]]
                if open_ones and open_ones[-1] is left:
                    open_ones.pop()
        way.append(snapshot)
        label = label_of.get(snapshot.name)
        if label is None:
            continue
        times, open_ones = latest.setdefault(label, []), uncontradicted.setdefault(label, [])
        if times and times[-1] > snapshot.snaptime:
            found.add(snapshot.name)
        times.append(max(times[-1] if times else 0, snapshot.snaptime))
        while open_ones and open_ones[-1].snaptime > snapshot.snaptime:
            found.add(open_ones.pop().name)
        open_ones.append(snapshot)
    return frozenset(found)


def decide(
    whole: Sequence[Snapshot],
    retention: Retention,
    timezone: Optional[datetime.tzinfo],
    protected: frozenset[str] = frozenset(),
    keep_newest: bool = True,
) -> List[Decision]:
    """What ``retention`` makes of the whole snapshots of one guest and label.

    ``whole`` is oldest first, as sort_snapshots puts it, and so is the answer. ``protected`` names
    are never pruned (the run's own snapshot, law 1; a disagreement about time, law 13). With
    ``keep_newest`` the newest always stays (law 3); only ``autosnap_clean`` with ``keep: 0`` does
    without.
    """
    newest_first = list(reversed(whole))
    kept: Dict[str, List[str]] = {}
    dropped: Set[str] = set()
    _keep_within(newest_first, retention.within, kept)
    _keep_last(newest_first, retention.last, kept)
    for rule in PERIODS:
        _keep_periods(newest_first, rule, getattr(retention, rule), timezone, kept, dropped)
    if keep_newest and newest_first:
        kept.setdefault(newest_first[0].name, ["newest"])
    for snapshot in whole:
        if snapshot.name in protected:
            kept.setdefault(snapshot.name, ["protected"])
    return [
        Decision(s, s.name in kept, tuple(kept.get(s.name, ["not kept by any rule"]))) for s in whole
    ]


def _keep_within(newest_first: Sequence[Snapshot], within: int, kept: Dict[str, List[str]]) -> None:
    if not within:
        return
    for snapshot in newest_first:
        if snapshot.snaptime > newest_first[0].snaptime - within:
            kept[snapshot.name] = ["within {0} s of the newest".format(within)]


def _keep_last(newest_first: Sequence[Snapshot], last: int, kept: Dict[str, List[str]]) -> None:
    """``last`` counts snapshots, not distinct times, and not those that ``within`` keeps."""
    left = [snapshot for snapshot in newest_first if snapshot.name not in kept]
    for number, snapshot in enumerate(left[:last], 1):
        kept[snapshot.name] = ["last {0} of {1}".format(number, last)]


def _keep_periods(
    newest_first: Sequence[Snapshot],
    rule: str,
    count: int,
    timezone: Optional[datetime.tzinfo],
    kept: Dict[str, List[str]],
    dropped: Set[str],
) -> None:
    """One rule of Proxmox's prune (api-facts 7): further entries of a period it takes are dropped for good."""
    if not count:
        return
    period_of = {s.name: _period(rule, local_time(s.snaptime, timezone)) for s in newest_first}
    covered = {period_of[name] for name in kept}
    taken: Set[str] = set()
    for snapshot in newest_first:
        period = period_of[snapshot.name]
        if snapshot.name in kept or snapshot.name in dropped or period in covered:
            continue
        if period in taken:
            dropped.add(snapshot.name)
        elif len(taken) == count:
            return
        else:
            taken.add(period)
            kept[snapshot.name] = ["{0} {1}".format(rule, period)]


def _period(rule: str, time: datetime.datetime) -> str:
    if rule == "hourly":
        return time.strftime("%Y-%m-%d %H:00")
    if rule == "daily":
        return time.strftime("%Y-%m-%d")
    if rule == "weekly":
        year, week, _day = time.isocalendar()
        return "{0}-W{1:02d}".format(year, week)
    if rule == "monthly":
        return time.strftime("%Y-%m")
    return time.strftime("%Y")
