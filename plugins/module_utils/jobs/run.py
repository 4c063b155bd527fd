# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""What every job does the same way: connect, read, plan, act or only show, report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional

from ..arguments import Connection, GuestCommands, RunLimits, Target
from ..policy import storage_guard
from ..pve import errors
from ..pve.agent import Agent
from ..pve.cluster import Cluster
from ..pve.session import Session
from ..pve.tasks import Tasks
from . import outcome
from .acting import Crew, FreshEnough, act
from .ending import Ending
from .guest_commands import CommandRunner
from .hooks import Event, Hooks, hidden
from .plan import Plan, Retainer
from .progress import Progress
from .reading import Situation, read_situation
from .state import NOT_STARTED, State

USER_AGENT = "pve.autosnap"
UNFINISHED_MAX = 50  # guests of earlier runs that are warned of one by one


def connect(connection: Connection) -> Session:
    """A session; nothing is sent before its first call. DependencyMissing without proxmoxer or requests."""
    return Session(
        connection.hosts, connection.port, connection.credentials, connection.verify, connection.timeout, USER_AGENT,
        secrets=connection.secrets)


@dataclass(frozen=True)
class Job:
    """What tells one job from another. ``name`` is ``snap`` or ``clean``, as the hook phases have it.

    ``ask_agents`` where the plan depends on whether the guests' agents answer.
    """

    name: str
    label: str
    keep: int
    vmstate: bool
    target: Target
    limits: RunLimits
    retainer: Retainer
    make_plan: Callable[[Situation], Plan]
    guard: storage_guard.Limits
    fresh_enough: FreshEnough
    guest_commands: Optional[GuestCommands] = None
    ask_agents: bool = False


@dataclass(frozen=True)
class Report:
    """A module's result, and the sentence to fail with when ``failed``."""

    result: Dict[str, Any]
    failed: bool
    message: str
    warnings: tuple[str, ...]


def run(job: Job, session: Session, secrets: Iterable[str], check: bool, diff: bool) -> Report:
    """Do a job, or in check mode show its plan. PveError when there is nothing to work on."""
    with Ending(job.limits.run_timeout) as ending:
        session.obey(ending.reason)
        return _run(job, session, secrets, check, diff, ending)


def _run(
    job: Job, session: Session, secrets: Iterable[str], check: bool, diff: bool, ending: Ending
) -> Report:
    began = time.monotonic()
    cluster = Cluster(session)
    tasks = Tasks(session, cluster)
    try:
        situation = read_situation(session, cluster, job.target, ask_agents=job.ask_agents)
    except errors.Interrupted as error:
        raise errors.Interrupted(error.message + " while the cluster was read; nothing was done") from error
    plan = job.make_plan(situation)
    state = State(job.limits.state_dir, [node.name for node in situation.resources.nodes], session.hosts)
    unfinished = state.unfinished(tasks)
    hooks = Hooks(
        job.limits.hook, job.limits.hook_timeout, job.label, job.keep, job.vmstate, session.host, secrets, check,
        ending.owed)
    commands = CommandRunner(Agent(session), job.guest_commands, ending.owed)
    crew = Crew(
        session, cluster, tasks, hooks, commands, job.limits, job.retainer, job.guard, job.fresh_enough, dict(plan.promised),
        state, Progress(job.name, job.label, session.host, len(plan.guests), hide=lambda text: hidden(text, secrets)),
        ending.reason, lambda: not ending.signal)
    ending.account = lambda: outcome.account(crew.outcomes)
    troubles: List[str] = []
    if check:
        outcomes = _show(plan, crew, job.name)
    else:
        outcomes = _carry_out(plan, crew, job, troubles)
    warnings = [
        *job.limits.warnings, *outcome.run_warnings(outcomes, plan, situation, crew.broken), *_unfinished_warnings(unfinished),
        *session.quorum.warnings, *state.warnings, *troubles]
    stopped = ending.reason() if ending.signal else None
    verdict = outcome.judge(outcomes, situation, job.target, job.limits.fail_on, crew.fatal, stopped)
    extra: Dict[str, Any] = {
        "unfinished": unfinished, "api_calls": session.calls, "duration": round(time.monotonic() - began, 1),
        "hooks": hooks.calls, "guest_commands": commands.calls}
    if crew.fatal is not None:
        extra["failure"] = crew.fatal.failure()
    result = outcome.result(outcomes, plan, situation, crew.broken, extra, job.limits.full, diff)
    result["problems"] = list(verdict.problems)
    message = verdict.message or _message(result["summary"], check)
    return Report(result, verdict.red, message, tuple(warnings))


