# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The agent job: in which VMs the agent option is on, and to switch it on where that is asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Dict

from ..arguments import AgentSettings
from ..model import LXC, QEMU, AgentOption, Guest
from ..pve import errors
from ..pve.cluster import Cluster
from ..pve.session import Session
from ..text import one_line
from . import outcome
from .reading import GuestState, in_parallel, read_situation
from .run import Report

ENABLED = "enabled"
WAITING = "waiting"
DISABLED = "disabled"
FAILED = "failed"
UNREACHABLE = "unreachable"
STATUSES = (ENABLED, WAITING, DISABLED, FAILED, UNREACHABLE)
RESTART = "shut it down and start it again in Proxmox VE; a reboot from inside is not enough"


@dataclass(frozen=True)
class AgentPlan:
    """A VM, its option, and what is to become of it. ``now`` is whether it is on for the VM that runs, or for the next start."""

    guest: Guest
    running: bool = False
    now: bool = False
    option: AgentOption = AgentOption()
    enable: bool = False
    problem: str = ""
    status: str = ""

    def __str__(self) -> str:
        return self.line(self.option.switched_on if self.enable else self.option.text)

    def line(self, text: str) -> str:
        """The VM with a value of its option."""
        return one_line("{0} {1}: agent {2}".format(self.guest.vmid, self.guest.name or "", text or "not set")) + "\n"

    @property
    def end(self) -> str:
        """What its status is when all goes well."""
        if self.status:
            return self.status
        if not self.option.enabled and not self.enable:
            return DISABLED
        return ENABLED if self.now or not self.running else WAITING


def agent(settings: AgentSettings, session: Session, check: bool, diff: bool) -> Report:
    """List, and with ``enable`` switch on; in check mode show what that would come to."""
    began = time.monotonic()
    cluster = Cluster(session)
    situation = read_situation(session, cluster, settings.target)
    states = [state for state in situation.states if state.guest.type == QEMU]
    plans = in_parallel(lambda state: _plan(cluster, state, settings.enable), states)
    plans += [
        AgentPlan(guest, problem=reason, status=UNREACHABLE) for guest, reason in situation.undecided if guest.type != LXC]
    done = plans if check else in_parallel(lambda plan: _enable(cluster, plan), plans)
    entries = sorted(map(_entry, done), key=lambda entry: int(entry["vmid"]))
    summary = {"matched": len(entries), **{status: sum(entry["status"] == status for entry in entries) for status in STATUSES}}
    problems = outcome.unmatched_problems(situation, settings.target)
    if not entries and settings.target.fail_unmatched:
        problems.append("the selector matches no VM; containers have no agent")
    problems += ["{0} {1}: {2} ({3})".format(entry["vmid"], entry["name"], entry["status"], entry["reason"])
                 for entry in entries if entry["status"] in (FAILED, UNREACHABLE)]
    result: Dict[str, Any] = {
        "changed": any(entry["changed"] for entry in entries),
        "guests": entries,
        "summary": summary,
        "unmatched": [{"term": term.term, "exclude": term.exclude, "reason": term.reason} for term in situation.unmatched],
        "unreadable": list(situation.resources.unreadable),
        "api_calls": session.calls,
        "duration": round(time.monotonic() - began, 1),
    }
    if diff:
        result["diff"] = {
            "before_header": "agent options", "after_header": "agent options",
            "before": "".join(sorted(plan.line(plan.option.text) for plan in plans)),
            "after": "".join(sorted(str(plan) if check else plan.line(plan.option.text) for plan in done))}
    message = "; ".join(problems) or "{0} VMs: {1}".format(len(entries), ", ".join(
        "{0} {1}".format(summary[status], status) for status in STATUSES if summary[status]))
    warnings = [
        *session.quorum.warnings, *situation.resources.unreadable,
        *("selector term '{0}' {1}".format(term.term, term.reason) for term in situation.unmatched)]
    return Report(result, bool(problems), message, tuple(warnings))


def _plan(cluster: Cluster, state: GuestState, enable: bool) -> AgentPlan:
    """One call; a VM that cannot be read is one whose problem is told (law 9)."""
    try:
        if state.problem is not None:
            raise state.problem
        option = cluster.agent_option(state.guest)
    except (errors.NodeUnreachable, errors.HostUnreachable) as error:
        return AgentPlan(state.guest, problem=error.message, status=UNREACHABLE)
    except errors.PveError as error:
        if errors.is_fatal(error):
            raise
        return AgentPlan(state.guest, problem=error.message, status=FAILED)
    return AgentPlan(
        replace(state.guest, name=state.config.name or state.guest.name), state.snapshots.running, state.config.agent, option,
        enable and not option.enabled)


def _enable(cluster: Cluster, plan: AgentPlan) -> AgentPlan:
    """Carry a plan out, and read what became of it, also where the answer was lost."""
    if not plan.enable:
        return plan
    done = False
    try:
        try:
            cluster.enable_agent(plan.guest, plan.option)
            done = True
        except errors.LostWrite as error:
            if not cluster.agent_option(plan.guest).enabled:
                raise error
        return replace(plan, now=cluster.config(plan.guest).agent, option=cluster.agent_option(plan.guest))
    except errors.PermissionDenied:
        # The server names every privilege that any option of a VM may need.
        return replace(
            plan, enable=done, status=FAILED, problem="missing privilege: VM.Config.Options on /vms/{0}".format(plan.guest.vmid))
    except errors.PveError as error:
        if errors.is_fatal(error):
            raise
        return replace(plan, enable=done or error.uncertain, problem=error.message, status=FAILED)


def _entry(plan: AgentPlan) -> Dict[str, Any]:
    status = plan.end
    reasons = {WAITING: RESTART, DISABLED: "switch it on with enable: true"}
    return {
        "vmid": plan.guest.vmid, "name": plan.guest.name or "", "node": plan.guest.node, "running": plan.running,
        "status": status, "reason": plan.problem or reasons.get(status, ""), "agent": plan.option.text,
        "changed": plan.enable, "restart": status == WAITING,
    }
