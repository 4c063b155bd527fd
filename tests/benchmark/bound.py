# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The time that no run can beat: the tasks' own durations under the same limits, nothing else taking any time."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.pve.autosnap.plugins.module_utils.arguments import Parallel


@dataclass(frozen=True)
class Work:
    """One guest: a create, then a delete (seconds)."""

    node: str
    create: float
    delete: float


def lower_bound(work: list[Work], creates: Parallel, deletes: Parallel) -> float:
    """Seconds that every schedule takes at least.

    No guest is faster than its own two tasks. Within the run and within each node, all creates need their
    share of the limit before the last delete can follow, and all deletes need theirs after the first
    creates. Each guest is on a storage of its node alone, whose limits are no tighter than the node's.
    """
    bounds = [one.create + one.delete for one in work]
    groups = [(work, creates.total, deletes.total)]
    groups += [([one for one in work if one.node == name], creates.per_node, deletes.per_node)
               for name in sorted({one.node for one in work})]
    for group, at_once, deletes_at_once in groups:
        shortest = sorted(one.create for one in group)[:deletes_at_once]
        bounds.append(sum(one.create for one in group) / at_once + min(one.delete for one in group))
        if len(shortest) == deletes_at_once:
            bounds.append((sum(shortest) + sum(one.delete for one in group)) / deletes_at_once)
    return max(bounds)
