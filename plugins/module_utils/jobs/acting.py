# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Carry out a plan: creates, then prunes, guest by guest, under the limits (design, "A snapshot run", 6 and 7)."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Generator, List, Optional, Tuple

from ..arguments import RunLimits
from ..model import LXC, Guest, Snapshot
from ..policy import storage_guard
from ..policy.retention import believable
from ..pve import errors
from ..pve.cluster import Cluster, Resources
from ..pve.session import Session
from ..pve.tasks import Done, Tasks, TaskTimeout
from ..pve.watcher import Watcher
from .hooks import Event, Hooks
from .outcome import Outcome
from .plan import HIBERNATED, GuestPlan, Retainer, broken_entry, pruned
from .state import State
from .workers import CREATE, DELETE, Bounds, Dropped, Later, Limits, Slot, Stop, Workers

LOCK_POLL = 5.0  # seconds between two looks at a locked guest
RETRY_MAX = 60.0  # seconds between two tries against what no lock shows, such as a running replication
ROOM_WAIT = 30.0  # seconds until the cluster's view of a storage is fresh: pvestatd looks every 10 (api-facts 5.1)
PER_STORAGE = 16  # where max_parallel_per_storage is not set
THREADS = 32  # what is not waiting: a call, or a hook
WAITABLE = frozenset((errors.BUSY, errors.BROKEN_LOCK, errors.CONTENTION))
SNAPSHOT_LOCKS = frozenset(("snapshot", "snapshot-delete"))
GONE = "gone: the guest was deleted meanwhile"
CLAIMED = "another run of this control node works on it"

Steps = Generator[object, Any, None]


