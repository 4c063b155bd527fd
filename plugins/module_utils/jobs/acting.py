# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Carry out a plan: creates, then prunes, guest by guest, under the limits (design, "A snapshot run", 6 and 7)."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, List, Optional, Tuple

from ..arguments import RunLimits
from ..model import Guest, Snapshot
from ..policy import storage_guard
from ..policy.retention import believable
from ..pve import errors
from ..pve.cluster import Cluster, Resources
from ..pve.session import Session
from ..pve.tasks import Done, Tasks, TaskTimeout
from .hooks import Event, Hooks
from .outcome import Outcome
from .plan import HIBERNATED, GuestPlan, Retainer, broken_entry, pruned
from .workers import CREATE, DELETE, Bounds, Later, Work, Workers

LOCK_POLL = 5.0  # seconds between two looks at a locked guest
RETRY_MAX = 60.0  # seconds between two tries against what no lock shows, such as a running replication
ROOM_WAIT = 30.0  # seconds until the cluster's view of a storage is fresh: pvestatd looks every 10 (api-facts 5.1)
WAITABLE = frozenset((errors.BUSY, errors.BROKEN_LOCK, errors.CONTENTION))


class LiveResources:
    """One shared view of ``/cluster/resources``, refreshed when it is older than LOCK_POLL."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._resources: Optional[Resources] = None

    def get(self, fresh: bool = False) -> Resources:
        """The resources, at most LOCK_POLL seconds old, or read anew."""
        with self._lock:
            if fresh or self._resources is None or time.monotonic() - self._read_at >= LOCK_POLL:
                self._resources = self._cluster.resources()
                self._read_at = time.monotonic()
            return self._resources

    def guest(self, vmid: int, fresh: bool = False) -> Optional[Guest]:
        """The guest as the cluster shows it; None when it is gone."""
        return next((guest for guest in self.get(fresh).guests if guest.vmid == vmid), None)


@dataclass
class Crew:
    """What all guests of a run share."""

    session: Session
    cluster: Cluster
    tasks: Tasks
    hooks: Hooks
    limits: RunLimits
    retainer: Retainer
    guard: storage_guard.Limits
    promised: Dict[storage_guard.StorageKey, int]
    began: float
    broken: List[Dict[str, object]] = field(default_factory=list)
    fatal: Optional[errors.PveError] = None
    live: LiveResources = field(init=False)

    def __post_init__(self) -> None:
        self.live = LiveResources(self.cluster)


class GuestRun:
    """One guest's way through a run. Its steps are run by Workers, one at a time."""

    def __init__(self, crew: Crew, plan: GuestPlan) -> None:
        self._crew = crew
        self._plan = plan
        self._guest = plan.guest
        self._waiting_since: Optional[float] = None
        self._pause = LOCK_POLL
        self._room_until: Optional[float] = None
        self._created: Optional[Snapshot] = None
        self._allowed: Optional[Tuple[Snapshot, ...]] = None
        self._finished = False
        self.outcome = Outcome(plan, warnings=list(plan.warnings))
        if plan.status:
            self.outcome.finish(plan.status, plan.reason, plan.red)

    def first_work(self) -> Optional[Work]:
        """The guest's first step, None when the plan has nothing to do."""
        if self._plan.prune_first and self._plan.prunes:
            return self._work(self._prune_for_room, DELETE)
        if self._plan.create:
            return self._work(self._create, CREATE)
        if self._plan.prunes:
            return self._work(self._prune, DELETE)
        if not self.outcome.status:
            self.outcome.finish("unchanged", self._plan.reason)
        return None

    def _work(self, step: Callable[[], object], kind: str) -> Work:
        return Work(
            run=lambda: self._guarded(step), kind=kind, node=self._guest.node, storages=self._plan.storages,
            serial=self._plan.serial, dropped=self._dropped)

    def _guarded(self, step: Callable[[], object]) -> object:
        """Run a step; the failures that mean the same everywhere are dealt with here."""
        self.outcome.touch()
        try:
            return step()
        except TaskTimeout as error:
            self._finish("timeout", error.message)
        except errors.PermissionDenied as error:
            self._finish("skipped", "missing privilege: " + error.message, red=True)
        except errors.NodeUnreachable as error:
            self._finish("unreachable", error.message)
        except errors.PveError as error:
            if errors.is_fatal(error):
                self._crew.fatal = self._crew.fatal or error
            self._finish("failed", error.message)
        finally:
            self.outcome.touch()
        return None

    def _finish(self, status: str, reason: str = "", red: bool = False) -> None:
        self._finished = True
        self.outcome.finish(status, reason, red)

    def _dropped(self, reason: str) -> None:
        """The run ends before this step could start: say what is left undone."""
        left = [snapshot.name for snapshot in self._plan.prunes if snapshot.name not in self.outcome.pruned]
        if self.outcome.snapshot or not self._plan.create:
            reason += "; not pruned: {0}".format(", ".join(left))
        self._finish("failed" if self._crew.fatal or reason.startswith("internal") else "timeout", reason)

    # ---------------------------------------------------------------- create

    def _create(self) -> object:
        waiting = self._wait_for_lock()
        if waiting is not None or self._finished:
            return waiting
        name = self._plan.create
        began = time.monotonic()
        veto = self._call_hook("snap-create-pre", name)
        if veto:
            self._call_hook("snap-create-abort", name, error=veto)
            self._finish("skipped", veto, red=True)
            return None
        try:
            done = self._take(name)
        except errors.PveError as error:
            self._call_hook("snap-create-abort", name, error=error.message, upid=error.upid, began=began)
            return self._not_created(error)
        except BaseException:
            self._call_hook("snap-create-abort", name, error="internal error", began=began)
            raise
        self._call_hook("snap-create-post", name, upid=done.upid, began=began)
        self.outcome.snapshot = name
        if done.warning:
            self.outcome.warnings.append("create {0}: {1}".format(name, done.warning))
        self.outcome.finish("created")
        self._created = Snapshot(name, int(self._crew.session.clock.now()), self._crew.retainer.recognition.markers[0])
        if pruned(self._plan.decisions):
            return self._work(self._prune, DELETE)
        return None

    def _take(self, name: str) -> Done:
        """Create; on a guest that moved meanwhile, once more on its new node (api-facts 5.4)."""
        marker = self._crew.retainer.recognition.markers[0]
        try:
            return self._crew.tasks.create(
                self._guest, name, marker, self._plan.vmstate, self._crew.limits.timeout, self.outcome.upids.append)
        except errors.PveError as error:
            if error.kind != errors.MOVED or not self._followed():
                raise
        return self._crew.tasks.create(
            self._guest, name, marker, self._plan.vmstate, self._crew.limits.timeout, self.outcome.upids.append)

    def _followed(self) -> bool:
        """Look where the guest is now; True when it is on another node than thought."""
        found = self._crew.live.guest(self._guest.vmid, fresh=True)
        if found is None or found.node == self._guest.node:
            return False
        self._guest = replace(self._guest, node=found.node, lock=found.lock)
        return True

    def _not_created(self, error: errors.PveError) -> object:
        """A create that failed: wait for a lock, or prune what may go without it (law 4)."""
        if error.kind in WAITABLE and self._crew.limits.locked == "wait":
            return self._later(error.message)
        if error.kind in (errors.HIBERNATED, errors.BUSY, errors.BROKEN_LOCK) and self._crew.limits.locked == "skip":
            self._finish("skipped", error.message, red=True)
            return None
        if error.kind == errors.HIBERNATED:
            self._finish("skipped", error.message, red=True)
            return None
        if error.kind == errors.TEMPLATE:
            self._finish("skipped", "template")
            return None
        if error.kind == errors.MOVED and self._crew.live.guest(self._guest.vmid) is None:
            self._finish("skipped", "gone: the guest was deleted meanwhile", red=True)
            return None
        if not isinstance(error, errors.TaskFailed):
            raise error
        self.outcome.finish("failed", error.message)
        if pruned(self._plan.without_create) and not errors.is_fatal(error) and error.kind not in WAITABLE:
            return self._work(self._prune, DELETE)
        if errors.is_fatal(error):
            raise error
        return None

    # ----------------------------------------------------------------- locks

    def _wait_for_lock(self) -> Optional[Later]:
        """Before a step: a Later while the guest is locked, None when it may go on or is finished."""
        if self._waiting_since is not None:
            found = self._crew.live.guest(self._guest.vmid)
            if found is None:
                self._finish("skipped", "gone: the guest was deleted meanwhile", red=True)
                return None
            self._guest = replace(self._guest, node=found.node, lock=found.lock)
        lock = self._guest.lock
        if not lock:
            return None
        if lock in HIBERNATED:
            self._finish("skipped", "locked ({0}): resume the guest first".format(lock), red=True)
            return None
        return self._later("locked ({0})".format(lock))

    def _later(self, reason: str) -> Optional[Later]:
        """Come back soon, or give up when lock_timeout has passed."""
        # What was agreed on before a wait may be pinned by now (law 5).
        self._allowed = None
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        left = self._waiting_since + self._crew.limits.lock_timeout - now
        if left > 0:
            pause, self._pause = self._pause, min(RETRY_MAX, self._pause * (1 if self._guest.lock else 2))
            return Later(min(pause, left))
        self._give_up(reason)
        return None

    def _give_up(self, reason: str) -> None:
        found = self._crew.live.guest(self._guest.vmid)
        if found is not None and found.lock in ("snapshot", "snapshot-delete") and self._stuck():
            self._crew.broken += [
                broken_entry(found, snapshot) for snapshot in self._plan.state.snapshots.snapshots if snapshot.snapstate]
            self._finish("failed", needs_unlock(found))
            return
        self._finish("deferred", "{0} for {1:.0f} s (lock_timeout); run again later".format(
            reason, self._crew.limits.lock_timeout))

    def _stuck(self) -> bool:
        """No visible task works on the guest, and its snapshots are as they were when the run began."""
        if self._crew.tasks.running(self._guest):
            return False
        return set(self._crew.cluster.snapshots(self._guest).snapshots) == set(self._plan.state.snapshots.snapshots)

    # ----------------------------------------------------------------- prune

    def _prune_for_room(self) -> object:
        """``prune_first``: prune what goes anyway, then look whether there is room for the snapshot."""
        following = self._prune()
        if isinstance(following, Work):
            return self._work(self._prune_for_room, DELETE)
        if following is not None or self._finished:
            return following
        self._allowed = None
        refusal = self._still_full()
        if refusal and self.outcome.pruned:
            self._room_until = self._room_until or time.monotonic() + ROOM_WAIT
            if time.monotonic() < self._room_until:
                return Later(LOCK_POLL)
        if refusal:
            self._finish("skipped", refusal, red=True)
            return None
        return self._work(self._create, CREATE)

    def _still_full(self) -> Optional[str]:
        """The storage guard once more, with what the run has promised to the other guests."""
        storages = storage_guard.by_node(self._crew.live.get().storages).get(self._guest.node, {})
        others = {key: size - self._plan.needs.get(key, 0) for key, size in self._crew.promised.items()}
        return storage_guard.judge(
            self._plan.state.config, storages, self._plan.vmstate, self._crew.guard, storage_guard.Ledger(others)).refusal

    def _prune(self) -> object:
        waiting = self._wait_for_lock()
        if waiting is not None or self._finished:
            return waiting
        if self._allowed is None:
            self._allowed = self._agreed()
        left = [s for s in self._allowed if s.name not in self.outcome.pruned]
        if left:
            following = self._delete(left[0])
            if following is not None or self._finished:
                return following
            if left[1:]:
                # One delete is one piece of work, so that the end of the run can come between two.
                return self._work(self._prune, DELETE)
        if not self.outcome.status:
            self.outcome.finish("pruned" if self.outcome.pruned else "unchanged", self._plan.reason)
        return None

    def _agreed(self) -> Tuple[Snapshot, ...]:
        """Law 5: what the plan and a plan made of a fresh list both prune."""
        listed = self._crew.cluster.snapshots(self._guest).snapshots
        created = self._created
        if created is not None:
            created = next((s for s in listed if s.name == created.name and not s.snapstate), None)
            if created is None:
                self.outcome.finish("failed", "snapshot {0} was made but is not in the list; nothing was pruned".format(
                    self.outcome.snapshot))
                return ()
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

    def _delete(self, snapshot: Snapshot) -> object:
        began = time.monotonic()
        veto = self._call_hook("snap-remove-pre", snapshot.name)
        if veto:
            self._call_hook("snap-remove-abort", snapshot.name, error=veto)
            self._finish("skipped", veto, red=True)
            return None
        try:
            done = self._crew.tasks.delete(
                self._guest, snapshot.name, self._crew.limits.timeout, self.outcome.upids.append)
        except errors.PveError as error:
            self._call_hook("snap-remove-abort", snapshot.name, error=error.message, upid=error.upid, began=began)
            return self._not_deleted(snapshot, error)
        except BaseException:
            self._call_hook("snap-remove-abort", snapshot.name, error="internal error", began=began)
            raise
        self._call_hook("snap-remove-post", snapshot.name, upid=done.upid, began=began)
        self.outcome.pruned.append(snapshot.name)
        if done.warning:
            self.outcome.warnings.append("delete {0}: {1}".format(snapshot.name, done.warning))
        return None

    def _not_deleted(self, snapshot: Snapshot, error: errors.PveError) -> object:
        """A delete that failed may have left a lock behind: look, and say so (api-facts 10)."""
        if error.kind == errors.MOVED and self._followed():
            self._allowed = None
            return Later(0.0)
        if error.kind == errors.MOVED and self._crew.live.guest(self._guest.vmid) is None:
            self._finish("skipped", "gone: the guest was deleted meanwhile", red=True)
            return None
        if not isinstance(error, errors.TaskFailed):
            raise error
        if error.kind in WAITABLE and self._crew.limits.locked == "wait":
            return self._later("delete {0}: {1}".format(snapshot.name, error.message))
        live = self._crew.live.guest(self._guest.vmid)
        left = next((s for s in self._crew.cluster.snapshots(self._guest).snapshots if s.name == snapshot.name), None)
        if left is not None and left.snapstate and not self._crew.tasks.running(self._guest):
            self._finish("failed", "{0}; delete {1}: {2}".format(
                needs_unlock(live or self._guest), snapshot.name, error.message))
            return None
        if errors.is_fatal(error):
            raise error
        if error.kind in WAITABLE and self._crew.limits.locked == "skip":
            self._finish("skipped", "delete {0}: {1}".format(snapshot.name, error.message), red=True)
            return None
        self._finish("failed", "delete {0}: {1}".format(snapshot.name, error.message))
        return None

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
    command = "pct" if guest.type == "lxc" else "qm"
    return "needs unlock: run '{0} unlock {1}' as root on node {2}".format(command, guest.vmid, guest.node)


def act(crew: Crew, plans: Tuple[GuestPlan, ...]) -> List[Outcome]:
    """Carry out the plans; one outcome for each, in their order."""
    deadline = crew.began + crew.limits.run_timeout if crew.limits.run_timeout else None

    def stop() -> Optional[str]:
        if crew.fatal is not None:
            return "not started: " + crew.fatal.message
        if deadline is not None and time.monotonic() >= deadline:
            return "not started: run_timeout has passed"
        return None

    runs = [GuestRun(crew, plan) for plan in plans]
    limits = crew.limits
    workers = Workers(
        Bounds(limits.max_parallel, limits.max_parallel_per_node, limits.max_parallel_per_storage,
               limits.max_parallel_deletes),
        stop)
    workers.run([work for work in (run.first_work() for run in runs) if work is not None])
    return [run.outcome for run in runs]
