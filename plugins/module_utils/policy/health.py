# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Whether a guest has the snapshots that are expected of it.

Only whole snapshots count, so a broken one, one in progress and one whose time cannot be true protect nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from .retention import Sorted
from .selection import Term

OK = "ok"
STALE = "stale"
MISSING = "missing"
BROKEN = "broken"
UNREACHABLE = "unreachable"
UNPROTECTED = "unprotected"
STATUSES = (OK, STALE, MISSING, BROKEN, UNREACHABLE, UNPROTECTED)
LEVELS = (OK, "warning", "critical")


@dataclass(frozen=True)
class Expectation:
    """At least ``min_count`` whole snapshots of ``label``, the newest not older than ``max_age`` seconds (0: any age).

    ``terms`` narrow the selected guests down; None means all of them.
    """

    label: str
    max_age: int = 0
    min_count: int = 1
    terms: Optional[Tuple[Term, ...]] = None


@dataclass(frozen=True)
class Verdict:
    """What became of one expectation for one guest. ``newest`` is the ``snaptime`` of the newest whole snapshot."""

    label: str
    status: str
    level: str
    reason: str = ""
    count: int = 0
    newest: Optional[int] = None


def judge(expectation: Expectation, found: Sorted, server_time: int) -> Verdict:
    """The verdict on a guest that was read; ``server_time`` is the server's clock, Unix seconds.

    A broken snapshot beside enough good ones is a warning: it still holds space, and often a lock comes after it.
    """
    label = expectation.label
    whole = found.whole.get(label, ())
    newest = whole[-1].snaptime if whole else None
    status, reason = _shortfall(expectation, len(whole), None if newest is None else server_time - newest)
    doubtful = [snapshot.name for of, snapshot in found.suspect if of == label]
    if status != OK and doubtful:
        reason += "; the time of {0} cannot be true".format(", ".join(doubtful))
    broken = ["{0} ({1})".format(snapshot.name, snapshot.snapstate) for of, snapshot in found.broken if of == label]
    level = LEVELS[0] if status == OK else LEVELS[2]
    if broken:
        reason = "; ".join(text for text in (reason, "broken: " + ", ".join(broken)) if text)
        status, level = BROKEN, LEVELS[1] if status == OK else level
    return Verdict(label, status, level, reason, len(whole), newest)


def unreachable(expectation: Expectation, reason: str) -> Verdict:
    """The verdict on a guest that could not be read."""
    return Verdict(expectation.label, UNREACHABLE, LEVELS[2], reason)


def worst(verdicts: Sequence[Verdict]) -> Optional[Verdict]:
    """The first verdict of the highest level; None where there is none."""
    return max(verdicts, key=lambda verdict: LEVELS.index(verdict.level), default=None)


def highest(levels: Sequence[str]) -> str:
    """The highest of some levels, ``ok`` of none."""
    return max(levels, key=LEVELS.index, default=OK)


def _shortfall(expectation: Expectation, count: int, age: Optional[int]) -> Tuple[str, str]:
    if age is None:
        return MISSING, "no whole snapshot of label {0}".format(expectation.label)
    if count < expectation.min_count:
        return MISSING, "{0} of at least {1} snapshots of label {2}".format(count, expectation.min_count, expectation.label)
    if expectation.max_age and age > expectation.max_age:
        return STALE, "the newest of label {0} is {1} old, max_age is {2}".format(
            expectation.label, human_duration(age), human_duration(expectation.max_age))
    return OK, ""


def human_duration(seconds: int) -> str:
    """Seconds for a person, rounded down: ``90 s``, ``75 min``, ``30 h``, ``12 d``."""
    if seconds < 120:
        return "{0} s".format(seconds)
    minutes = seconds // 60
    if minutes < 120:
        return "{0} min".format(minutes)
    hours = minutes // 60
    if hours < 72:
        return "{0} h".format(hours)
    return "{0} d".format(hours // 24)
