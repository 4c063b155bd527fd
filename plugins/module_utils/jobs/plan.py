# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The plan: what a run would do with each guest, and why. Check mode prints it, a real run carries it out.

Made from a Situation alone: no I/O, no clock.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Hashable, List, Optional, Sequence, Tuple

from ..arguments import CleanSettings, RunLimits, SnapSettings
from ..model import LXC, QEMU, Guest, Snapshot, Storage
from ..policy import consistency, lookalike, storage_guard
from ..policy.naming import Recognition
from ..policy.retention import Decision, Retention, Sorted, decide, sort_snapshots
from ..pve import errors
from .reading import SNAPSHOT_LOCKS, GuestState, Situation

SERIAL_TYPES = frozenset(("lvm",))  # a lock with a 10 s wait per storage; a lost delete stays locked (api-facts 8)
SLOW_TYPES = frozenset(("nfs", "cifs"))  # one at a time unless told otherwise: each stalls its guest (api-facts 8)
HIBERNATED = frozenset(("suspended", "suspending"))


@dataclass(frozen=True)
class Retainer:
    """How snapshots of a run's labels are kept; ``labels`` None means every label found."""

    recognition: Recognition
    labels: Optional[Tuple[str, ...]]
    retention: Optional[Retention]
    timezone: Optional[datetime.tzinfo]
    keep_newest: bool = True

    @property
    def named(self) -> Tuple[str, ...]:
        """The labels that the user named."""
        return self.labels or ()

    def decide(
        self, snapshots: Sequence[Snapshot], server_time: int, created: Optional[Snapshot] = None
    ) -> List[Decision]:
        """Decisions on every whole snapshot of the labels; ``created`` counts as the newest of its label.

        ``created`` may or may not be in the list yet; either way it is protected (law 1).
        """
        if self.retention is None:
            return []
        listed = [s for s in snapshots if created is None or s.name != created.name]
        found = sort_snapshots(listed, self.recognition, server_time, False, self.named)
        whole = dict(found.whole)
        # With the created one in it: a clock that went back shows as a parent that is later than its child.
        protected = set(sort_snapshots(snapshots, self.recognition, server_time, False, self.named).skewed)
        if created is not None:
            label = self.recognition.label_of(created) or ""
            whole[label] = whole.get(label, ()) + (created,)
            protected.add(created.name)
        labels = sorted(whole) if self.labels is None else [label for label in self.labels if label in whole]
        return [
            decision
            for label in labels
            for decision in decide(
                whole[label], self.retention, self.timezone, frozenset(protected), self.keep_newest)
        ]

    def held(self, snapshots: Sequence[Snapshot], server_time: int) -> Tuple[Held, ...]:
        """The whole snapshots of the run's labels in a guest's list, by label."""
        found = sort_snapshots(snapshots, self.recognition, server_time, False, self.named).whole
        return tuple(
            Held(label, group) for label, group in sorted(found.items()) if self.labels is None or label in self.labels)


@dataclass(frozen=True)
class Held:
    """The whole snapshots of a label that a guest has."""

    label: str
    snapshots: Tuple[Snapshot, ...]

    def entry(self) -> Dict[str, Any]:
        """How many, and the time of the newest as the server has it, Unix seconds."""
        return {
            "label": self.label, "count": len(self.snapshots), "newest": max(snapshot.snaptime for snapshot in self.snapshots)}


def pruned(decisions: Sequence[Decision]) -> Tuple[Snapshot, ...]:
    """The snapshots that the decisions delete, oldest first."""
    return tuple(sorted((d.snapshot for d in decisions if not d.keep), key=lambda s: (s.snaptime, s.name)))


