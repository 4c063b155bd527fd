# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""What every job does the same way: connect, read, plan, act or only show, report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping

from ..arguments import Connection, RunLimits, Target
from ..policy import storage_guard
from ..pve.cluster import Cluster
from ..pve.session import Session
from ..pve.tasks import Tasks
from . import outcome
from .acting import Crew, act
from .hooks import Event, Hooks
from .plan import Plan, Retainer
from .reading import Situation, read_situation

USER_AGENT = "pve.autosnap"


def connect(connection: Connection) -> Session:
    """A session; nothing is sent before its first call. DependencyMissing without proxmoxer or requests."""
    return Session(
        connection.hosts, connection.port, connection.credentials, connection.verify, connection.timeout, USER_AGENT)


@dataclass(frozen=True)
class Job:
    """What tells one job from another. ``name`` is ``snap`` or ``clean``, as the hook phases have it."""

    name: str
    label: str
    keep: int
    vmstate: bool
    target: Target
    limits: RunLimits
    retainer: Retainer
    make_plan: Callable[[Situation], Plan]
    guard: storage_guard.Limits


@dataclass(frozen=True)
class Report:
    """A module's result, and the sentence to fail with when ``failed``."""

    result: Dict[str, Any]
    failed: bool
    message: str
    warnings: tuple[str, ...]


def run(job: Job, session: Session, secrets: frozenset[str], check: bool, diff: bool) -> Report:
    """Do a job, or in check mode show its plan. PveError when there is nothing to work on."""
    began = time.monotonic()
    cluster = Cluster(session)
    situation = read_situation(session, cluster, job.target)
    plan = job.make_plan(situation)
    hooks = Hooks(
        job.limits.hook, job.limits.hook_timeout, job.label, job.keep, job.vmstate, session.host, secrets, check)
    crew = Crew(
        session, cluster, Tasks(session, cluster), hooks, job.limits, job.retainer, job.guard, dict(plan.promised), began)
    warnings = outcome.run_warnings(plan, situation)
    if check:
        outcomes = _show(plan, hooks, job.name)
    else:
        outcomes = _carry_out(plan, crew, job, warnings)
    verdict = outcome.judge(outcomes, situation, job.target, job.limits.fail_on, crew.fatal)
    extra: Dict[str, Any] = {
        "api_calls": session.calls, "duration": round(time.monotonic() - began, 1), "hooks": hooks.calls}
    if crew.fatal is not None:
        extra["failure"] = crew.fatal.failure()
    result = outcome.result(outcomes, plan, situation, extra, job.limits.full, diff)
    result["broken"] += crew.broken
    message = verdict.message or _message(result["summary"], check)
    return Report(result, verdict.red, message, tuple(warnings))


def _show(plan: Plan, hooks: Hooks, name: str) -> list[outcome.Outcome]:
    """Check mode: the outcomes as planned, and the hook calls that there would be."""
    hooks.call(Event(name + "-job-start"))
    for guest in plan.guests:
        if guest.create and not guest.prune_first:
            for phase in ("snap-create-pre", "snap-create-post"):
                hooks.call(Event(phase, guest.guest, guest.create))
        for snapshot in guest.prunes:
            for phase in ("snap-remove-pre", "snap-remove-post"):
                hooks.call(Event(phase, guest.guest, snapshot.name))
    hooks.call(Event(name + "-job-end"))
    return [outcome.planned(guest) for guest in plan.guests]


def _carry_out(plan: Plan, crew: Crew, job: Job, warnings: list[str]) -> list[outcome.Outcome]:
    """The real run between the two job hooks; a vetoed start leaves every guest alone."""
    began = time.monotonic()
    problem = crew.hooks.call(Event(job.name + "-job-start"))
    if problem and job.limits.veto:
        outcomes = [outcome.Outcome(guest) for guest in plan.guests]
        for entry in outcomes:
            entry.finish("skipped", "hook veto: " + problem, red=True)
    else:
        outcomes = act(crew, plan.guests)
    ended = crew.hooks.call(Event(
        job.name + "-job-end", duration=time.monotonic() - began, ok=not any(entry.red for entry in outcomes),
        error=next((entry.reason for entry in outcomes if entry.red), "")))
    warnings += [text for text in (problem, ended) if text]
    return outcomes


def _message(summary: Mapping[str, int], check: bool) -> str:
    parts = ["{0} {1}".format(count, status) for status, count in summary.items() if status != "matched" and count]
    return "{0}{1} guests: {2}".format(
        "check mode: " if check else "", summary["matched"], ", ".join(parts) or "nothing to do")
