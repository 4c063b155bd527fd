# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small cluster that keeps its state, as the hostile server answers from it: honest, quick, and without any check."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

MARKER = "cv4pve-autosnap"
TOKEN = "autosnap@pve!test"
SECRET = "0d9f6a1e-2222-4000-8000-abcdef543210"
PASSWORD = "pass-word-77-and-longer"
TICKET = "PVE:autosnap@pve:6A1B2C3D::dGhpcyBpcyBhIHRpY2tldCBvZiBhIHRlc3Q="
CSRF = "6A1B2C3D:Y3NyZi10b2tlbi1vZi1hLXRlc3Q"


@dataclass
class Guest:
    """A VM with its snapshots; ``config`` is what GET config answers."""

    vmid: int
    node: str
    snapshots: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)
    lock: str = ""


@dataclass
class Task:
    """A worker; its effect comes when it ends."""

    upid: str
    node: str
    vmid: int
    type: str
    name: str
    begun: float
    seconds: float
    ended: bool = False
    exit_status: str = "OK"


class Cluster:
    """Two nodes and some guests, each with a foreign and ``old`` daily snapshots."""

    def __init__(self, guests: int = 2, old: int = 3, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.lock = threading.RLock()
        self.tasks: dict[str, Task] = {}
        self.writes: list[tuple[str, int, str]] = []
        self.log: list[tuple[str, str]] = []
        self._number = 0
        now = int(time.time())
        self.guests: dict[int, Guest] = {}
        for vmid in range(100, 100 + guests):
            guest = Guest(vmid, "n{0}".format(vmid % 2 + 1), config={
                "name": "vm{0}".format(vmid), "memory": "2048", "agent": "1", "scsi0": "ceph:vm-{0}-disk-0,size=8G".format(vmid),
                "digest": "0" * 40})
            guest.snapshots["by_hand"] = {"snaptime": now - 90_000_000, "description": "made by hand"}
            for age in range(old, 0, -1):
                then = time.localtime(now - age * 86400)
                name = "autodaily" + time.strftime("%y%m%d%H%M%S", then)
                guest.snapshots[name] = {
                    "snaptime": now - age * 86400, "description": MARKER + "\n", "parent": list(guest.snapshots)[-1]}
            self.guests[vmid] = guest

    def upid(self, guest: Guest, kind: str) -> str:
        """A new task's name."""
        self._number += 1
        return "UPID:{0}:{1:08X}:0000ABCD:{2:08X}:{3}:{4}:{5}:".format(
            guest.node, self._number, int(time.time()), kind, guest.vmid, TOKEN)

    def begin(self, guest: Guest, kind: str, name: str) -> str:
        """Start a task; on a guest that has one the second fails as on a real server."""
        upid = self.upid(guest, kind)
        task = Task(upid, guest.node, guest.vmid, kind, name, time.time(), self.seconds)
        self.tasks[upid] = task
        if kind == "qmsnapshot" and name in guest.snapshots:
            task.exit_status = "snapshot name '{0}' already used".format(name)
            return upid
        self.writes.append((kind, guest.vmid, name))
        if kind == "qmsnapshot":
            guest.snapshots[name] = {"snaptime": int(time.time()), "snapstate": "prepare", "description": self._description}
        return upid

    def end_tasks(self) -> None:
        """Let those whose time has come have their effect."""
        with self.lock:
            for task in self.tasks.values():
                if not task.ended and time.time() >= task.begun + task.seconds:
                    task.ended = True
                    if task.exit_status != "OK":
                        continue
                    guest = self.guests[task.vmid]
                    if task.type == "qmsnapshot":
                        guest.snapshots[task.name].pop("snapstate", None)
                    else:
                        guest.snapshots.pop(task.name, None)

    _description = MARKER

    def answer(self, method: str, path: str, form: dict[str, str]) -> tuple[int, Any, dict[str, Any]]:
        """Status, data, and what stands beside the data."""
        with self.lock:
            self.end_tasks()
            self.log.append((method, path))
            for known, pattern, handler in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and known == method:
                    if pattern.startswith(_GUEST) and int(match.group(2)) not in self.guests:
                        break
                    return handler(self, form, *[unquote(part) for part in match.groups()])
        return 501, None, {"message": "Method '{0} {1}' not implemented".format(method, path)}

    def whole(self, vmid: int) -> set[str]:
        """Names of its managed snapshots that are whole."""
        self.end_tasks()
        return {name for name, values in self.guests[vmid].snapshots.items()
                if values["description"].strip() == MARKER and "snapstate" not in values}


Answer = tuple[int, Any, dict[str, Any]]


def _version(_cluster: Cluster, _form: dict[str, str]) -> Answer:
    return 200, {"version": "9.2.11", "release": "9.2"}, {}


def _ticket(_cluster: Cluster, form: dict[str, str]) -> Answer:
    if form.get("password") not in (PASSWORD, TICKET):
        return 401, None, {}
    return 200, {"ticket": TICKET, "CSRFPreventionToken": CSRF, "username": form.get("username", "")}, {}


def _resources(cluster: Cluster, _form: dict[str, str]) -> Answer:
    nodes = [{"type": "node", "id": "node/" + name, "node": name, "status": "online"} for name in ("n1", "n2")]
    storages = [{
        "type": "storage", "id": "storage/{0}/ceph".format(name), "storage": "ceph", "node": name, "plugintype": "rbd",
        "shared": 1, "status": "available", "disk": 10 ** 11, "maxdisk": 10 ** 13, "content": "images"} for name in ("n1", "n2")]
    guests = [{
        "type": "qemu", "id": "qemu/{0}".format(guest.vmid), "vmid": guest.vmid, "node": guest.node, "status": "running",
        "name": guest.config["name"], "template": 0, "tags": "prod", **({"lock": guest.lock} if guest.lock else {})}
        for guest in cluster.guests.values()]
    return 200, [*nodes, *guests, *storages], {}


def _nodes(_cluster: Cluster, _form: dict[str, str]) -> Answer:
    return 200, [{"node": name, "status": "online"} for name in ("n1", "n2")], {}


def _pools(_cluster: Cluster, form: dict[str, str]) -> Answer:
    if "poolid" in form:
        return 200, [{"poolid": "prod", "members": [{"vmid": 100}, {"vmid": 101}]}], {}
    return 200, [{"poolid": "prod"}], {}


def _config(cluster: Cluster, _form: dict[str, str], _node: str, vmid: str) -> Answer:
    guest = cluster.guests[int(vmid)]
    return 200, {**guest.config, **({"lock": guest.lock} if guest.lock else {})}, {}


def _list(cluster: Cluster, _form: dict[str, str], _node: str, vmid: str) -> Answer:
    found = [{"name": name, **values} for name, values in cluster.guests[int(vmid)].snapshots.items()]
    return 200, [*found, {"name": "current", "running": 1, "digest": "0" * 40}], {}


def _create(cluster: Cluster, form: dict[str, str], _node: str, vmid: str) -> Answer:
    cluster._description = form.get("description", "")
    return 200, cluster.begin(cluster.guests[int(vmid)], "qmsnapshot", form["snapname"]), {}


def _delete(cluster: Cluster, _form: dict[str, str], _node: str, vmid: str, name: str) -> Answer:
    return 200, cluster.begin(cluster.guests[int(vmid)], "qmdelsnapshot", name), {}


def _tasks(cluster: Cluster, form: dict[str, str], node: str) -> Answer:
    found = []
    for task in cluster.tasks.values():
        if task.node != node or form.get("vmid") not in (None, str(task.vmid)) or form.get("source") == "active" and task.ended:
            continue
        if form.get("typefilter") not in (None, task.type):
            continue
        found.append({
            "upid": task.upid, "type": task.type, "id": str(task.vmid), "node": node, "starttime": int(task.begun),
            **({"endtime": int(task.begun + task.seconds), "status": task.exit_status} if task.ended else {"status": "RUNNING"})})
    return 200, found[::-1], {"total": len(found)}


def _status(cluster: Cluster, _form: dict[str, str], _node: str, upid: str) -> Answer:
    task = cluster.tasks.get(upid)
    if task is None:
        return 400, None, {"message": "Parameter verification failed.\n", "errors": {"upid": "no such task"}}
    ended = {"upid": upid, "status": "stopped", "exitstatus": task.exit_status}
    return 200, ended if task.ended else {"upid": upid, "status": "running"}, {}


def _log(_cluster: Cluster, _form: dict[str, str], _node: str, _upid: str) -> Answer:
    lines = ["snapshotting 'drive-scsi0' (ceph:vm-disk-0)", "TASK OK"]
    return 200, [{"n": number, "t": line} for number, line in enumerate(lines, 1)], {"total": len(lines)}


def _ping(_cluster: Cluster, _form: dict[str, str], _node: str, _vmid: str) -> Answer:
    return 200, {"result": {}}, {}


def _exec(cluster: Cluster, form: dict[str, str], _node: str, vmid: str) -> Answer:
    cluster.guests[int(vmid)].commands.append([form.get("command", "")])
    return 200, {"pid": 4711}, {}


def _exec_status(_cluster: Cluster, _form: dict[str, str], _node: str, _vmid: str) -> Answer:
    return 200, {"exited": 1, "exitcode": 0, "out-data": "done\n"}, {}


_GUEST = r"/nodes/([^/]+)/qemu/(\d+)"
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/version", _version), ("POST", "/access/ticket", _ticket), ("GET", "/cluster/resources", _resources),
    ("GET", "/nodes", _nodes), ("GET", "/pools", _pools),
    ("GET", _GUEST + "/config", _config), ("GET", _GUEST + "/snapshot", _list),
    ("POST", _GUEST + "/snapshot", _create), ("DELETE", _GUEST + r"/snapshot/([^/]+)", _delete),
    ("GET", "/nodes/([^/]+)/tasks", _tasks), ("GET", "/nodes/([^/]+)/tasks/([^/]+)/status", _status),
    ("GET", "/nodes/([^/]+)/tasks/([^/]+)/log", _log), ("POST", _GUEST + "/agent/ping", _ping),
    ("POST", _GUEST + "/agent/exec", _exec), ("GET", _GUEST + "/agent/exec-status", _exec_status)]
