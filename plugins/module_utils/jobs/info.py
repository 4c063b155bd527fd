# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The info job: which guests have which managed snapshots, what is broken, and whether that is as expected."""

from __future__ import annotations

import datetime
import time
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Sequence, Tuple

from ..arguments import InfoSettings
from ..model import Guest, Snapshot, Storage
from ..policy import health, lookalike, selection, storage_guard
from ..policy.retention import Decision, Sorted, sort_snapshots
from ..pve.cluster import Cluster
from ..pve.session import Session
from ..pve.tasks import SUCCESS, Tasks
from . import outcome
from .plan import Retainer, broken_entry, pruned
from .reading import GuestState, Situation, in_parallel, read_situation
from .run import Report

Verdicts = Dict[int, List[health.Verdict]]


def info(settings: InfoSettings, session: Session) -> Report:
    """Read, judge and list; changes nothing."""
    began = time.monotonic()
    cluster = Cluster(session)
    tasks = Tasks(session, cluster)
    terms = [term for expectation in settings.expect for term in expectation.terms or ()]
    situation = read_situation(session, cluster, settings.target, with_config=False, more_terms=terms)
    found = _sort(situation, settings)
    verdicts, unmet = _verdicts(situation, settings, found)
    _name_failed_tasks(verdicts, situation, tasks)
    guests = [_entry(state, situation, settings, verdicts, found) for state in situation.states]
    guests += [_unread(guest, reason, settings, verdicts) for guest, reason in situation.undecided]
    guests.sort(key=lambda entry: int(entry["vmid"]))
    unmatched = [*situation.unmatched, *unmet]
    result: Dict[str, Any] = {
        "changed": False,
        "server_time": situation.server_time,
        "guests": guests,
        "summary": {
            "matched": len(guests),
            "unreachable": sum(1 for entry in guests if entry["status"] != "ok"),
            "snapshots": sum(len(entry["snapshots"]) for entry in guests),
        },
        "broken": [entry for state in situation.states for entry in _broken(state, situation, settings, tasks, found)],
        "old_foreign": [entry for state in situation.states for entry in _old_foreign(state, situation, settings, found)],
        "storages": storage_guard.table(_storages(situation), storage_guard.Ledger(), settings.guard),
        "templates": [{"vmid": g.vmid, "name": g.name or "", "node": g.node} for g in situation.templates],
        "unmatched": [{"term": term.term, "exclude": term.exclude, "reason": term.reason} for term in unmatched],
        "unreadable": list(situation.resources.unreadable),
    }
    if settings.expect:
        result["health"] = {status: sum(1 for entry in guests if entry["health"] == status) for status in health.STATUSES}
    suspect = [(vmid, snapshot) for vmid, told in found.items() for _label, snapshot in told.suspect]
    result["status"] = _level(result, verdicts, settings, bool(suspect))
    problems = outcome.unmatched_problems(situation, settings.target)
    if settings.target.fail_unmatched:
        problems += ["option 'expect': '{0}' {1}".format(term.term, term.reason) for term in unmet]
    own = outcome.expectation_problems([int(entry["vmid"]) for entry in guests], settings.target)
    if not guests:
        own.append("the selector matches no guest at all; " + outcome.EMPTY_HINT)
    problems += own if guests or settings.target.fail_unmatched else []
    if settings.fail_on_status in health.LEVELS[1:health.LEVELS.index(result["status"]) + 1]:
        problems.append("the status is {0}: {1}".format(result["status"], _findings(result)))
    result["problems"] = own
    result["api_calls"] = session.calls
    result["duration"] = round(time.monotonic() - began, 1)
    message = "; ".join(problems) or "{matched} guests, {snapshots} managed snapshots".format(**result["summary"])
    warnings = (*session.quorum.warnings, *_warnings(guests, unmatched, situation, settings, suspect))
    return Report(result, bool(problems), message, warnings)


