# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""autosnap_info: health against expectations, and the preview of a retention, on a simulated cluster."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.arguments import InputError
from simulator.running import Running
from worlds import daily, entry, guest, names, run_clean, run_info, run_snap, world, writes

HALF = {"name": "autodaily261101000000", "age": 500, "description": "cv4pve-autosnap", "snapstate": "delete"}
STALE = [{"label": "daily", "count": 2, "age": 30 * 3600}]
DAILY = [{"label": "daily", "max_age": "26h", "min_count": 1, "guests": None}]


def expect(**more: Any) -> list[dict[str, Any]]:
    return [{**DAILY[0], **more}]


def sick() -> dict[str, Any]:
    """A guest of each kind that a health check must tell."""
    return world(
        guest(100, snapshots=daily(3)), guest(101, snapshots=STALE), guest(102), guest(103, snapshots=[*daily(2), HALF]),
        guest(104, node="pve2", snapshots=daily(2)), guest(105, tags=["test"], snapshots=daily(1, "weekly")),
        nodes={"pve1": {}, "pve2": {"online": False}})


def test_every_kind_of_guest_is_told() -> None:
    with Running(sick()) as cluster:
        result = run_info(cluster, "@all,-105", expect=DAILY, on_unmatched="warn").result
        told = {item["vmid"]: (item["health"], item["health_reason"]) for item in result["guests"]}
        assert {vmid: status for vmid, (status, _reason) in told.items()} == {
            100: "ok", 101: "stale", 102: "missing", 103: "broken", 104: "unreachable"}
        assert told[101][1] == "the newest of label daily is 30 h old, max_age is 26 h"
        assert told[102][1] == "no whole snapshot of label daily"
        assert told[103][1] == "broken: autodaily261101000000 (delete)"
        assert told[104][1] == "node pve2 is offline"
        assert result["health"] == {"ok": 1, "stale": 1, "missing": 1, "broken": 1, "unreachable": 1, "unprotected": 0}
        assert result["status"] == "critical"
        [verdict] = entry(run_info(cluster, "103", expect=DAILY), 103)["expectations"]
        assert (verdict["level"], verdict["count"]) == ("warning", 2)
        assert not writes(cluster)


def test_a_guest_whose_last_run_failed_says_so() -> None:
    with Running(world(guest(100, snapshots=STALE))) as cluster:
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["no space left on thin pool"]
        assert run_snap(cluster).failed
        item = entry(run_info(cluster, expect=DAILY), 100)
        assert item["health"] == "stale"
        assert "its last snapshot task failed: no space left on thin pool" in item["health_reason"]


@pytest.mark.parametrize(("lock", "age", "expected"), [
    ("backup", 5000, "broken"), ("suspended", 5000, "broken"), ("snapshot", 500, "ok"), ("snapshot-delete", 9000, "broken")])
def test_what_is_half_made_under_a_lock_is_broken_unless_somebody_works_on_it(lock: str, age: int, expected: str) -> None:
    half = {**HALF, "age": age, "snapstate": "prepare"}
    with Running(world(guest(100, lock=lock, snapshots=[*daily(2), half]))) as cluster:
        report = run_info(cluster, expect=[{**DAILY[0], "max_age": "26h"}], max_storage_percent=98)
        assert entry(report, 100)["health"] == expected
        assert len(report.result["broken"]) == report.result["health"]["broken"] == (expected == "broken")


def test_nobody_selected_is_not_well() -> None:
    with Running(world(guest(100, snapshots=daily(1)))) as cluster:
        report = run_info(cluster, "@all,-100", expect=DAILY, on_unmatched="warn", fail_on_status="critical",
                          max_storage_percent=98)
        assert report.failed and report.result["status"] == "critical"
        assert "the selector matches no guest at all" in report.result["problems"][0]


def test_a_time_that_cannot_be_true_is_told() -> None:
    ahead = {"label": "daily", "count": 1, "age": -9000}
    with Running(world(guest(100, snapshots=[*daily(1), ahead]))) as cluster:
        report = run_info(cluster, expect=DAILY, max_storage_percent=98)
        assert report.result["status"] == "warning"
        assert any("cannot be true" in warning for warning in report.warnings)


def test_an_expectation_for_some_leaves_the_others_unprotected() -> None:
    with Running(sick()) as cluster:
        result = run_info(cluster, "100,105", expect=expect(guests=["@tag-test"], label="weekly")).result
        assert {item["vmid"]: item["health"] for item in result["guests"]} == {100: "unprotected", 105: "ok"}
        assert result["status"] == "warning"


def test_an_expectation_by_pool_that_the_selector_does_not_name() -> None:
    with Running(world(guest(100, snapshots=daily(1)), guest(101), pools={"prod": [100]})) as cluster:
        result = run_info(cluster, expect=expect(guests=["@pool-prod"])).result
        assert {item["vmid"]: item["health"] for item in result["guests"]} == {100: "ok", 101: "unprotected"}


