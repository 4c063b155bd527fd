# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Tasks: start a snapshot or its deletion, wait for the end, and never do either twice (laws 7, 8).

What waits is a generator: it yields a TaskEnd or a Pause and is resumed when that is over, so that no
thread waits with it. A TaskEnd is answered with the task's exit status, or an error is thrown in.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Generator, List, Mapping, Optional, Set, Tuple

from ..model import BLANKS, LXC, Guest, Snapshot
from . import errors
from .cluster import Cluster
from .session import Session

NAME = re.compile(r"\A[A-Za-z][A-Za-z0-9_-]{1,39}\Z")
SUCCESS = re.compile(r"\A(?:OK|WARNINGS: [0-9]+)\Z")
_UPID = re.compile(  # api-facts 4.2
    r"\AUPID:([A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?):[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8,9}:([0-9A-Fa-f]{8}):"
    r"([A-Za-z0-9_-]{1,40}):([A-Za-z0-9._-]{0,80}):[^\s:/]{1,128}:\Z")
CANDIDATES_MAX = 5  # tasks of others that are awaited since they may be a lost write's
LOG_MAX = 5000  # lines of a task's log that are read; one of a snapshot has about ten
SNAPSHOT_TASKS = frozenset(("qmsnapshot", "qmdelsnapshot", "vzsnapshot", "vzdelsnapshot"))
LOST_WAIT = 35.0  # law 8: longer than the 30 s that Proxmox's own proxy waits (api-facts 5.2)
LOST_POLL = 2.0
LOST_WRITES = 2
UNKNOWN = "the answer to a write was lost, and the run ended before it was clear what became of it"
CLOCK_SKEW = 600  # between the API host and the guest's node, seconds


@dataclass(frozen=True, order=True)
class Upid:
    """The parts of a task's name that are needed (api-facts 4.2); ``start`` is the node's own Unix time."""

    start: int
    text: str
    node: str
    type: str
    id: str

    @classmethod
    def parse(cls, text: str) -> Upid:
        """ValueError for a text that is not a UPID."""
        match = _UPID.match(text)
        if match is None or not text.isprintable():
            raise ValueError("not a UPID: {0!r}".format(text[:200]))
        return cls(int(match.group(2), 16), text, match.group(1), match.group(3), match.group(4))


@dataclass(frozen=True)
class Done:
    """A finished task; ``warning`` holds the exit status when it was not plain OK. ``upid`` is None where a
    lost write was found done by its effect alone. ``changed`` is False when there was nothing left to do."""

    upid: Optional[str]
    warning: Optional[str] = None
    changed: bool = True


def is_running(item: Mapping[str, Any]) -> bool:
    """Whether an entry of a task list still runs (api-facts 4.4)."""
    return "endtime" not in item and item.get("status") in (None, "", "RUNNING")


def exit_status(status: Mapping[str, Any]) -> Optional[str]:
    """The exit status that an answer about a task holds, None while it runs; ValueError for what is no such answer."""
    if status["status"] == "running":
        return None
    if status["status"] != "stopped":
        raise ValueError("a task is not {0!r}".format(status["status"]))
    return errors.bounded(str(status.get("exitstatus") or "")) or "no exit status"


def _newest(listed: Any) -> Tuple[str, str]:
    for item in listed:
        if item.get("type") in SNAPSHOT_TASKS:
            state = "running" if is_running(item) else errors.bounded(str(item.get("status", "")))
            return Upid.parse(str(item["upid"])).text, state
    return "", ""


class TaskTimeout(errors.PveError):
    """A task still ran when its time was up; it goes on, and ``upid`` names it."""

    code = "timeout"


@dataclass(frozen=True)
class TaskEnd:
    """Resume me when this task has ended, with its exit status; ``timeout`` in seconds, 0 for none."""

    upid: str
    timeout: float


@dataclass(frozen=True)
class Pause:
    """Resume me after ``seconds``, or with a TaskTimeout that says ``unknown`` when the run ends before."""

    seconds: float
    unknown: str


Steps = Generator[object, Any, Done]