def _sort(situation: Situation, settings: InfoSettings) -> Dict[int, Sorted]:
    """The snapshots of each guest that was read, told apart."""
    named = [*(settings.labels or ()), *(expectation.label for expectation in settings.expect)]
    return {
        state.guest.vmid: sort_snapshots(
            state.snapshots.snapshots, settings.target.recognition, situation.server_time, state.working, named)
        for state in situation.states if state.problem is None}


def _verdicts(
    situation: Situation, settings: InfoSettings, found: Dict[int, Sorted]
) -> Tuple[Verdicts, List[selection.Unmatched]]:
    """Every expectation's verdict on every guest that it covers, and what covers nobody.

    Guests that a term may or may not mean cannot be read either, and count as covered.
    """
    states = {state.guest.vmid: state for state in situation.states}
    reasons = {guest.vmid: reason for guest, reason in situation.undecided}
    guests = [state.guest for state in situation.states] + [guest for guest, _reason in situation.undecided]
    verdicts: Verdicts = {guest.vmid: [] for guest in guests}
    unmet: List[selection.Unmatched] = []
    for expectation in settings.expect:
        covered: Sequence[Guest] = guests
        if expectation.terms is not None:
            chosen = selection.select(expectation.terms, guests, situation.pools)
            covered = [*chosen.selected, *chosen.undecided]
            unmet += [
                replace(term, reason="of the expectation for label '{0}' matched none of the selected guests; is it spelt "
                                     "right?".format(expectation.label))
                for term in chosen.unmatched if not term.exclude]
        for guest in covered:
            state = states.get(guest.vmid)
            if state is None or state.problem is not None:
                reason = state.problem.message if state and state.problem else reasons[guest.vmid]
                verdicts[guest.vmid].append(health.unreachable(expectation, reason))
            else:
                verdicts[guest.vmid].append(health.judge(expectation, found[guest.vmid], situation.server_time))
    return verdicts, unmet


def _name_failed_tasks(verdicts: Verdicts, situation: Situation, tasks: Tasks) -> None:
    """Say of each guest that lacks a snapshot how its last snapshot task ended, where that failed. One call each."""
    lacking = [
        state for state in situation.states
        if state.problem is None and any(verdict.level == health.LEVELS[2] for verdict in verdicts[state.guest.vmid])]
    for state, (_upid, result) in zip(lacking, in_parallel(lambda state: tasks.newest(state.guest), lacking)):
        if result not in ("", "running") and not SUCCESS.match(result):
            vmid = state.guest.vmid
            verdicts[vmid] = [
                replace(verdict, reason="{0}; its last snapshot task failed: {1}".format(verdict.reason, result))
                if verdict.level == health.LEVELS[2] else verdict for verdict in verdicts[vmid]]


def _level(result: Dict[str, Any], verdicts: Verdicts, settings: InfoSettings, suspect: bool) -> str:
    """The cluster's level: that of the worst guest; what else needs somebody's eyes is a warning."""
    levels = [verdict.level for found in verdicts.values() for verdict in found]
    if result["summary"]["unreachable"] or settings.expect and not result["guests"]:
        levels.append("critical")
    needs_a_look = (
        suspect, not result["guests"], result.get("health", {}).get(health.UNPROTECTED), result["broken"],
        result["old_foreign"], any(not term["exclude"] for term in result["unmatched"]),
        any(not row["ok"] for row in result["storages"]), result["unreadable"])
    if any(needs_a_look):
        levels.append("warning")
    return health.highest(levels)


def _findings(result: Dict[str, Any]) -> str:
    """What is not as it should be, in numbers."""
    counts = [(count, status) for status, count in result.get("health", {}).items() if status != health.OK]
    if "health" not in result:
        counts = [(result["summary"]["unreachable"], "unreachable")]
    counts += [
        (len(result["broken"]), "broken snapshots"), (len(result["old_foreign"]), "old foreign snapshots"),
        (sum(1 for row in result["storages"] if not row["ok"]), "storages too full or unknown"),
        (sum(1 for term in result["unmatched"] if not term["exclude"]), "terms without a guest"),
        (len(result["unreadable"]), "entries of the cluster that cannot be read")]
    return ", ".join("{0} {1}".format(count, word) for count, word in counts if count)


