# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worlds and runs for the simulated tests."""

from __future__ import annotations

import copy
import pathlib
import time
from typing import Any

from ansible_collections.pve.autosnap.plugins.module_utils import arguments
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.clean import clean
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.info import info
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.run import Report, connect
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.snap import snap
from simulator.running import Running

TOKEN = "autosnap@pve!test"
SECRET = "7b1c9a52-1111-4000-8000-abcdef012345"
ALL = ["VM.Audit", "VM.Snapshot", "Datastore.Audit", "Pool.Audit"]
# A name that steers terminals, feigns Ansible's output, turns its direction, calls people, and is no text at its end.
HOSTILE = (
    "web\x1b[2J\x1b[1;1H\n\rPLAY RECAP *****\nlocalhost : ok=9\u202egnp.exe\u2066\x9b31m\x00 @channel "
    "[x](http://evil.example) \ud800")
HOSTILE_HOOK = "#!/bin/sh\nprintf 'one\\033[2J\\nPLAY RECAP *\\r\\342\\200\\256\\n'; exit 3\n"
STEERING = "\x1b[2J\x1b[1;1H", "\u202e", "\u2066", "\x9b", "\x00", "\u200b", "\r"


def rename(cluster: Running, vmid: int, name: str) -> None:
    """Also to what no real server takes: nothing must trust it."""
    found = cluster.pve.guest(vmid)
    found.name = found.config["name"] = name


def world(*guests: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Two nodes, three storages, one token with every privilege of a snapshot job."""
    base: dict[str, Any] = {
        "time_scale": 1, "create_seconds": 0.02, "delete_seconds": 0.02,
        "nodes": {"pve1": {}, "pve2": {}},
        "storages": {
            "local-lvm": {"type": "lvmthin", "size": "500G", "used": "100G"},
            "ceph": {"type": "rbd", "shared": 1, "size": "10T", "used": "1T"},
            "dir": {"type": "dir", "path": "/var/lib/vz", "size": "100G", "used": "10G"},
            "full": {"type": "lvmthin", "size": "100G", "used": "97G"},
        },
        "users": {"autosnap@pve": {"password": "pass-word-77", "grants": {"/": ALL}}},
        "tokens": {TOKEN: {"secret": SECRET, "grants": {"/": ALL}}},
        "guests": list(guests),
    }
    return copy.deepcopy({**base, **more})


def guest(vmid: int, **more: Any) -> dict[str, Any]:
    """A running VM with a disk on ceph."""
    return {"vmid": vmid, "name": "vm{0}".format(vmid), "node": "pve1", "storage": "ceph", "agent": True, **more}


def daily(count: int, label: str = "daily", every: int = 86400) -> list[dict[str, Any]]:
    """So many snapshots of a label, a day apart, the last a day old."""
    return [{"label": label, "count": count, "every": every}]


def params(spec: arguments.ArgumentSpec, cluster: Running, **given: Any) -> dict[str, Any]:
    """A module's parameters as AnsibleModule hands them on."""
    values = {name: option.get("default") for name, option in spec.options.items()}
    values.update(cluster.connection())
    values.update(given)
    if isinstance(values["guests"], str):
        values["guests"] = [values["guests"]]
    return values


def run_snap(
    cluster: Running, guests: str | list[str] = "@all", *, check: bool = False, diff: bool = False, now: int | None = None,
    environ: dict[str, str] | None = None, **given: Any
) -> Report:
    """autosnap_snap in this process."""
    given.setdefault("label", "daily")
    values = params(arguments.SNAP, cluster, guests=guests, **given)
    access = arguments.connection(values, environ or {})
    settings = arguments.snap(values)
    return snap(settings, connect(access), access.secrets, int(time.time()) if now is None else now, check, diff)


def run_clean(
    cluster: Running, guests: str = "@all", *, check: bool = False, diff: bool = False, **given: Any
) -> Report:
    """autosnap_clean in this process."""
    given.setdefault("label", ["daily"])
    values = params(arguments.CLEAN, cluster, guests=guests, **given)
    access = arguments.connection(values, {})
    return clean(arguments.clean(values), connect(access), access.secrets, check, diff)


def run_info(cluster: Running, guests: str = "@all", **given: Any) -> Report:
    """autosnap_info in this process."""
    values = params(arguments.INFO, cluster, guests=guests, **given)
    return info(arguments.info(values), connect(arguments.connection(values, {})))


def names(cluster: Running, vmid: int) -> list[str]:
    """The guest's snapshots as the simulator holds them, oldest first."""
    snapshots = cluster.pve.guest(vmid).snapshots
    return sorted(snapshots, key=lambda name: (snapshots[name]["snaptime"], name))


def entry(report: Report, vmid: int) -> dict[str, Any]:
    """A guest's entry of the result."""
    return next(item for item in report.result["guests"] if item["vmid"] == vmid)


def writes(cluster: Running) -> list[tuple[str, str]]:
    """Method and path of every write that reached the simulator."""
    return [(method, path) for method, path, _query, _status, _user in cluster.pve.log
            if method != "GET" and not path.endswith("/access/ticket")]


def hook(directory: pathlib.Path, body: str) -> str:
    """An executable in bash."""
    path = directory / "hook"
    path.write_text("#!/bin/bash\n" + body, encoding="utf-8")
    path.chmod(0o755)
    return str(path)
