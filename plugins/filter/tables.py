# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters of the playbooks: their argument spec, and tables for people.

The tables are built on tabulate; everything else of a table is chosen here.
"""

from __future__ import annotations

import copy
import datetime
import html
import json
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ansible.errors import AnsibleFilterError
from ansible_collections.pve.autosnap.plugins.module_utils import arguments
from ansible_collections.pve.autosnap.plugins.module_utils.policy.storage_guard import human_size
from ansible_collections.pve.autosnap.plugins.module_utils.text import cleaned, markdown

try:
    import tabulate
except ImportError:
    tabulate = None

FORMATS = ("text", "unicode", "unicode_alt", "markdown", "html", "json", "jsonpretty")
_TABULATE = {
    "text": "outline", "unicode": "rounded_outline", "unicode_alt": "heavy_outline", "markdown": "github", "html": "unsafehtml",
}
_SPECS = {
    "snap": arguments.SNAP, "clean": arguments.CLEAN, "status": arguments.INFO, "report": arguments.INFO,
    "agent": arguments.AGENT}
_URL: Dict[str, Any] = {"type": "str", "required": True, "no_log": True}
_URL_AND_TOKEN: Dict[str, Any] = {"type": "dict", "options": {"url": _URL, "token": {"type": "str", "no_log": True}}}
_NOTIFY: Dict[str, Any] = {
    "type": "dict",
    "options": {
        "when": {"type": "str", "choices": ["failure", "warning", "always"]},
        "link": {"type": "str"},
        "mail": {
            "type": "dict",
            "options": {
                "to": {"type": "list", "elements": "str", "required": True},
                "from": {"type": "str"},
                "server": {"type": "str"},
                "port": {"type": "int"},
                "secure": {"type": "str", "choices": ["always", "never", "starttls", "try"]},
                "user": {"type": "str"},
                "password": {"type": "str", "no_log": True},
            },
        },
        "webhook": {"type": "dict", "options": {"url": _URL, "headers": {"type": "dict", "no_log": True}}},
        "ntfy": _URL_AND_TOKEN,
        "gotify": _URL_AND_TOKEN,
        "slack": {"type": "dict", "options": {"url": _URL}},
        "mattermost": {"type": "dict", "options": {"url": _URL}},
        "teams": {"type": "dict", "options": {"url": _URL}},
        "health_check": {
            "type": "dict",
            "options": {event: {"type": "str", "no_log": True} for event in ("start", "success", "failure")},
        },
    },
}
# Variables of the playbooks that are not options of a module.
_EVERYWHERE: Dict[str, Dict[str, Any]] = {
    "hosts": {"type": "str"},
    "job_name": {"type": "str"},
    "cluster": {"type": "str"},
    "max_run_age": {"type": "str"},
    "health_file": {"type": "path"},
    "metrics_file": {"type": "path"},
    "notify": _NOTIFY,
}
_TABLE: Dict[str, Dict[str, Any]] = {"output": {"type": "str", "choices": list(FORMATS)}, "output_file": {"type": "path"}}
_PLAYBOOK_ONLY: Dict[str, Dict[str, Dict[str, Any]]] = {
    "snap": {**_EVERYWHERE, "dry_run": {"type": "bool"}},
    "clean": {**_EVERYWHERE, "dry_run": {"type": "bool"}},
    "agent": {"hosts": {"type": "str"}, "dry_run": {"type": "bool"}},
    "status": {**_EVERYWHERE, **_TABLE},
    "report": {
        **_EVERYWHERE, **_TABLE,
        "report_file": {"type": "path"},
        "report_template": {"type": "path"},
        "report_markdown_file": {"type": "path"},
        "report_json_file": {"type": "path"},
    },
}
# api_host may come from the environment of the module.
_FROM_ENVIRONMENT = ("api_host",)


def variables_spec(name: str) -> Dict[str, Any]:
    """The argument spec of a playbook: the module's options as C(autosnap_<option>), and its own."""
    options = copy.deepcopy({**_SPECS[name].options, **_PLAYBOOK_ONLY[name]})
    for option, spec in options.items():
        spec.pop("fallback", None)
        spec.pop("default", None)
        if option in _FROM_ENVIRONMENT:
            spec.pop("required", None)
    return {"autosnap_" + option: spec for option, spec in options.items()}


def unknown_variables(names: Sequence[str], playbook: str) -> List[str]:
    """Names that begin with C(autosnap_) and mean nothing to any playbook."""
    known = {name for book in _SPECS for name in variables_spec(book)} | {
        "autosnap_result", "autosnap_digest", "autosnap_sent", "autosnap_undone"}
    return sorted(name for name in names if name not in known)


def ready(output: str) -> bool:
    """True when a table of this format can be made; an error says what is missing."""
    if output not in FORMATS:
        raise AnsibleFilterError("'autosnap_output': '{0}' is not one of {1}".format(output, ", ".join(FORMATS)))
    if tabulate is None:
        raise AnsibleFilterError(
            "the Python library 'tabulate' is missing on the control node; install it beside ansible-core "
            "(pip install tabulate)")
    return True


def _table(rows: List[List[str]], headers: List[str], output: str) -> str:
    if output == "html":
        rows = [[html.escape(cell) for cell in row] for row in rows]
    elif output == "markdown":
        rows = [[markdown(cell) for cell in row] for row in rows]
    return str(tabulate.tabulate(rows, headers, tablefmt=_TABULATE[output], disable_numparse=True))


def _encode(data: Any, output: str) -> str:
    return json.dumps(data, indent=2 if output == "jsonpretty" else None, ensure_ascii=False)


