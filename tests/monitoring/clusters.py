# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster with every kind of problem, and its report."""

from __future__ import annotations

import pathlib
from typing import Any, Iterator

from simulator.running import Running
from test_playbooks import Control
from worlds import guest, world

SCRIPT = "<script>alert(1)</script>"
HALF = {"name": "autodaily261101000000", "age": 500, "description": "cv4pve-autosnap", "snapstate": "delete"}
BY_HAND = {"name": "before_upgrade", "age": 90 * 86400, "description": "Tom, before the upgrade"}
EXPECT = [
    {"label": "daily", "max_age": "26h", "guests": "@all,-@tag-test"},
    {"label": "weekly", "max_age": "8d", "guests": "@tag-prod"},
]


def snapshots(number: int) -> list[dict[str, Any]]:
    """Those of one of forty guests: some are late, some have none, one is broken, one was forgotten."""
    if number % 13 == 4:
        return []
    late = 30 * 3600 if number % 11 == 5 else 3600 * (number % 20)
    made: list[dict[str, Any]] = [{"label": "daily", "count": 7, "age": 600 + late}]
    if number % 3:
        made.append({"label": "weekly", "count": 5, "every": 7 * 86400, "age": 86400})
    if number % 5 == 0:
        made.append({"label": "monthly", "count": 12, "every": 30 * 86400, "age": 5 * 86400})
    return [*made, *([HALF] if number % 17 == 6 else []), *([BY_HAND] if number % 9 == 2 else [])]


def many(count: int) -> Iterator[dict[str, Any]]:
    kinds = ("web", "db", "mail", "dns", "cache", "build", "git", "proxy")
    for number in range(count):
        tags = ["prod"] if number % 3 else (["test"] if number % 2 else [])
        yield guest(
            100 + number, name="{0}{1:03d}".format(kinds[number % len(kinds)], number), node="pve{0}".format(number % 4 + 1),
            type="lxc" if number % 4 == 3 else "qemu", tags=tags, snapshots=snapshots(number),
            storage=("ceph", "local-lvm", "dir")[number % 3])


def sick(count: int) -> dict[str, Any]:
    """Four nodes, one of them off."""
    return world(*many(count), nodes={"pve1": {}, "pve2": {}, "pve3": {}, "pve4": {"online": False}})


def report(directory: pathlib.Path, count: int) -> pathlib.Path:
    """The page of a cluster of so many guests, by the playbook."""
    page = directory / "report{0}.html".format(count)
    with Running(sick(count)) as cluster:
        long, hostile = cluster.pve.guest(100), cluster.pve.guest(102)
        long.name = long.config["name"] = "a-name-of-200-characters-" + "x" * 175
        hostile.name = hostile.config["name"] = SCRIPT
        hostile.config["tags"] = "prod;" + SCRIPT
        hostile.snapshots[BY_HAND["name"]]["description"] = SCRIPT
        cluster.pve.storages[SCRIPT] = dict(cluster.pve.storages["ceph"])
        control = Control(directory, cluster)
        run = control.run(
            "pve.autosnap.report", autosnap_guests="@all,@tag-nosuch", autosnap_label=None, autosnap_expect=EXPECT,
            autosnap_max_foreign_age="30d", autosnap_on_unmatched="warn", autosnap_report_file=str(page),
            autosnap_cluster="prod", autosnap_job_name="report")
        assert run.returncode == 0, run.stdout + run.stderr
    return page