@dataclass(frozen=True)
class GuestPlan:
    """What is to be done with one guest.

    ``status`` is set where nothing is to be done. ``decisions`` take the planned snapshot as made;
    ``without_create`` is what may go if it is not (law 4). ``prune_first`` is the storage guard's
    refusal that pruning may lift. ``unlock`` where nothing is to be done but to wait for the guest's lock, which may be
    left behind. ``held`` is what the guest had of the run's labels when it was read; None where it could not be.
    ``label`` and ``time`` (Unix seconds) are those of the planned snapshot.
    ``consistency`` is what the snapshot will be, where that is known before, ``must_freeze`` when one that is not frozen
    is not what was asked for, ``commands`` when commands in the guest go with it.
    """

    state: GuestState
    status: str = ""
    reason: str = ""
    red: bool = False
    create: str = ""
    label: str = ""
    time: int = 0
    vmstate: bool = False
    consistency: Optional[consistency.Consistency] = None
    must_freeze: bool = False
    commands: bool = False
    decisions: Tuple[Decision, ...] = ()
    without_create: Tuple[Decision, ...] = ()
    repairs: Tuple[Snapshot, ...] = ()
    prune_first: str = ""
    unlock: bool = False
    needs: Dict[storage_guard.StorageKey, int] = field(default_factory=dict)
    storages: Tuple[Hashable, ...] = ()
    serial: Tuple[Hashable, ...] = ()
    warnings: Tuple[str, ...] = ()
    held: Optional[Tuple[Held, ...]] = None

    @property
    def guest(self) -> Guest:
        """The guest as it was read."""
        return self.state.guest

    @property
    def prunes(self) -> Tuple[Snapshot, ...]:
        """What is deleted when all goes well, oldest first."""
        return pruned(self.without_create if self.prune_first else self.decisions)

    @property
    def has_work(self) -> bool:
        """True when something is to be written."""
        return bool(self.create or self.prunes or self.repairs or self.unlock)

    def __str__(self) -> str:
        words = ["{0} {1}:".format(self.guest.vmid, self.guest.name or "?")]
        if self.prune_first:
            words.append("make room for {0} ({1})".format(self.create, self.prune_first))
        elif self.create:
            words.append("create {0}".format(self.create))
        if self.unlock:
            words.append("wait for its lock")
        words += ["repair {0}".format(snapshot.name) for snapshot in self.repairs]
        words += ["prune {0}".format(snapshot.name) for snapshot in self.prunes]
        if self.status:
            words.append("{0} ({1})".format(self.status, self.reason))
        return " ".join(words)


