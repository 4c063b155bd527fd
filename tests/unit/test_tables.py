# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people look at."""

from __future__ import annotations

import json

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.pve.autosnap.plugins.filter import tables

SNAPSHOT = {
    "name": "autodaily261122021500", "label": "daily", "state": "whole", "snaptime": 1, "time": "2026-11-22T02:15:00+01:00",
    "age": 93600, "parent": "", "description": "cv4pve-autosnap", "vmstate": True,
}
INFO = {"guests": [
    {"vmid": 100, "name": "a|b<c>", "type": "qemu", "node": "pve1", "status": "ok", "reason": "", "snapshots": [SNAPSHOT]},
    {"vmid": 101, "name": "new", "type": "lxc", "node": "pve1", "status": "ok", "reason": "", "snapshots": []},
    {"vmid": 102, "name": "", "type": "qemu", "node": "pve2", "status": "unreachable", "reason": "x", "snapshots": []},
]}


def test_a_row_for_every_guest_also_without_snapshots() -> None:
    lines = tables.status_table(INFO).splitlines()
    assert len(lines) == 7
    assert "1d 2h" in lines[3] and "2026-11-22 02:15:00" in lines[3] and "yes" in lines[3]
    assert "none" in lines[4]
    assert "unreachable" in lines[5]


def test_names_are_escaped() -> None:
    assert "a\\|b&lt;c&gt;" in tables.status_table(INFO, "markdown")
    assert "a|b&lt;c&gt;" in tables.status_table(INFO, "html")


@pytest.mark.parametrize("output", ["json", "jsonpretty"])
def test_json_holds_the_same_rows(output: str) -> None:
    rows = json.loads(tables.status_table(INFO, output))
    assert [row["vmid"] for row in rows] == [100, 101, 102]
    assert rows[0]["snapshot"] == "autodaily261122021500"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="'word' is not one of"):
        tables.status_table(INFO, "word")


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (65, "1m 5s"), (3700, "1h 1m"), (200000, "2d 7h"), (-3, "0s")])
def test_human_age(seconds: int, text: str) -> None:
    assert tables.human_age(seconds) == text


def test_reasons_only_where_there_are_some() -> None:
    assert tables.reasons_table({"guests": [{"vmid": 1, "name": "a", "pruned": ["x"]}]}) == ""
    table = tables.reasons_table({"guests": [
        {"vmid": 1, "name": "a", "pruned": ["x"], "kept": [{"name": "y", "why": ["last 1 of 1"]}]}]})
    assert "no rule keeps it" in table and "last 1 of 1" in table


def test_storages_with_unknown_use() -> None:
    row = {"storage": "nas", "shared": True, "node": "pve1", "type": "nfs", "percent": None, "used": None, "size": None,
           "promised": 0, "ok": False}
    assert "?" in tables.storage_table({"storages": [row]})
