# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run means, in one small object: the health file, the metrics, the messages and the report page are made of it."""

from __future__ import annotations

import importlib.util
import time
from typing import Any, Dict, Iterable, List, Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.pve.autosnap.plugins.module_utils import arguments
from ansible_collections.pve.autosnap.plugins.module_utils.policy.health import LEVELS
from ansible_collections.pve.autosnap.plugins.module_utils.text import cleaned

CRITICAL_MAX = 50
MESSAGE_MAX = 300


def digest(
    result: Mapping[str, Any], action: str, job_name: str, cluster: str, max_run_age: str = "26h"
) -> Dict[str, Any]:
    """The digest of a module's result; C(action) is that of the playbook: snap, clean, status or report.

    C(max_run_age) is how long after this run the next one has to have ended, for monitors that must notice when none does.
    C(status) is critical for a failed run, else that of the result, else a warning where something needs a look.
    """
    result = cleaned(result)
    problems = sorted(_problems(result), key=lambda problem: (-LEVELS.index(problem["level"]), problem["vmid"] or 0))
    failed = bool(result.get("failed"))
    if failed and not any(problem["level"] == "critical" for problem in problems):
        problems.insert(0, _problem("critical", "failed", str(result.get("msg", "the module did not end"))))
    levels = ["critical" if failed else "ok", str(result.get("status", "ok")), *(problem["level"] for problem in problems)]
    return {
        "format": 1,
        "action": action,
        "job_name": job_name,
        "cluster": cluster,
        "time": int(time.time()),
        "max_run_age": _duration(max_run_age),
        "status": max(levels, key=LEVELS.index),
        "failed": failed,
        "message": str(result.get("msg", "")),
        "summary": dict(result.get("summary") or {}),
        "health": dict(result.get("health") or {}),
        "problems": problems,
        "red": sum(1 for guest in result.get("guests") or [] if guest.get("red") or guest.get("health", "ok") != "ok"),
        "duration": float(result.get("duration") or 0),
        "api_calls": int(result.get("api_calls") or 0),
    }


def _duration(text: str) -> int:
    try:
        return arguments.duration("autosnap_max_run_age", text)
    except arguments.InputError as error:
        raise AnsibleFilterError(str(error)) from error


def _problem(level: str, status: str, reason: str, guest: Mapping[str, Any] | None = None) -> Dict[str, Any]:
    guest = guest or {}
    return {
        "level": level, "vmid": guest.get("vmid"), "name": guest.get("name") or "", "node": guest.get("node") or "",
        "status": status, "reason": reason}


def _problems(result: Mapping[str, Any]) -> Iterable[Dict[str, Any]]:
    """Everything that somebody should look at."""
    for sentence in result.get("problems") or []:
        yield _problem("critical" if result.get("failed") else "warning", "failed", sentence)
    if result.get("failure") and not result.get("problems"):
        yield _problem("critical", "failed", str(result.get("msg", "")))
    guests = {guest["vmid"]: guest for guest in result.get("guests") or []}
    for guest in guests.values():
        yield from _of_guest(guest)
    told = {vmid for vmid, guest in guests.items() if guest.get("health") == "broken"}
    for broken in result.get("broken") or []:
        if broken["vmid"] not in told:
            yield _problem(
                "warning", "broken", "{0} is broken ({1})".format(broken["snapshot"], broken["snapstate"]),
                guests.get(broken["vmid"], broken))
    for old in result.get("old_foreign") or []:
        days = old["age"] // 86400
        yield _problem("warning", "forgotten", "{0} is {1} days old and not ours".format(old["snapshot"], days), old)
    for storage in result.get("storages") or []:
        if not storage["ok"]:
            yield _problem("warning", "storage", storage["reason"], {"name": storage["storage"], "node": storage["node"]})
    for term in result.get("unmatched") or []:
        if not term["exclude"]:
            level = "critical" if result.get("failed") else "warning"
            yield _problem(level, "unmatched", "'{0}' {1}".format(term["term"], term["reason"]))
    for left in result.get("unfinished") or []:
        reason = "an earlier run did not see the end of its work: {0}".format(left["result"])
        yield _problem("warning", "unfinished", reason, left)


def _of_guest(guest: Mapping[str, Any]) -> Iterable[Dict[str, Any]]:
    """What is wrong with one guest, by the entry of any of the modules."""
    if guest.get("red"):
        yield _problem("critical", guest["status"], guest["reason"] or "; ".join(guest["errors"]), guest)
    elif guest.get("errors"):
        yield _problem("warning", guest["status"], "; ".join(guest["errors"]), guest)
    elif guest.get("health", "ok") != "ok":
        unread = "critical" if guest["health"] == "unreachable" else "warning"
        levels = [verdict["level"] for verdict in guest["expectations"]] or [unread]
        yield _problem(max(levels, key=LEVELS.index), guest["health"], guest["health_reason"], guest)
    elif "health" not in guest and guest["status"] == "unreachable" and "red" not in guest:
        yield _problem("critical", "unreachable", guest["reason"], guest)


def digest_summary(digest: Mapping[str, Any]) -> Dict[str, Any]:
    """The small part of a digest that workflows branch on: what became of the run, and which guests need somebody."""
    kept = ("status", "failed", "action", "job_name", "cluster", "time", "summary", "health", "red")
    vmids = [problem["vmid"] for problem in digest["problems"] if problem["level"] == "critical" and problem["vmid"]]
    critical = sorted(set(vmids))[:CRITICAL_MAX]
    return {**{key: digest[key] for key in kept}, "message": digest["message"][:MESSAGE_MAX], "critical_guests": critical}


def held(guest: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The whole snapshots of a guest by label, C(count) and time of the C(newest), from the entry of any of the modules."""
    if "held" in guest:
        return list(guest["held"])
    found: Dict[str, List[int]] = {}
    for snapshot in guest.get("snapshots") or []:
        if snapshot["state"] == "whole":
            found.setdefault(snapshot["label"], []).append(snapshot["snaptime"])
    return [{"label": label, "count": len(times), "newest": max(times)} for label, times in sorted(found.items())]


def collection_there(name: str) -> bool:
    """Whether a collection such as C(community.general) is installed on the control node."""
    try:
        return importlib.util.find_spec("ansible_collections." + name) is not None
    except ImportError:
        return False


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        """Name and function of each."""
        return {"digest": digest, "digest_summary": digest_summary, "collection_there": collection_there}