def _warnings(
    guests: Sequence[Dict[str, Any]], unmatched: Sequence[selection.Unmatched], situation: Situation, settings: InfoSettings,
    suspect: Sequence[Tuple[int, Snapshot]]
) -> Iterable[str]:
    yield from situation.resources.unreadable
    for term in unmatched:
        yield "selector term '{0}' {1}".format(term.term, term.reason)
    if not guests:
        yield "the selector matches no guest" + (" but templates" if situation.templates else "")
    unread = [str(entry["vmid"]) for entry in guests if entry["status"] != "ok"]
    if unread:
        yield "{0} guests could not be read: {1}".format(len(unread), ", ".join(unread[:20]))
    for vmid, snapshot in suspect:
        yield "guest {0}: the time of snapshot {1} ({2}) cannot be true; it is not counted".format(
            vmid, snapshot.name, snapshot.snaptime)
    yield from lookalike.sentences(
        settings.target.recognition, settings.labels,
        {state.guest.vmid: state.snapshots.snapshots for state in situation.states})


def _entry(
    state: GuestState, situation: Situation, settings: InfoSettings, verdicts: Verdicts, sorted_by_guest: Dict[int, Sorted]
) -> Dict[str, Any]:
    guest = state.guest
    if state.problem is not None:
        return _unread(guest, state.problem.message, settings, verdicts)
    found = sorted_by_guest[guest.vmid]
    managed: List[Tuple[str, str, Snapshot]] = [
        (label, "whole", snapshot) for label, group in found.whole.items() for snapshot in group]
    managed += [(label, "broken", snapshot) for label, snapshot in found.broken if label]
    managed += [(label, "in_progress", snapshot) for label, snapshot in found.in_progress if label]
    managed += [(label, "bad_time", snapshot) for label, snapshot in found.suspect]
    managed += [(label, "ambiguous", snapshot) for label, snapshot in found.ambiguous]
    shown = [entry for entry in managed if settings.labels is None or entry[0] in settings.labels]
    shown.sort(key=lambda entry: (entry[2].snaptime, entry[2].name))
    entry: Dict[str, Any] = {
        **_who(guest),
        "status": "ok",
        "reason": "",
        "lock": guest.lock,
        "foreign": len(found.foreign),
        "snapshots": [_snapshot(label, kind, s, situation.server_time, settings) for label, kind, s in shown],
        **_health(guest, settings, verdicts),
    }
    if settings.retention is not None:
        _preview(entry, state, situation, settings)
    return entry


def _who(guest: Guest) -> Dict[str, Any]:
    return {"vmid": guest.vmid, "name": guest.name or "", "type": guest.type, "node": guest.node, "tags": list(guest.tags)}


def _health(guest: Guest, settings: InfoSettings, verdicts: Verdicts, unread: str = "") -> Dict[str, Any]:
    """The keys of a guest's entry that ``expect`` adds; ``unread`` is why nothing is known of it."""
    if not settings.expect:
        return {}
    found = verdicts[guest.vmid]
    worst = health.worst(found)
    if worst is not None:
        status = worst.status
        reason = "; ".join(dict.fromkeys(verdict.reason for verdict in found if verdict.level == worst.level and verdict.reason))
    elif unread:
        status, reason = health.UNREACHABLE, unread
    else:
        status, reason = health.UNPROTECTED, "no expectation covers it"
    return {
        "health": status,
        "health_reason": reason,
        "expectations": [
            {
                "label": verdict.label, "status": verdict.status, "level": verdict.level, "reason": verdict.reason,
                "count": verdict.count, "newest": verdict.newest,
            }
            for verdict in found],
    }