def test_an_expectation_that_covers_nobody_is_never_silent() -> None:
    with Running(world(guest(100, snapshots=daily(1)))) as cluster:
        report = run_info(cluster, expect=[*DAILY, *expect(guests=["@tag-prdo"])])
        assert report.failed
        assert "option 'expect': '@tag-prdo' of the expectation for label 'daily' matched none" in report.message
        quiet = run_info(cluster, expect=[*DAILY, *expect(guests=["@tag-prdo"])], on_unmatched="warn")
        assert not quiet.failed
        assert quiet.result["status"] == "warning"
        assert any("@tag-prdo" in warning for warning in quiet.warnings)


@pytest.mark.parametrize(("guests", "limit", "failed"), [
    ("100", "warning", False), ("103", "warning", True), ("103", "critical", False), ("103", "never", False),
    ("102", "critical", True), ("102", "warning", True), ("102", "never", False), ("104", "critical", True),
])
def test_fail_on_status(guests: str, limit: str, failed: bool) -> None:
    with Running(sick()) as cluster:
        report = run_info(cluster, guests, expect=DAILY, fail_on_status=limit, max_storage_percent=98)
        assert report.failed is failed
        if failed:
            assert "the status is " + report.result["status"] in report.message


def test_forgotten_snapshots_of_others_are_listed_and_left() -> None:
    by_hand = [{"name": "before-upgrade", "age": 40 * 86400, "description": "Tom"},
               {"name": "new", "age": 86400, "description": "Tom"}]
    with Running(world(guest(100, snapshots=[*daily(1), *by_hand]))) as cluster:
        report = run_info(cluster, expect=DAILY, max_foreign_age="30d")
        [old] = report.result["old_foreign"]
        assert (old["vmid"], old["snapshot"], old["age"] // 86400, old["description"]) == (100, "before-upgrade", 40, "Tom")
        assert report.result["status"] == "warning"
        assert run_info(cluster, max_foreign_age="0").result["old_foreign"] == []
        assert not writes(cluster)


def test_the_preview_is_what_clean_and_the_next_run_do() -> None:
    with Running(world(guest(100, snapshots=[*daily(5), *daily(3, "weekly", 7 * 86400), HALF]))) as cluster:
        item = entry(run_info(cluster, label=["daily"], keep=3), 100)
        shown = {s["name"]: (s["keep"], s["why"]) for s in item["snapshots"]}
        assert [why for keep, [why] in shown.values() if keep and why.startswith("last")] == [
            "last 3 of 3", "last 2 of 3", "last 1 of 3"]
        assert shown["autodaily261101000000"] == (True, ["broken: not counted, not pruned"])
        checked = entry(run_clean(cluster, check=True, label=["daily"], keep=3), 100)
        assert checked["pruned"] == [name for name, (keep, _why) in shown.items() if not keep]
        next_run = entry(run_snap(cluster, keep=3), 100)
        assert item["next_prunes"] == next_run["pruned"] and len(next_run["pruned"]) == 3
        assert "keep" not in entry(run_info(cluster), 100)["snapshots"][0]


def test_the_preview_of_periods() -> None:
    with Running(world(guest(100, snapshots=daily(4)))) as cluster:
        retention = {"daily": 2, "last": None}
        item = entry(run_info(cluster, label=["daily"], retention=retention), 100)
        kept = [s for s in item["snapshots"] if s["keep"]]
        assert [s["why"] for s in kept] == [["daily " + s["time"][:10]] for s in kept] and len(kept) == 2
        run_snap(cluster, retention=retention)
        assert not set(item["next_prunes"]) & set(names(cluster, 100))


def test_storages_are_held_against_the_limit() -> None:
    with Running(world(guest(100, snapshots=daily(1)))) as cluster:
        rows = {row["storage"]: row for row in run_info(cluster).result["storages"]}
        assert (rows["full"]["ok"], rows["full"]["percent"]) == (False, 97.0)
        assert rows["ceph"]["ok"]
        assert run_info(cluster).result["status"] == "warning"
        assert run_info(cluster, max_storage_percent=98).result["status"] == "ok"


@pytest.mark.parametrize(("wrong", "words"), [
    (expect(max_age="soon"), "option 'expect': 'soon' is not a duration"),
    (expect(min_count=0), "min_count of label 'daily' is 0; expect at least 1 snapshot"),
    (expect(label="da ily"), "option 'expect': label 'da ily' may only have"),
    (expect(guests=["@nosuch"]), "option 'expect': guests of label 'daily': '@nosuch' is not a term"),
])
def test_bad_expectations(wrong: list[dict[str, Any]], words: str) -> None:
    with Running(world(guest(100))) as cluster:
        with pytest.raises(InputError, match=".*") as caught:
            run_info(cluster, expect=wrong)
        assert words in str(caught.value)
        assert not cluster.pve.log