def status_table(result: Mapping[str, Any], output: str = "text") -> str:
    """The snapshots of an C(autosnap_info) result, one row each, in one of FORMATS."""
    ready(output)
    rows = [row for guest in cleaned(result.get("guests") or []) for row in _status_rows(guest)]
    if output in ("json", "jsonpretty"):
        return _encode(rows, output)
    headers = ["node", "vmid", "guest", "type", "label", "time", "age", "snapshot", "parent", "ram", "state"]
    return _table([_status_cells(row, headers) for row in rows], [name.upper() for name in headers], output)


def _status_rows(guest: Mapping[str, Any]) -> List[Dict[str, Any]]:
    base = {"node": guest["node"], "vmid": guest["vmid"], "guest": guest["name"], "type": guest["type"]}
    empty = dict.fromkeys(("label", "time", "snaptime", "age", "snapshot", "parent", "ram", "description"))
    if guest["status"] != "ok":
        return [{**base, **empty, "state": guest["status"]}]
    if not guest["snapshots"]:
        return [{**base, **empty, "state": "none"}]
    return [
        {
            **base, "label": snapshot["label"], "time": snapshot["time"], "snaptime": snapshot["snaptime"],
            "age": snapshot["age"], "snapshot": snapshot["name"], "parent": snapshot["parent"], "ram": snapshot["vmstate"],
            "description": snapshot["description"], "state": snapshot["state"],
        }
        for snapshot in guest["snapshots"]
    ]


def _status_cells(row: Mapping[str, Any], headers: Sequence[str]) -> List[str]:
    shown = dict(row)
    if row["snaptime"] is not None:
        shown.update(time=_short_time(row["time"]), age=human_age(row["age"]), ram="yes" if row["ram"] else "")
    return ["" if shown[key] is None else str(shown[key]) for key in headers]


def _short_time(text: str) -> str:
    return datetime.datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S")


def human_age(seconds: int) -> str:
    """C(3d 4h) and the like."""
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return "{0}{1} {2}{3}".format(seconds // size, unit, seconds % size // smaller, small)
    return "{0}s".format(max(seconds, 0))


def run_table(result: Mapping[str, Any], output: str = "text") -> str:
    """What an C(autosnap_snap) or C(autosnap_clean) result did, one row per guest, with reasons where known."""
    ready(output)
    guests = cleaned(result.get("guests") or [])
    rows = [
        [
            str(guest["vmid"]), guest["name"], guest["node"], guest["status"], guest["snapshot"], guest["consistency"],
            "\n".join(guest["pruned"]) if output in ("text", "unicode", "unicode_alt") else ", ".join(guest["pruned"]),
            _wrapped(_remark(guest), output),
        ]
        for guest in guests
    ]
    return _table(rows, ["VMID", "GUEST", "NODE", "STATUS", "CREATED", "CONSISTENCY", "PRUNED", "REMARK"], output)


def agent_table(result: Mapping[str, Any], output: str = "text") -> str:
    """The VMs of an C(autosnap_agent) result, one row each."""
    ready(output)
    rows = [
        [str(guest["vmid"]), guest["name"], guest["node"], "running" if guest["running"] else "", guest["status"],
         _wrapped(guest["reason"], output)]
        for guest in cleaned(result.get("guests") or [])]
    return _table(rows, ["VMID", "GUEST", "NODE", "", "AGENT", "REMARK"], output)


def _remark(guest: Mapping[str, Any]) -> str:
    text = "; ".join(text for text in [guest["reason"], *guest["errors"], *guest["warnings"]] if text)
    why = guest["consistency_reason"]
    return text if why in text else "; ".join(part for part in (text, why) if part)


def _wrapped(text: str, output: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 50)) if output in ("text", "unicode", "unicode_alt") else text


def reasons_table(result: Mapping[str, Any], output: str = "text") -> str:
    """Why snapshots stay or go, from a result with C(verbosity=full); empty where it has no reasons."""
    ready(output)
    rows = [row for guest in cleaned(result.get("guests") or []) if guest.get("kept") is not None for row in _reasons(guest)]
    return _table(rows, ["VMID", "GUEST", "SNAPSHOT", "", "WHY"], output) if rows else ""


def _reasons(guest: Mapping[str, Any]) -> List[List[str]]:
    who = [str(guest["vmid"]), guest["name"]]
    gone = [[*who, name, "pruned", "no rule keeps it"] for name in guest["pruned"]]
    return gone + [[*who, kept["name"], "kept", "; ".join(kept["why"])] for kept in guest["kept"]]


def storage_table(result: Mapping[str, Any], output: str = "text") -> str:
    """The storages of a result with their use and the storage guard's verdict."""
    ready(output)
    rows = [
        [
            row["storage"], "shared" if row["shared"] else row["node"], row["type"], _percent(row["percent"]),
            _size(row["used"]), _size(row["size"]), _size(row["promised"]), "ok" if row["ok"] else "no snapshots",
        ]
        for row in cleaned(result.get("storages") or [])
    ]
    return _table(rows, ["STORAGE", "NODE", "TYPE", "USED %", "USED", "SIZE", "THIS RUN", "GUARD"], output)


def _percent(value: Optional[float]) -> str:
    return "?" if value is None else "{0:.1f}".format(value)


def _size(value: Optional[int]) -> str:
    return "?" if value is None else human_size(value)


class FilterModule:
    """The filters of this collection."""

    def filters(self) -> Dict[str, Any]:
        return {
            "variables_spec": variables_spec,
            "unknown_variables": unknown_variables,
            "ready": ready,
            "status_table": status_table,
            "run_table": run_table,
            "agent_table": agent_table,
            "reasons_table": reasons_table,
            "storage_table": storage_table,
        }
