# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The info job: which guests have which managed snapshots, and what is broken."""

from __future__ import annotations

import datetime
import time
from typing import Any, Dict, List, Optional, Tuple

from ..arguments import InfoSettings
from ..model import Snapshot
from ..policy.retention import sort_snapshots
from ..pve.cluster import Cluster
from ..pve.session import Session
from ..pve.tasks import SUCCESS, Tasks
from . import outcome
from .plan import SNAPSHOT_LOCKS, broken_entry
from .reading import GuestState, Situation, read_situation
from .run import Report


def info(settings: InfoSettings, session: Session) -> Report:
    """Read and list; changes nothing."""
    began = time.monotonic()
    cluster = Cluster(session)
    tasks = Tasks(session, cluster)
    situation = read_situation(session, cluster, settings.target, with_config=False)
    guests = [_entry(state, situation, settings) for state in situation.states]
    guests += [_unread(guest.vmid, guest.name, guest.type, guest.node, reason) for guest, reason in situation.undecided]
    guests.sort(key=lambda entry: int(entry["vmid"]))
    matched = [int(entry["vmid"]) for entry in guests]
    problems = outcome.unmatched_problems(situation, settings.target)
    problems += outcome.expectation_problems(matched, settings.target)
    if not guests and settings.target.fail_unmatched:
        problems.append("the selector matches no guest at all; " + outcome.EMPTY_HINT)
    result: Dict[str, Any] = {
        "changed": False,
        "guests": guests,
        "summary": {
            "matched": len(guests),
            "unreachable": sum(1 for entry in guests if entry["status"] != "ok"),
            "snapshots": sum(len(entry["snapshots"]) for entry in guests),
        },
        "broken": [entry for state in situation.states for entry in _broken(state, situation, settings, tasks)],
        "templates": [{"vmid": g.vmid, "name": g.name or "", "node": g.node} for g in situation.templates],
        "unmatched": [
            {"term": term.term, "exclude": term.exclude, "reason": term.reason} for term in situation.unmatched],
        "api_calls": session.calls,
        "duration": round(time.monotonic() - began, 1),
    }
    warnings = ["selector term '{0}' {1}".format(term.term, term.reason) for term in situation.unmatched]
    if not guests:
        warnings.append("the selector matches no guest" + (" but templates" if situation.templates else ""))
    unread = [str(entry["vmid"]) for entry in guests if entry["status"] != "ok"]
    if unread:
        warnings.append("{0} guests could not be read: {1}".format(len(unread), ", ".join(unread[:20])))
    message = "; ".join(problems) or "{matched} guests, {snapshots} managed snapshots".format(**result["summary"])
    return Report(result, bool(problems), message, tuple(warnings))


def _entry(state: GuestState, situation: Situation, settings: InfoSettings) -> Dict[str, Any]:
    guest = state.guest
    if state.problem is not None:
        return _unread(guest.vmid, guest.name, guest.type, guest.node, state.problem.message)
    found = sort_snapshots(
        state.snapshots.snapshots, settings.target.recognition, situation.server_time, locked=bool(guest.lock))
    managed: List[Tuple[str, str, Snapshot]] = [
        (label, "whole", snapshot) for label, group in found.whole.items() for snapshot in group]
    managed += [(label, "broken", snapshot) for label, snapshot in found.broken if label]
    managed += [(label, "in_progress", snapshot) for label, snapshot in found.in_progress if label]
    managed += [(label, "bad_time", snapshot) for label, snapshot in found.suspect]
    shown = [entry for entry in managed if settings.labels is None or entry[0] in settings.labels]
    shown.sort(key=lambda entry: (entry[2].snaptime, entry[2].name))
    return {
        "vmid": guest.vmid,
        "name": guest.name or "",
        "type": guest.type,
        "node": guest.node,
        "status": "ok",
        "reason": "",
        "lock": guest.lock,
        "foreign": len(found.foreign),
        "snapshots": [_snapshot(label, kind, s, situation.server_time, settings) for label, kind, s in shown],
    }


def _unread(vmid: int, name: Optional[str], kind: str, node: str, reason: str) -> Dict[str, Any]:
    return {
        "vmid": vmid, "name": name or "", "type": kind, "node": node, "status": "unreachable", "reason": reason,
        "lock": None, "foreign": 0, "snapshots": [],
    }


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


def _broken(state: GuestState, situation: Situation, settings: InfoSettings, tasks: Tasks) -> List[Dict[str, object]]:
    """Entries of broken snapshots, also of those under a lock whose task is seen to have ended."""
    found = sort_snapshots(
        state.snapshots.snapshots, settings.target.recognition, situation.server_time, locked=bool(state.guest.lock))
    left = found.broken or (found.in_progress if state.guest.lock in SNAPSHOT_LOCKS else ())
    upid, result = tasks.newest(state.guest) if left else ("", "")
    if not found.broken and (result in ("", "running") or SUCCESS.match(result)):
        return []
    return [
        {**broken_entry(state.guest, snapshot, situation.server_time), "task": upid, "task_result": result}
        for label, snapshot in left if settings.labels is None or label in settings.labels]