def _preview(entry: Dict[str, Any], state: GuestState, situation: Situation, settings: InfoSettings) -> None:
    """Add what the retention makes of each snapshot as things are, and what the next run of each label would prune."""
    recognition = settings.target.recognition
    retainer = Retainer(recognition, settings.labels, settings.retention, recognition.timezone)
    snapshots, server_time = state.snapshots.snapshots, situation.server_time
    decisions = {decision.snapshot.name: decision for decision in retainer.decide(snapshots, server_time)}
    for snapshot in entry["snapshots"]:
        decision = decisions.get(snapshot["name"])
        snapshot["keep"] = True if decision is None else decision.keep
        snapshot["why"] = [snapshot["state"] + ": not counted, not pruned"] if decision is None else list(decision.why)
    labels = settings.labels or tuple(sorted({snapshot["label"] for snapshot in entry["snapshots"]}))
    next_run: List[Decision] = []
    for label in labels:
        name = recognition.free_name(label, server_time, [snapshot.name for snapshot in snapshots])
        created = Snapshot(name or "", server_time, recognition.written)
        next_run += replace(retainer, labels=(label,)).decide(snapshots, server_time, created)
    entry["next_prunes"] = [snapshot.name for snapshot in pruned(next_run)]


def _unread(guest: Guest, reason: str, settings: InfoSettings, verdicts: Verdicts) -> Dict[str, Any]:
    entry: Dict[str, Any] = {
        **_who(guest), "status": "unreachable", "reason": reason, "lock": None, "foreign": 0, "snapshots": [],
        **_health(guest, settings, verdicts, reason)}
    if settings.retention is not None:
        entry["next_prunes"] = []
    return entry


def _snapshot(label: str, state: str, snapshot: Snapshot, server_time: int, settings: InfoSettings) -> Dict[str, Any]:
    time_of = datetime.datetime.fromtimestamp(
        snapshot.snaptime, settings.target.recognition.timezone or datetime.timezone.utc)
    if settings.target.recognition.timezone is None:
        time_of = time_of.astimezone()
    return {
        "name": snapshot.name,
        "label": label,
        "state": state,
        "snaptime": snapshot.snaptime,
        "time": time_of.isoformat(),
        "age": server_time - snapshot.snaptime,
        "parent": snapshot.parent or "",
        "description": snapshot.description,
        "vmstate": snapshot.vmstate,
    }


def _broken(
    state: GuestState, situation: Situation, settings: InfoSettings, tasks: Tasks, found: Dict[int, Sorted]
) -> List[Dict[str, object]]:
    """Entries of broken snapshots, with the guest's last task."""
    if state.problem is not None or not found[state.guest.vmid].broken:
        return []
    upid, result = tasks.newest(state.guest)
    return [
        {**broken_entry(state.guest, snapshot, situation.server_time), "task": upid, "task_result": result}
        for label, snapshot in found[state.guest.vmid].broken if settings.labels is None or label in settings.labels]


def _old_foreign(
    state: GuestState, situation: Situation, settings: InfoSettings, found: Dict[int, Sorted]
) -> List[Dict[str, object]]:
    """Foreign snapshots older than ``max_foreign_age``: somebody may have forgotten them, and they fill the storage."""
    if not settings.max_foreign_age or state.problem is not None:
        return []
    old = [
        snapshot for snapshot in found[state.guest.vmid].foreign
        if snapshot.snaptime and situation.server_time - snapshot.snaptime > settings.max_foreign_age]
    return [
        {
            "vmid": state.guest.vmid, "name": state.guest.name or "", "node": state.guest.node, "snapshot": snapshot.name,
            "snaptime": snapshot.snaptime, "age": situation.server_time - snapshot.snaptime,
            "description": snapshot.description,
        }
        for snapshot in sorted(old, key=lambda snapshot: (snapshot.snaptime, snapshot.name))]


def _storages(situation: Situation) -> List[Storage]:
    """The storages that may hold guests' disks, a shared one once; those of nodes that are off tell nothing."""
    online = {node.name for node in situation.resources.nodes if node.online}
    found: Dict[Tuple[str, str], Storage] = {}
    for storage in situation.resources.storages:
        if storage.for_guests and storage.node in online:
            found.setdefault(storage.key, storage)
    return list(found.values())