def _show(plan: Plan, crew: Crew, name: str) -> list[outcome.Outcome]:
    """Check mode: the outcomes as planned, and the calls of the hook and in the guests that there would be."""
    hooks = crew.hooks
    hooks.call(Event(name + "-job-start"))
    for guest in plan.guests:
        if guest.create and not guest.prune_first:
            hooks.call(Event("snap-create-pre", guest.guest, guest.create))
            if guest.commands:
                crew.commands.foresee(guest.guest)
            hooks.call(Event("snap-create-post", guest.guest, guest.create))
        for snapshot in (*guest.repairs, *guest.prunes):
            for phase in ("snap-remove-pre", "snap-remove-post"):
                hooks.call(Event(phase, guest.guest, snapshot.name))
    hooks.call(Event(name + "-job-end"))
    return [outcome.planned(guest) for guest in plan.guests]


def _carry_out(plan: Plan, crew: Crew, job: Job, troubles: List[str]) -> List[outcome.Outcome]:
    """The real run between the two job hooks; a vetoed start leaves every guest alone.

    ``troubles`` gets what went wrong beside the guests.
    """
    began = time.monotonic()
    problem = crew.hooks.call(Event(job.name + "-job-start"))
    if problem and job.limits.veto:
        outcomes = [outcome.Outcome(guest) for guest in plan.guests]
        for entry in outcomes:
            entry.finish("skipped", "hook veto: " + problem, red=True)
    else:
        crew.state.begin(job.name, plan)
        outcomes = act(crew, plan.guests)
        crew.progress.close()
        if crew.state.problem:
            troubles.append(crew.state.problem)
        crew.state.close(crew.heard())
    ended = crew.hooks.call(Event(
        job.name + "-job-end", duration=time.monotonic() - began, ok=not any(entry.red for entry in outcomes),
        error=next((entry.reason for entry in outcomes if entry.red), "")))
    troubles += [text for text in (problem, ended) if text]
    return outcomes


def _unfinished_warnings(unfinished: List[Dict[str, Any]]) -> List[str]:
    """Runs that were cut off are told as soon as somebody listens: each started task, the others in a number."""
    begun = [entry for entry in unfinished if entry["result"] != NOT_STARTED]
    warnings = [
        "guest {vmid}: an earlier {job} run did not see the end of its work{0}{upid}: {result}".format(
            ", task " if entry["upid"] else "", **entry)
        for entry in begun[:UNFINISHED_MAX]]
    if len(begun) > UNFINISHED_MAX:
        warnings.append("earlier runs did not see the end of their work for {0} more guests: see 'unfinished'".format(
            len(begun) - UNFINISHED_MAX))
    waiting = [str(entry["vmid"]) for entry in unfinished if entry["result"] == NOT_STARTED]
    if waiting:
        warnings.append("an earlier run was cut off before it came to {0} guests: {1}".format(
            len(waiting), ", ".join(waiting[:20])))
    return warnings


def _message(summary: Mapping[str, int], check: bool) -> str:
    parts = ["{0} {1}".format(count, status) for status, count in summary.items() if status != "matched" and count]
    return "{0}{1} guests: {2}".format(
        "check mode: " if check else "", summary["matched"], ", ".join(parts) or "nothing to do")
