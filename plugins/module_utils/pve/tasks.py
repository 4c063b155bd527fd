# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Tasks: start a snapshot or its deletion, wait for the end, and never do either twice (laws 7, 8)."""

from __future__ import annotations

import random
import re
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from ..model import LXC, Guest, Snapshot
from . import errors
from .cluster import Cluster
from .session import Session

NAME = re.compile(r"\A[A-Za-z][A-Za-z0-9_-]{1,39}\Z")
SUCCESS = re.compile(r"\A(?:OK|WARNINGS: \d+)\Z")
POLL_FIRST = 0.5
POLL_MAX = 5.0
LOST_WAIT = 35.0  # law 8: longer than the 30 s that Proxmox's own proxy waits (api-facts 5.2)
LOST_POLL = 2.0
LOST_WRITES = 2
NODE_PATIENCE = 120.0  # seconds that a node may be silent while one of its tasks is awaited
CLOCK_SKEW = 600  # between the API host and the guest's node, seconds


@dataclass(frozen=True)
class Upid:
    """The parts of a task's name that are needed (api-facts 4.2); ``start`` is the node's own Unix time."""

    text: str
    node: str
    start: int
    type: str
    id: str

    @classmethod
    def parse(cls, text: str) -> Upid:
        """ValueError for a text that is not a UPID."""
        parts = text.split(":")
        if len(parts) != 9 or parts[0] != "UPID":
            raise ValueError("not a UPID: {0!r}".format(text))
        return cls(text, parts[1], int(parts[4], 16), parts[5], parts[6])


@dataclass(frozen=True)
class Done:
    """A finished task; ``warning`` holds the exit status when it was not plain OK. ``upid`` is None where a
    lost write was found done by its effect alone."""

    upid: Optional[str]
    warning: Optional[str] = None


class TaskTimeout(errors.PveError):
    """A task still ran when its time was up; it goes on, and ``upid`` names it."""

    code = "timeout"