@dataclass(frozen=True)
class Plan:
    """What a run would do: the same object in check mode and in a real run. ``str`` prints it."""

    guests: Tuple[GuestPlan, ...]
    storages: Tuple[Dict[str, object], ...] = ()
    broken: Tuple[Dict[str, object], ...] = ()
    warnings: Tuple[str, ...] = ()
    promised: Dict[storage_guard.StorageKey, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(str(guest) for guest in self.guests)


@dataclass
class _SnapPlanner:
    situation: Situation
    settings: SnapSettings
    retainer: Retainer
    now: int
    ledger: storage_guard.Ledger = field(default_factory=storage_guard.Ledger)

    def plan(self) -> Plan:
        storages = storage_guard.by_node(self.situation.resources.storages)
        guests = [
            guarded(state, lambda state: self._guest(state, storages.get(state.guest.node, {})))
            for state in self.situation.states]
        used = _used_storages(self.situation, self.ledger, self.settings.vmstate)
        made = _plan(self.situation, guests, self.retainer, storage_guard.table(used, self.ledger, self.settings.guard))
        return replace(made, promised=self.ledger.promised)

    def _guest(self, state: GuestState, storages: Dict[str, Storage]) -> GuestPlan:
        unread = _unreadable(state)
        if unread is not None:
            return unread
        listed = state.snapshots
        if self.settings.only_running and not listed.running:
            return GuestPlan(state, "skipped", "not running")
        without = tuple(self.retainer.decide(listed.snapshots, self.situation.server_time))
        base = GuestPlan(
            state, decisions=without, without_create=without, **_storage_keys(state, storages, self.settings.limits))
        fresh = fresh_enough(self.settings, listed.snapshots, self.situation.server_time)
        refused = None if fresh and not base.prunes else _refused_by_lock(state, self.settings.limits.locked)
        if refused is not None:
            return refused
        if fresh:
            return replace(base, status="" if base.prunes else "unchanged", reason=fresh)
        name = self.retainer.recognition.free_name(self.settings.label, self.now, [s.name for s in listed.snapshots])
        if name is None:
            return replace(
                base, status="failed", red=True,
                reason="every name of the next hour is taken; use a timestamp_format with seconds")
        vmstate = _takes_ram(state, self.settings.vmstate)
        foreseen = consistency.foreseen(state.guest.type, state.config, listed.running, vmstate)
        must_freeze = self.settings.require_frozen != "never" and not vmstate
        if must_freeze and (state.silence or foreseen is not None and not foreseen.proven):
            reason = "it would not be frozen (require_frozen): " + (state.silence or (foreseen.reason if foreseen else ""))
            return replace(
                base, status="failed" if self.settings.require_frozen == "fail" else "skipped", reason=reason, red=True)
        verdict = storage_guard.judge(state.config, storages, vmstate, self.settings.guard, self.ledger)
        if verdict.refusal and (verdict.missing or self.settings.on_storage_full != "prune_first"):
            status = "failed" if self.settings.on_storage_full == "fail" else "skipped"
            return replace(base, status=status, reason=verdict.refusal, red=True)
        if verdict.refusal and not base.prunes:
            return replace(base, status="skipped", reason=verdict.refusal, red=True)
        self.ledger.promise(verdict.needs)
        created = Snapshot(name, self.now, self.retainer.recognition.written)
        refusal = verdict.refusal or ""
        reason = "{0}; {1} is made if pruning makes room".format(refusal, name) if refusal else ""
        decisions = tuple(self.retainer.decide(listed.snapshots, self.situation.server_time, created))
        return replace(
            base, create=name, label=self.settings.label, time=self.now, vmstate=vmstate, reason=reason, prune_first=refusal,
            needs=verdict.needs, decisions=decisions, warnings=_agent_warning(state, vmstate), consistency=foreseen,
            must_freeze=must_freeze,
            commands=self.settings.guest_commands is not None and state.guest.type == QEMU and listed.running)


def fresh_enough(settings: SnapSettings, snapshots: Sequence[Snapshot], server_time: int) -> str:
    """Why a guest with these snapshots needs no other one yet (``min_interval``), or an empty text."""
    if not settings.min_interval:
        return ""
    found = sort_snapshots(snapshots, settings.target.recognition, server_time, False, (settings.label,))
    newest = found.whole.get(settings.label, ())[-1:]
    age = server_time - newest[0].snaptime if newest else settings.min_interval
    if age >= settings.min_interval:
        return ""
    return "{0} is younger than min_interval ({1} s)".format(newest[0].name, settings.min_interval)


def plan_snap(situation: Situation, settings: SnapSettings, now: int) -> Plan:
    """The plan of a snapshot run; ``now`` is the run's one clock reading, Unix seconds."""
    recognition = settings.target.recognition
    retainer = Retainer(recognition, (settings.label,), settings.retention, recognition.timezone)
    return _SnapPlanner(situation, settings, retainer, now).plan()


def plan_clean(situation: Situation, settings: CleanSettings) -> Plan:
    """The plan of a clean run: prunes only."""
    retainer = clean_retainer(settings)
    storages = storage_guard.by_node(situation.resources.storages)
    guests = [
        guarded(state, lambda state: _clean_guest(
            state, settings, retainer, situation.server_time, storages.get(state.guest.node, {})))
        for state in situation.states]
    return _plan(situation, guests, retainer, [])


def _clean_guest(
    state: GuestState, settings: CleanSettings, retainer: Retainer, server_time: int, storages: Dict[str, Storage]
) -> GuestPlan:
    refused = _unreadable(state) or _refused_by_lock(state, settings.limits.locked)
    if refused is not None:
        return refused
    decisions = tuple(retainer.decide(state.snapshots.snapshots, server_time))
    repairs, warnings = _repairs(state, retainer, server_time, settings.limits.repair)
    waits = left_locked(state) and not pruned(decisions) and not repairs
    return GuestPlan(
        state, "" if pruned(decisions) or repairs or waits else "unchanged", decisions=decisions,
        without_create=decisions, repairs=repairs, warnings=warnings, unlock=waits,
        reason="locked ({0}), with {1} half done: waited for".format(
            state.guest.lock, ", ".join(sorted(state.unfinished))) if waits else "",
        **_storage_keys(state, storages, settings.limits))


def left_locked(state: GuestState) -> bool:
    """True for a guest that is locked with something half done, and nobody is known to work on it.

    Only a wait tells whether somebody does: without Sys.Audit the tasks of others are not seen.
    """
    return bool(state.unfinished) and state.guest.lock in SNAPSHOT_LOCKS and not state.seen


def needs_unlock(guest: Guest) -> str:
    """What a person with root must do about a lock that nobody holds (api-facts 2.3)."""
    command = "pct" if guest.type == LXC else "qm"
    return "needs unlock: run '{0} unlock {1}' as root on node {2}".format(command, guest.vmid, guest.node)


def guarded(state: GuestState, plan: Callable[[GuestState], GuestPlan]) -> GuestPlan:
    """A guest's plan; what goes wrong in making it costs this guest alone (law 9)."""
    try:
        return plan(state)
    except Exception as error:
        return GuestPlan(
            GuestState(state.guest, problem=errors.NotUnderstood("no plan")), "failed",
            "what was read of it was not understood: {0}: {1}".format(type(error).__name__, str(error)[:100]), red=True)


def _repairs(
    state: GuestState, retainer: Retainer, server_time: int, repair: str
) -> Tuple[Tuple[Snapshot, ...], Tuple[str, ...]]:
    """The broken snapshots of the run's labels that ``repair`` deletes, and a sentence on those that it cannot.

    Those under a lock are among them: the run waits for the lock, and says so when it stays.
    """
    if repair == "report":
        return (), ()
    found = sort_snapshots(state.snapshots.snapshots, retainer.recognition, server_time, False, retainer.named)
    ours = [snapshot for label, snapshot in found.broken
            if label and (retainer.labels is None or label in retainer.labels)]
    chosen = [snapshot for snapshot in ours if repair == "force" or snapshot.snapstate == "delete"]
    warnings = tuple(
        "{0} is broken ({1}): only repair: force can remove it".format(snapshot.name, snapshot.snapstate)
        for snapshot in ours if snapshot not in chosen)
    return tuple(chosen), warnings


def clean_retainer(settings: CleanSettings) -> Retainer:
    """The retainer of a clean run."""
    recognition = settings.target.recognition
    return Retainer(recognition, settings.labels, settings.retention, recognition.timezone, settings.keep_newest)


def _plan(
    situation: Situation, guests: List[GuestPlan], retainer: Retainer, storages: List[Dict[str, object]]
) -> Plan:
    guests += [
        GuestPlan(GuestState(guest), "unreachable", reason, red=True) for guest, reason in situation.undecided]
    broken: List[Dict[str, object]] = []
    warnings: List[str] = []
    held: Dict[int, Tuple[Held, ...]] = {}
    planned_for = {guest.guest.vmid: guest.state for guest in guests}
    for read in situation.states:
        state = planned_for.get(read.guest.vmid, read)
        found = sort_snapshots(
            state.snapshots.snapshots, retainer.recognition, situation.server_time, bool(state.guest.lock), retainer.named)
        broken += [broken_entry(state.guest, snapshot, situation.server_time) for _label, snapshot in found.broken]
        warnings += _clock_warnings(state.guest, found)
        if state.problem is None:
            held[state.guest.vmid] = retainer.held(state.snapshots.snapshots, situation.server_time)
    warnings += lookalike.sentences(
        retainer.recognition, retainer.labels, {state.guest.vmid: state.snapshots.snapshots for state in situation.states})
    planned = [replace(guest, held=held.get(guest.guest.vmid)) for guest in guests]
    return Plan(
        tuple(sorted(planned, key=lambda g: g.guest.vmid)), tuple(storages), tuple(broken), tuple(warnings))


def broken_entry(guest: Guest, snapshot: Snapshot, server_time: int) -> Dict[str, object]:
    """A broken snapshot in a result; ``age`` in seconds."""
    return {
        "vmid": guest.vmid, "node": guest.node, "snapshot": snapshot.name, "snapstate": snapshot.snapstate,
        "snaptime": snapshot.snaptime, "age": server_time - snapshot.snaptime, "lock": guest.lock,
    }


def _clock_warnings(guest: Guest, found: Sorted) -> List[str]:
    """Law 13: what cannot be trusted is reported."""
    warnings = []
    for _label, snapshot in found.suspect:
        warnings.append(
            "guest {0}: the time of snapshot {1} ({2}) cannot be true; it is neither counted nor deleted. Is the "
            "clock of node {3} right?".format(guest.vmid, snapshot.name, snapshot.snaptime, guest.node))
    if found.skewed:
        warnings.append(
            "guest {0}: the snapshots {1} are in another order by time than by parent; none of them is pruned. Are "
            "the clocks of all nodes in step?".format(guest.vmid, ", ".join(sorted(found.skewed))))
    return warnings


def _unreadable(state: GuestState) -> Optional[GuestPlan]:
    if state.problem is None:
        return None
    problem = state.problem
    if isinstance(problem, errors.PermissionDenied):
        return GuestPlan(state, "skipped", "missing privilege: " + problem.message, red=True)
    if isinstance(problem, (errors.NodeUnreachable, errors.HostUnreachable)):
        return GuestPlan(state, "unreachable", problem.message, red=True)
    if problem.kind == errors.MOVED:
        return GuestPlan(state, "skipped", "gone: it was deleted or migrated while the run began", red=True)
    return GuestPlan(state, "failed", problem.message, red=True)


def _refused_by_lock(state: GuestState, locked: str) -> Optional[GuestPlan]:
    """Guests whose lock the run does not wait for; ``locked: wait`` waits while it acts."""
    lock = state.guest.lock
    if not lock:
        return None
    if lock in HIBERNATED:
        return GuestPlan(state, "skipped", "locked ({0}): resume the guest first".format(lock), red=True)
    if locked == "skip":
        return GuestPlan(state, "skipped", "locked ({0})".format(lock), red=True)
    if locked == "fail":
        return GuestPlan(state, "failed", "locked ({0})".format(lock), red=True)
    return None


def _storage_keys(state: GuestState, storages: Dict[str, Storage], limits: RunLimits) -> Dict[str, Any]:
    """Those that cannot be seen are taken for the worst: shared by all nodes, and one at a time."""
    serial = SERIAL_TYPES | SLOW_TYPES if limits.slow_storages_serial else SERIAL_TYPES
    names = {disk.storage for disk in state.config.disks}
    found = {storages[name] for name in names if name in storages}
    unseen = [("", name) for name in names if name not in storages]
    return {
        "storages": tuple(sorted([*unseen, *(storage.key for storage in found)])),
        "serial": tuple(sorted([*unseen, *(storage.key for storage in found if storage.type in serial)])),
    }


def _takes_ram(state: GuestState, vmstate: bool) -> bool:
    return vmstate and state.guest.type == QEMU and state.snapshots.running


def _used_storages(situation: Situation, ledger: storage_guard.Ledger, vmstate: bool) -> List[Storage]:
    """The storages of the selected guests and those that RAM goes to, a shared one once."""
    by_node = storage_guard.by_node(situation.resources.storages)
    used: Dict[Hashable, Storage] = {}
    for state in situation.states:
        visible = by_node.get(state.guest.node, {})
        for name in storage_guard.needs_of(state.config, visible, _takes_ram(state, vmstate)):
            if name in visible:
                used.setdefault(visible[name].key, visible[name])
    for storage in situation.resources.storages:
        if storage.key in ledger.promised:
            used.setdefault(storage.key, storage)
    return list(used.values())


def _agent_warning(state: GuestState, vmstate: bool) -> Tuple[str, ...]:
    """A running VM without agent is cut as in a power failure (api-facts 2.7)."""
    if state.guest.type != QEMU or vmstate or state.config.agent or not state.snapshots.running:
        return ()
    return ("the guest agent is not enabled: the file systems are not frozen for the snapshot",)
