# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster written as one YAML file, made into a SimulatedPve. ``demo.yml`` shows the
keys; ``many``, ``latency``, ``api_workers`` and ``api_seconds`` are for large worlds and benchmarks."""

from __future__ import annotations

import datetime
import json
import pathlib
import time
from typing import Any

import yaml

from .fake import SimulatedPve

UNITS = {"K": 1024, "M": 1024 ** 2, "G": 1024 ** 3, "T": 1024 ** 4}


def size(text: Any) -> int:
    """Bytes of ``100G``."""
    value = str(text)
    return int(float(value[:-1]) * UNITS[value[-1]]) if value[-1] in UNITS else int(value)


def load(path: str | pathlib.Path) -> dict[str, Any]:
    """The world of a YAML file, or of a JSON file, which is faster where it is large."""
    text = pathlib.Path(path).read_text(encoding="utf-8")
    return dict(json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text))


def build(world: dict[str, Any], hosts: list[str] | None = None, port: int = 0) -> SimulatedPve:
    """A simulated cluster that is not listening yet. KeyError for a key that is not known."""
    pve = SimulatedPve(hosts or world.get("hosts"), port)
    unknown = set(world) - {
        "hosts", "version", "time_scale", "create_seconds", "delete_seconds", "latency", "nodes", "storages", "pools",
        "users", "tokens", "guests", "many", "api_workers", "api_seconds"}
    if unknown:
        raise KeyError("unknown keys in the world: {0}".format(", ".join(sorted(unknown))))
    pve.version = str(world.get("version", "9.2.11"))
    pve.release_version = ".".join(pve.version.split(".")[:2])
    pve.time_scale = float(world.get("time_scale", 1.0))
    pve.create_seconds = float(world.get("create_seconds", 0.0))
    pve.delete_seconds = float(world.get("delete_seconds", 0.0))
    pve.api_workers = int(world.get("api_workers", 0))
    pve.api_seconds = float(world.get("api_seconds", 0.0))
    pve.network["latency"] = float(world.get("latency", 0.0))
    pve.nodes = {}
    for name, node in (world.get("nodes") or {"pve1": {}}).items():
        pve.add_node(name, online=(node or {}).get("online", True))
        if (node or {}).get("nameless"):
            pve.nameless_nodes.add(name)
        pve.clock_offset[name] = int((node or {}).get("clock_offset", 0))
    pve.storages = {name: _storage(store) for name, store in (world.get("storages") or {}).items()}
    _users(pve, world)
    now = int(time.time())
    for guest in [*(world.get("guests") or []), *_many(world.get("many"))]:
        _guest(pve, guest, now)
    _pools(pve, world.get("pools") or {})
    return pve


def _storage(store: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in store.items() if key not in ("size", "used")}
    return {
        "active": 1, "content": "images,rootdir", "files": set(), **kept,
        "size": size(store.get("size", "100G")), "used": size(store.get("used", "10G")),
    }


def _users(pve: SimulatedPve, world: dict[str, Any]) -> None:
    pve.acl = {}
    for name, user in (world.get("users") or {}).items():
        pve.users[name] = user.get("password")
        for path, privs in (user.get("grants") or {}).items():
            pve.grant(name, path, *privs)
    for name, token in (world.get("tokens") or {}).items():
        pve.apitokens[name] = token["secret"]
        for path, privs in (token.get("grants") or {}).items():
            pve.grant(name, path, *privs)


def _many(many: dict[str, Any] | None) -> list[dict[str, Any]]:
    """``many``: a number of equal guests, spread over nodes; for benchmarks and large tests."""
    if not many:
        return []
    return [
        {**many["guest"], "vmid": many["first"] + n, "name": "{0}{1:04d}".format(many["name"], n),
         "node": many["nodes"][n % len(many["nodes"])]}
        for n in range(many["count"])
    ]


def _guest(pve: SimulatedPve, guest: dict[str, Any], now: int) -> None:
    vmid = int(guest["vmid"])
    config: dict[str, Any] = dict(guest.get("config") or {})
    if guest.get("tags"):
        config["tags"] = ";".join(guest["tags"])
    if guest.get("type", "qemu") == "lxc":
        config.setdefault("rootfs", "{0}:vm-{1}-disk-0,size=8G".format(guest.get("storage", "local-lvm"), vmid))
        made = pve.add_ct(
            vmid, guest.get("name"), node=guest.get("node", "pve1"), status=guest.get("status", "running"), config=config,
            template=guest.get("template", False))
    else:
        if not guest.get("diskless"):
            config.setdefault("scsi0", "{0}:vm-{1}-disk-0,size=32G".format(guest.get("storage", "local-lvm"), vmid))
        config.setdefault("memory", "2048")
        made = pve.add_vm(
            vmid, guest["name"], node=guest.get("node", "pve1"), status=guest.get("status", "running"), config=config,
            template=guest.get("template", False))
        if guest.get("template"):
            made.config["template"] = 1
        if guest.get("agent"):
            made.agent = {} if guest.get("agent_answers", True) else None
            made.config["agent"] = "1" if guest["agent"] is True else str(guest["agent"])
        if guest.get("freeze_error"):
            pve.freeze_errors[vmid] = guest["freeze_error"]
        if guest.get("thaw_error"):
            pve.thaw_errors[vmid] = guest["thaw_error"]
    if guest.get("lock"):
        pve.set_lock(made, guest["lock"])
    for operation in ("create", "delete"):
        if guest.get(operation + "_seconds") is not None:
            pve.guest_seconds[(vmid, operation)] = float(guest[operation + "_seconds"])
    if guest.get("half_deletes"):
        pve.half_deletes.add(vmid)
    for entry in guest.get("snapshots") or []:
        _snapshots(made, entry, now)


def _snapshots(guest: Any, entry: dict[str, Any], now: int) -> None:
    """One snapshot, or ``count`` of a ``label`` that are ``every`` seconds apart and end ``age`` seconds ago."""
    marker = entry.get("description", "cv4pve-autosnap")
    if "label" not in entry:
        _add_snapshot(guest, entry["name"], now - int(entry["age"]), marker, entry.get("snapstate"))
        return
    every, count = int(entry.get("every", 86400)), int(entry.get("count", 1))
    for number in range(count):
        taken = now - int(entry.get("age", every)) - (count - 1 - number) * every
        stamp = datetime.datetime.fromtimestamp(taken).strftime("%y%m%d%H%M%S")
        _add_snapshot(guest, "auto{0}{1}".format(entry["label"], stamp), taken, marker, None)


def _add_snapshot(guest: Any, name: str, taken: int, description: str, snapstate: str | None) -> None:
    snapshot: dict[str, Any] = {
        key: value for key, value in guest.config.items() if key not in ("lock", "description", "parent")}
    snapshot.update(snaptime=taken, description=description)
    older = [(other["snaptime"], key) for key, other in guest.snapshots.items() if other["snaptime"] <= taken]
    if older:
        snapshot["parent"] = max(older)[1]
    if snapstate:
        snapshot["snapstate"] = snapstate
    guest.snapshots[name] = snapshot
    for key, other in guest.snapshots.items():
        if key != name and other["snaptime"] > taken and other.get("parent") == snapshot.get("parent"):
            other["parent"] = name
    guest.config["parent"] = max((other["snaptime"], key) for key, other in guest.snapshots.items())[1]


def _pools(pve: SimulatedPve, pools: dict[str, list[int]]) -> None:
    """Set in one go: joining guest by guest is quadratic."""
    for name, members in pools.items():
        pve.pools[name] = set(members)
        pve._pool_meta(name)
    pve._sync_pools()
