# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Carry out a plan: creates, then prunes, guest by guest, under the limits (design, "A snapshot run", 6 and 7)."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Generator, List, Optional, Sequence, Tuple

from ..arguments import RunLimits
from ..model import LXC, Guest, Snapshot, SnapshotList
from ..policy import consistency, storage_guard
from ..policy.retention import believable
from ..pve import errors
from ..pve.cluster import Cluster, Resources
from ..pve.session import Session
from ..pve.tasks import Done, Tasks, TaskTimeout
from .guest_commands import POST, PRE, CommandRunner
from .hooks import Event, Hooks
from .outcome import Outcome
from .plan import HIBERNATED, GuestPlan, Retainer, broken_entry, needs_unlock, pruned
from .progress import Progress
from .reading import SNAPSHOT_LOCKS
from .state import State
from .workers import CREATE, DELETE, Bounds, Dropped, Later, Slot, Stop, Workers

LOCK_POLL = 5.0  # seconds between two looks at a locked guest
STATUS_AGE = 60.0  # seconds that the view of the cluster may be old which tells whether a VM still runs
SPARE_THREADS = 8
RETRY_MAX = 60.0  # seconds between two tries against what no lock shows, such as a running replication
ROOM_WAIT = 30.0  # seconds until the cluster's view of a storage is fresh: pvestatd looks every 10 (api-facts 5.1)
THREADS = 64  # at the most, where no hook is called: one for each slot, and some for who has none
WAITABLE = frozenset((errors.BUSY, errors.BROKEN_LOCK, errors.CONTENTION))
STUCK_WAIT = 60.0  # seconds, or lock_timeout, that nothing may change before a lock is called stuck
CHANGES_MAX = 3  # times that a guest may be another one just before a delete, as where a hook changes it
NAMES_MAX = 3  # names of a snapshot that others may take just before it is made
CHANGING = "its snapshots or its lock change again and again just before a delete; nothing more was deleted"
GONE = "gone: the guest was deleted meanwhile"
CLAIMED = "another run of this control node works on it"

Steps = Generator[object, Any, None]
FreshEnough = Callable[[Sequence[Snapshot], int], str]  # plan.fresh_enough of the job


