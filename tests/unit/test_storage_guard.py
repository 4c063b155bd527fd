# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The storage guard."""

from __future__ import annotations

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.model import Disk, GuestConfig, Storage
from ansible_collections.pve.autosnap.plugins.module_utils.policy import storage_guard as guard

GIB = 1024 ** 3


def storage(name: str, used: int | None, size: int | None = 100, *, kind: str = "lvmthin", shared: bool = False,
            available: bool = True) -> Storage:
    return Storage(
        name, "pve1", kind, shared, available, None if used is None else used * GIB, None if size is None else size * GIB)


def config(*disks: str, memory: int = 1024, vmstate_storage: str | None = None) -> GuestConfig:
    return GuestConfig("g", False, None, memory, True, tuple(
        Disk("scsi{0}".format(n), name, 10 * GIB) for n, name in enumerate(disks)), vmstate_storage)


def judge(cfg: GuestConfig, *storages: Storage, vmstate: bool = False, percent: int = 95, free: int = 0,
          ledger: guard.Ledger | None = None) -> guard.Verdict:
    return guard.judge(
        cfg, {s.name: s for s in storages}, vmstate, guard.Limits(percent, free * GIB), ledger or guard.Ledger())


@pytest.mark.parametrize(("used", "refused"), [(94, False), (95, False), (96, True), (100, True), (0, False)])
def test_it_trips(used: int, refused: bool) -> None:
    """peers B1: the original compared 0.99 with 95."""
    assert bool(judge(config("a"), storage("a", used)).refusal) is refused


def test_every_disk_counts() -> None:
    assert "'b'" in (judge(config("a", "b"), storage("a", 10), storage("b", 99)).refusal or "")


@pytest.mark.parametrize(
    "unknown", [storage("a", None), storage("a", 5, None), storage("a", 5, 0), storage("a", 5, available=False)])
def test_unknown_use_is_not_taken(unknown: Storage) -> None:
    assert "unknown" in (judge(config("a"), unknown).refusal or "")


def test_a_storage_that_cannot_be_seen_is_an_error() -> None:
    verdict = judge(config("a"), storage("b", 1))
    assert verdict.missing
    assert "Datastore.Audit on /storage/a" in (verdict.refusal or "")


def test_a_guest_without_disks_passes() -> None:
    assert judge(config()).refusal is None


def test_free_space() -> None:
    assert judge(config("a"), storage("a", 60), free=40).refusal is None
    assert "min_storage_free" in (judge(config("a"), storage("a", 61), free=40).refusal or "")


def test_the_ram_needs_twice_its_size_and_500_mib() -> None:
    assert guard.vmstate_size(1024) == 2 * GIB + 500 * 1024 ** 2
    full = storage("a", 94)
    assert judge(config("a", memory=2048), full).refusal is None
    assert judge(config("a", memory=2048), full, vmstate=True).refusal


def test_what_was_promised_is_added() -> None:
    ledger = guard.Ledger()
    store = storage("a", 90)
    first = judge(config("a", memory=2048), store, vmstate=True, ledger=ledger)
    assert first.refusal is None
    ledger.promise(first.needs)
    assert judge(config("a", memory=2048), store, vmstate=True, ledger=ledger).refusal


def test_a_shared_storage_has_one_account_on_all_nodes() -> None:
    assert storage("a", 1, shared=True).key == Storage("a", "pve2", "rbd", True, True, 1, 2).key
    assert storage("a", 1).key != Storage("a", "pve2", "lvmthin", False, True, 1, 2).key


def test_thick_lvm_takes_the_whole_size() -> None:
    thick = storage("a", 80, kind="lvm")
    assert judge(config("a"), thick).refusal is None
    assert judge(config("a", "a"), thick).refusal


@pytest.mark.parametrize(
    ("disks", "option", "expected"),
    [
        (["thin"], "other", "other"),
        (["thin", "ceph"], None, "ceph"),
        (["thin", "ceph", "nas"], None, "nas"),
        (["thin", "dir"], None, "dir"),
        (["thin"], None, "thin"),
        ([], None, "local"),
    ],
)
def test_where_the_ram_goes(disks: list[str], option: str | None, expected: str) -> None:
    """api-facts 2.8."""
    storages = {
        "thin": storage("thin", 1), "dir": storage("dir", 1, kind="dir"), "ceph": storage("ceph", 1, kind="rbd", shared=True),
        "nas": storage("nas", 1, kind="nfs", shared=True)}
    assert guard.vmstate_storage(config(*disks, vmstate_storage=option), storages) == expected


def test_the_table_names_use_and_verdict() -> None:
    ledger = guard.Ledger({("pve1", "a"): 3 * GIB})
    row, unknown = guard.table([storage("a", 94), storage("b", None)], ledger, guard.Limits(95, 0))
    assert (row["percent"], row["promised"], row["ok"]) == (94.0, 3 * GIB, False)
    assert (unknown["percent"], unknown["ok"]) == (None, False)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (3 * 1024 ** 2, "3.0 MiB"), (GIB, "1.0 GiB"), (5e12, "4.5 TiB")])
def test_human_size(size: float, text: str) -> None:
    assert guard.human_size(size) == text
