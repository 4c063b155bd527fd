# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run on a bad night: everything that can be wrong at once, and each guest's fate."""

from __future__ import annotations

from typing import Any

from simulator.running import Running
from worlds import daily, entry, guest, names, run_snap, world

FOREIGN = {"name": "before_upgrade", "age": 90_000_000, "description": "made by hand"}
PINNED = {"name": "autodaily240101000000", "age": 60_000_000, "description": "cv4pve-autosnap\nkeep: state before the migration"}
BROKEN = {"name": "autodaily261101000000", "age": 1_000_000, "description": "cv4pve-autosnap", "snapstate": "delete"}


def bad_night() -> dict[str, Any]:
    """A template, a locked guest, a raw disk, an offline node, a full storage, and snapshots of every kind."""
    return world(
        guest(100, name="web1", snapshots=[FOREIGN, *daily(3)]),
        guest(101, name="web2", snapshots=[PINNED, *daily(3)]),
        guest(102, name="db1", snapshots=[BROKEN, *daily(3)]),
        guest(103, name="backup-runs", lock="backup", snapshots=daily(3)),
        guest(104, name="raw-disk", storage="dir", config={"scsi0": "dir:104/vm-104-disk-0.raw,size=8G"}),
        guest(105, name="on-full-storage", storage="full", snapshots=daily(5)),
        guest(106, name="on-dead-node", node="pve3"),
        guest(107, name="dns1", type="lxc", node="pve2", snapshots=daily(3)),
        guest(900, name="debian13", template=True, status="stopped"),
        nodes={"pve1": {}, "pve2": {}, "pve3": {"online": False}},
    )


def test_a_bad_night() -> None:
    with Running(bad_night()) as cluster:
        before = {vmid: names(cluster, vmid) for vmid in range(100, 108)}
        report = run_snap(cluster, "@all,@tag-nosuch", keep=3, lock_timeout="1s")
        assert report.failed
        assert {item["vmid"]: item["status"] for item in report.result["guests"]} == {
            100: "created", 101: "created", 102: "created", 103: "deferred", 104: "failed", 105: "skipped", 106: "unreachable",
            107: "created",
        }
        assert [template["vmid"] for template in report.result["templates"]] == [900]
        assert [term["term"] for term in report.result["unmatched"]] == ["@tag-nosuch"]
        assert [broken["snapshot"] for broken in report.result["broken"]] == ["autodaily261101000000"]
        assert report.result["summary"] == {
            "matched": 8, "created": 4, "pruned": 0, "unchanged": 0, "skipped": 1, "deferred": 1, "failed": 1, "timeout": 0,
            "unreachable": 1}
        for vmid, kept in ((100, "before_upgrade"), (101, "autodaily240101000000"), (102, "autodaily261101000000")):
            assert kept in names(cluster, vmid)
            assert len(entry(report, vmid)["pruned"]) == 1
        assert names(cluster, 105) == before[105][2:]
        assert names(cluster, 103) == before[103]