class LiveResources:
    """One shared view of ``/cluster/resources``, refreshed when it is older than who asks wants it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._resources: Optional[Resources] = None
        self._guests: Dict[int, Guest] = {}
        self._failed_at = float("-inf")
        self._failure: Optional[errors.PveError] = None

    def get(self, fresh: bool = False, age: Optional[float] = None, owed: bool = False) -> Resources:
        """The resources, about ``age`` or LOCK_POLL seconds old, or asked for from now on, ``owed`` past the run's end.

        While one thread reads them anew, the others take those that are there, or its failure.
        """
        now = time.monotonic()
        known = self._resources
        if not self._lock.acquire(blocking=fresh or known is None) and known is not None:
            return known
        try:
            if self._failure is not None and self._failed_at >= now and not owed:
                raise self._failure
            if self._resources is None or self._asked_at < (
                    now if fresh else now - (LOCK_POLL if age is None else age)):
                self._resources = self._read(owed)
            return self._resources
        finally:
            self._lock.release()

    def _read(self, owed: bool) -> Resources:
        asked_at = time.monotonic()
        try:
            found = self._cluster.resources(owed)
        except errors.PveError as error:
            self._failure, self._failed_at = error, time.monotonic()
            raise
        self._guests = {guest.vmid: guest for guest in found.guests}
        self._asked_at = asked_at
        return found

    def guest(
        self, vmid: int, fresh: bool = False, age: Optional[float] = None, owed: bool = False
    ) -> Optional[Guest]:
        """The guest as the cluster shows it; None when it is gone. NotUnderstood where what cannot be read may be it."""
        resources = self.get(fresh, age, owed)
        found = self._guests.get(vmid)
        if found is None and resources.unreadable:
            raise errors.NotUnderstood("whether the guest is still there cannot be told: " + resources.unreadable[0])
        return found


@dataclass
class Crew:
    """What all guests of a run share. ``stopped`` tells why the run must end now, ``heard`` whether somebody waits
    for its result."""

    session: Session
    cluster: Cluster
    tasks: Tasks
    hooks: Hooks
    commands: CommandRunner
    limits: RunLimits
    retainer: Retainer
    guard: storage_guard.Limits
    fresh_enough: FreshEnough
    promised: Dict[storage_guard.StorageKey, int]
    state: State
    progress: Progress
    stopped: Callable[[], Optional[str]]
    heard: Callable[[], bool]
    broken: List[Dict[str, object]] = field(default_factory=list)
    fatal: Optional[errors.PveError] = None
    outcomes: List[Outcome] = field(default_factory=list)
    live: LiveResources = field(init=False)

    def __post_init__(self) -> None:
        self.live = LiveResources(self.cluster)

    def stop(self) -> Optional[Stop]:
        """Why nothing new may be started; running tasks are waited for only after a failure."""
        reason = self.stopped()
        if reason is not None:
            return Stop(reason, at_once=True)
        if self.fatal is not None:
            return Stop("the run was stopped: " + self.fatal.message, at_once=False)
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
        self._storages, self._serial = plan.storages, plan.serial
        self._waited = 0.0
        self._pause = LOCK_POLL
        self._listed_then: Optional[Tuple[Snapshot, ...]] = None
        self._waited_then = 0.0
        self._fresh = ""
        self._name = plan.create
        self._names_taken = 0
        self._written = False
        self._outdated = False  # somebody else may have written since the guest was read
        self._changed_meanwhile = 0
        self._due: Tuple[Snapshot, ...] = ()
        self._gone: List[str] = []
        self._claimed = False
        self._created: Optional[Snapshot] = None
        self._troubles: List[str] = []
        self.outcome = Outcome(plan, warnings=list(plan.warnings))
        if plan.status:
            self.outcome.finish(plan.status, plan.reason, plan.red)

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
        self._crew.fatal = self._crew.fatal or self._crew.session.quorum.lost
        self._count_what_is_held()
        self.outcome.touch()
        self.outcome.errors += self._troubles
        self.outcome.red = self.outcome.red or bool(self._troubles)
        untold = self.outcome.status == "timeout" and not self._crew.heard()
        self._crew.state.ended(self.outcome, unfinished=self.outcome.unseen or untold)
        self._crew.progress.ended(
            self._guest.vmid, self._guest.name or "", self.outcome.status, self.outcome.reason, self.outcome.red)

    def _list(self) -> SnapshotList:
        """The guest's snapshots as they are now; what it is said to hold is counted in them."""
        found = self._crew.cluster.snapshots(self._guest)
        self._written = self._outdated = False
        self.outcome.held = self._crew.retainer.held(found.snapshots, self._crew.session.clock.now())
        return found

    def _count_what_is_held(self) -> None:
        """Where something was written since the guest was read last, by this run or by whoever it waited for, it is read once
        more; unknown where it cannot be."""
        if not self._written and not self._outdated:
            return
        self._written = self._outdated = False
        self.outcome.held = None
        away = self._crew.fatal is not None and self._crew.session.quorum.lost is None
        if self.outcome.status != "unreachable" and not self.outcome.unseen and not away:
            # Whatever goes wrong here must cost the guest neither its end in the record nor its claim.
            with contextlib.suppress(Exception):
                self._list()

    def _steps(self) -> Steps:
        plan = self._plan
        if plan.unlock:
            yield from self._unlocked()
        if plan.repairs:
            yield from self._repair()
        if plan.prune_first and plan.prunes:
            self._due = plan.prunes
            yield from self._make_room()
        whole = True
        if plan.create:
            whole = yield from self._create()
        self._due = pruned(plan.decisions if whole else plan.without_create)
        if self._due:
            yield from self._prune()
        if not self.outcome.status:
            done = self.outcome.pruned or self.outcome.repaired
            self.outcome.finish("pruned" if done else "unchanged", self._fresh or plan.reason)

    def _dropped(self, reason: str) -> None:
        """The run ends before this guest is done: say what is left undone."""
        text = reason if self.outcome.upids or self.outcome.snapshot else "not started: " + reason
        self.outcome.finish("failed" if self._crew.fatal else "timeout", text + self._undone())

    def _undone(self) -> str:
        """The prunes that did not come to their end, where it was their turn."""
        left = [snapshot.name for snapshot in self._due if snapshot.name not in self.outcome.pruned]
        return "; not pruned: " + ", ".join(left) if left else ""

    def _slot(self, kind: str) -> Slot:
        return Slot(kind, self._guest.node, self._storages, self._serial)

    def _begin(self, kind: str) -> Generator[object, Any, None]:
        """Wait until the guest is free, there is room under the limits, and no other run works on it."""
        while True:
            self._crew.progress.waits(self._guest.vmid)
            yield from self._unlocked()
            yield self._slot(kind)
            self.outcome.touch()
            self._go_on()
            self._claimed = self._claimed or self._crew.state.take(self._guest.vmid)
            if self._claimed:
                self._crew.progress.begun(self._guest.vmid)
                return
            self._may_wait(CLAIMED)
            yield from self._wait(CLAIMED)

    def _go_on(self) -> None:
        """Before each write: Dropped when the run has to end."""
        stop = self._crew.stop()
        if stop is not None:
            raise Dropped(stop.reason)

    def _started(self, upid: str) -> None:
        self.outcome.upids.append(upid)
        self._crew.state.task(self._guest.vmid, upid)

    def _awaited(self, write: Generator[object, Any, Done]) -> Generator[object, Any, Done]:
        """A write and its end, noted in the record; it stays unseen where only its start is known."""
        self.outcome.unseen = self._written = True
        self._crew.state.sent(self._guest.vmid)
        before = len(self.outcome.upids)
        try:
            done = yield from write
        except errors.TaskFailed:
            self.outcome.unseen = False
            raise
        except Finished:
            self.outcome.unseen = len(self.outcome.upids) > before
            raise
        except errors.PveError as error:
            self.outcome.unseen = error.uncertain or len(self.outcome.upids) > before
            raise
        finally:
            # It may have been looked at while the write was under way.
            self._written = True
        self.outcome.unseen = False
        return done

    # ---------------------------------------------------------------- create

    def _create(self) -> Generator[object, Any, bool]:
        """Make the snapshot; False when that failed for good, or is not needed any more, and only what may go
        without it is pruned (law 4)."""
        while True:
            yield from self._begin(CREATE)
            if self._waited and self._made_meanwhile():
                return False
            name = self._name
            began = time.monotonic()
            veto = self._call_hook("snap-create-pre", name)
            if veto:
                self._call_hook("snap-create-abort", name, error=veto)
                raise Finished("skipped", veto, red=True)
            try:
                self._go_on()
                done = yield from self._take_between_commands(name)
            except Finished as end:
                self._call_hook("snap-create-abort", name, error=end.reason, began=began)
                raise
            except (errors.PveError, Dropped) as error:
                upid = error.upid if isinstance(error, errors.PveError) else None
                self._call_hook("snap-create-abort", name, error=str(error), upid=upid, began=began)
                if not isinstance(error, errors.PveError):
                    raise
                if not self._may_try_again(error):
                    return False
                if error.kind != errors.CLASH:
                    yield from self._wait_out(error, error.message)
            except Exception:
                self._call_hook("snap-create-abort", name, error="internal error", began=began)
                raise
            else:
                break
        self._call_hook("snap-create-post", name, upid=done.upid, began=began)
        self.outcome.snapshot = name
        made_at = self._crew.session.clock.now()
        if done.warning:
            self.outcome.warnings.append("create {0}: {1}".format(name, done.warning))
        self.outcome.finish("created")
        good = yield from self._judge_consistency(done.upid)
        self.outcome.finish("created", "; ".join(self._troubles), red=bool(self._troubles))
        self._troubles = []
        self._waited, self._pause = 0.0, LOCK_POLL
        self._created = Snapshot(name, made_at, self._crew.retainer.recognition.written) if good else None
        return good

    def _judge_consistency(self, upid: Optional[str]) -> Generator[object, Any, bool]:
        """Note how consistent the new snapshot is; False where it is not what was asked for, so that nothing may go
        which would stay without it."""
        found = self._without_log() or (yield from self._log_tells(upid))
        self.outcome.consistency = found
        if found.stuck:
            self._troubles.append(
                "the thaw had trouble, look whether the guest hangs ('qm guest cmd {0} fsfreeze-status' on node {1}): {2}".format(
                    self._guest.vmid, self._guest.node, found.stuck))
        if not self._plan.must_freeze or found.proven and not found.stuck:
            return True
        if not found.proven:
            self._troubles.append("not known to be frozen (require_frozen): " + found.reason)
        return False

    def _without_log(self) -> Optional[consistency.Consistency]:
        """What is known without the log: the plan's, unless the VM was started or stopped since it was read."""
        plan = self._plan
        if plan.guest.type == LXC or plan.vmstate:
            return plan.consistency
        try:
            running = self._runs_now(plan.state.snapshots.running)
        except errors.PveError:
            running = plan.state.snapshots.running
        return consistency.foreseen(plan.guest.type, plan.state.config, running, plan.vmstate)

    def _runs_now(self, before: bool) -> bool:
        """A VM that has been started must not pass for a stopped one: that is worth a call. One that has been stopped
        is as good as frozen, and a shared look now and then will do."""
        if not before:
            return self._list().running
        found = self._crew.live.guest(self._guest.vmid, age=STATUS_AGE)
        return before if found is None or found.unknown else found.status == "running"

    def _log_tells(self, upid: Optional[str]) -> Generator[object, Any, consistency.Consistency]:
        """Read without a slot: the next guest need not wait for it."""
        try:
            yield Later(0.0)
            log = self._crew.tasks.log(upid) if upid else ()
        except (errors.PveError, Dropped) as error:
            log = (str(error),)
        return consistency.judge(log, self._plan.state.config, self._plan.vmstate)

    def _take_between_commands(self, name: str) -> Generator[object, Any, Done]:
        """Create, between the commands in the guest: that after it follows whatever became of the others."""
        if not self._plan.commands:
            return (yield from self._take(name))
        try:
            problem = yield from self._crew.commands.run(self._where, PRE)
            self._go_on()
            if problem:
                self._command_failed(problem)
            done = yield from self._take(name)
        except Exception as error:
            yield from self._command_after()
            if isinstance(error, TaskTimeout):
                self.outcome.warnings.append("the guest command post was started while the task of the snapshot still ran")
            raise
        yield from self._command_after()
        return done

    def _where(self, anew: bool) -> Guest:
        """The guest on its node, looked up where that is asked for."""
        if anew:
            self._followed(owed=True)
        return self._guest

    def _command_failed(self, problem: str) -> None:
        """Finished where ``on_error`` does not go on without it."""
        if self._crew.commands.on_error != "continue":
            raise Finished("failed" if self._crew.commands.on_error == "fail" else "skipped", problem, red=True)
        self.outcome.warnings.append(problem)

    def _command_after(self) -> Generator[object, Any, None]:
        problem = yield from self._crew.commands.run(self._where, POST)
        if problem:
            (self.outcome.warnings if self._crew.commands.on_error == "continue" else self._troubles).append(problem)

    def _made_meanwhile(self) -> bool:
        """Whether none is needed now, since another run made the snapshot: one of this name, or what ``min_interval`` asks
        for. Where somebody else has the name, the next free one is taken.

        What cannot be read does not count: the create shows what is wrong.
        """
        try:
            listed = self._list().snapshots
        except errors.PveError:
            return False
        now = self._crew.session.clock.now()
        self._fresh = self._crew.fresh_enough(listed, now)
        if self._fresh:
            return True
        taken = next((snapshot for snapshot in listed if snapshot.name == self._name), None)
        # One that our own lost write made is found by the create (law 8).
        if taken is not None and not self._crew.tasks.lost(self._guest, self._name):
            recognition = self._crew.retainer.recognition
            # Whether another run's is frozen, or holds the RAM, nobody knows.
            special = self._plan.must_freeze or self._plan.vmstate
            ours = recognition.label_of(taken) == self._plan.label and not taken.snapstate and believable(taken, now)
            if ours and not special:
                self._fresh = "another run made {0} just now".format(taken.name)
                return True
            self._take_another_name([snapshot.name for snapshot in listed])
        return False

    def _take_another_name(self, taken: Sequence[str]) -> None:
        name = self._crew.retainer.recognition.free_name(self._plan.label, self._plan.time, taken)
        self._names_taken += 1
        if name is None or self._names_taken > NAMES_MAX:
            raise Finished("failed", "others take each name of the snapshot just before it is made; run again later")
        self._name = name

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
        written = self._crew.retainer.recognition.written
        return (yield from self._awaited(self._crew.tasks.create(
            self._guest, name, written, self._plan.vmstate, self._crew.limits.timeout, self._started)))

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

    def _followed(self, owed: bool = False) -> bool:
        """Look where the guest is now; True when it is on another node than thought."""
        found = self._crew.live.guest(self._guest.vmid, fresh=True, owed=owed)
        if found is None or found.node == self._guest.node:
            return False
        self._move(found)
        return True

    def _move(self, found: Guest) -> None:
        """Take in where the guest is now, and with it its local storages."""
        def moved(keys: Tuple[Any, ...]) -> Tuple[Any, ...]:
            return tuple((found.node if node == self._guest.node else node, name) for node, name in keys)

        self._storages, self._serial = moved(self._storages), moved(self._serial)
        self._guest = replace(self._guest, node=found.node, lock=found.lock)

    def _may_try_again(self, error: errors.PveError) -> bool:
        """After a create that failed: True to try again, after a lock or under another name; False to prune what may go
        without it (law 4).

        Raises Finished where neither makes sense, and errors that end the run.
        """
        if error.kind == errors.CLASH and not error.uncertain:
            before = self._name
            if self._made_meanwhile():
                return False
            if self._name != before:
                return True
        # A node that fell silent while the task ran may have answered with the text of a lock: that is no refusal.
        waitable = error.kind in WAITABLE and not isinstance(error, errors.NodeUnreachable)
        # A lock of a snapshot that the task met is somebody else's, and so is what is half made under it.
        of_its_own = isinstance(error, errors.TaskFailed) and error.kind != errors.BROKEN_LOCK
        if of_its_own and self._left_locked(self._name):
            raise Finished("failed", "{0}; create: {1}".format(needs_unlock(self._guest), error.message))
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
            reason = "locked ({0})".format(self._guest.lock)
            self._may_wait(reason)
            if self._guest.lock in SNAPSHOT_LOCKS:
                self._note_list()
            else:
                self._listed_then = None
            yield from self._wait(reason)
        self._listed_then = None

    def _may_wait(self, reason: str) -> None:
        """Finished where ``locked`` says not to wait."""
        if self._crew.limits.locked != "wait":
            raise Finished("skipped" if self._crew.limits.locked == "skip" else "failed", reason, red=True)

    def _wait_out(self, error: errors.PveError, reason: str) -> Steps:
        """Wait after a task that met a lock which may have no end."""
        if error.kind == errors.BROKEN_LOCK:
            self._note_list()
        yield from self._wait(reason)

    def _note_list(self) -> None:
        """What the guest's snapshots are when a snapshot lock is met; who works on them changes them."""
        if self._listed_then is None:
            self._listed_then = self._list().snapshots
            self._waited_then = self._waited

    def _wait(self, reason: str) -> Steps:
        """Come back soon and look at the lock anew; Finished when lock_timeout has passed."""
        self.outcome.touch()
        pause = min(self._pause, self._crew.limits.lock_timeout - self._waited)
        if pause <= 0:
            self._give_up(reason)
        self._crew.progress.held_up(self._guest.vmid, self._guest.name or "", "{0}, for {1:.0f} s at the most".format(
            reason, self._crew.limits.lock_timeout))
        self._waited += pause
        self._pause = min(RETRY_MAX, self._pause * (1 if self._guest.lock else 2))
        yield Later(pause)
        self._outdated = True
        found = self._crew.live.guest(self._guest.vmid)
        if found is None:
            raise Finished("skipped", GONE, red=True)
        self._move(found)

    def _give_up(self, reason: str) -> None:
        found = self._crew.live.guest(self._guest.vmid)
        if found is not None and found.lock:
            self._crew.broken += self._under(found)
            if found.lock in SNAPSHOT_LOCKS and self._stuck():
                raise Finished("failed", needs_unlock(found))
        raise Finished("deferred", "{0} for {1:.0f} s (lock_timeout); run again later".format(
            reason, self._crew.limits.lock_timeout))

    def _under(self, guest: Guest) -> List[Dict[str, object]]:
        """What is broken under a lock that outlived lock_timeout (design, "Words"); nothing where it cannot be read."""
        try:
            listed = self._crew.cluster.snapshots(guest).snapshots
        except errors.PveError:
            return []
        now = self._crew.session.clock.now()
        return [broken_entry(guest, snapshot, now) for snapshot in listed if snapshot.snapstate]

    def _stuck(self) -> bool:
        """No visible task works on the guest, and its snapshots are as they were when the wait began."""
        needed = min(STUCK_WAIT, self._crew.limits.lock_timeout)
        if self._listed_then is None or self._waited - self._waited_then < needed:
            return False
        if not self._crew.tasks.idle(self._guest):
            return False
        return set(self._list().snapshots) == set(self._listed_then)

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
        """Delete what retention does not keep, as far as it is agreed on just before each delete (law 5)."""
        yield from self._delete_each(self._agreed)

    def _repair(self) -> Steps:
        """Delete broken entries, forced only on a guest whose lock was just read as unset (law 6)."""
        yield from self._delete_each(self._broken, self._crew.limits.repair == "force")

    def _delete_each(self, choose: Callable[[], Tuple[Snapshot, ...]], force: bool = False) -> Steps:
        """Delete what ``choose`` reads, one after the other in one slot; it is asked again right before each delete.

        A delete may take half an hour, in which somebody deletes or pins others.
        """
        while True:
            yield from self._begin(DELETE)
            chosen = self._chosen(choose)
            while chosen:
                chosen = yield from self._delete(chosen, choose, force)
            if chosen is not None and not self._guest.lock:
                return

    def _agreed(self) -> Tuple[Snapshot, ...]:
        """Law 5: what the plan and a plan made of a fresh list both prune."""
        listed = self._list().snapshots
        created = self._created
        if created is not None:
            created = next((s for s in listed if s.name == created.name and not s.snapstate), None)
            if created is None:
                raise Finished("failed", "snapshot {0} was made but is not in the list; nothing more was pruned".format(
                    self.outcome.snapshot))
        now = self._crew.session.clock.now()
        if created is not None and not believable(created, now):
            # It counts for nothing (law 13), so nothing goes that would stay without it (law 4).
            text = "the time of {0} lies ahead of the server's clock: it is not counted".format(created.name)
            self.outcome.warnings += [] if text in self.outcome.warnings else [text]
            created = None
        first = self._plan.decisions if created is not None else self._plan.without_create
        again = set(pruned(self._crew.retainer.decide(listed, now, created)))
        identity = {_identity(s) for s in again}
        return tuple(s for s in pruned(first) if _identity(s) in identity)

    def _delete(
        self, chosen: Tuple[Snapshot, ...], choose: Callable[[], Tuple[Snapshot, ...]], force: bool
    ) -> Generator[object, Any, Optional[Tuple[Snapshot, ...]]]:
        """Delete the first of ``chosen``, which was read just now; what is to go after it.

        None when the guest moved or a lock was waited for. A pre hook may take minutes, so after it ``choose`` is asked
        again, and its answer names the next one too: that one has a hook of its own, and is looked at behind it.
        """
        snapshot, rest = chosen[0], chosen[1:]
        began = time.monotonic()
        veto = self._call_hook("snap-remove-pre", snapshot.name)
        if veto:
            self._call_hook("snap-remove-abort", snapshot.name, error=veto)
            raise Finished("skipped", veto, red=True)
        try:
            self._go_on()
            if self._crew.hooks.configured:
                fresh = choose()
                if snapshot not in fresh:
                    raise errors.NoLongerWanted("its snapshots or its lock changed")
                rest = self._not_gone(tuple(other for other in fresh if other != snapshot))
            done = yield from self._awaited(self._crew.tasks.delete(
                self._guest, snapshot.name, self._crew.limits.timeout, self._started, lambda: snapshot in choose(), force))
        except errors.NoLongerWanted as error:
            self._changed(snapshot, error, began)
            return None
        except (errors.PveError, Dropped) as error:
            upid = error.upid if isinstance(error, errors.PveError) else None
            self._call_hook("snap-remove-abort", snapshot.name, error=str(error), upid=upid, began=began)
            if not isinstance(error, errors.PveError):
                raise
            yield from self._not_deleted(snapshot, error)
            return None
        except Finished as end:
            self._call_hook("snap-remove-abort", snapshot.name, error=end.reason, began=began)
            raise
        except Exception:
            self._call_hook("snap-remove-abort", snapshot.name, error="internal error", began=began)
            raise
        self._call_hook("snap-remove-post", snapshot.name, upid=done.upid, began=began)
        self._deleted(snapshot, done, force)
        return rest if self._crew.hooks.configured or not rest else self._chosen(choose)

    def _changed(self, snapshot: Snapshot, error: errors.NoLongerWanted, began: float) -> None:
        """What was to be deleted is another one now; Finished where that happens again and again, or by our own delete.

        A delete whose answer was lost may have failed half-way: nobody else tells that it did (laws 7 and 10).
        """
        self._call_hook("snap-remove-abort", snapshot.name, error=error.message, began=began)
        if error.lost and not snapshot.snapstate:
            if any(other.name == snapshot.name and other.snapstate for other in self._list().snapshots):
                text = "delete {0}: its answer was lost, and the snapshot is half deleted".format(snapshot.name)
                locked = self._left_locked(snapshot.name)
                raise Finished("failed", "{0}; {1}".format(needs_unlock(self._guest), text) if locked else text)
        self._changed_meanwhile += 1
        if self._changed_meanwhile == CHANGES_MAX:
            raise Finished("failed", CHANGING)

    def _deleted(self, snapshot: Snapshot, done: Done, force: bool) -> None:
        """Note a delete that came to its end."""
        self._gone.append(snapshot.name)
        self._changed_meanwhile = 0
        if done.changed:
            (self.outcome.repaired if snapshot.snapstate else self.outcome.pruned).append(snapshot.name)
        if force:
            self.outcome.warnings.append(
                "{0} was removed by force: snapshots of its disks may be left on the storages".format(snapshot.name))
        self._waited, self._pause = 0.0, LOCK_POLL
        if done.warning:
            self.outcome.warnings.append("delete {0}: {1}".format(snapshot.name, done.warning))

    def _chosen(self, choose: Callable[[], Tuple[Snapshot, ...]]) -> Optional[Tuple[Snapshot, ...]]:
        """Law 5 before a delete; None when the guest moved."""
        self._go_on()
        try:
            return self._not_gone(choose())
        except errors.PveError as error:
            self._follow(error)
            return None

    def _not_gone(self, chosen: Tuple[Snapshot, ...]) -> Tuple[Snapshot, ...]:
        """Without those whose delete ended well: a list that still has one must not keep the run busy for ever."""
        for snapshot in chosen:
            text = "{0} is still in the list though the task of its delete ended well".format(snapshot.name)
            if snapshot.name in self._gone and text not in self.outcome.warnings:
                self.outcome.warnings.append(text)
        return tuple(snapshot for snapshot in chosen if snapshot.name not in self._gone)

    def _not_deleted(self, snapshot: Snapshot, error: errors.PveError) -> Steps:
        """A delete that failed: return to try again, or raise what ends the guest.

        It may have left a lock behind: look, and say so (api-facts 10).
        """
        if error.kind == errors.MOVED:
            self._follow(error)
            return
        if not isinstance(error, errors.TaskFailed):
            raise error
        waiting = error.kind in WAITABLE and self._crew.limits.locked == "wait"
        text = "delete {0}: {1}".format(snapshot.name, error.message)
        somebodys = error.kind == errors.BROKEN_LOCK
        if not somebodys and self._left_locked(snapshot.name):
            raise Finished("failed", "{0}; {1}".format(needs_unlock(self._guest), text))
        if waiting:
            yield from self._wait_out(error, text)
            return
        if errors.is_fatal(error):
            raise error
        skipped = error.kind in WAITABLE and self._crew.limits.locked == "skip"
        raise Finished("skipped" if skipped else "failed", text, red=True)

    def _left_locked(self, name: str) -> bool:
        """True when a snapshot stands half made or half deleted under a lock, and no visible task works on it.

        It is noted as broken, with a lock or without. False where that cannot be read: what failed then counts.
        """
        try:
            half = [snapshot for snapshot in self._list().snapshots if snapshot.name == name and snapshot.snapstate]
            if not half or not self._crew.tasks.idle(self._guest):
                return False
            left = replace(self._guest, lock=self._crew.cluster.config(self._guest).lock)
            self._crew.broken.append(broken_entry(left, half[0], self._crew.session.clock.now()))
            return left.lock in SNAPSHOT_LOCKS
        except errors.Interrupted:
            return False
        except errors.PveError as error:
            if errors.is_fatal(error):
                raise
            return False

    # ---------------------------------------------------------------- repair

    def _broken(self) -> Tuple[Snapshot, ...]:
        """The entries of the plan that are as they were, on a guest without lock.

        The lock is read first: a task that ends between the two reads has no entry left that is as it was.
        """
        self._guest = replace(self._guest, lock=self._crew.cluster.config(self._guest).lock)
        if self._guest.lock:
            return ()
        listed = {_identity(s) for s in self._list().snapshots}
        return tuple(s for s in self._plan.repairs if _identity(s) in listed)

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