class LiveResources:
    """One shared view of ``/cluster/resources``, refreshed when it is older than LOCK_POLL."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._resources: Optional[Resources] = None
        self._guests: Dict[int, Guest] = {}

    def get(self, fresh: bool = False) -> Resources:
        """The resources, at most LOCK_POLL seconds old, or read anew."""
        with self._lock:
            if fresh or self._resources is None or time.monotonic() - self._read_at >= LOCK_POLL:
                self._resources = self._cluster.resources()
                self._guests = {guest.vmid: guest for guest in self._resources.guests}
                self._read_at = time.monotonic()
            return self._resources

    def guest(self, vmid: int, fresh: bool = False) -> Optional[Guest]:
        """The guest as the cluster shows it; None when it is gone."""
        self.get(fresh)
        return self._guests.get(vmid)


@dataclass
class Crew:
    """What all guests of a run share. ``stopped`` tells why the run must end now; ``began`` is monotonic."""

    session: Session
    cluster: Cluster
    tasks: Tasks
    hooks: Hooks
    limits: RunLimits
    retainer: Retainer
    guard: storage_guard.Limits
    promised: Dict[storage_guard.StorageKey, int]
    state: State
    stopped: Callable[[], Optional[str]]
    heard: Callable[[], bool]
    broken: List[Dict[str, object]] = field(default_factory=list)
    fatal: Optional[errors.PveError] = None
    live: LiveResources = field(init=False)

    def __post_init__(self) -> None:
        self.live = LiveResources(self.cluster)

    def stop(self) -> Optional[Stop]:
        """Why nothing new may be started; running tasks are waited for only after a failure."""
        reason = self.stopped()
        if reason is not None:
            return Stop(reason, at_once=True)
        if self.fatal is not None:
            return Stop(self.fatal.message, at_once=False)
        return None


class Finished(Exception):
    """There is nothing more to do with this guest."""

    def __init__(self, status: str, reason: str, red: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.red = red


class GuestRun:
    """One guest's way through a run, a generator of effects for Workers."""

    def __init__(self, crew: Crew, plan: GuestPlan) -> None:
        self._crew = crew
        self._plan = plan
        self._guest = plan.guest
        self._waiting_since: Optional[float] = None
        self._pause = LOCK_POLL
        self._claimed = False
        self._created: Optional[Snapshot] = None
        self.outcome = Outcome(plan, warnings=list(plan.warnings))
        if plan.status:
            self.outcome.finish(plan.status, plan.reason, plan.red)

    @property
    def has_work(self) -> bool:
        """False where there is nothing but to say why."""
        return self._plan.has_work or not self.outcome.status

    def steps(self) -> Steps:
        """All that is to be done; the failures that mean the same everywhere are dealt with here."""
        try:
            yield from self._steps()
        except Finished as end:
            self.outcome.finish(end.status, end.reason, end.red)
        except (Dropped, errors.Interrupted) as end:
            self._dropped(str(end))
        except TaskTimeout as error:
            self.outcome.finish("timeout", error.message + self._undone())
        except errors.PermissionDenied as error:
            self.outcome.finish("skipped", "missing privilege: " + error.message, red=True)
        except errors.NodeUnreachable as error:
            self.outcome.finish("unreachable", error.message)
        except errors.PveError as error:
            if errors.is_fatal(error):
                self._crew.fatal = self._crew.fatal or error
            self.outcome.finish("failed", error.message)
        self._ended()

    def crashed(self, error: Exception) -> None:
        """An error of our own making costs only this guest (law 9)."""
        self.outcome.finish("failed", "internal error: {0}: {1}".format(type(error).__name__, error))
        self._ended()

    def _ended(self) -> None:
        self.outcome.touch()
        self._crew.state.ended(self.outcome, self._crew.heard())

    def _steps(self) -> Steps:
        plan = self._plan
        if plan.repairs:
            yield from self._repair()
        if plan.prune_first and plan.prunes:
            yield from self._make_room()
        whole = True
        if plan.create:
            whole = yield from self._create()
        if pruned(plan.decisions if whole else plan.without_create):
            yield from self._prune()
        if not self.outcome.status:
            done = self.outcome.pruned or self.outcome.repaired
            self.outcome.finish("pruned" if done else "unchanged", plan.reason)

    def _dropped(self, reason: str) -> None:
        """The run ends before this guest is done: say what is left undone."""
        text = reason if self.outcome.upids or self.outcome.snapshot else "not started: " + reason
        self.outcome.finish("failed" if self._crew.fatal else "timeout", text + self._undone())

    def _undone(self) -> str:
        """The prunes that did not come to their end, where it was their turn."""
        left = [snapshot.name for snapshot in self._plan.prunes if snapshot.name not in self.outcome.pruned]
        return "; not pruned: " + ", ".join(left) if left and (self.outcome.snapshot or not self._plan.create) else ""

    def _slot(self, kind: str) -> Slot:
        return Slot(kind, self._guest.node, self._plan.storages, self._plan.serial)

    def _begin(self, kind: str) -> Generator[object, Any, None]:
        """Wait until the guest is free, there is room under the limits, and no other run works on it."""
        while True:
            yield from self._unlocked()
            yield self._slot(kind)
            self.outcome.touch()
            self._go_on()
            self._claimed = self._claimed or self._crew.state.take(self._guest.vmid)
            if self._claimed:
                return
            if self._crew.limits.locked != "wait":
                raise Finished("skipped" if self._crew.limits.locked == "skip" else "failed", CLAIMED, red=True)
            yield from self._wait(CLAIMED)

    def _go_on(self) -> None:
        """Before each write: Dropped when the run has to end."""
        stop = self._crew.stop()
        if stop is not None:
            raise Dropped(stop.reason)

    def _started(self, upid: str) -> None:
        self.outcome.upids.append(upid)
        self._crew.state.task(self._guest.vmid, upid)

    # ---------------------------------------------------------------- create

    def _create(self) -> Generator[object, Any, bool]:
        """Make the snapshot; False when that failed for good and only what may go without it is pruned (law 4)."""
        name = self._plan.create
        while True:
            yield from self._begin(CREATE)
            began = time.monotonic()
            veto = self._call_hook("snap-create-pre", name)
            if veto:
                self._call_hook("snap-create-abort", name, error=veto)
                raise Finished("skipped", veto, red=True)
            try:
                self._go_on()
                done = yield from self._take(name)
            except (errors.PveError, Dropped) as error:
                upid = error.upid if isinstance(error, errors.PveError) else None
                self._call_hook("snap-create-abort", name, error=str(error), upid=upid, began=began)
                if not isinstance(error, errors.PveError):
                    raise
                if not self._may_try_again(error):
                    return False
                yield from self._wait(error.message)
            except Exception:
                self._call_hook("snap-create-abort", name, error="internal error", began=began)
                raise
            else:
                break
        self._call_hook("snap-create-post", name, upid=done.upid, began=began)
        self.outcome.snapshot = name
        if done.warning:
            self.outcome.warnings.append("create {0}: {1}".format(name, done.warning))
        self.outcome.finish("created")
        self._waiting_since, self._pause = None, LOCK_POLL
        self._created = Snapshot(name, int(self._crew.session.clock.now()), self._crew.retainer.recognition.markers[0])
        return True

    def _take(self, name: str) -> Generator[object, Any, Done]:
        """Create; on a guest that moved meanwhile, once more on its new node (api-facts 5.4)."""
        try:
            return (yield from self._send_create(name))
        except errors.PveError as error:
            if error.kind != errors.MOVED or not self._followed():
                raise
        yield self._slot(CREATE)
        self._go_on()
        return (yield from self._send_create(name))

    def _send_create(self, name: str) -> Generator[object, Any, Done]:
        marker = self._crew.retainer.recognition.markers[0]
        return (yield from self._crew.tasks.create(
            self._guest, name, marker, self._plan.vmstate, self._crew.limits.timeout, self._started))

    def _follow(self, error: errors.PveError) -> None:
        """Return when a call failed since the guest is on another node now; raise what else it means."""
        if error.kind != errors.MOVED:
            raise error
        if not self._followed():
            self._still_there()
            raise error

    def _still_there(self) -> None:
        """Finished when the last look at the cluster did not show the guest any more."""
        if self._crew.live.guest(self._guest.vmid) is None:
            raise Finished("skipped", GONE, red=True)

    def _followed(self) -> bool:
        """Look where the guest is now; True when it is on another node than thought."""
        found = self._crew.live.guest(self._guest.vmid, fresh=True)
        if found is None or found.node == self._guest.node:
            return False
        self._guest = replace(self._guest, node=found.node, lock=found.lock)
        return True

    def _may_try_again(self, error: errors.PveError) -> bool:
        """After a create that failed: True to wait for a lock, False to prune what may go without it (law 4).

        Raises Finished where neither makes sense, and errors that end the run.
        """
        waitable = error.kind in WAITABLE
        if waitable and self._crew.limits.locked == "wait":
            return True
        if waitable and error.kind != errors.CONTENTION and self._crew.limits.locked == "skip":
            raise Finished("skipped", error.message, red=True)
        if error.kind == errors.HIBERNATED:
            raise Finished("skipped", error.message, red=True)
        if error.kind == errors.TEMPLATE:
            raise Finished("skipped", "template")
        if error.kind == errors.MOVED:
            self._still_there()
        if errors.is_fatal(error) or not isinstance(error, errors.TaskFailed):
            raise error
        if waitable:
            raise Finished("failed", error.message)
        self.outcome.finish("failed", error.message)
        return False

    # ----------------------------------------------------------------- locks

    def _unlocked(self) -> Steps:
        """Wait until the guest has no lock."""
        while self._guest.lock:
            if self._guest.lock in HIBERNATED:
                raise Finished("skipped", "locked ({0}): resume the guest first".format(self._guest.lock), red=True)
            yield from self._wait("locked ({0})".format(self._guest.lock))

    def _wait(self, reason: str) -> Steps:
        """Come back soon and look at the lock anew; Finished when lock_timeout has passed."""
        self.outcome.touch()
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        left = self._waiting_since + self._crew.limits.lock_timeout - now
        if left <= 0:
            self._give_up(reason)
        pause, self._pause = self._pause, min(RETRY_MAX, self._pause * (1 if self._guest.lock else 2))
        yield Later(min(pause, left))
        found = self._crew.live.guest(self._guest.vmid)
        if found is None:
            raise Finished("skipped", GONE, red=True)
        self._guest = replace(self._guest, node=found.node, lock=found.lock)

    def _give_up(self, reason: str) -> None:
        found = self._crew.live.guest(self._guest.vmid)
        if found is not None and found.lock in SNAPSHOT_LOCKS and self._stuck():
            self._crew.broken += [
                broken_entry(found, snapshot, self._crew.session.clock.now())
                for snapshot in self._plan.state.snapshots.snapshots if snapshot.snapstate]
            raise Finished("failed", needs_unlock(found))
        raise Finished("deferred", "{0} for {1:.0f} s (lock_timeout); run again later".format(
            reason, self._crew.limits.lock_timeout))

    def _stuck(self) -> bool:
        """No visible task works on the guest, and its snapshots are as they were when the run began."""
        if self._crew.tasks.running(self._guest):
            return False
        return set(self._crew.cluster.snapshots(self._guest).snapshots) == set(self._plan.state.snapshots.snapshots)

    # ----------------------------------------------------------------- prune

    def _make_room(self) -> Steps:
        """``prune_first``: prune what goes anyway, then wait until there is room for the snapshot."""
        yield from self._prune()
        until = time.monotonic() + ROOM_WAIT
        refusal = self._still_full()
        while refusal and self.outcome.pruned and time.monotonic() < until:
            yield Later(LOCK_POLL)
            refusal = self._still_full()
        if refusal:
            raise Finished("skipped", refusal, red=True)

    def _still_full(self) -> Optional[str]:
        """The storage guard once more, with what the run has promised to the other guests."""
        storages = storage_guard.by_node(self._crew.live.get().storages).get(self._guest.node, {})
        others = {key: size - self._plan.needs.get(key, 0) for key, size in self._crew.promised.items()}
        return storage_guard.judge(
            self._plan.state.config, storages, self._plan.vmstate, self._crew.guard, storage_guard.Ledger(others)).refusal

    def _prune(self) -> Steps:
        """Delete what retention does not keep. After every wait it is agreed on anew: what was to go may be
        pinned by then (law 5)."""
        while True:
            yield from self._begin(DELETE)
            try:
                agreed = self._agreed()
            except errors.PveError as error:
                self._follow(error)
                continue
            for snapshot in agreed:
                self._go_on()
                if not (yield from self._delete(snapshot)):
                    break
            else:
                return

    def _agreed(self) -> Tuple[Snapshot, ...]:
        """Law 5: what the plan and a plan made of a fresh list both prune."""
        listed = self._crew.cluster.snapshots(self._guest).snapshots
        created = self._created
        if created is not None:
            created = next((s for s in listed if s.name == created.name and not s.snapstate), None)
            if created is None:
                raise Finished("failed", "snapshot {0} was made but is not in the list; nothing was pruned".format(
                    self.outcome.snapshot))
        now = self._crew.session.clock.now()
        if created is not None and not believable(created, now):
            # It counts for nothing (law 13), so nothing goes that would stay without it (law 4).
            self.outcome.warnings.append(
                "the time of {0} lies ahead of the server's clock: it is not counted".format(created.name))
            created = None
        first = self._plan.decisions if created is not None else self._plan.without_create
        again = set(pruned(self._crew.retainer.decide(listed, now, created)))
        identity = {(s.name, s.snaptime, s.description) for s in again}
        return tuple(s for s in pruned(first) if (s.name, s.snaptime, s.description) in identity)

    def _delete(self, snapshot: Snapshot, force: bool = False) -> Generator[object, Any, bool]:
        """Delete a snapshot; False when the guest moved or a lock was waited for and all must be looked at anew."""
        began = time.monotonic()
        veto = self._call_hook("snap-remove-pre", snapshot.name)
        if veto:
            self._call_hook("snap-remove-abort", snapshot.name, error=veto)
            raise Finished("skipped", veto, red=True)
        try:
            self._go_on()
            done = yield from self._crew.tasks.delete(
                self._guest, snapshot.name, self._crew.limits.timeout, self._started, force)
        except (errors.PveError, Dropped) as error:
            upid = error.upid if isinstance(error, errors.PveError) else None
            self._call_hook("snap-remove-abort", snapshot.name, error=str(error), upid=upid, began=began)
            if not isinstance(error, errors.PveError):
                raise
            yield from self._not_deleted(snapshot, error)
            return False
        except Exception:
            self._call_hook("snap-remove-abort", snapshot.name, error="internal error", began=began)
            raise
        self._call_hook("snap-remove-post", snapshot.name, upid=done.upid, began=began)
        (self.outcome.repaired if snapshot.snapstate else self.outcome.pruned).append(snapshot.name)
        if done.warning:
            self.outcome.warnings.append("delete {0}: {1}".format(snapshot.name, done.warning))
        return True

    def _not_deleted(self, snapshot: Snapshot, error: errors.PveError) -> Steps:
        """A delete that failed: return to try again, or raise what ends the guest.

        It may have left a lock behind: look, and say so (api-facts 10).
        """
        if error.kind == errors.MOVED:
            self._follow(error)
            return
        if not isinstance(error, errors.TaskFailed):
            raise error
        if error.kind in WAITABLE and self._crew.limits.locked == "wait":
            yield from self._wait("delete {0}: {1}".format(snapshot.name, error.message))
            return
        if self._left_locked(snapshot):
            raise Finished("failed", "{0}; delete {1}: {2}".format(
                needs_unlock(self._crew.live.guest(self._guest.vmid) or self._guest), snapshot.name, error.message))
        if errors.is_fatal(error):
            raise error
        skipped = error.kind in WAITABLE and self._crew.limits.locked == "skip"
        raise Finished(
            "skipped" if skipped else "failed", "delete {0}: {1}".format(snapshot.name, error.message), red=True)

    def _left_locked(self, snapshot: Snapshot) -> bool:
        """True when a snapshot stands half deleted and no visible task works on it."""
        listed = self._crew.cluster.snapshots(self._guest).snapshots
        half = any(s.name == snapshot.name and s.snapstate for s in listed)
        return (
            half and self._crew.cluster.config(self._guest).lock in SNAPSHOT_LOCKS
            and not self._crew.tasks.running(self._guest))

    # ---------------------------------------------------------------- repair

    def _repair(self) -> Steps:
        """``repair``: delete broken entries, forced only on a guest whose lock was just read as unset (law 6)."""
        while True:
            yield from self._begin(DELETE)
            try:
                broken = self._still_broken()
            except errors.PveError as error:
                self._follow(error)
                continue
            for snapshot in broken:
                self._go_on()
                if not (yield from self._repaired(snapshot)):
                    break
            else:
                return

    def _still_broken(self) -> List[Snapshot]:
        """Those of the plan that are in a fresh list, unchanged."""
        listed = set(self._crew.cluster.snapshots(self._guest).snapshots)
        return [snapshot for snapshot in self._plan.repairs if snapshot in listed]

    def _repaired(self, snapshot: Snapshot) -> Generator[object, Any, bool]:
        lock = self._crew.cluster.config(self._guest).lock
        if lock:
            self._guest = replace(self._guest, lock=lock)
            return False
        force = self._crew.limits.repair == "force"
        gone = yield from self._delete(snapshot, force)
        if gone and force:
            self.outcome.warnings.append(
                "{0} was removed by force: snapshots of its disks may be left on the storages".format(snapshot.name))
        return gone

    # ----------------------------------------------------------------- hooks

    def _call_hook(
        self, phase: str, snapshot: str, error: str = "", upid: Optional[str] = None, began: Optional[float] = None
    ) -> str:
        """Call the hook; the sentence of a veto, or an empty text."""
        problem = self._crew.hooks.call(Event(
            phase, self._guest, snapshot, upid or "", error,
            0.0 if began is None else time.monotonic() - began, not error))
        if problem is None:
            return ""
        if phase.endswith("-pre") and self._crew.limits.veto:
            return "hook veto: " + problem
        self.outcome.warnings.append(problem)
        return ""


def needs_unlock(guest: Guest) -> str:
    """What a person with root must do about a lock that nobody holds (api-facts 2.3)."""
    command = "pct" if guest.type == LXC else "qm"
    return "needs unlock: run '{0} unlock {1}' as root on node {2}".format(command, guest.vmid, guest.node)


def act(crew: Crew, plans: Tuple[GuestPlan, ...]) -> List[Outcome]:
    """Carry out the plans; one outcome for each, in their order."""
    limits = crew.limits
    bounds = Bounds(
        Limits(limits.max_parallel, limits.max_parallel_per_node, limits.max_parallel_per_storage or PER_STORAGE),
        Limits(limits.max_parallel_deletes, limits.max_parallel_deletes_per_node, limits.max_parallel_deletes_per_storage))
    runs = [GuestRun(crew, plan) for plan in plans]
    threads = THREADS
    if crew.hooks.configured:
        threads += limits.max_parallel + limits.max_parallel_deletes
    watcher = Watcher(crew.session)
    workers = Workers(bounds, watcher, crew.stop, threads)
    if crew.hooks.configured:
        watcher.hungry = lambda node: True  # a post hook, which may thaw something, waits for every create
    workers.run([run for run in runs if run.has_work])
    return [run.outcome for run in runs]
