# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""What a cluster holds, read over a session: typed values, no raw dict of the API leaves here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Iterable, List, Optional, Sequence, Tuple

from ..model import BLANKS, LXC, AgentOption, Disk, Guest, GuestConfig, Node, Snapshot, SnapshotList, Storage
from . import errors
from .session import Session

_QEMU_DISK = re.compile(r"\A(?:scsi|virtio|ide|sata)\d+\Z|\A(?:efidisk|tpmstate)0\Z")
_LXC_DISK = re.compile(r"\A(?:rootfs|mp\d+)\Z")
_SIZE = re.compile(r"\A(\d+(?:\.\d+)?)([KMGT]?)\Z")
_UNITS = {"": 1, "K": 1024, "M": 1024 ** 2, "G": 1024 ** 3, "T": 1024 ** 4}
_GUEST_CONTENT = frozenset(("images", "rootdir"))
_TAGS = re.compile(r"[,;\s]+")
_NODE = re.compile(r"\A[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")  # it goes into paths
VMID_MAX = 999_999_999  # api-facts 2.1
TIME_MAX = 253_370_764_800  # Unix seconds, the year 9999: calendars end there
SIZE_MAX = 2 ** 62  # bytes
UNREADABLE_MAX = 20  # sentences on entries of the cluster that cannot be read


@dataclass(frozen=True)
class Resources:
    """One answer of ``/cluster/resources``: guests by id, storages per node.

    ``unreadable`` has a sentence on each entry that may be a guest and cannot be read (law 10).
    """

    nodes: Tuple[Node, ...]
    guests: Tuple[Guest, ...]
    storages: Tuple[Storage, ...]
    unreadable: Tuple[str, ...] = ()


class Cluster:
    """Reads of one cluster."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def resources(self, owed: bool = False) -> Resources:
        """Nodes, guests and storages, as far as the user may see them (api-facts 5.1). One call.

        NotUnderstood for an answer that is no list of entries. ``owed`` also when the run has to end.
        """
        read = self._session.read_regardless if owed else self._session.read
        items = read("cluster", "resources").data or []
        return errors.understood("the cluster's resources", lambda: _resources(items))

    def config(self, guest: Guest) -> GuestConfig:
        """The guest's config as it is in force, without what waits for a restart. One call, VM.Audit."""
        now = {} if guest.type == LXC else {"current": True}
        data = self._session.read("nodes", guest.node, guest.type, guest.vmid, "config", **now).data
        return errors.understood("the config of guest {0}".format(guest.vmid), lambda: _config(guest.type, data))

    def agent_option(self, guest: Guest) -> AgentOption:
        """The agent option of a VM, with what waits for a restart. One call, VM.Audit."""
        data = self._session.read("nodes", guest.node, guest.type, guest.vmid, "config").data
        return errors.understood("the config of guest {0}".format(guest.vmid), lambda: _agent(data))

    def enable_agent(self, guest: Guest, before: AgentOption) -> None:
        """Switch it on, on a config that is as ``before``. One call, VM.Config.Options.

        Where the VM runs it waits for a restart. LostWrite when it may be done.
        """
        self._session.write(
            "put", "nodes", guest.node, guest.type, guest.vmid, "config", agent=before.switched_on, digest=before.digest)

    def snapshots(self, guest: Guest) -> SnapshotList:
        """The guest's snapshots; ``running`` is live. One call, VM.Audit."""
        data = self._session.read("nodes", guest.node, guest.type, guest.vmid, "snapshot").data
        return errors.understood("the snapshots of guest {0}".format(guest.vmid), lambda: _snapshots(data))

    def pool_members(self, pools: Sequence[str]) -> Tuple[Dict[str, Tuple[int, ...]], FrozenSet[str]]:
        """Ids of the guests in each pool (lower case, sub-pools included), as the pools name them; and all pools that can be
        seen, in lower case.

        The members are not filtered by VM.Audit (api-facts 1.5). Pools that are not there, or that the user may not audit,
        are left out.
        """
        members: Dict[str, List[int]] = {}
        listed = self._session.read("pools").data or [] if pools else []
        names = errors.understood("the pools", lambda: [str(item["poolid"]) for item in listed])
        for name in names:
            wanted = [pool for pool in pools if name.lower() == pool or name.lower().startswith(pool + "/")]
            if wanted:
                ids = self._members(name)
                for pool in wanted:
                    members.setdefault(pool, []).extend(ids)
        return {pool: tuple(ids) for pool, ids in members.items()}, frozenset(name.lower() for name in names)

    def _members(self, name: str) -> List[int]:
        """Before 8.1 there is no ``poolid`` filter and no nested pool (api-facts 1.5)."""
        try:
            found = self._session.read("pools", poolid=name).data
        except errors.BadParameter:
            found = [self._session.read("pools", name).data]
        return errors.understood("a pool's members", lambda: [
            _vmid(item["vmid"]) for pool in found or [] for item in pool.get("members") or [] if "vmid" in item])