def _identity(snapshot: Snapshot) -> Tuple[object, ...]:
    """What makes it the same snapshot in two lists; its parent is another one when a snapshot between them went."""
    return snapshot.name, snapshot.snaptime, snapshot.description, snapshot.snapstate


def act(crew: Crew, plans: Tuple[GuestPlan, ...]) -> List[Outcome]:
    """Carry out the plans; one outcome for each, in their order."""
    limits = crew.limits
    runs = [GuestRun(crew, plan) for plan in plans]
    crew.outcomes = [run.outcome for run in runs]
    hooked = crew.hooks.configured
    waited_for = hooked or any(plan.commands for plan in plans)
    slots = limits.creates.total + limits.deletes.total
    threads = slots + SPARE_THREADS if hooked else min(THREADS, slots + SPARE_THREADS)
    # A post hook or command may thaw something: it must not wait until a look is worth its while.
    workers = Workers(Bounds(limits.creates, limits.deletes), crew.session, crew.stop, threads, eager=waited_for)
    for run, plan in zip(runs, plans):
        if not plan.has_work:
            outcome = run.outcome
            crew.progress.ended(plan.guest.vmid, plan.guest.name or "", outcome.status, outcome.reason, outcome.red)
    workers.run([run for run, plan in zip(runs, plans) if plan.has_work])
    return crew.outcomes
