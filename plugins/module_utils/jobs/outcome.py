# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""What became of each guest, and the result of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ..arguments import Target
from ..model import Guest, Snapshot
from ..policy.consistency import Consistency
from ..pve import errors
from ..text import one_line
from .plan import GuestPlan, Held, Plan
from .reading import Situation

STATUSES = ("created", "pruned", "unchanged", "skipped", "deferred", "failed", "timeout", "unreachable")
ALWAYS_RED = frozenset(("deferred", "failed", "timeout", "unreachable"))
REASON_MAX = 180  # characters; these three keep a guest's entry within 1 KiB
TEXT_MAX = 130
UPIDS_MAX = 3
NOT_DELETED = "no rule keeps it, but it was not deleted in this run"


@dataclass
class Outcome:
    """One guest's part of the result, filled while the run goes on. Times are monotonic seconds.

    ``unseen`` while a write was sent whose end is not known. ``held`` is what the guest has in the end, None where that is
    not known. ``consistency`` is None where no snapshot was made, or it is not known yet.
    """

    plan: GuestPlan
    status: str = ""
    reason: str = ""
    red: bool = False
    snapshot: str = ""
    consistency: Optional[Consistency] = None
    pruned: List[str] = field(default_factory=list)
    repaired: List[str] = field(default_factory=list)
    upids: List[str] = field(default_factory=list)
    warnings: List[str] = field(default_factory=list)
    errors: List[str] = field(default_factory=list)
    unseen: bool = False
    began: Optional[float] = None
    ended: Optional[float] = None
    held: Optional[Tuple[Held, ...]] = None

    def __post_init__(self) -> None:
        self.held = self.plan.held

    @property
    def guest(self) -> Guest:
        """The guest as it was planned."""
        return self.plan.guest

    @property
    def changed(self) -> bool:
        """True when something was made or deleted, or may have been."""
        return bool(self.snapshot or self.pruned or self.repaired or self.unseen)

    def finish(self, status: str, reason: str = "", red: bool = False) -> None:
        """Set the status; the first red one stays, later ones become errors."""
        if self.red:
            if reason:
                self.errors.append(reason)
            return
        self.status, self.reason = status, reason
        self.red = red or status in ALWAYS_RED

    def touch(self) -> None:
        """Note that something is done now."""
        self.ended = time.monotonic()
        if self.began is None:
            self.began = self.ended

    def as_dict(self, full: bool) -> Dict[str, Any]:
        """The entry of ``guests[]``."""
        guest = self.guest
        entry: Dict[str, Any] = {
            "vmid": guest.vmid,
            "name": guest.name or "",
            "type": guest.type,
            "node": guest.node,
            "status": self.status,
            "red": self.red,
            "reason": self.reason if full else self.reason[:REASON_MAX],
            "snapshot": self.snapshot,
            "consistency": self.consistency.value if self.consistency else "",
            "consistency_reason": self._texts([self.consistency.reason], full)[0] if self.consistency else "",
            "pruned": list(self.pruned),
            "repaired": list(self.repaired),
            "upids": self.upids if full else self.upids[-UPIDS_MAX:],
            "held": [] if self.held is None else [found.entry() for found in self.held],
            "duration": round((self.ended or 0.0) - (self.began or 0.0), 1),
            "warnings": self._texts(self.warnings, full),
            "errors": self._texts(self.errors, full),
        }
        if full:
            entry["kept"] = self._kept()
        return entry

    def _kept(self) -> List[Dict[str, Any]]:
        """What stays, by the decisions that were carried out, and what stays although they would delete it."""
        decisions = self.plan.decisions if self.snapshot or not self.plan.create else self.plan.without_create
        return [
            {"name": d.snapshot.name, "why": list(d.why) if d.keep else [NOT_DELETED]}
            for d in decisions if d.keep or d.snapshot.name not in self.pruned]

    @staticmethod
    def _texts(texts: Sequence[str], full: bool) -> List[str]:
        return list(texts) if full else [text[:TEXT_MAX] for text in texts[:2]]


