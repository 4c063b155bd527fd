# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The storage guard: may a guest's snapshot be taken on the storages that it needs?

Every storage of the guest's disks is looked at and, with ``vmstate``, the one that the state volume
goes to (api-facts 2.8). What the run has already promised is added to what is in use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Optional, Tuple

from ..model import GuestConfig, Storage

MIB = 1024 * 1024
VMSTATE_EXTRA = 500 * MIB
FILE_TYPES = frozenset(("dir", "nfs", "cifs", "cephfs", "glusterfs", "btrfs"))
THICK_SNAPSHOT_TYPES = frozenset(("lvm",))  # each snapshot is a full-size volume (api-facts 2.6)

StorageKey = Tuple[str, str]


@dataclass(frozen=True)
class Limits:
    """The largest use in percent, and the least free bytes, that a snapshot may lead to."""

    max_percent: int
    min_free: int


@dataclass
class Ledger:
    """Bytes that this run has promised, by storage."""

    promised: Dict[StorageKey, int] = field(default_factory=dict)

    def promise(self, needs: Dict[StorageKey, int]) -> None:
        """Add what a guest's snapshot will take."""
        for key, size in needs.items():
            self.promised[key] = self.promised.get(key, 0) + size


@dataclass(frozen=True)
class Verdict:
    """``refusal`` is None when the snapshot may be taken, else a sentence.

    ``missing`` is True when the refusal is that a storage cannot be seen.
    """

    needs: Dict[StorageKey, int]
    refusal: Optional[str] = None
    missing: bool = False


def vmstate_size(memory: int) -> int:
    """Bytes of the state volume of a VM with ``memory`` MiB (api-facts 2.8)."""
    return 2 * memory * MIB + VMSTATE_EXTRA


def vmstate_storage(config: GuestConfig, storages: Dict[str, Storage]) -> str:
    """The storage that the state volume goes to: the option, else shared before local, files preferred.

    Proxmox VE goes through the storages by name.
    """
    if config.vmstate_storage:
        return config.vmstate_storage
    candidates = [storages[name] for name in sorted({disk.storage for disk in config.disks}) if name in storages]
    for shared in (True, False):
        found = [storage for storage in candidates if storage.shared is shared]
        files = [storage for storage in found if storage.type in FILE_TYPES]
        if files:
            return files[-1].name
        if found:
            return found[0].name
    return "local"


def needs_of(config: GuestConfig, storages: Dict[str, Storage], vmstate: bool) -> Dict[str, int]:
    """Bytes that a snapshot takes at once, by the name of every storage it touches."""
    needs: Dict[str, int] = {}
    for disk in config.disks:
        storage = storages.get(disk.storage)
        thick = storage is not None and storage.type in THICK_SNAPSHOT_TYPES
        needs[disk.storage] = needs.get(disk.storage, 0) + ((disk.size or 0) if thick else 0)
    if vmstate:
        target = vmstate_storage(config, storages)
        needs[target] = needs.get(target, 0) + vmstate_size(config.memory)
    return needs


def judge(
    config: GuestConfig, storages: Dict[str, Storage], vmstate: bool, limits: Limits, ledger: Ledger
) -> Verdict:
    """The verdict on one guest; ``storages`` are those of its node by name. Promises nothing."""
    needs = needs_of(config, storages, vmstate)
    missing = sorted(name for name in needs if name not in storages)
    if missing:
        return Verdict(
            {},
            "storage '{0}' is not visible: grant Datastore.Audit on /storage/{0} to the user and the token, "
            "or enable the storage on the node".format(missing[0]),
            missing=True,
        )
    by_key = {storages[name].key: size for name, size in needs.items()}
    for name in sorted(needs):
        storage = storages[name]
        refusal = refuse(storage, needs[name] + ledger.promised.get(storage.key, 0), limits)
        if refusal:
            return Verdict(by_key, refusal)
    return Verdict(by_key)


def percent(storage: Storage, extra: int = 0) -> Optional[float]:
    """Use in percent with ``extra`` bytes more, None where unknown."""
    if storage.used is None or not storage.size:
        return None
    return (storage.used + extra) * 100.0 / storage.size


def refuse(storage: Storage, extra: int, limits: Limits) -> Optional[str]:
    """Why ``extra`` more bytes are too much for a storage, or None."""
    use = percent(storage, extra)
    if use is None or storage.used is None or storage.size is None or not storage.available:
        return "storage '{0}': its use is unknown, so no snapshot is taken; is it active on node {1}?".format(
            storage.name, storage.node)
    if use > limits.max_percent:
        return "storage '{0}' would be {1:.1f} % full, max_storage_percent is {2}".format(
            storage.name, use, limits.max_percent)
    free = storage.size - storage.used - extra
    if free < limits.min_free:
        return "storage '{0}' would have {1} free, min_storage_free is {2}".format(
            storage.name, human_size(free), human_size(limits.min_free))
    return None


def human_size(size: float) -> str:
    """Bytes for a person: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return "{0:.1f} {1}".format(size, unit) if unit != "B" else "{0} B".format(int(size))
        size /= 1024
    return "{0:.1f} TiB".format(size)


def by_node(storages: Iterable[Storage]) -> Dict[str, Dict[str, Storage]]:
    """Storages by node and name."""
    result: Dict[str, Dict[str, Storage]] = {}
    for storage in storages:
        result.setdefault(storage.node, {})[storage.name] = storage
    return result


def table(used: List[Storage], ledger: Ledger, limits: Limits) -> List[Dict[str, object]]:
    """One row per storage for the result: use before and after this run's promises, and the verdict."""
    rows: List[Dict[str, object]] = []
    for storage in sorted(used, key=lambda s: (s.name, s.node)):
        promised = ledger.promised.get(storage.key, 0)
        use = percent(storage)
        refusal = refuse(storage, promised, limits)
        rows.append({
            "storage": storage.name,
            "node": storage.node,
            "type": storage.type,
            "shared": storage.shared,
            "used": storage.used,
            "size": storage.size,
            "promised": promised,
            "percent": None if use is None else round(use, 1),
            "limit": limits.max_percent,
            "ok": refusal is None,
            "reason": refusal or "",
        })
    return rows