class Tasks:
    """Starts snapshot tasks and tells what to wait for. Safe to share between threads."""

    def __init__(self, session: Session, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._cluster = cluster
        self._clock = clock
        self._lock = threading.Lock()
        self._known: Set[str] = set()
        # When a write was lost, by guest, method and name: it stays lost when it is tried again after a wait.
        self._lost: Dict[Tuple[int, str, str], int] = {}

    def create(
        self, guest: Guest, name: str, description: str, vmstate: bool, timeout: float,
        started: Callable[[str], None],
    ) -> Steps:
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
                snapshot.description == description.rstrip(BLANKS) and snapshot.snaptime >= began - CLOCK_SKEW)

        kind = "vzsnapshot" if guest.type == LXC else "qmsnapshot"
        return (yield from self._run(guest, name, kind, ("post", path, params), made, errors.CLASH, timeout, started))

    def delete(
        self, guest: Guest, name: str, timeout: float, started: Callable[[str], None], still: Callable[[], bool],
        force: bool = False,
    ) -> Steps:
        """Delete a snapshot and wait for its end; one that is already gone is success.

        ``still`` looks whether it is still the one to be deleted, before anything is sent again; NoLongerWanted if not.
        """
        params: Dict[str, Any] = {"force": True} if force else {}
        path = ("nodes", guest.node, guest.type, guest.vmid, "snapshot", name)

        def gone() -> bool:
            return self._find(guest, name) is None

        kind = "vzdelsnapshot" if guest.type == LXC else "qmdelsnapshot"
        try:
            return (yield from self._run(guest, name, kind, ("delete", path, params), gone, errors.GONE, timeout, started, still))
        except errors.TaskFailed as error:
            if error.kind == errors.GONE:
                return Done(error.upid, "it was already gone", changed=False)
            raise

    def lost(self, guest: Guest, name: str) -> bool:
        """Whether the answer to a create of this name was lost: what is there then may be its effect (law 8)."""
        return (guest.vmid, "post", name) in self._lost

    def idle(self, guest: Guest) -> bool:
        """True when no task runs on the guest, as far as we may see; False where that cannot be read."""
        try:
            return not self._session.read(
                "nodes", guest.node, "tasks", source="active", vmid=guest.vmid, limit=500).data
        except errors.PveError as error:
            if errors.is_fatal(error):
                raise
            return False

    def result(self, upid: str) -> str:
        """The exit status of a task, an empty text while it runs. Raises what the session raises."""
        status = self._session.read_once("nodes", Upid.parse(upid).node, "tasks", upid, "status").data
        return errors.understood("task " + upid, lambda: exit_status(status) or "")

    def log(self, upid: str) -> Tuple[str, ...]:
        """The lines of a task's log (api-facts 4.3). Raises what the session raises, NotUnderstood for an endless one."""
        found = self._session.read("nodes", Upid.parse(upid).node, "tasks", upid, "log", start=0, limit=LOG_MAX + 1).data
        lines = errors.understood("the log of " + upid, lambda: tuple(str(line.get("t") or "") for line in found or []))
        if len(lines) > LOG_MAX:
            raise errors.NotUnderstood("it has more than {0} lines".format(LOG_MAX))
        return tuple(errors.bounded(line) for line in lines)

    def newest(self, guest: Guest) -> Tuple[str, str]:
        """UPID and state (``running`` or the exit status) of the last visible snapshot task on a guest; or empty."""
        try:
            listed = self._session.read(
                "nodes", guest.node, "tasks", source="all", vmid=guest.vmid, limit=500).data
            return errors.understood("the tasks of guest {0}".format(guest.vmid), lambda: _newest(listed))
        except errors.PveError:
            return "", ""

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
        still: Optional[Callable[[], bool]] = None,
    ) -> Steps:
        """Send a write and await its task; a lost answer is looked for before anything is sent again (law 8).

        ``effect`` tells whether what the write asks for is there. ``after_loss`` is the class of failure
        ("already used", "does not exist") that means success only after our own lost write.
        """
        method, path, params = call
        key = (guest.vmid, method, name)
        sent = 0
        while True:
            if sent and still is not None and not still():
                if effect():
                    return Done(None)
                changed = errors.NoLongerWanted("it is not as it was any more")
                changed.lost = True
                raise changed
            try:
                upid = self._upid(guest, kind, self._send(call, still))
            except errors.LostWrite:
                sent += 1
                self._lost.setdefault(key, self._session.clock.now())
                try:
                    done = yield from self._look_for(guest, kind, effect, timeout, started)
                except errors.PveError as error:
                    error.uncertain = True
                    raise
                if done is not None:
                    return done
                if sent == LOST_WRITES or "force" in params:
                    raise
                continue
            try:
                return (yield from self._await(upid, timeout, started))
            except errors.TaskFailed as failed:
                if key in self._lost and failed.kind == after_loss and effect():
                    return Done(upid)
                if failed.kind == errors.UNKNOWN_RESULT and effect():
                    return Done(upid, failed.message)
                if failed.kind == errors.QUORUM:
                    self._session.doubt_quorum(guest.node, failed.message)
                raise

    def _send(self, call: Tuple[str, Tuple[object, ...], Dict[str, Any]], still: Optional[Callable[[], bool]]) -> object:
        """What is forced is sent once: before it is sent again the lock must be looked at (law 6)."""
        method, path, params = call
        if "force" in params:
            return self._session.write_once(method, *path, **params)
        if still is not None:
            return self._session.write_while(still, method, *path, **params)
        return self._session.write(method, *path, **params)

    def _upid(self, guest: Guest, kind: str, answer: object) -> str:
        """The UPID of an answer; LostWrite for anything else, since the write may have been carried out.

        It must be a new one, of this guest and this kind of task: what is awaited is found by it.
        """
        try:
            upid = Upid.parse(str(answer))
        except ValueError as error:
            raise errors.LostWrite("the answer to the write was {0}".format(error)) from None
        if (upid.node, upid.type, upid.id) != (guest.node, kind, str(guest.vmid)):
            raise errors.LostWrite("the answer to the write names a task of something else, {0}".format(upid.text))
        with self._lock:
            if upid.text in self._known:
                raise errors.LostWrite("the answer to the write names a task that is known already, {0}".format(upid.text))
            self._known.add(upid.text)
        return upid.text

    def _look_for(
        self, guest: Guest, kind: str, effect: Callable[[], bool], timeout: float, started: Callable[[str], None]
    ) -> Generator[object, Any, Optional[Done]]:
        """The task of a lost write, by guest and type, or its effect; None when neither shows up in 35 s.

        What cannot be read is asked again until then; LostWrite when it still cannot be read, since nothing
        may be sent again without knowing (law 8). A task that has ended may be an earlier one of somebody else:
        it is taken for ours only with its effect.
        """
        since = self._session.clock.now() - CLOCK_SKEW
        deadline = self._clock() + LOST_WAIT
        upid: Optional[str] = None
        awaited = 0
        while True:
            late = self._clock() >= deadline
            try:
                ended = ""
                for candidate, running in self._candidates(guest, kind, since):
                    if running:
                        upid = candidate
                        awaited += 1
                        if awaited > CANDIDATES_MAX:
                            raise TaskTimeout("{0}: more and more tasks of its kind run".format(UNKNOWN), upid=upid)
                        yield from self._its_end(candidate, timeout, started)
                    else:
                        ended = candidate
                if effect():
                    if upid is None and ended:
                        upid = ended
                        self._begun(ended, started)
                    return Done(upid)
            except TaskTimeout:
                raise
            except errors.Interrupted as error:
                raise TaskTimeout("{0}: {1}".format(UNKNOWN, error.message), upid=upid) from error
            except errors.PveError as error:
                if errors.is_fatal(error) or error.kind == errors.MOVED:
                    raise
                if late:
                    raise errors.LostWrite("the answer to a write was lost, and what became of it cannot be read: {0}".format(
                        error.message), upid=upid) from error
            else:
                if late:
                    return None
            yield Pause(LOST_POLL, UNKNOWN)

    def _its_end(self, upid: str, timeout: float, started: Callable[[str], None]) -> Generator[object, Any, None]:
        """Await a task that may be another's: only its effect tells whether it did what was asked."""
        try:
            yield from self._await(upid, timeout, started)
        except errors.TaskFailed:
            pass
        except errors.NodeUnreachable as error:
            # It may still run: nothing may be sent again (law 8).
            raise TaskTimeout("{0}: {1}".format(UNKNOWN, error.message), upid=upid) from error

    def _candidates(self, guest: Guest, kind: str, since: int) -> List[Tuple[str, bool]]:
        """The tasks that may be a lost write's, oldest first, and whether each still runs."""
        try:
            listed = self._session.read(
                "nodes", guest.node, "tasks", source="all", vmid=guest.vmid, typefilter=kind, since=since,
                limit=500).data
        except (errors.PermissionDenied, errors.BadParameter):
            return []
        found = errors.understood("the tasks of guest {0}".format(guest.vmid), lambda: sorted(
            (Upid.parse(str(item["upid"])), is_running(item)) for item in listed))
        with self._lock:
            return [
                (upid.text, running) for upid, running in found
                if upid.text not in self._known and (upid.node, upid.type, upid.id) == (guest.node, kind, str(guest.vmid))]

    def _await(self, upid: str, timeout: float, started: Callable[[str], None]) -> Steps:
        """Wait for a task's end; law 7 judges its exit status."""
        self._begun(upid, started)
        return self._judge(upid, str((yield TaskEnd(upid, timeout))))

    def _begun(self, upid: str, started: Callable[[str], None]) -> None:
        with self._lock:
            self._known.add(upid)
        started(upid)

    @staticmethod
    def _judge(upid: str, exitstatus: str) -> Done:
        if SUCCESS.match(exitstatus):
            return Done(upid, None if exitstatus == "OK" else exitstatus)
        raise errors.TaskFailed(exitstatus.strip() or "no exit status", upid=upid)
