# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Which API hosts have quorum, and which one to use in the place of one that has none (api-facts 5.3)."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence, Set, Tuple, TypeVar

from . import errors

Read = TypeVar("Read")


class Quorum:
    """What is known of the hosts' quorum. The caller sees to it that only one thread asks at a time.

    ``hosts`` are their names, ``ask`` reads a path from one of them, by its number. ``lost`` is set where no host is left that
    could write, ``warnings`` has a sentence on each that was left.
    """

    def __init__(self, hosts: Sequence[str], ask: Callable[..., Any]) -> None:
        self._hosts = hosts
        self._ask = ask
        self._without: Set[int] = set()
        self._nodes: Set[str] = set()
        self.lost: Optional[errors.NoQuorum] = None
        self.warnings: List[str] = []

    def known_without(self, index: int) -> bool:
        """True for a host that is known to have none."""
        return index in self._without

    def better_than(self, index: int) -> Optional[int]:
        """A host with quorum in the place of one without; None where it has quorum, or there is none. Two calls a host."""
        told = self._told(index)
        if (self._sees_enough(index) if told is None else told) is not False:
            return None
        for other in self._others(index):
            if self._has(other):
                self._without.add(index)
                return self._left(index, other)
        # What it sees alone proves nothing: it stays one to come back to.
        if told is False:
            self._without.add(index)
        self.warnings.append(
            "API host {0} has no quorum: what it shows may be old, and nothing can be written".format(self._hosts[index]))
        return None

    def after_refusal(self, index: int, node: str, text: str) -> Optional[int]:
        """The host to use after a node refused a write with ``text``, for lack of quorum; None to stay.

        A node that has lost its quorum tells nothing of the others, so each makes the host in use doubtful once.
        """
        if node in self._nodes:
            return None
        self._nodes.add(node)
        if self._has(index, node) is not False:
            return None
        self._without.add(index)
        for other in self._others(index):
            if other not in self._without and self._may_have(other):
                return self._left(index, other)
        self.lost = errors.NoQuorum("there is no quorum, as {0} sees it: {1}".format(self._hosts[index], text))
        return None

    def _others(self, index: int) -> List[int]:
        """Those after it come first."""
        return [(index + step) % len(self._hosts) for step in range(1, len(self._hosts))]

    def _left(self, index: int, other: int) -> int:
        self.warnings.append("API host {0} has no quorum, so {1} is used in its place".format(
            self._hosts[index], self._hosts[other]))
        return other

    def _may_have(self, index: int) -> bool:
        """Whether a host answers, and does not say that it has none."""
        told = self._told(index)
        if told is False:
            self._without.add(index)
        return bool(told) or told is None and self._nodes_of(index) is not None

    def _has(self, index: int, refused: str = "") -> Optional[bool]:
        """Whether a host has quorum, as it says, or as what it sees of the others lets us think; None where nothing tells.

        ``refused`` is a node that did, for lack of quorum."""
        told = self._told(index)
        return self._sees_enough(index, refused) if told is None else told

    def _told(self, index: int) -> Optional[bool]:
        """What a host says itself; None without Sys.Audit (api-facts 5.3). A node on its own has no entry of a cluster."""
        def read() -> bool:
            found = [item.get("quorate") for item in self._ask(index, "cluster", "status") if item["type"] == "cluster"]
            return not found or str(found[0]) in ("1", "True")

        return _answer("its status", read)

    def _sees_enough(self, index: int, refused: str = "") -> Optional[bool]:
        """The only trace without Sys.Audit: a host shows the nodes of other parts of a cluster that broke apart as offline.

        Half of the nodes may be enough (with a QDevice, or ``two_node``) or not. There the part of the host is without quorum
        where a node of it refused.
        """
        nodes = self._nodes_of(index)
        if nodes is None:
            return None
        online = [name for name, status in nodes if status != "offline"]
        if 2 * len(online) != len(nodes):
            return 2 * len(online) > len(nodes)
        return False if refused in online else None

    def _nodes_of(self, index: int) -> Optional[List[Tuple[str, str]]]:
        """Name and status of each node, as a host shows them."""
        return _answer("its nodes", lambda: [
            (str(item["node"]), str(item.get("status"))) for item in self._ask(index, "nodes")])


def _answer(what: str, read: Callable[[], Read]) -> Optional[Read]:
    """None where it cannot be read: that is no proof of anything."""
    try:
        return errors.understood(what, read)
    except errors.Interrupted:
        raise
    except errors.PveError:
        return None
