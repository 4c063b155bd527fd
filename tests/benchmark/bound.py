# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The time that no run can beat: the tasks' own durations under the same limits, nothing else taking any time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One guest: a create, then a delete (seconds)."""

    node: str
    create: float
    delete: float


@dataclass(frozen=True)
class Limit:
    """How many creates and deletes may run at once."""

    creates: int
    deletes: int


def lower_bound(work: list[Work], run: Limit, node: Limit) -> float:
    """Seconds that every schedule takes at least.

    No guest is faster than its own two tasks. Within the run and within each node, all creates need their
    share of the limit before the last delete can follow, and all deletes need theirs after the first
    creates. A storage of a node has limits that are wider than the node's.
    """
    nodes = sorted({one.node for one in work})
    bounds = [one.create + one.delete for one in work]
    for group, limit in [(work, run), *(([one for one in work if one.node == name], node) for name in nodes)]:
        creates = sorted(one.create for one in group)
        deletes = [one.delete for one in group]
        bounds.append(sum(creates) / limit.creates + min(deletes))
        first = creates[:limit.deletes]
        bounds.append((sum(first) + sum(deletes)) / limit.deletes if len(first) == limit.deletes else 0.0)
    return max(bounds)
