# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The laws of the design, each against a simulated cluster. Every test was seen to fail without its rule."""

from __future__ import annotations

import asyncio
import pathlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils import arguments
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import acting, ending, hooks
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import run as run_module
from ansible_collections.pve.autosnap.plugins.module_utils.pve import errors, session, watcher
from ansible_collections.pve.autosnap.plugins.module_utils.pve.cluster import Cluster
from simulator.running import Running
from worlds import ALL, SECRET, TOKEN, daily, entry, guest, hook, names, run_clean, run_info, run_snap, world, writes

FOREIGN = {"name": "before_upgrade", "age": 90_000_000, "description": "made by hand"}
PINNED = {"name": "autodaily200101000000", "age": 80_000_000, "description": "cv4pve-autosnap\nkeep this one"}


def test_law_1_foreign_and_pinned_snapshots_are_never_touched() -> None:
    with Running(world(guest(100, snapshots=[FOREIGN, PINNED, *daily(5)]))) as cluster:
        report = run_snap(cluster, keep=1)
        run_clean(cluster, label=["*"], keep=0)
        assert not report.failed
        assert names(cluster, 100) == ["before_upgrade", "autodaily200101000000"]
        assert not any("before_upgrade" in path or "200101" in path or "/current" in path for _m, path in writes(cluster))


@pytest.mark.parametrize("offset", [0, -86400 * 30])
def test_law_1_the_snapshot_just_made_stays_whatever_its_node_s_clock_says(offset: int) -> None:
    with Running(world(guest(100, snapshots=daily(5)), nodes={"pve1": {"clock_offset": offset}})) as cluster:
        report = run_snap(cluster, keep=1)
        assert entry(report, 100)["snapshot"] in names(cluster, 100)


def test_law_13_a_clock_that_went_back_protects_what_seems_later() -> None:
    """The new snapshot has an earlier time than its parents: none of them is pruned in this run."""
    with Running(world(guest(100, snapshots=daily(5)), nodes={"pve1": {"clock_offset": -86400 * 30}})) as cluster:
        before = names(cluster, 100)
        report = run_snap(cluster, keep=1)
        assert entry(report, 100)["pruned"] == []
        assert set(before) < set(names(cluster, 100))