def planned(plan: GuestPlan) -> Outcome:
    """The outcome that check mode reports: what the real run would come to."""
    outcome = Outcome(plan, warnings=list(plan.warnings))
    if plan.status:
        outcome.finish(plan.status, plan.reason, plan.red)
    elif plan.create and not plan.prune_first:
        outcome.finish("created")
    elif plan.prunes or plan.repairs:
        outcome.finish("pruned", plan.reason)
    else:
        outcome.finish("unchanged", plan.reason)
    if plan.create and not plan.prune_first:
        outcome.snapshot, outcome.consistency = plan.create, plan.consistency
    outcome.pruned = [snapshot.name for snapshot in plan.prunes]
    outcome.repaired = [snapshot.name for snapshot in plan.repairs]
    outcome.held = _foreseen(outcome)
    return outcome


def _foreseen(outcome: Outcome) -> Optional[Tuple[Held, ...]]:
    """What the guest would have."""
    plan = outcome.plan
    if plan.held is None:
        return None
    left = {held.label: [s for s in held.snapshots if s.name not in outcome.pruned] for held in plan.held}
    if outcome.snapshot:
        left.setdefault(plan.label, []).append(Snapshot(plan.create, plan.time))
    return tuple(Held(label, tuple(snapshots)) for label, snapshots in sorted(left.items()) if snapshots)


@dataclass(frozen=True)
class Verdict:
    """Whether the run is red, the sentence that says why, and what of it is not about one guest or term."""

    red: bool
    message: str
    problems: Sequence[str] = ()


def judge(
    outcomes: Sequence[Outcome], situation: Situation, target: Target, fail_on: str, fatal: Optional[errors.PveError],
    stopped: Optional[str] = None,
) -> Verdict:
    """Laws 9 and 10: the run fails at the end, for every reason there is; ``stopped`` is a signal's sentence."""
    own = [] if stopped is None else [stopped]
    if fatal is not None:
        own.append("the run was stopped: {0}".format(fatal.message))
    problems = list(own)
    red = [outcome for outcome in outcomes if outcome.red]
    if red and (fail_on == "any" or fail_on == "all" and len(red) == len(outcomes)):
        first = red[0]
        problems.append("{0} of {1} guests are not as they should be, the first is {2} {3}: {4}{5}".format(
            len(red), len(outcomes), first.guest.vmid, first.guest.name or "", first.status,
            " ({0})".format(first.reason) if first.reason else ""))
    problems += unmatched_problems(situation, target)
    late = expectation_problems([outcome.guest.vmid for outcome in outcomes], target)
    empty = [] if outcomes else ["the selector matches no guest at all; " + EMPTY_HINT]
    problems += late + (empty if target.fail_unmatched else [])
    return Verdict(bool(problems), "; ".join(problems), own + late + empty)


EMPTY_HINT = (
    "check it, and that the user and the token have VM.Audit on the guests (a token with privilege separation "
    "needs its own)")


def unmatched_problems(situation: Situation, target: Target) -> List[str]:
    """Sentences on inclusions that matched nothing and on what may be a guest, where they count as failure."""
    if not target.fail_unmatched:
        return []
    return [*situation.resources.unreadable, *(
        "option 'guests': '{0}' {1}".format(term.term, term.reason)
        for term in situation.unmatched if not term.exclude)]


def expectation_problems(matched: Sequence[int], target: Target) -> List[str]:
    """Sentences on ``expect_guests``."""
    problems = []
    if len(matched) < target.expect_count:
        problems.append("option 'expect_guests': {0} guests were expected, {1} matched".format(
            target.expect_count, len(matched)))
    if target.expect_ids is not None:
        for ids, word in ((target.expect_ids - set(matched), "missing"), (set(matched) - target.expect_ids, "not expected")):
            if ids:
                problems.append("option 'expect_guests': {0}: {1}".format(word, ", ".join(map(str, sorted(ids)))))
    return problems


