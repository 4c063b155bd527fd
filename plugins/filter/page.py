# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report of an C(autosnap_info) result: one HTML page, Markdown or JSON."""

from __future__ import annotations

import datetime
import json
import math
import pathlib
from typing import Any, Dict, List, Mapping, Sequence

from ansible.errors import AnsibleFilterError
from ansible_collections.pve.autosnap.plugins.filter.digest import held
from ansible_collections.pve.autosnap.plugins.module_utils.policy.health import human_duration
from ansible_collections.pve.autosnap.plugins.module_utils.policy.storage_guard import human_size
from ansible_collections.pve.autosnap.plugins.module_utils.text import cleaned, markdown
from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

TEMPLATE = pathlib.Path(__file__).parents[2] / "playbooks" / "templates" / "report.html.j2"
HOUR = 3600
TICKS = ((HOUR, "1 h"), (6 * HOUR, "6 h"), (24 * HOUR, "1 d"), (7 * 24 * HOUR, "1 w"), (30 * 24 * HOUR, "1 mo"), (
    182 * 24 * HOUR, "6 mo"), (365 * 24 * HOUR, "1 y"), (3 * 365 * 24 * HOUR, "3 y"))
WIDTH = 240  # of a timeline, in the units of its SVG
LANE = 12
HEALTHS = ("missing", "stale", "broken", "unreachable", "unprotected", "no snapshots", "not judged", "ok")


def report_page(result: Mapping[str, Any], digest: Mapping[str, Any], template: str = "") -> str:
    """The page; C(template) is the path of a Jinja2 template of one's own: it gets the same C(report), and escapes by itself."""
    path = pathlib.Path(template).expanduser() if template else TEMPLATE
    environment = Environment(
        loader=FileSystemLoader(str(path.parent)), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True)
    try:
        return environment.get_template(path.name).render(report=_view(result, digest))
    except (TemplateError, OSError) as error:
        raise AnsibleFilterError("'autosnap_report_template': '{0}' cannot be rendered: {1}".format(path, error)) from error


def report_json(result: Mapping[str, Any], digest: Mapping[str, Any]) -> str:
    """The same as JSON: the digest, and the module's result as it is."""
    kept = ("guests", "storages", "broken", "old_foreign", "unmatched", "templates", "server_time")
    return json.dumps(
        cleaned({**digest, **{key: result[key] for key in kept if key in result}}), indent=1, ensure_ascii=False) + "\n"