@pytest.mark.parametrize("answer", [None, [], {"memory": "lots"}, {"scsi0": None, "memory": {}}])
def test_law_9_an_answer_of_an_unknown_shape_costs_only_its_guest(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = session.Session.read

    def odd(self: Any, *path: object, **values: Any) -> Any:
        return session.Answer(answer) if path[-2:] == (100, "config") else original(self, *path, **values)

    monkeypatch.setattr(session.Session, "read", odd)
    with Running(world(guest(100), guest(101))) as cluster:
        report = run_snap(cluster)
        assert [item["status"] for item in report.result["guests"]] == ["failed", "created"]


@pytest.mark.parametrize("keep", [1, 3])
def test_law_13_a_created_snapshot_from_the_future_counts_for_nothing(keep: int) -> None:
    """Laws 3 and 4 with it: nothing goes that would stay without the create."""
    with Running(world(guest(100, snapshots=daily(3)), nodes={"pve1": {"clock_offset": 7200}})) as cluster:
        before = names(cluster, 100)
        report = run_snap(cluster, keep=keep)
        assert set(before[3 - keep:]) < set(names(cluster, 100))
        assert any("ahead of the server's clock" in text for text in entry(report, 100)["warnings"])


def test_law_5_what_is_pinned_while_a_delete_waits_is_not_deleted() -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        oldest = names(cluster, 100)[0]
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["VM is locked (backup)"]
        cluster.when_written(lambda: cluster.pve.guest(100).snapshots[oldest].update(description="I still need this"))
        run_clean(cluster, keep=1)
        assert oldest in names(cluster, 100)
        assert len(names(cluster, 100)) == 2


@pytest.mark.parametrize("check", [True, False])
def test_prune_first_with_nothing_to_prune_takes_nothing(check: bool) -> None:
    with Running(world(guest(100, storage="full", snapshots=daily(2)))) as cluster:
        report = run_snap(cluster, keep=3, on_storage_full="prune_first", check=check)
        assert report.failed
        assert entry(report, 100)["status"] == "skipped"
        assert not writes(cluster)


def test_the_end_of_the_run_comes_between_two_deletes_of_a_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    up = threading.Event()
    monkeypatch.setattr(ending.Ending, "reason", lambda self: "run_timeout has passed" if up.is_set() else None)
    with Running(world(guest(100, snapshots=daily(8), delete_seconds=0.6))) as cluster:
        cluster.when_seen("DELETE ", up.set, 2)
        report = run_clean(cluster, keep=1)
        assert report.failed
        assert len(entry(report, 100)["pruned"]) == 1
        assert "not pruned" in entry(report, 100)["reason"]


def test_another_s_delete_is_waited_for_before_anyone_is_told_to_unlock() -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        oldest = names(cluster, 100)[0]
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["VM is locked (snapshot-delete)"]
        cluster.when_written(lambda: cluster.pve.drop_snapshot(cluster.pve.guest(100), oldest))
        report = run_clean(cluster, keep=1)
        assert entry(report, 100)["status"] == "pruned"


def test_a_post_answered_by_a_stranger_is_a_lost_write() -> None:
    """Law 8: a proxy's page instead of the UPID says nothing about the task."""
    with Running(world(guest(100))) as cluster:
        cluster.pve.fault("POST", r"/snapshot$", status=200)
        report = run_snap(cluster)
        assert entry(report, 100)["status"] == "created"


def test_law_10_nothing_selected_is_warned_about_also_where_it_does_not_fail() -> None:
    with Running(world(guest(100, template=True))) as cluster:
        for report in (run_snap(cluster, on_unmatched="warn"), run_snap(cluster, "@all,-100", on_unmatched="warn")):
            assert any("matches no guest" in text for text in report.warnings)


def test_law_2_broken_snapshots_are_not_counted_and_not_deleted() -> None:
    broken = {"name": "autodaily261101000000", "age": 1000, "description": "cv4pve-autosnap", "snapstate": "delete"}
    with Running(world(guest(100, snapshots=[*daily(3), broken]))) as cluster:
        before = names(cluster, 100)
        report = run_snap(cluster, keep=3)
        assert [b["snapshot"] for b in report.result["broken"]] == ["autodaily261101000000"]
        assert "autodaily261101000000" in names(cluster, 100)
        assert entry(report, 100)["pruned"] == [before[0]]
        assert any("is broken" in warning for warning in report.warnings)


def test_law_3_retention_leaves_the_newest_and_keep_0_does_not() -> None:
    with Running(world(guest(100, snapshots=daily(4)))) as cluster:
        newest = names(cluster, 100)[-1]
        run_clean(cluster, retention={"within": "1s"})
        assert names(cluster, 100) == [newest]
        run_clean(cluster, keep=0)
        assert names(cluster, 100) == []


def test_law_4_a_create_that_fails_prunes_only_what_may_go_without_it() -> None:
    with Running(world(guest(100, snapshots=daily(5)))) as cluster:
        before = names(cluster, 100)
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["zfs error: out of space"]
        report = run_snap(cluster, keep=3)
        assert entry(report, 100)["status"] == "failed"
        assert entry(report, 100)["reason"] == "zfs error: out of space"
        assert names(cluster, 100) == before[2:]


def test_law_4_prune_first_deletes_no_more_than_that() -> None:
    with Running(world(guest(100, storage="full", snapshots=daily(5)))) as cluster:
        before = names(cluster, 100)
        report = run_snap(cluster, keep=3, on_storage_full="prune_first")
        assert entry(report, 100)["status"] == "skipped"
        assert names(cluster, 100) == before[2:]


def test_law_5_what_changed_behind_our_back_is_not_deleted() -> None:
    with Running(world(guest(100, snapshots=daily(3), create_seconds=2.0), guest(101, snapshots=daily(3)))) as cluster:
        oldest = names(cluster, 100)[0]
        pve = cluster.pve

        cluster.when_written(lambda: pve.guest(100).snapshots[oldest].update(description="I still need this"))
        report = run_snap(cluster, keep=1)
        assert oldest in names(cluster, 100)
        assert oldest not in entry(report, 100)["pruned"]
        assert len(entry(report, 101)["pruned"]) == 3


def test_law_5_a_created_snapshot_that_is_not_in_the_list_stops_the_prune(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        before = names(cluster, 100)
        original = acting.GuestRun._take

        def vanish(self: Any, name: str) -> Any:
            done = yield from original(self, name)
            cluster.pve.drop_snapshot(cluster.pve.guest(100), name)
            return done

        monkeypatch.setattr(acting.GuestRun, "_take", vanish)
        report = run_snap(cluster, keep=1)
        assert entry(report, 100)["status"] == "failed"
        assert names(cluster, 100) == before


@pytest.mark.parametrize("state", ["prepare", "delete"])
def test_law_5_a_created_snapshot_that_is_not_whole_in_the_list_stops_the_prune(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        before = names(cluster, 100)
        original = acting.GuestRun._take

        def spoil(self: Any, name: str) -> Any:
            done = yield from original(self, name)
            cluster.pve.guest(100).snapshots[name]["snapstate"] = state
            return done

        monkeypatch.setattr(acting.GuestRun, "_take", spoil)
        report = run_snap(cluster, keep=1)
        assert entry(report, 100)["status"] == "failed"
        assert set(before) <= set(names(cluster, 100))


@pytest.mark.parametrize("change", [{"snaptime": 3600}, {"description": "eve4pve-autosnap"}])
def test_law_5_another_snapshot_of_the_same_name_is_not_the_same(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both plans would prune it: it is the time or the marker that tells it from the one that was planned."""
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        oldest, second, _newest = names(cluster, 100)
        original = Cluster.snapshots
        reads: list[int] = []

        def replaced(self: Any, which: Any) -> Any:
            reads.append(1)
            if len(reads) == 2:
                found = cluster.pve.guest(100).snapshots[oldest]
                found.update({key: found[key] + value if key == "snaptime" else value for key, value in change.items()})
            return original(self, which)

        monkeypatch.setattr(Cluster, "snapshots", replaced)
        report = run_clean(cluster, keep=1)
        assert entry(report, 100)["pruned"] == [second]
        assert oldest in names(cluster, 100)


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("job", ["clean", "snap"])
def test_law_5_is_looked_at_before_each_delete(job: str, hooked: bool, tmp_path: pathlib.Path) -> None:
    """While the first delete runs somebody deletes the two newest: of what is left then, the newest stays."""
    with Running(world(guest(100, snapshots=daily(4), delete_seconds=1.0))) as cluster:
        before = names(cluster, 100)

        def interfere() -> None:
            for name in names(cluster, 100)[-2:]:
                cluster.pve.drop_snapshot(cluster.pve.guest(100), name)

        cluster.when_seen(r"DELETE ", interfere)
        path = hook(tmp_path, "exit 0\n") if hooked else None
        report = run_clean(cluster, keep=1, hook=path) if job == "clean" else run_snap(cluster, keep=1, hook=path)
        if job == "clean":
            assert names(cluster, 100) == [before[1]] and not report.failed
        else:
            # Its own new one is among those that went.
            assert names(cluster, 100) == before[1:3] and entry(report, 100)["status"] == "failed"
        assert entry(report, 100)["pruned"] == [before[0]]


@pytest.mark.parametrize("hooked", [False, True])
def test_law_5_a_foreign_snapshot_under_a_planned_name_is_not_deleted(hooked: bool, tmp_path: pathlib.Path) -> None:
    with Running(world(guest(100, snapshots=daily(4), delete_seconds=1.0))) as cluster:
        before = names(cluster, 100)
        cluster.when_seen(
            r"DELETE ", lambda: cluster.pve.guest(100).snapshots[before[2]].update(description="mine", snaptime=1_700_000_000))
        report = run_clean(cluster, keep=1, hook=hook(tmp_path, "exit 0\n") if hooked else None)
        assert set(names(cluster, 100)) == {before[2], before[3]}
        assert entry(report, 100)["pruned"] == before[:2]


def test_law_7_a_lost_delete_that_left_its_snapshot_half_deleted_is_red() -> None:
    """Its answer was lost and its task failed: that it is not wanted any more must not pass for an end."""
    with Running(world(guest(100, half_deletes=True, snapshots=daily(3)))) as cluster:
        cluster.pve.fault("DELETE", r"/snapshot/")
        report = run_clean(cluster, keep=2)
        assert report.failed and entry(report, 100)["status"] == "failed"
        assert "needs unlock: run 'qm unlock 100'" in entry(report, 100)["reason"]


def test_law_5_a_delete_that_was_not_sent_again_has_begun_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        cluster.pve.fault("DELETE", r"/snapshot/", status=595, reason="No route to host", times=1, before=True)
        original = acting.GuestRun._agreed
        looks: list[int] = []

        def agreed(self: Any) -> Any:
            looks.append(1)
            if len(looks) == 2:
                raise acting.Finished("failed", "stop here")
            return original(self)

        monkeypatch.setattr(acting.GuestRun, "_agreed", agreed)
        report = run_clean(cluster, keep=2)
        assert entry(report, 100)["status"] == "failed" and not report.result["changed"]


def test_law_5_costs_one_call_for_each_delete() -> None:
    with Running(world(guest(100, snapshots=daily(6)))) as cluster:
        run_clean(cluster, keep=1)
        lists = [path for method, path, *_rest in cluster.pve.log if method == "GET" and path.endswith("/100/snapshot")]
        # The first tells what is to be done, the last what the guest holds in the end.
        assert len(lists) == 1 + 5 + 1


def test_law_6_deletes_are_never_forced() -> None:
    with Running(world(guest(100, snapshots=daily(5)), guest(101, half_deletes=True, snapshots=daily(5)))) as cluster:
        report = run_clean(cluster, keep=1)
        deletes = [query for method, _path, query, _status, _user in cluster.pve.log if method == "DELETE"]
        assert deletes and all("force" not in query for query in deletes)
        assert "needs unlock: run 'qm unlock 101' as root on node pve1" in entry(report, 101)["reason"]
        assert entry(report, 101)["pruned"] == []


HALF = [{"name": "autodaily261101000000", "age": 1000, "description": "cv4pve-autosnap", "snapstate": "delete"},
        {"name": "autodaily261102000000", "age": 900, "description": "cv4pve-autosnap", "snapstate": "prepare"},
        {"name": "by_hand", "age": 800, "description": "mine", "snapstate": "delete"}]


def forced(cluster: Running) -> list[str]:
    return [path.split("/")[-1] for method, path, query, _status, _user in cluster.pve.log
            if method == "DELETE" and query.get("force")]


@pytest.mark.parametrize(
    ("repair", "gone", "by_force"),
    [("report", [], []), ("retry", ["autodaily261101000000"], []),
     ("force", ["autodaily261101000000", "autodaily261102000000"], ["autodaily261101000000", "autodaily261102000000"])])
@pytest.mark.parametrize("check", [True, False])
def test_law_6_only_repair_force_forces_and_only_what_is_broken_and_ours(
    repair: str, gone: list[str], by_force: list[str], check: bool
) -> None:
    with Running(world(guest(100, snapshots=[*daily(3), *HALF]))) as cluster:
        before = names(cluster, 100)
        report = run_clean(cluster, keep=2, repair=repair, check=check)
        assert sorted(entry(report, 100)["repaired"]) == gone
        assert entry(report, 100)["status"] == "pruned"
        assert sorted(forced(cluster)) == ([] if check else by_force)
        assert set(before) - set(names(cluster, 100)) == (set() if check else {before[0], *gone})
        assert any("only repair: force" in text for text in entry(report, 100)["warnings"]) == (repair == "retry")
        assert any("may be left on the storages" in text for text in entry(report, 100)["warnings"]) == (
            repair == "force" and not check)


def test_law_6_a_lock_that_comes_before_a_forced_delete_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The config is read again just before, and nothing is sent until the lock is gone."""
    with Running(world(guest(100, snapshots=[*daily(1), HALF[0]]))) as cluster:
        original = Cluster.config
        seen: list[str | None] = []

        def config(self: Any, which: Any) -> Any:
            if len(seen) == 1:
                cluster.pve.set_lock(cluster.pve.guest(100), "backup")
                threading.Timer(1.0, cluster.pve.set_lock, (cluster.pve.guest(100), None)).start()
            found = original(self, which)
            seen.append(found.lock)
            return found

        monkeypatch.setattr(Cluster, "config", config)
        report = run_clean(cluster, keep=1, repair="force")
        assert seen[1] == "backup" and len(writes(cluster)) == 1
        assert entry(report, 100)["repaired"] == ["autodaily261101000000"]


def test_law_6_a_lock_that_comes_during_the_pre_hook_is_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Running(world(guest(100, snapshots=[*daily(1), HALF[0]]))) as cluster:
        original = hooks.Hooks.call
        locked: list[int] = []

        def call(self: Any, event: hooks.Event) -> Any:
            if event.phase == "snap-remove-pre" and not locked:
                locked.append(1)
                cluster.pve.set_lock(cluster.pve.guest(100), "backup")
                threading.Timer(1.0, cluster.pve.set_lock, (cluster.pve.guest(100), None)).start()
            if event.phase == "snap-remove-abort":
                locked.append(len(writes(cluster)))
            return original(self, event)

        monkeypatch.setattr(hooks.Hooks, "call", call)
        report = run_clean(cluster, keep=1, repair="force", hook=hook(tmp_path, "exit 0\n"))
        assert locked == [1, 0] and len(writes(cluster)) == 1
        assert entry(report, 100)["repaired"] == ["autodaily261101000000"]


def test_law_6_a_lock_that_comes_between_two_forced_deletes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100, snapshots=[*daily(1), HALF[0], HALF[1]]))) as cluster:
        original = Cluster.config
        locked: list[int] = []

        def config(self: Any, which: Any) -> Any:
            if len(writes(cluster)) == 1 and not locked:
                locked.append(1)
                cluster.pve.set_lock(cluster.pve.guest(100), "backup")
            found = original(self, which)
            if found.lock:
                assert len(writes(cluster)) == 1
                cluster.pve.set_lock(cluster.pve.guest(100), None)
            return found

        monkeypatch.setattr(Cluster, "config", config)
        report = run_clean(cluster, keep=1, repair="force")
        assert locked and len(entry(report, 100)["repaired"]) == 2


def test_law_6_a_forced_delete_is_sent_once() -> None:
    """A node that was away when it was sent may have a locked guest when it is back."""
    with Running(world(guest(100, snapshots=[*daily(1), HALF[0]]))) as cluster:
        cluster.pve.fault("DELETE", r"/snapshot/", None, status=595, reason="No route to host")
        report = run_clean(cluster, keep=1, repair="force")
        assert entry(report, 100)["status"] == "unreachable"
        assert len(forced(cluster)) == 1


def test_law_6_nothing_is_repaired_on_a_locked_guest() -> None:
    with Running(world(guest(100, lock="snapshot-delete", snapshots=[*daily(1), HALF[0]]))) as cluster:
        report = run_clean(cluster, keep=1, repair="force", lock_timeout="1s")
        assert not writes(cluster)
        assert "run 'qm unlock 100' as root on node pve1" in entry(report, 100)["reason"]
        assert report.failed


@pytest.mark.parametrize(
    ("exit_status", "status"), [("OK", "created"), ("WARNINGS: 1", "created"), ("snapshot feature is not available", "failed")])
def test_law_7_the_exit_status_decides(exit_status: str, status: str) -> None:
    with Running(world(guest(100))) as cluster:
        if exit_status != "OK":
            cluster.pve.task_errors[(100, "qmsnapshot")] = [exit_status]
        report = run_snap(cluster)
        assert entry(report, 100)["status"] == status
        assert report.failed == (status == "failed")


@pytest.mark.parametrize("kind", ["qemu", "lxc"])
def test_law_8_a_post_whose_answer_was_lost_is_found_not_repeated(kind: str) -> None:
    with Running(world(guest(100, type=kind, create_seconds=0.5))) as cluster:
        cluster.pve.fault("POST", r"/snapshot$")
        report = run_snap(cluster, keep=1)
        assert entry(report, 100)["status"] == "created"
        assert len([1 for method, _path in writes(cluster) if method == "POST"]) == 1
        assert names(cluster, 100) == [entry(report, 100)["snapshot"]]
        assert entry(report, 100)["upids"]


def test_law_8_a_post_that_never_arrived_is_sent_again_with_the_same_name() -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.fault("POST", r"/snapshot$", before=True)
        report = run_snap(cluster, keep=1)
        assert entry(report, 100)["status"] == "created"
        assert names(cluster, 100) == [entry(report, 100)["snapshot"]]


def test_law_8_a_lost_delete_is_found_not_repeated() -> None:
    with Running(world(guest(100, snapshots=daily(3), delete_seconds=0.5))) as cluster:
        cluster.pve.fault("DELETE", r"/snapshot/")
        report = run_clean(cluster, keep=2)
        assert len(entry(report, 100)["pruned"]) == 1
        assert len([1 for method, _path in writes(cluster) if method == "DELETE"]) == 1
        assert len(names(cluster, 100)) == 2


@pytest.mark.parametrize(("others", "status"), [
    ({"description": "cv4pve-autosnap"}, "unchanged"), ({"description": "by hand"}, "created"),
    ({"description": "cv4pve-autosnap", "snapstate": "prepare"}, "created"),
    ({"description": "cv4pve-autosnap", "snaptime": 0}, "created")])
def test_law_8_already_used_without_a_lost_post_is_no_success(
    others: dict[str, Any], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes the name just before the snapshot is made: another run's is enough, and nobody's else is ours."""
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        original, taken = acting.GuestRun._take, []

        def overtaken(self: Any, name: str) -> Any:
            if not taken:
                cluster.pve.guest(100).snapshots[name] = {"snaptime": int(time.time()), **others}
                taken.append(name)
            return (yield from original(self, name))

        monkeypatch.setattr(acting.GuestRun, "_take", overtaken)
        report = run_snap(cluster, keep=3)
        found = entry(report, 100)
        assert found["status"] == status and not report.failed
        if status == "unchanged":
            assert found["snapshot"] == "" and found["reason"] == "another run made {0} just now".format(taken[0])
            assert len(names(cluster, 100)) == 4
        else:
            assert found["snapshot"] != taken[0] and found["snapshot"] in names(cluster, 100)
            assert taken[0] in names(cluster, 100) and len(found["pruned"]) == 1


@pytest.mark.parametrize("options", [{"require_frozen": "skip"}, {"vmstate": True}], ids=["frozen", "ram"])
def test_another_run_s_snapshot_is_not_enough_where_it_must_be_special(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it is or does."""
    tokens = {TOKEN: {"secret": SECRET, "grants": {"/": [*ALL, "VM.GuestAgent.Audit", "VM.Monitor"]}}}
    with Running(world(guest(100), tokens=tokens)) as cluster:
        original, taken = acting.GuestRun._take, []

        def overtaken(self: Any, name: str) -> Any:
            if not taken:
                cluster.pve.guest(100).snapshots[name] = {"snaptime": int(time.time()), "description": "cv4pve-autosnap"}
                taken.append(name)
            return (yield from original(self, name))

        monkeypatch.setattr(acting.GuestRun, "_take", overtaken)
        found = entry(run_snap(cluster, **options), 100)
        assert found["status"] == "created" and found["snapshot"] not in ("", *taken)


def test_a_dead_api_host_is_not_asked_what_each_guest_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thousand guests that would take an hour."""
    monkeypatch.setattr(watcher, "HOST_PATIENCE", 1.5)
    with Running(world(*(guest(100 + n, snapshots=daily(2)) for n in range(6)))) as cluster:
        original, late = acting.GuestRun._list, []

        def listed(self: Any) -> Any:
            late.extend([self._guest.vmid] if self._crew.fatal is not None else [])
            return original(self)

        monkeypatch.setattr(acting.GuestRun, "_list", listed)
        cluster.when_seen(r"DELETE .*", lambda: cluster.pve.kill_host(0))
        report = run_snap(cluster, keep=1, api_timeout="1s", max_parallel_deletes=1)
        assert report.failed and not late
        assert all(item["held"] == [] for item in report.result["guests"]), "what was true before the writes"


def test_others_who_take_every_name_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100))) as cluster:
        original = acting.GuestRun._take

        def overtaken(self: Any, name: str) -> Any:
            cluster.pve.guest(100).snapshots[name] = {"snaptime": int(time.time()), "description": "by hand"}
            return (yield from original(self, name))

        monkeypatch.setattr(acting.GuestRun, "_take", overtaken)
        report = run_snap(cluster)
        assert entry(report, 100)["status"] == "failed" and "others take each name" in entry(report, 100)["reason"]


def test_two_runs_of_a_label_in_the_same_second(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two control nodes, which see nothing of each other but what the cluster shows."""
    with Running(world(*(guest(number) for number in range(100, 106)), create_seconds=1)) as cluster:
        with ThreadPoolExecutor(2) as pool:
            now = int(time.time())
            # Both have planned before either writes.
            before_writes(monkeypatch, threading.Barrier(2).wait)
            runs = [pool.submit(run_snap, cluster, now=now, state_dir=str(tmp_path / str(number)), max_parallel=2)
                    for number in range(2)]
            reports = [run.result() for run in runs]
        assert not any(report.failed for report in reports), [report.message for report in reports]
        statuses = [{item["vmid"]: item["status"] for item in report.result["guests"]} for report in reports]
        for vmid in range(100, 106):
            assert sorted(of[vmid] for of in statuses) == ["created", "unchanged"]
            assert len(names(cluster, vmid)) == 1


@pytest.mark.parametrize("reason", ["got no worker upid - start worker failed"])
def test_a_refused_fork_is_sent_again_at_once(reason: str) -> None:
    """Recordings 528-532."""
    with Running(world(guest(100))) as cluster:
        cluster.pve.fault("POST", r"/snapshot$", status=500, reason=reason)
        assert entry(run_snap(cluster), 100)["status"] == "created"


def test_law_9_one_failure_stops_nobody_else() -> None:
    """Those that fail are in the longer queue, so they come first."""
    raw = [guest(number, storage="dir", config={"scsi0": "dir:{0}/disk.raw,size=1G".format(number)}) for number in (100, 101)]
    with Running(world(*raw, guest(102))) as cluster:
        report = run_snap(cluster, max_parallel=1)
        assert report.failed
        assert [item["status"] for item in report.result["guests"]] == ["failed", "failed", "created"]
        assert report.result["summary"]["created"] == 1
        assert "snapshot feature is not available" in report.message


@pytest.mark.parametrize(("mode", "failed"), [("fail", True), ("warn", False)])
def test_law_10_what_matched_nothing_is_never_silent(mode: str, failed: bool) -> None:
    with Running(world(guest(100))) as cluster:
        report = run_snap(cluster, "100,nosuch,-@tag-none", on_unmatched=mode)
        assert report.failed is failed
        assert [term["term"] for term in report.result["unmatched"]] == ["nosuch", "-@tag-none"]
        assert any("nosuch" in warning for warning in report.warnings)
        assert any("-@tag-none" in warning for warning in report.warnings)
        assert entry(report, 100)["status"] == "created"


def test_law_10_nothing_at_all_is_an_error_with_a_hint() -> None:
    with Running(world(guest(100))) as cluster:
        report = run_snap(cluster, "@tag-none")
        assert report.failed
        assert "VM.Audit" in report.message


def test_law_10_an_offline_node_s_guests_are_in_the_result() -> None:
    nodes = {"pve1": {}, "pve2": {"online": False, "nameless": True}}
    with Running(world(guest(100), guest(101, node="pve2"), nodes=nodes)) as cluster:
        report = run_snap(cluster)
        assert entry(report, 101)["status"] == "unreachable"
        assert report.failed
        assert any("not reached" in warning for warning in report.warnings)
        by_name = run_snap(cluster, "vm10%")
        assert entry(by_name, 101)["status"] == "unreachable"
        assert "could not be decided" in entry(by_name, 101)["reason"]


def test_law_10_who_becomes_unreachable_while_the_run_acts_is_warned_about() -> None:
    with Running(world(guest(100), guest(101, node="pve2"))) as cluster:
        cluster.pve.fault("POST", r"/101/snapshot$", None, status=595, reason="No route to host")
        report = run_snap(cluster, fail_on="never")
        assert not report.failed
        assert entry(report, 101)["status"] == "unreachable"
        assert any("not reached" in text and "101" in text for text in report.warnings)


def test_law_11_check_mode_is_the_plan_of_the_real_run() -> None:
    guests = [
        guest(100, snapshots=[FOREIGN, *daily(5)]), guest(101, type="lxc", node="pve2", snapshots=daily(2)),
        guest(102, storage="full", snapshots=daily(9)), guest(103, status="stopped"), guest(104, template=True),
        guest(105, snapshots=[{"label": "daily", "count": 1, "age": 60}]),
    ]
    now = int(time.time())
    keys = ("vmid", "status", "reason", "snapshot", "pruned", "kept")
    with Running(world(*guests)) as cluster:
        options: dict[str, Any] = {"keep": 3, "min_interval": "10m", "now": now, "diff": True}
        planned = run_snap(cluster, check=True, **options)
        assert not writes(cluster)
        real = run_snap(cluster, **options)
        assert [{k: g[k] for k in keys} for g in planned.result["guests"]] == [
            {k: g[k] for k in keys} for g in real.result["guests"]]
        assert planned.result["diff"] == real.result["diff"]
        assert planned.result["summary"] == real.result["summary"]
        assert planned.result["changed"] and real.result["changed"]
        done = {(vmid, name) for vmid, name in (
            (g["vmid"], name) for g in real.result["guests"] for name in [g["snapshot"], *g["pruned"]]) if name}
        sent = {(int(path.split("/")[6]), path.split("/")[8]) for method, path in writes(cluster) if method == "DELETE"}
        made = {(g["vmid"], g["snapshot"]) for g in real.result["guests"] if g["snapshot"]}
        assert sent | made == done
        assert all(name in names(cluster, vmid) for vmid, name in made)


def test_law_13_a_skewed_chain_is_reported_and_left_alone() -> None:
    with Running(world(guest(100, snapshots=daily(4)))) as cluster:
        snapshots = cluster.pve.guest(100).snapshots
        old, first, second, newest = names(cluster, 100)
        snapshots[first]["snaptime"], snapshots[second]["snaptime"] = (
            snapshots[second]["snaptime"], snapshots[first]["snaptime"])
        report = run_clean(cluster, keep=1)
        assert entry(report, 100)["pruned"] == [old]
        assert any("clocks" in warning for warning in report.warnings)


@pytest.mark.parametrize("snaptime", [0, 4_000_000_000])
def test_law_13_an_impossible_time_is_reported_and_left_alone(snaptime: int) -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        bad = names(cluster, 100)[0]
        cluster.pve.guest(100).snapshots[bad]["snaptime"] = snaptime
        report = run_clean(cluster, keep=1)
        assert bad in names(cluster, 100)
        assert len(entry(report, 100)["pruned"]) == 1
        assert any(bad in warning for warning in report.warnings)


def test_law_13_a_snapshot_from_the_future_is_not_recent() -> None:
    """It would keep ``min_interval`` from ever making another."""
    with Running(world(guest(100, snapshots=[*daily(1), {"label": "daily", "count": 1, "age": -7200}]))) as cluster:
        report = run_snap(cluster, min_interval="1h")
        assert entry(report, 100)["status"] == "created"


@pytest.mark.parametrize(
    ("option", "value", "peak"), [("max_parallel", 2, 2), ("max_parallel_per_node", 1, 2), ("max_parallel_per_storage", 3, 3)])
@pytest.mark.parametrize("kind", ["create", "delete"])
def test_law_14_load_is_bounded(option: str, value: int, peak: int, kind: str) -> None:
    guests = [guest(100 + n, node="pve{0}".format(n % 2 + 1), snapshots=daily(2), **{kind + "_seconds": 0.15}) for n in range(12)]
    wide = {name: 16 for name in arguments.LIMITS.options if name.startswith("max_parallel")}
    if kind == "delete":
        option = option.replace("max_parallel", "max_parallel_deletes")
    with Running(world(*guests)) as cluster:
        report = run_snap(cluster, **{**wide, option: value}) if kind == "create" else run_clean(
            cluster, keep=1, **{**wide, option: value})
        assert report.result["summary"]["created" if kind == "create" else "pruned"] == 12
        assert cluster.pve.running_peak <= peak


def test_law_14_volume_chain_lvm_is_worked_on_one_by_one() -> None:
    guests = [guest(100 + n, storage="chain", config={"scsi0": "chain:vm-{0}-disk-0.qcow2,size=1G".format(100 + n)},
                    create_seconds=0.1) for n in range(4)]
    storages = {"chain": {"type": "lvm", "snapshot-as-volume-chain": 1, "shared": 1, "size": "1T", "used": "10G"}}
    with Running(world(*guests, storages=storages)) as cluster:
        assert run_snap(cluster).result["summary"]["created"] == 4
        assert cluster.pve.running_peak == 1


def test_law_15_a_host_of_another_cluster_is_refused() -> None:
    elsewhere = world(guest(100), nodes={"other1": {}, "pve1": {}})
    with Running(world(guest(100, create_seconds=3))) as ours, Running(elsewhere) as other:
        hosts = [ours.hosts[0], other.hosts[0]]
        together = ours.directory / "both.crt"
        together.write_text(open(ours.ca).read() + open(other.ca).read())

        ours.when_written(lambda: ours.pve.kill_host(0))
        report = run_snap(ours, api_host=hosts, ca_path=str(together), keep=1)
        assert report.failed
        assert report.result["failure"]["code"] == "cluster"
        assert "other1" in report.message and "pve2" in report.message
        assert not writes(other)


AUDITOR = {TOKEN: {"secret": SECRET, "grants": {"/": [*ALL, "Sys.Audit"]}}}
THREE = {"nodes": {"pve1": {}, "pve2": {}, "pve3": {}}}


def before_writes(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    """Do something when the run has read everything and has written nothing."""
    original = run_module.act

    def act(*given: Any) -> Any:
        action()
        return original(*given)

    monkeypatch.setattr(run_module, "act", act)


def cut_off(tokens: dict[str, Any], *guests: dict[str, Any]) -> Running:
    """Three nodes; the first API host is that of pve2, the second that of pve1."""
    cluster = Running(world(*guests, **THREE, tokens=tokens), hosts=2)
    cluster.pve.host_nodes = ["pve2", "pve1"]
    return cluster


@pytest.mark.parametrize("tokens", [AUDITOR, {TOKEN: {"secret": SECRET, "grants": {"/": ALL}}}], ids=["told", "seen"])
def test_a_host_without_quorum_is_left_for_one_that_has_it(tokens: dict[str, Any]) -> None:
    with cut_off(tokens, guest(100, node="pve1"), guest(101, node="pve2"), guest(102, node="pve3")) as cluster:
        cluster.pve.cut_off = {"pve2"}
        for report in (run_snap(cluster), run_info(cluster)):
            assert any("API host {0} has no quorum, so {1} is used".format(*cluster.hosts) in text for text in report.warnings)
            if "snapshot" in report.result["guests"][0]:
                assert [item["status"] for item in report.result["guests"]] == ["created", "unreachable", "created"]


@pytest.mark.parametrize("tokens", [AUDITOR, {TOKEN: {"secret": SECRET, "grants": {"/": ALL}}}], ids=["told", "seen"])
def test_a_host_that_loses_quorum_in_mid_run_is_left_and_each_guest_keeps_its_own_reason(
    tokens: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    guests = [guest(100 + n, node="pve{0}".format(n % 3 + 1), snapshots=daily(2)) for n in range(9)]
    with cut_off(tokens, *guests) as cluster:
        before_writes(monkeypatch, lambda: cluster.pve.cut_off.add("pve2"))
        report = run_snap(cluster, keep=2, max_parallel=2)
        for item in report.result["guests"]:
            if item["node"] == "pve2":
                assert item["status"] == "failed" and "- Permission denied" in item["reason"]
            else:
                assert (item["status"], item["reason"], len(item["pruned"])) == ("created", "", 1)
        assert "failure" not in report.result
        assert any("has no quorum, so" in text for text in report.warnings)


def test_a_refusal_for_lack_of_quorum_is_sent_to_the_next_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with cut_off(AUDITOR, guest(100, node="pve1")) as cluster:
        cluster.pve.fault("POST", r"/snapshot$", status=500, reason="cluster not ready - no quorum?")
        before_writes(monkeypatch, lambda: cluster.pve.cut_off.add("pve2"))
        report = run_snap(cluster)
        assert entry(report, 100)["status"] == "created" and not report.failed


@pytest.mark.parametrize("status", [500, 429, 403])
def test_an_answer_that_fails_is_no_proof_that_quorum_is_lost(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API host is well, and so are two of three nodes."""
    guests = [guest(100 + n, node="pve{0}".format(n % 3 + 1)) for n in range(6)]
    with Running(world(*guests, **THREE)) as cluster:
        before_writes(monkeypatch, lambda: cluster.pve.cut_off.add("pve2"))
        cluster.pve.fault("GET", r"/nodes$", 1 if status != 403 else None, status=status, reason="for a moment")
        report = run_snap(cluster, max_parallel=1)
        assert [item["status"] for item in report.result["guests"]] == ["created", "failed", "created"] * 2


def test_a_failover_never_leads_back_to_a_host_without_quorum() -> None:
    guests = [guest(100 + n, node="pve{0}".format(1 + 2 * (n % 2))) for n in range(4)]
    with cut_off(AUDITOR, *guests) as cluster:
        cluster.pve.cut_off = {"pve2"}
        blips: list[int] = []

        async def blip() -> None:
            await cluster.pve.kill_host(1)
            blips.append(1)
            await asyncio.sleep(0.5)
            await cluster.pve.revive_host(1)

        cluster.when_written(blip)
        report = run_snap(cluster, api_timeout="2s")
        assert blips and not [item for item in report.result["guests"] if item["status"] == "unreachable"]


def test_a_host_that_does_not_answer_is_no_better_than_one_without_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    with cut_off(AUDITOR, guest(100, node="pve2"), guest(101, node="pve2")) as cluster:
        def lose() -> None:
            cluster.pve.cut_off.add("pve2")
            cluster.call(cluster.pve.kill_host(1))

        before_writes(monkeypatch, lose)
        report = run_snap(cluster, max_parallel=1, api_timeout="2s")
        assert report.result["failure"]["code"] == "quorum"
        assert not any("is used in its place" in text for text in report.warnings)
        assert "- Permission denied" in entry(report, 100)["reason"]


TWO = {"nodes": {"pve1": {}, "pve2": {}}}
SEEING = {TOKEN: {"secret": SECRET, "grants": {"/": ALL}}}


@pytest.mark.parametrize("hosts", [1, 2])
def test_of_two_nodes_that_with_quorum_is_not_blamed_for_the_other(hosts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the nodes: with a QDevice, or two_node, that is enough. The README's token has no Sys.Audit."""
    guests = [guest(100 + n, node="pve{0}".format(n % 2 + 1)) for n in range(6)]
    with Running(world(*guests, **TWO, tokens=SEEING), hosts=hosts) as cluster:
        cluster.pve.host_nodes = ["pve1", "pve2"][:hosts]
        before_writes(monkeypatch, lambda: cluster.pve.cut_off.add("pve2"))
        report = run_snap(cluster, max_parallel=1)
        assert "failure" not in report.result
        assert [item["status"] for item in report.result["guests"]] == ["created", "failed"] * 3
        cluster.pve.cut_off = {"pve2"}
        assert not any("no quorum" in text for text in run_snap(cluster, "100").warnings)


def test_of_two_nodes_that_without_quorum_is_left_when_it_refuses() -> None:
    guests = [guest(100 + n, node="pve{0}".format(n % 2 + 1)) for n in range(4)]
    with Running(world(*guests, **TWO, tokens=SEEING), hosts=2) as cluster:
        cluster.pve.host_nodes = ["pve2", "pve1"]
        cluster.pve.cut_off = {"pve2"}
        report = run_snap(cluster, max_parallel=1)
        found = {item["vmid"]: item for item in report.result["guests"]}
        assert "failure" not in report.result and "- Permission denied" in found[101]["reason"]
        # It sees pve1 as offline, so the guests there were not read.
        assert [found[vmid]["status"] for vmid in (100, 102)] == ["unreachable", "unreachable"]
        assert any("is used in its place" in text for text in report.warnings)


def test_a_host_that_only_looked_lost_is_one_to_come_back_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Sys.Audit, and the other one is down: one refused connection must not be the end."""
    with Running(world(guest(100, node="pve1"), **THREE, tokens=SEEING), hosts=2) as cluster:
        cluster.pve.host_nodes = ["pve1", "pve2"]
        cluster.pve.cut_off = {"pve2", "pve3"}
        cluster.call(cluster.pve.kill_host(1))
        session_of: list[Any] = []
        original = session.Session.prefer_quorum

        def preferred(self: Any) -> bool:
            session_of.append(self)
            return original(self)

        monkeypatch.setattr(session.Session, "prefer_quorum", preferred)
        run_info(cluster, api_timeout="1s")
        assert session_of and not session_of[0].quorum.known_without(0)


def test_law_15_holds_where_a_host_without_quorum_is_left_at_the_start() -> None:
    with cut_off(AUDITOR, guest(100, node="pve2")) as cluster:
        with Running(world(guest(100, node="other1"), nodes={"other1": {}, "other2": {}}, tokens=AUDITOR)) as other:
            together = cluster.directory / "cas.pem"
            together.write_text(open(cluster.ca).read() + open(other.ca).read())
            cluster.pve.cut_off = {"pve2"}
            with pytest.raises(errors.ClusterChanged):
                run_snap(cluster, api_host=[cluster.hosts[0], other.hosts[0]], ca_path=str(together))
            assert not writes(cluster) and not writes(other)


def test_where_nobody_has_quorum_the_run_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    guests = [guest(100 + n, node="pve{0}".format(n % 3 + 1)) for n in range(12)]
    with cut_off(AUDITOR, *guests) as cluster:
        before_writes(monkeypatch, cluster.pve.lose_quorum)
        report = run_snap(cluster, max_parallel=1)
        assert report.result["failure"]["code"] == "quorum" and len(writes(cluster)) < 4
        assert report.result["summary"]["failed"] == 12
        own = [item["reason"] for item in report.result["guests"] if not item["reason"].startswith("not started")]
        assert all("- Permission denied" in reason for reason in own)


def test_fatal_errors_stop_the_run_and_leave_nobody_out() -> None:
    guests = [guest(100 + n) for n in range(6)]
    with Running(world(*guests)) as cluster:
        cluster.pve.lose_quorum()
        report = run_snap(cluster, max_parallel=1)
        assert report.failed
        assert errors.QUORUM == report.result["failure"]["kind"]
        assert report.result["summary"]["failed"] == 6
        assert len(writes(cluster)) == 1