def _resources(items: Sequence[Dict[str, Any]]) -> Resources:
    """An entry that cannot be read costs only itself, and is named."""
    nodes: Dict[str, Node] = {}
    guests: Dict[int, Guest] = {}
    storages: List[Storage] = []
    unreadable: List[str] = []
    more = 0
    for item in items:
        try:
            kind = item["type"]
            if kind == "node":
                node = Node(_node(item["node"]), str(item.get("status", "unknown")))
                nodes[node.name] = node
            elif kind in ("qemu", "lxc"):
                guest = _guest(item)
                if guest.vmid in guests:
                    raise ValueError("it is there twice")
                guests[guest.vmid] = guest
            elif kind == "storage":
                storages.append(_storage(item))
            elif not isinstance(kind, str) or not kind:
                raise TypeError("it has no type")
        except Exception as error:
            if len(unreadable) < UNREADABLE_MAX:
                unreadable.append(_odd_entry(item, error))
            else:
                more += 1
    if more:
        unreadable.append("{0} further entries of the cluster cannot be read".format(more))
    return Resources(
        tuple(sorted(nodes.values(), key=lambda n: n.name)), tuple(sorted(guests.values(), key=lambda g: g.vmid)),
        tuple(storages), tuple(unreadable))


def _odd_entry(item: Any, error: Exception) -> str:
    """A sentence that names an entry by its id, which is ``qemu/100`` for a guest."""
    name = str(item.get("id", ""))[:60] if isinstance(item, dict) else ""
    return "an entry of the cluster{0} cannot be read ({1}: {2})".format(
        ", {0!r},".format(name) if name else "", type(error).__name__, str(error)[:80])


def _node(value: Any) -> str:
    if not isinstance(value, str) or not _NODE.match(value):
        raise ValueError("{0!r} is no name of a node".format(value))
    return value


def _vmid(value: Any) -> int:
    number = int(value)
    if isinstance(value, (bool, float)) or not 0 < number <= VMID_MAX:
        raise ValueError("{0!r} is no id of a guest".format(value))
    return number


def _guest(item: Dict[str, Any]) -> Guest:
    template = item.get("template")
    return Guest(
        vmid=_vmid(item["vmid"]),
        type=str(item["type"]),
        node=_node(item["node"]),
        status=str(item.get("status", "unknown")),
        name=_text(item.get("name")),
        template=None if template is None else _flag(template),
        lock=_text(item.get("lock")),
        tags=tuple(tag for tag in _TAGS.split(str(item.get("tags") or "")) if tag),
        pool=_text(item.get("pool")),
    )


def _storage(item: Dict[str, Any]) -> Storage:
    return Storage(
        name=str(item["storage"]),
        node=_node(item["node"]),
        type=str(item.get("plugintype", "")),
        shared=_flag(item.get("shared")),
        available=item.get("status") == "available",
        used=_number(item.get("disk")),
        size=_number(item.get("maxdisk")),
        for_guests=not item.get("content") or bool(_GUEST_CONTENT & set(str(item["content"]).split(","))),
    )