def report_markdown(result: Mapping[str, Any], digest: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    view = _view(result, digest)
    parts = ["# {0}: {1}".format(markdown(view["title"]), view["status"]), "", markdown(view["message"]), ""]
    if view["problems"]:
        parts += ["## Problems", "", *_table(("", "guest", "node", "status", "reason"), [
            (p["level"], "{0} {1}".format(p["vmid"] or "", p["name"]), p["node"], p["status"], p["reason"])
            for p in view["problems"]])]
    parts += ["## Guests", "", *_table(("vmid", "guest", "node", "tags", "health", "label", "snapshots", "newest", "why"), [
        (guest["vmid"], guest["name"], guest["node"], ", ".join(guest["tags"]), guest["health"], of_label["label"],
         of_label["count"], of_label["age"], guest["reason"])
        for guest in view["guests"] for of_label in guest["labels"] or [{"label": "", "count": 0, "age": ""}]])]
    if view["storages"]:
        parts += ["## Storages", "", *_table(("storage", "node", "used", "of", "within the limits"), [
            (s["name"], s["node"], s["used"], s["size"], "yes" if s["ok"] else "no: " + s["reason"]) for s in view["storages"]])]
    if view["old_foreign"]:
        parts += ["## Forgotten? Old snapshots that are not ours", "", *_table(
            ("vmid", "guest", "snapshot", "age", "description"),
            [(old["vmid"], old["name"], old["snapshot"], old["age"], old["description"]) for old in view["old_foreign"]])]
    return "\n".join(parts) + "\n"


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> List[str]:
    lines = [" | ".join(headers), " | ".join("---" for _header in headers)]
    lines += [" | ".join(markdown(str(cell)) for cell in row) for row in rows]
    return ["| {0} |".format(line) for line in lines] + [""]


def _view(result: Mapping[str, Any], digest: Mapping[str, Any]) -> Dict[str, Any]:
    """What a template shows: values and places, no markup."""
    result, digest = cleaned(result), cleaned(digest)
    now = int(result.get("server_time") or digest["time"])
    guests = result.get("guests") or []
    oldest = max([HOUR, *(now - s["snaptime"] for guest in guests for s in guest.get("snapshots") or [] if s["snaptime"] > 0)])
    labels = sorted({s["label"] for guest in guests for s in guest.get("snapshots") or []})
    shown = [_guest(guest, now, oldest, labels) for guest in guests]
    return {
        "title": "Snapshots of {0}".format(digest["cluster"]),
        "cluster": digest["cluster"],
        "job_name": digest["job_name"],
        "made": datetime.datetime.fromtimestamp(digest["time"]).astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "status": digest["status"],
        "message": digest["message"],
        "problems": digest["problems"],
        "guests": sorted(shown, key=lambda guest: (HEALTHS.index(guest["health"]), guest["vmid"])),
        "counts": [(health, sum(1 for guest in shown if guest["health"] == health)) for health in HEALTHS
                   if any(guest["health"] == health for guest in shown)],
        "snapshots": sum(len(guest.get("snapshots") or []) for guest in guests),
        "judged": any("health" in guest for guest in guests),
        "labels": [{"name": label, "color": number % 6} for number, label in enumerate(labels)],
        "ticks": [{"x": _place(age, oldest), "text": text} for age, text in TICKS if age <= oldest],
        "width": WIDTH,
        "storages": [_storage(storage) for storage in result.get("storages") or []],
        "old_foreign": [{**old, "age": human_duration(int(old["age"]))} for old in result.get("old_foreign") or []],
        "duration": digest["duration"],
        "api_calls": digest["api_calls"],
    }


def _guest(guest: Mapping[str, Any], now: int, oldest: int, labels: Sequence[str]) -> Dict[str, Any]:
    own = sorted({s["label"] for s in guest.get("snapshots") or []})
    counts = held(guest)
    newest = max((of_label["newest"] for of_label in counts), default=0)
    return {
        "vmid": guest["vmid"], "name": guest["name"], "type": guest["type"], "node": guest["node"],
        "tags": list(guest.get("tags") or []),
        "health": guest.get("health") or _unjudged(guest, counts),
        "reason": guest.get("health_reason") or guest.get("reason") or "",
        "labels": [{**of_label, "age": human_duration(max(0, now - of_label["newest"]))} for of_label in counts],
        "count": sum(of_label["count"] for of_label in counts),
        "newest": newest,
        "foreign": guest.get("foreign", 0),
        "height": LANE * max(1, len(own)),
        "lanes": [
            {
                "label": label, "y": LANE * number + LANE // 2, "color": labels.index(label) % 6,
                "marks": [
                    {
                        "x": _place(now - s["snaptime"], oldest), "state": s["state"],
                        "title": "{0}, {1}{2}".format(
                            s["name"], human_duration(max(0, now - s["snaptime"])) if s["snaptime"] > 0 else "?",
                            "" if s["state"] == "whole" else ", " + s["state"]),
                    }
                    for s in guest["snapshots"] if s["label"] == label],
            }
            for number, label in enumerate(own)],
    }


def _unjudged(guest: Mapping[str, Any], counts: Sequence[Any]) -> str:
    """What is said of a guest of which nothing is expected: that it is well is not known."""
    if guest["status"] == "unreachable":
        return "unreachable"
    return "not judged" if counts else "no snapshots"


def _place(age: int, oldest: int) -> float:
    """Where an age lies on a timeline: now is at the right, and each further step to the left is so many times as long."""
    share = math.log1p(max(0, age) / HOUR) / math.log1p(oldest / HOUR)
    return round(6 + (WIDTH - 12) * (1 - min(1.0, share)), 1)


def _storage(storage: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "name": storage["storage"], "node": "shared" if storage["shared"] else storage["node"], "type": storage["type"],
        "percent": storage["percent"], "limit": storage["limit"], "ok": storage["ok"], "reason": storage["reason"],
        "used": "?" if storage["used"] is None else human_size(storage["used"]),
        "size": "?" if storage["size"] is None else human_size(storage["size"]),
    }


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        """Name and function of each."""
        return {"report_page": report_page, "report_json": report_json, "report_markdown": report_markdown}
