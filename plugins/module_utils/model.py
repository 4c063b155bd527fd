# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""What the collection talks about: guests, snapshots, storages (design, "Words").

Plain immutable values without behaviour that needs anything else. Times are integer Unix
seconds (UTC), sizes are bytes, memory is MiB where a field says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

QEMU = "qemu"
LXC = "lxc"
# At the end of a description they mean nothing; any other character there, seen or not, makes it another description.
BLANKS = " \t\r\n"


@dataclass(frozen=True)
class Node:
    """A node of the cluster; ``status`` is ``online``, ``offline`` or ``unknown``."""

    name: str
    status: str

    @property
    def online(self) -> bool:
        """True when the cluster says that the node answers."""
        return self.status == "online"


@dataclass(frozen=True)
class Guest:
    """A QEMU VM or LXC container as ``/cluster/resources`` shows it.

    ``name`` and ``template`` are None where Proxmox VE has no fresh data (api-facts 5.1).
    """

    vmid: int
    type: str
    node: str
    status: str
    name: Optional[str] = None
    template: Optional[bool] = None
    lock: Optional[str] = None
    tags: Tuple[str, ...] = ()
    pool: Optional[str] = None

    @property
    def unknown(self) -> bool:
        """True when the cluster has no fresh status of the guest."""
        return self.status == "unknown"


@dataclass(frozen=True)
class Disk:
    """A volume that a snapshot of the guest covers; ``size`` is None where the config has none."""

    key: str
    storage: str
    size: Optional[int] = None


@dataclass(frozen=True)
class GuestConfig:
    """What a run needs of a guest's config, as it is in force now.

    ``freeze`` is False where snapshots are told not to freeze, ``freeze_on_backup`` False where that is said of backups,
    which versions of Proxmox VE understand differently (api-facts 2.7).
    """

    name: Optional[str]
    template: bool
    lock: Optional[str]
    memory: int
    agent: bool
    disks: Tuple[Disk, ...]
    vmstate_storage: Optional[str] = None
    freeze: bool = True
    freeze_on_backup: bool = True


@dataclass(frozen=True)
class AgentOption:
    """A VM's ``agent`` option as its next start will find it, and the same switched on.

    ``digest`` is that of the config it was read from.
    """

    text: str = ""
    enabled: bool = False
    switched_on: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Snapshot:
    """One real entry of a guest's snapshot list (never ``current``)."""

    name: str
    snaptime: int
    description: str = ""
    parent: Optional[str] = None
    snapstate: Optional[str] = None
    vmstate: bool = False


@dataclass(frozen=True)
class SnapshotList:
    """A guest's snapshots in the order Proxmox VE sent them, and whether the guest runs now."""

    snapshots: Tuple[Snapshot, ...]
    running: bool


@dataclass(frozen=True)
class Storage:
    """A storage as one node sees it; ``used`` and ``size`` are None where unknown.

    ``for_guests`` is True where it may hold their disks.
    """

    name: str
    node: str
    type: str
    shared: bool
    available: bool
    used: Optional[int]
    size: Optional[int]
    for_guests: bool = True

    @property
    def key(self) -> Tuple[str, str]:
        """One key for a shared storage on all nodes, one per node for a local one."""
        return ("", self.name) if self.shared else (self.node, self.name)