def run_warnings(
    outcomes: Sequence[Outcome], plan: Plan, situation: Situation, broke: Sequence[Mapping[str, Any]] = ()
) -> List[str]:
    """What must not go unsaid, one sentence each; ``broke`` is what broke in the run."""
    warnings = list(plan.warnings)
    if not plan.guests:
        warnings.append("the selector matches no guest" + (" but templates" if situation.templates else ""))
    warnings += situation.resources.unreadable
    for term in situation.unmatched:
        warnings.append("selector term '{0}' {1}".format(term.term, term.reason))
    for entry in _broken(outcomes, [*plan.broken, *broke]):
        warnings.append("guest {0}: snapshot {1} is broken ({2}); it is not counted and not pruned".format(
            entry["vmid"], entry["snapshot"], entry["snapstate"]))
    unreached = [str(outcome.guest.vmid) for outcome in outcomes if outcome.status == "unreachable"]
    if unreached:
        warnings.append("{0} guests were not reached or not decided: {1}".format(len(unreached), ", ".join(unreached[:20])))
    return warnings


def result(
    outcomes: Sequence[Outcome], plan: Plan, situation: Situation, broke: Sequence[Mapping[str, Any]], extra: Mapping[str, Any],
    full: bool, diff: bool,
) -> Dict[str, Any]:
    """The result that snap and clean share; ``broke`` is what broke in the run, ``extra`` has what only the caller knows."""
    summary = {"matched": len(outcomes), **{status: 0 for status in STATUSES}}
    for outcome in outcomes:
        summary[outcome.status] += 1
    whole: Dict[str, Any] = {
        "changed": any(outcome.changed for outcome in outcomes),
        "guests": [outcome.as_dict(full or diff) for outcome in outcomes],
        "summary": summary,
        "storages": list(plan.storages),
        "unmatched": [
            {"term": term.term, "exclude": term.exclude, "reason": term.reason} for term in situation.unmatched],
        "unreadable": list(situation.resources.unreadable),
        "templates": [{"vmid": guest.vmid, "name": guest.name or "", "node": guest.node} for guest in situation.templates],
        "broken": _broken(outcomes, [*plan.broken, *broke]),
        **extra,
    }
    if diff:
        whole["diff"] = _diff(outcomes)
    return whole


def _broken(outcomes: Sequence[Outcome], entries: Sequence[Mapping[str, Any]]) -> List[Mapping[str, Any]]:
    """Each once, as it was seen last, but for those that were repaired."""
    repaired = {(outcome.guest.vmid, name) for outcome in outcomes for name in outcome.repaired}
    last = {(entry["vmid"], entry["snapshot"]): entry for entry in entries}
    return [entry for key, entry in last.items() if key not in repaired]


def account(outcomes: Sequence[Outcome]) -> Dict[str, Any]:
    """What is known of the guests in mid-run, without any text of the server's."""
    known = list(outcomes)
    return {"changed": any(outcome.changed for outcome in known), "guests": [
        {"vmid": outcome.guest.vmid, "node": outcome.guest.node, "status": outcome.status or "timeout",
         "snapshot": outcome.snapshot, "pruned": list(outcome.pruned), "upids": list(outcome.upids)}
        for outcome in known]}


def _diff(outcomes: Sequence[Outcome]) -> Dict[str, str]:
    """The snapshots of every guest before and after, one line each."""
    before, after = [], []
    for outcome in outcomes:
        names = sorted((s.snaptime, s.name) for s in outcome.plan.state.snapshots.snapshots)
        for _time, name in names:
            line = one_line("{0} {1}".format(outcome.guest.vmid, name))
            before.append(line)
            if name not in outcome.pruned and name not in outcome.repaired:
                after.append(line)
        if outcome.snapshot:
            after.append("{0} {1}".format(outcome.guest.vmid, outcome.snapshot))
    return {
        "before_header": "snapshots", "after_header": "snapshots",
        "before": "".join(line + "\n" for line in before), "after": "".join(line + "\n" for line in after),
    }