class Tasks:
    """Starts and awaits snapshot tasks. Safe to share between threads."""

    def __init__(
        self,
        session: Session,
        cluster: Cluster,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._session = session
        self._cluster = cluster
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._known: Set[str] = set()
        # When a write was lost, by guest, method and name: it stays lost when it is tried again after a wait.
        self._lost: Dict[Tuple[int, str, str], int] = {}

    def create(
        self, guest: Guest, name: str, description: str, vmstate: bool, timeout: float,
        started: Callable[[str], None],
    ) -> Done:
        """Take a snapshot and wait for its end.

        ``timeout`` in seconds, ``started`` is told each UPID. Raises TaskFailed, TaskTimeout or what
        the session raises.
        """
        if not NAME.match(name):
            raise errors.BadParameter("the snapshot name {0!r} is not one that Proxmox VE takes".format(name))
        params: Dict[str, Any] = {"snapname": name, "description": description}
        if vmstate and guest.type != LXC:
            params["vmstate"] = True
        began = self._lost.get((guest.vmid, "post", name), self._session.clock.now())
        path = ("nodes", guest.node, guest.type, guest.vmid, "snapshot")

        def made() -> bool:
            snapshot = self._find(guest, name)
            return snapshot is not None and not snapshot.snapstate and (
                snapshot.description == description.rstrip() and snapshot.snaptime >= began - CLOCK_SKEW)

        kind = "vzsnapshot" if guest.type == LXC else "qmsnapshot"
        return self._run(guest, name, kind, ("post", path, params), made, errors.CLASH, timeout, started)

    def delete(
        self, guest: Guest, name: str, timeout: float, started: Callable[[str], None], force: bool = False
    ) -> Done:
        """Delete a snapshot and wait for its end; one that is already gone is success."""
        params: Dict[str, Any] = {"force": True} if force else {}
        path = ("nodes", guest.node, guest.type, guest.vmid, "snapshot", name)

        def gone() -> bool:
            return self._find(guest, name) is None

        kind = "vzdelsnapshot" if guest.type == LXC else "qmdelsnapshot"
        try:
            return self._run(guest, name, kind, ("delete", path, params), gone, errors.GONE, timeout, started)
        except errors.TaskFailed as error:
            if error.kind == errors.GONE:
                return Done(error.upid, "it was already gone")
            raise

    def running(self, guest: Guest) -> List[str]:
        """UPIDs of tasks on the guest that run now, as far as we may see them."""
        try:
            listed = self._session.read(
                "nodes", guest.node, "tasks", source="active", vmid=guest.vmid, limit=500).data
        except errors.PveError:
            return []
        return [str(item["upid"]) for item in listed]

    def log(self, upid: str, limit: int = 20) -> List[str]:
        """The last lines of a task's log; empty when it cannot be read."""
        try:
            answer = self._session.read("nodes", Upid.parse(upid).node, "tasks", upid, "log", limit=500)
        except (errors.PveError, ValueError):
            return []
        lines = answer.data if isinstance(answer.data, list) else [answer.data]  # recording 8.4/380
        return [str(line.get("t", "")) for line in lines][-limit:]

    def _find(self, guest: Guest, name: str) -> Optional[Snapshot]:
        for snapshot in self._cluster.snapshots(guest).snapshots:
            if snapshot.name == name:
                return snapshot
        return None

    def _run(
        self,
        guest: Guest,
        name: str,
        kind: str,
        call: Tuple[str, Tuple[object, ...], Dict[str, Any]],
        effect: Callable[[], bool],
        after_loss: str,
        timeout: float,
        started: Callable[[str], None],
    ) -> Done:
        """Send a write and await its task; a lost answer is looked for before anything is sent again (law 8).

        ``effect`` tells whether what the write asks for is there. ``after_loss`` is the class of failure
        ("already used", "does not exist") that means success only after our own lost write.
        """
        method, path, params = call
        key = (guest.vmid, method, name)
        sent = 0
        while True:
            try:
                upid = str(self._session.write(method, *path, **params))
            except errors.LostWrite:
                sent += 1
                self._lost.setdefault(key, self._session.clock.now())
                done = self._look_for(guest, kind, effect, timeout, started)
                if done is not None:
                    return done
                if sent == LOST_WRITES:
                    raise
                continue
            try:
                return self._await(upid, timeout, started)
            except errors.TaskFailed as failed:
                if key in self._lost and failed.kind == after_loss and effect():
                    return Done(upid)
                if failed.kind == errors.UNKNOWN_RESULT and effect():
                    return Done(upid, failed.message)
                raise

    def _look_for(
        self, guest: Guest, kind: str, effect: Callable[[], bool], timeout: float, started: Callable[[str], None]
    ) -> Optional[Done]:
        """The task of a lost write, by guest and type, or its effect; None when neither shows up in 35 s.

        What cannot be read is asked again until then; NodeUnreachable when it still cannot be read, since
        nothing may be sent again without knowing (law 8).
        """
        since = self._session.clock.now() - CLOCK_SKEW
        deadline = self._clock() + LOST_WAIT
        seen: Set[str] = set()
        upid: Optional[str] = None
        while True:
            late = self._clock() >= deadline
            try:
                for candidate in self._candidates(guest, kind, since):
                    if candidate in seen:
                        continue
                    seen.add(candidate)
                    upid = candidate
                    try:
                        self._await(candidate, timeout, started)
                    except errors.TaskFailed:
                        pass  # its effect decides; it may be another's task
                if effect():
                    return Done(upid)
            except errors.NodeUnreachable:
                if late:
                    raise
            else:
                if late:
                    return None
            self._sleep(LOST_POLL)

    def _candidates(self, guest: Guest, kind: str, since: int) -> List[str]:
        try:
            listed = self._session.read(
                "nodes", guest.node, "tasks", source="all", vmid=guest.vmid, typefilter=kind, since=since,
                limit=500).data
        except (errors.PermissionDenied, errors.BadParameter):
            return []
        with self._lock:
            return [str(item["upid"]) for item in reversed(listed) if str(item["upid"]) not in self._known]

    def _await(self, upid: str, timeout: float, started: Callable[[str], None]) -> Done:
        """Poll a task's status, quick first, then backing off; law 7 judges its exit status."""
        with self._lock:
            self._known.add(upid)
        started(upid)
        node = Upid.parse(upid).node
        deadline = self._clock() + timeout if timeout else None
        pause = POLL_FIRST
        silent_since: Optional[float] = None
        while True:
            left = None if deadline is None else deadline - self._clock()
            self._sleep(min(pause * random.uniform(0.8, 1.2), POLL_MAX if left is None else max(left, 0.05)))
            pause = min(pause * 1.5, POLL_MAX)
            try:
                status = self._session.read("nodes", node, "tasks", upid, "status").data
                silent_since = None
            except errors.NodeUnreachable as error:
                # A create that runs is not given up because its node's API is busy.
                silent_since = self._clock() if silent_since is None else silent_since
                if self._clock() - silent_since > NODE_PATIENCE:
                    raise errors.NodeUnreachable(error.message, error.status, upid=upid) from error
                status = {}
            except errors.BadParameter as error:
                raise errors.TaskFailed(error.message, error.status, upid=upid) from error
            if status.get("status") == "stopped":
                return self._judge(upid, str(status.get("exitstatus", "")))
            if deadline is not None and self._clock() >= deadline:
                raise TaskTimeout(
                    "the task still ran after {0:.0f} s; it goes on (raise 'timeout' if it needs longer)".format(timeout),
                    upid=upid)

    @staticmethod
    def _judge(upid: str, exitstatus: str) -> Done:
        if SUCCESS.match(exitstatus):
            return Done(upid, None if exitstatus == "OK" else exitstatus)
        raise errors.TaskFailed(exitstatus.strip() or "no exit status", upid=upid)