def _config(kind: str, data: Dict[str, Any]) -> GuestConfig:
    agent = _agent_option(str(data.get("agent") or ""))
    return GuestConfig(
        name=_text(data.get("hostname" if kind == LXC else "name")),
        template=_flag(data.get("template")),
        lock=_text(data.get("lock")),
        memory=_memory(data.get("memory"), 512),
        agent=_flag(agent.get("enabled")),
        disks=tuple(_disks(kind, data)),
        vmstate_storage=_text(data.get("vmstatestorage")),
        freeze=all(_flag(agent.get(key, "1")) for key in ("freeze-fs", "guest-fsfreeze")),
        freeze_on_backup=_flag(agent.get("freeze-fs-on-backup", "1")),
    )


def _agent(data: Dict[str, Any]) -> AgentOption:
    text = str(data.get("agent") or "")
    parts = _agent_option(text)
    others = ["{0}={1}".format(*item) for item in parts.items() if item[0] != "enabled"]
    return AgentOption(text, _flag(parts.get("enabled")), ",".join(["enabled=1", *others]), str(data.get("digest") or ""))


def _memory(value: Any, default: int) -> int:
    """MiB; PVE sends ``"4096"``, an integer, or ``current=4096`` (recordings 55, 59)."""
    text = str(value if value is not None else default).split(",", 1)[0]
    return int(text.split("=")[-1])


def _agent_option(value: str) -> Dict[str, str]:
    """The parts of ``1``, ``enabled=1,...``, or the other way round (peers B24)."""
    pairs = [part.partition("=") for part in value.split(",") if part]
    return {key if equals else "enabled": text if equals else key for key, equals, text in pairs}


def _disks(kind: str, data: Dict[str, Any]) -> Iterable[Disk]:
    """The volumes that a snapshot covers (api-facts 2.6): no CD drives, no unused disks, no bind mounts."""
    pattern = _LXC_DISK if kind == LXC else _QEMU_DISK
    for key in sorted(data):
        if not pattern.match(key):
            continue
        parts = str(data[key]).split(",")
        options = dict(part.split("=", 1) for part in parts[1:] if "=" in part)
        volume = parts[0].split("=", 1)[1] if parts[0].startswith(("file=", "volume=")) else parts[0]
        if options.get("media") == "cdrom" or volume == "none" or volume.startswith("/") or ":" not in volume:
            continue
        yield Disk(key, volume.split(":", 1)[0], _size(options.get("size")))


def _size(text: Optional[str]) -> Optional[int]:
    match = _SIZE.match(text or "")
    return _number(float(match.group(1)) * _UNITS[match.group(2)]) if match else None


def _snapshots(data: List[Dict[str, Any]]) -> SnapshotList:
    """Order is random and only ``current`` is special (api-facts 3); ``snaptime`` 0 where missing or no time at all."""
    found: Dict[str, Snapshot] = {}
    running = False
    for item in data:
        name = _text(item["name"])
        if name == "current":
            running = _flag(item.get("running"))
            continue
        if name is None or name in found:
            raise ValueError("two entries have the name {0!r}".format(name))
        time = _number(item.get("snaptime"))
        found[name] = Snapshot(
            name=name,
            snaptime=time if time is not None and 0 <= time <= TIME_MAX else 0,
            description=(_text(item.get("description")) or "").rstrip(BLANKS),
            parent=_text(item.get("parent")),
            snapstate=_text(item.get("snapstate")),
            vmstate=_flag(item.get("vmstate")),
        )
    return SnapshotList(tuple(found.values()), running)


def _flag(value: Any) -> bool:
    """A boolean in any of the forms that PVE has for one (api-facts 2.1)."""
    return str(value).lower() in ("1", "on", "yes", "true")


def _text(value: Any) -> Optional[str]:
    if value is not None and not isinstance(value, (str, int, float)):
        raise TypeError("a text was expected, there is {0!r}".format(value))
    return None if value in (None, "") else str(value)


def _number(value: Any) -> Optional[int]:
    """An integer; None for what is absent, no number, or beyond all sizes and times."""
    try:
        number = float(value)
        return int(value if isinstance(value, int) else number) if math.isfinite(number) and abs(number) < SIZE_MAX else None
    except (TypeError, ValueError, OverflowError):
        return None
