# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fault campaign: each fault once, through the whole module, with the exact outcome."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any, Callable

import pytest
from campaign import IDS, KEEP, Answer, check, finish, managed, module, site, start, state_of
from simulator.running import Running, until
from worlds import hook

ALL_CREATED = dict.fromkeys(IDS, "created")
WRITE = r"(POST|DELETE) .*/nodes/"
LOGIN = {"api_token": None, "api_user": "autosnap@pve", "api_password": "pass-word-77"}


def but(**others: str) -> dict[int, str]:
    """Every guest created, except those given as ``g100="failed"``."""
    return {**ALL_CREATED, **{int(key[1:]): status for key, status in others.items()}}


def tried(
    spoil: Callable[[Running], Any], expected: dict[int, str], hosts: int = 1, name: str = "snap",
    world: dict[str, Any] | None = None, **options: Any
) -> tuple[Running, Answer]:
    """Spoil a cluster, run the module against it, check what must always hold, and compare."""
    with Running(world or site(), hosts) as cluster:
        before = state_of(cluster)
        spoil(cluster)
        answer = module(cluster, name, **options)
        check(cluster, before, answer)
        assert answer.statuses == expected, answer.result
        assert bool(answer.status) == (set(expected.values()) - {"created", "pruned", "unchanged"} != set())
        return cluster, answer


def strike(method: str, path: str, status: int, reason: str, cluster: Running) -> None:
    """One answer with a status and an empty body."""
    cluster.pve.fault(method, path, status=status, reason=reason)


def posts(cluster: Running, vmid: int) -> int:
    return sum(1 for method, path, *_rest in cluster.pve.log if method == "POST" and "/{0}/snapshot".format(vmid) in path)


# ------------------------------------------------------------------- API hosts


@pytest.mark.parametrize("moment", [r"GET .*/config", WRITE, r"GET .*/tasks"])
def test_the_api_host_dies_and_another_takes_over(moment: str) -> None:
    """Before a POST, right after one, and while tasks are awaited."""
    tried(lambda c: c.when_seen(moment, lambda: c.pve.kill_host(0)), ALL_CREATED, hosts=2)


@pytest.mark.parametrize("moment", [WRITE, r"GET .*/tasks"])
def test_the_only_api_host_dies_for_good(moment: str) -> None:
    with Running(site(create_seconds=3)) as cluster:
        before = state_of(cluster)
        cluster.when_seen(moment, lambda: cluster.pve.kill_host(0))
        answer = module(cluster)
        check(cluster, before, answer)
        assert answer.status == 1
        assert set(answer.statuses.values()) == {"failed"}
        assert answer.result["failure"]["code"] in ("host", "lost")
        assert not any(entry["pruned"] for entry in answer.result["guests"])
        arrived = {vmid for vmid in IDS if posts(cluster, vmid)}
        cluster.call(cluster.pve.revive_host(0))
        later = module(cluster, label="hourly")
        told = {entry["vmid"]: entry["result"] for entry in later.result["unfinished"]}
        # A guest whose turn came after the host was away sent nothing, and has nothing unfinished.
        assert arrived and arrived <= set(told) <= set(IDS)
        assert set(told.values()) <= {"OK", "unknown: a write was sent, and its answer was not seen"}


def test_the_only_api_host_dies_before_anything_is_known() -> None:
    with Running(site()) as cluster:
        before = state_of(cluster)
        cluster.when_seen(r"GET .*/config", lambda: cluster.pve.kill_host(0))
        answer = module(cluster)
        assert answer.status == 1 and answer.result["failure"]["code"] == "host"
        assert state_of(cluster) == before


def test_the_only_api_host_comes_back() -> None:
    def restart(cluster: Running) -> None:
        async def away() -> None:
            await cluster.pve.kill_host(0)
            await asyncio.sleep(3)
            await cluster.pve.revive_host(0)
        cluster.when_seen(WRITE, away)

    tried(restart, ALL_CREATED)


def test_the_api_host_dies_in_the_middle_of_a_post() -> None:
    """Law 8: it never arrived; 35 s later it is sent again over the other host, with the same name."""
    def spoil(cluster: Running) -> None:
        cluster.pve.fault("POST", r"/100/snapshot$", before=True)
        cluster.when_seen(r"POST .*/100/", lambda: cluster.pve.kill_host(0))

    cluster, answer = tried(spoil, ALL_CREATED, hosts=2)
    assert len(managed(state_of(cluster)[100])) == KEEP
    assert posts(cluster, 100) == 2
    assert all(posts(cluster, vmid) == 1 for vmid in (101, 102, 103))


def test_a_failover_to_another_cluster_is_refused() -> None:
    with Running(site(create_seconds=3)) as cluster, Running(site(nodes={"other1": {}, "pve1": {}})) as other:
        before = state_of(cluster)
        both = cluster.directory / "both.crt"
        both.write_text(open(cluster.ca).read() + open(other.ca).read())
        cluster.when_seen(WRITE, lambda: cluster.pve.kill_host(0))
        answer = module(cluster, api_host=[cluster.hosts[0], other.hosts[0]], ca_path=str(both))
        check(cluster, before, answer)
        assert answer.result["failure"]["code"] == "cluster"
        assert set(answer.statuses.values()) == {"failed"}
        assert not any(method in ("POST", "DELETE") for method, *_rest in other.pve.log)


# --------------------------------------------------------------------- answers


@pytest.mark.parametrize("status", [595, 596, 599, 500])
@pytest.mark.parametrize(("method", "path"), [("GET", r"/(config|snapshot|tasks|status)$"), ("POST", r"/snapshot$"),
                                              ("DELETE", r"/snapshot/")])
def test_an_empty_answer(status: int, method: str, path: str) -> None:
    """A read is repeated, a write that may have run is looked for; a read that fails with 500 costs its guest."""
    def spoil(cluster: Running) -> None:
        cluster.pve.fault(method, path, 1, status=status, reason="" if status == 500 else "x")

    if (method, status) == ("GET", 500):
        with Running(site()) as cluster:
            before = state_of(cluster)
            spoil(cluster)
            answer = module(cluster)
            check(cluster, before, answer)
            assert sorted(answer.statuses.values()) == ["created"] * 3 + ["failed"]
        return
    tried(spoil, ALL_CREATED)


@pytest.mark.parametrize(("method", "path"), [("POST", r"/snapshot$"), ("DELETE", r"/snapshot/")])
def test_the_connection_is_reset_after_the_write_was_taken(method: str, path: str) -> None:
    """The tasks run, every answer is lost: found, not repeated."""
    cluster, _answer = tried(lambda c: c.pve.fault(method, path, len(IDS)), ALL_CREATED)
    sent = [path for sent, path, *_rest in cluster.pve.log if sent == method and "/snapshot" in path]
    assert len(sent) == len(IDS)


@pytest.mark.parametrize(("method", "path"), [("POST", r"/snapshot$"), ("DELETE", r"/snapshot/"), ("GET", r"/config$"),
                                              ("GET", r"/(tasks|status)$")])
def test_an_answer_comes_later_than_api_timeout(method: str, path: str) -> None:
    tried(lambda c: c.pve.fault(method, path, 2, delay=4), ALL_CREATED)


@pytest.mark.parametrize(("method", "path"), [("POST", r"/snapshot$"), ("DELETE", r"/snapshot/")])
def test_a_write_is_taken_and_answered_with_596(method: str, path: str) -> None:
    """api-facts 5.2: the target was too slow for the proxy, and its task runs. Found, not repeated."""
    cluster, _answer = tried(lambda c: c.pve.fault(method, path, len(IDS), status=596, reason="x", taken=True), ALL_CREATED)
    assert len([path for sent, path, *_rest in cluster.pve.log if sent == method and "/snapshot" in path]) == len(IDS)


@pytest.mark.parametrize("moment", ["before", "after the first write"])
def test_a_node_hangs_for_good(moment: str) -> None:
    """It takes connections and answers nothing; the guests of the other node have their snapshots (law 9)."""
    def spoil(cluster: Running) -> None:
        def hang() -> None:
            for method in ("GET", "POST", "DELETE"):
                cluster.pve.fault(method, r"/nodes/pve2/", None, delay=30)
        if moment == "before":
            hang()
        else:
            cluster.when_seen(r"(POST) .*/nodes/pve1/", hang)

    with Running(site(g101={"create_seconds": 3}, g103={"create_seconds": 3})) as cluster:
        before = state_of(cluster)
        spoil(cluster)
        answer = module(cluster, api_timeout="1s", timeout="20s")
        check(cluster, before, answer)
        assert answer.statuses[100] == answer.statuses[102] == "created"
        assert answer.statuses[101] in ("unreachable", "timeout", "failed") and answer.statuses[103] != "created"
        assert answer.status == 1 and "failure" not in answer.result


def test_the_ticket_expires_in_mid_run() -> None:
    tried(lambda c: c.when_seen(WRITE, c.pve.revoke_tickets), ALL_CREATED, **LOGIN)


def test_a_401_in_mid_run_ends_it() -> None:
    def spoil(cluster: Running) -> None:
        cluster.when_seen(WRITE, cluster.pve.apitokens.clear)

    with Running(site(create_seconds=1)) as cluster:
        before = state_of(cluster)
        token = cluster.connection()
        spoil(cluster)
        answer = module(cluster, **token)
        check(cluster, before, answer)
        assert answer.result["failure"]["code"] == "authentication"
        assert set(answer.statuses.values()) == {"failed"}


@pytest.mark.parametrize(
    ("status", "reason"),
    [(500, "snapshot is not possible with virtiofs"), (403, "Permission check failed (/vms/100, VM.Snapshot)"),
     (595, "No route to host")])
def test_a_write_that_was_refused_changed_nothing_and_leaves_nothing_open(status: int, reason: str) -> None:
    with Running(site()) as cluster:
        before = state_of(cluster)
        cluster.pve.fault("POST", r"/snapshot$", None, status=status, reason=reason)
        answer = module(cluster)
        check(cluster, before, answer)
        assert set(answer.statuses.values()) == {{500: "failed", 403: "skipped", 595: "unreachable"}[status]}
        assert not answer.result["changed"]
        assert list((cluster.directory / "state").glob("*.run")) == []


@pytest.mark.parametrize("spoil", [lambda c: c.pve.apitokens.clear(), lambda c: c.pve.kill_host(0)])
def test_no_way_in_before_the_first_write_changed_nothing(spoil: Callable[[Running], Any]) -> None:
    """The pre hook of the first guest is where the way is lost: everything was read, and nothing sent."""
    with Running(site()) as cluster:
        before = state_of(cluster)
        token = cluster.connection()
        begun = cluster.directory / "begun"
        path = hook(
            cluster.directory, "case $CV4PVE_AUTOSNAP_PHASE in snap-job-start) touch {0}; sleep 4 ;; esac\n".format(begun))
        run = start(cluster, hook=path, **token)
        until(begun.exists)
        done = spoil(cluster)
        if done is not None:
            cluster.call(done)
        answer = finish(run)
        check(cluster, before, answer)
        assert set(answer.statuses.values()) == {"failed"}
        assert not answer.result["changed"]
        assert list((cluster.directory / "state").glob("*.run")) == []


def test_a_403_in_mid_run_costs_only_its_guest() -> None:
    for method, path in (("DELETE", r"/101/snapshot/"), ("POST", r"/101/snapshot$")):
        reason = "Permission check failed (/vms/101, VM.Snapshot)"
        _cluster, answer = tried(functools.partial(strike, method, path, 403, reason), but(g101="skipped"))
        assert "VM.Snapshot" in answer.of(101)["reason"]
        assert bool(answer.of(101)["snapshot"]) == (method == "DELETE")


def test_the_task_list_is_refused() -> None:
    tried(lambda c: c.pve.fault("GET", r"/tasks$", None, status=403, reason="no"), ALL_CREATED)


def test_no_worker_could_be_forked() -> None:
    """Recordings 528 to 532: nothing ran, so it is sent again."""
    tried(lambda c: c.pve.fault("POST", r"/snapshot$", 3, status=500, reason="got no worker upid - start worker failed"),
          ALL_CREATED)


# ----------------------------------------------------------------------- tasks


@pytest.mark.parametrize("kind", ["qmsnapshot", "qmdelsnapshot"])
def test_a_task_ends_with_warnings(kind: str) -> None:
    tried(lambda c: c.pve.task_errors.update({(100, kind): ["WARNINGS: 1"]}), ALL_CREATED)


# What Proxmox VE gives as exit status when the log of a task cannot be read (api-facts 4.3).
UNREADABLE = ("unable to open file - No such file or directory", "unable to read tail (got 0 bytes)", "unable to get last line")


@pytest.mark.parametrize("status", ["unexpected status", *UNREADABLE])
def test_an_unknown_end_of_a_create_is_judged_by_what_is_there(status: str) -> None:
    """It was not made: the task says nothing and the snapshot is not in the list."""
    cluster, answer = tried(
        lambda c: c.pve.task_errors.update({(100, "qmsnapshot"): [status]}), but(g100="failed"))
    assert status in answer.of(100)["reason"]
    assert len(managed(state_of(cluster)[100])) == KEEP


@pytest.mark.parametrize("status", ["unexpected status", *UNREADABLE])
def test_an_unknown_end_of_a_create_that_was_made(status: str) -> None:
    """The worker died after its work, or its log cannot be read: the snapshot is there and whole."""
    def spoil(cluster: Running) -> None:
        async def forget() -> None:
            for task in cluster.pve.tasklog:
                if task["type"] == "qmsnapshot" and task["id"] == "100":
                    while task["status"] == "running":
                        await asyncio.sleep(0.001)
                    task["exitstatus"] = status
        cluster.when_seen(r"POST .*/100/snapshot", forget)

    _cluster, answer = tried(spoil, ALL_CREATED)
    assert status in answer.of(100)["warnings"][0]


def test_a_node_crashes_in_the_middle_of_a_create() -> None:
    """The worker died before its end: entry and lock are left, which only root can remove."""
    def spoil(cluster: Running) -> None:
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["unexpected status"]

        def left() -> None:
            guest = cluster.pve.guest(100)
            guest.snapshots["autodaily261125121212"] = {
                "snaptime": int(time.time()), "description": "cv4pve-autosnap", "snapstate": "prepare"}
            cluster.pve.set_lock(guest, "snapshot")
        cluster.when_seen(r"POST .*/100/snapshot", left)

    frozen = "import time\ntime.time = lambda: 1795608732.0"
    _cluster, answer = tried(spoil, but(g100="failed"), prelude=frozen, timezone="UTC")
    assert "needs unlock: run 'qm unlock 100' as root on node pve1" in answer.of(100)["reason"]


def test_an_unexpected_status_of_a_delete() -> None:
    cluster, answer = tried(
        lambda c: c.pve.task_errors.update({(100, "qmdelsnapshot"): ["unexpected status"]}), but(g100="failed"))
    assert "unexpected status" in answer.of(100)["reason"]
    assert answer.of(100)["pruned"] == []


def test_quorum_is_lost() -> None:
    with Running(site()) as cluster:
        before = state_of(cluster)
        cluster.when_seen(r"GET .*/config", cluster.pve.lose_quorum, len(IDS))
        answer = module(cluster)
        check(cluster, before, answer)
        assert answer.result["failure"]["kind"] == "quorum"
        assert set(answer.statuses.values()) == {"failed"}


def test_a_replication_blocks_a_delete_for_a_while() -> None:
    text = "Failed to obtain guest migration lock - replication running?"
    tried(lambda c: c.pve.task_errors.update({(100, "qmdelsnapshot"): [text]}), ALL_CREATED)


def test_a_delete_fails_and_leaves_its_lock() -> None:
    cluster, answer = tried(lambda c: c.pve.half_deletes.add(100), but(g100="failed"))
    assert "needs unlock: run 'qm unlock 100' as root on node pve1" in answer.of(100)["reason"]
    assert answer.of(100)["snapshot"]


def test_a_delete_waits_too_long_for_a_storage_and_leaves_its_lock() -> None:
    """api-facts 8: a cfs-lock timeout in a delete is not only contention."""
    def spoil(cluster: Running) -> None:
        cluster.pve.half_deletes.add(100)
        cluster.pve.half_delete_text = "cfs-lock 'storage-chain' error: got lock request timeout"

    _cluster, answer = tried(spoil, but(g100="failed"))
    assert "needs unlock" in answer.of(100)["reason"] and "cfs-lock" in answer.of(100)["reason"]


def test_a_lock_gets_stuck_between_create_and_prune() -> None:
    def spoil(cluster: Running) -> None:
        async def lock() -> None:
            guest = cluster.pve.guest(100)
            while len(managed(state_of(cluster)[100])) <= KEEP or guest.lock:
                await asyncio.sleep(0.001)
            cluster.pve.set_lock(guest, "snapshot-delete")
        cluster.when_seen(r"POST .*/100/snapshot", lock)

    _cluster, answer = tried(spoil, but(g100="failed"), lock_timeout="6s")
    assert "needs unlock" in answer.of(100)["reason"]
    assert answer.of(100)["snapshot"]


def test_how_tasks_end_may_not_be_seen() -> None:
    _cluster, answer = tried(
        lambda c: c.pve.fault("GET", r"/(tasks|status)$", None, status=403, reason="no"), dict.fromkeys(IDS, "timeout"))
    assert all(answer.of(vmid)["upids"] for vmid in IDS)


def test_a_lock_left_by_a_crash_is_reported_after_lock_timeout() -> None:
    def spoil(cluster: Running) -> None:
        cluster.pve.set_lock(cluster.pve.guest(102), "snapshot")

    _cluster, answer = tried(spoil, but(g102="failed"), lock_timeout="3s")
    assert "pct unlock 102" in answer.of(102)["reason"]


# --------------------------------------------------------------- moving targets


@pytest.mark.parametrize("moment", [r"GET .*/100/snapshot", r"POST .*/100/snapshot"])
def test_a_guest_migrates(moment: str) -> None:
    """Between list and POST, and between its create and its prune: the task stays with its node, the next call follows."""
    def spoil(cluster: Running) -> None:
        cluster.when_seen(moment, lambda: setattr(cluster.pve.guest(100), "node", "pve2"))

    cluster, answer = tried(spoil, ALL_CREATED)
    assert len(managed(state_of(cluster)[100])) == KEEP


@pytest.mark.parametrize("moment", [r"GET .*/100/snapshot", r"POST .*/100/snapshot"])
def test_a_guest_is_deleted_in_mid_run(moment: str) -> None:
    def spoil(cluster: Running) -> None:
        def delete() -> None:
            cluster.pve.vms = [vm for vm in cluster.pve.vms if vm.vmid != 100]
            cluster.pve._by_id = {}
        cluster.when_seen(moment, delete)

    _cluster, answer = tried(spoil, but(g100="skipped"))
    assert "gone" in answer.of(100)["reason"]


def test_a_node_goes_offline_in_mid_run() -> None:
    """What runs on it outlives its time, the others are done, and the next run tells what became of it."""
    with Running(site(create_seconds=2)) as cluster:
        before = state_of(cluster)
        cluster.when_seen(r"POST .*/nodes/pve2/", lambda: cluster.pve.set_node_offline("pve2"), 2)
        answer = module(cluster, timeout="10s")
        check(cluster, before, answer)
        assert answer.statuses == but(g101="timeout", g103="timeout")
        assert answer.status == 1
        away = module(cluster, label="hourly", guests=["100"])
        assert {entry["vmid"]: entry["result"] for entry in away.result["unfinished"]} == dict.fromkeys(
            (101, 103), "unknown: its node does not answer")
        cluster.pve.set_node_offline("pve2", False)
        back = module(cluster, label="weekly", guests=["100"])
        assert {entry["vmid"]: entry["result"] for entry in back.result["unfinished"]} == dict.fromkeys((101, 103), "OK")
        assert module(cluster, label="monthly", guests=["100"]).result["unfinished"] == []


def test_a_node_is_away_for_a_moment() -> None:
    def spoil(cluster: Running) -> None:
        async def away() -> None:
            cluster.pve.set_node_offline("pve2")
            await asyncio.sleep(3)
            cluster.pve.set_node_offline("pve2", False)
        cluster.when_seen(r"POST .*/nodes/pve2/", away)

    tried(spoil, ALL_CREATED, world=site(create_seconds=1))


# -------------------------------------------------------- other people's snapshots


def test_a_snapshot_appears_behind_our_back() -> None:
    def spoil(cluster: Running) -> None:
        def made_by_hand() -> None:
            cluster.pve.guest(100).snapshots["by_hand"] = {"snaptime": int(time.time()), "description": "mine"}
        cluster.when_seen(r"POST .*/100/snapshot", made_by_hand)

    cluster, _answer = tried(spoil, ALL_CREATED)
    assert "by_hand" in state_of(cluster)[100]


def test_a_snapshot_vanishes_behind_our_back() -> None:
    def spoil(cluster: Running) -> None:
        def deleted_by_hand() -> None:
            oldest = min((values["snaptime"], name) for name, values in cluster.pve.guest(100).snapshots.items()
                         if values["description"] == "cv4pve-autosnap")[1]
            cluster.pve.drop_snapshot(cluster.pve.guest(100), oldest)
        cluster.when_seen(r"POST .*/100/snapshot", deleted_by_hand)

    _cluster, answer = tried(spoil, ALL_CREATED)
    assert answer.of(100)["pruned"] == []


def test_our_snapshot_vanishes_behind_our_back() -> None:
    """While the post hook runs, before the list is read again."""
    def spoil(cluster: Running) -> None:
        async def delete_by_hand() -> None:
            guest = cluster.pve.guest(100)
            while not (new := [name for name, values in guest.snapshots.items() if values["snaptime"] > time.time() - 3600
                               and not values.get("snapstate")]):
                await asyncio.sleep(0.01)
            cluster.pve.drop_snapshot(guest, new[0])
        cluster.when_seen(r"POST .*/100/snapshot", delete_by_hand)

    with Running(site()) as cluster:
        before = state_of(cluster)
        spoil(cluster)
        slow = hook(cluster.directory, "case $CV4PVE_AUTOSNAP_PHASE in snap-create-post) sleep 1 ;; esac\n")
        answer = module(cluster, hook=slow)
        assert answer.statuses == but(g100="failed")
        assert "nothing more was pruned" in answer.of(100)["reason"]
        assert before[100].items() <= state_of(cluster)[100].items()


def test_two_guests_have_the_same_name() -> None:
    """A name means all that bear it, and nobody else."""
    with Running(site(g100={"name": "twin"}, g101={"name": "TWIN"})) as cluster:
        answer = module(cluster, guests=["twin"])
        assert answer.statuses == {100: "created", 101: "created"}
        assert answer.result["unmatched"] == []


# -------------------------------------------------------------------------- time


def test_the_nodes_clocks_are_minutes_apart() -> None:
    nodes = {"pve1": {"clock_offset": 180}, "pve2": {"clock_offset": -240}}
    _cluster, answer = tried(lambda c: None, ALL_CREATED, world=site(nodes=nodes))
    assert all(len(answer.of(vmid)["pruned"]) == 1 for vmid in IDS)


def test_a_node_s_clock_is_hours_ahead() -> None:
    """Law 13: what it makes is not counted, so nothing goes that would stay without it."""
    cluster, answer = tried(lambda c: None, ALL_CREATED, world=site(nodes={"pve1": {"clock_offset": 7200}, "pve2": {}}))
    assert answer.of(100)["pruned"] == []
    assert len(answer.of(101)["pruned"]) == 1


# ----------------------------------------------------------------- storage, hooks


def test_a_storage_fills_up_in_mid_run() -> None:
    """Law 4: from the second create on there is no room; the guests whose create fails lose nothing that they keep."""
    def full(cluster: Running) -> None:
        cluster.pve.task_errors.update({
            (vmid, "vzsnapshot" if vmid == 102 else "qmsnapshot"): ["zfs error: out of space"] for vmid in IDS})

    with Running(site(create_seconds=1)) as cluster:
        before = state_of(cluster)
        cluster.when_written(lambda: full(cluster))
        answer = module(cluster, max_parallel=1, keep=2)
        check(cluster, before, answer, keep=2)
        assert sorted(answer.statuses.values()) == ["created", "failed", "failed", "failed"]
        for vmid, status in answer.statuses.items():
            assert len(managed(state_of(cluster)[vmid])) == 2
            assert status == "created" or answer.of(vmid)["reason"] == "zfs error: out of space"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sleep 60 & sleep 60\n", "killed after 1 s"), ("kill -SEGV $$\n", "exit code -11"),
        ("head -c 10000000 /dev/zero | tr '\\0' x\n", ""),
    ])
def test_a_hook_hangs_crashes_or_floods(body: str, words: str) -> None:
    with Running(site()) as cluster:
        before = state_of(cluster)
        path = hook(cluster.directory, 'case "$CV4PVE_AUTOSNAP_PHASE" in snap-create-pre) ;; *) exit 0 ;; esac\n' + body)
        answer = module(cluster, hook=path, hook_timeout="1s" if "sleep" in body else "20s")
        check(cluster, before, answer)
        assert answer.statuses == ALL_CREATED
        assert all(words in " ".join(answer.of(vmid)["warnings"]) for vmid in IDS)
        assert words or all(call["output"] in ("", "x" * len(call["output"])) for call in answer.result["hooks"])
        assert words or max(len(call["output"]) for call in answer.result["hooks"]) == 1024
        vetoed = module(cluster, hook=path, hook_timeout="1s" if "sleep" in body else "20s", on_hook_failure="skip_guest")
        assert set(vetoed.statuses.values()) == ({"skipped"} if words else {"created"})
        assert sum(len(call["output"]) for call in answer.result["hooks"]) < 100_000


# ----------------------------------------------------------------- two runs at once


def test_two_runs_of_one_control_node_never_share_a_guest() -> None:
    """The first one's hook takes its time: no lock of Proxmox VE shows yet that it works on the guests."""
    with Running(site()) as cluster:
        before = state_of(cluster)
        begun = cluster.directory / "begun"
        go = cluster.directory / "go"
        body = "case $CV4PVE_AUTOSNAP_PHASE in snap-create-pre) touch {0}; while [ ! -e {1} ]; do sleep 0.1; done ;; esac\n"
        slow = hook(cluster.directory, body.format(begun, go))
        first = start(cluster, hook=slow)
        until(begun.exists)
        second = module(cluster, locked="skip", label="hourly")
        go.touch()
        assert second.statuses == dict.fromkeys(IDS, "skipped")
        assert all("another run of this control node" in second.of(vmid)["reason"] for vmid in IDS)
        third = module(cluster, label="weekly", lock_timeout="60s")
        answer = finish(first)
        check(cluster, before, answer)
        assert answer.statuses == third.statuses == ALL_CREATED


def test_a_second_run_that_waited_takes_no_second_snapshot_within_min_interval() -> None:
    """What it planned while the first one worked is looked at again when its turn comes."""
    with Running(site()) as cluster:
        before = state_of(cluster)
        begun = cluster.directory / "begun"
        slow = hook(
            cluster.directory, "case $CV4PVE_AUTOSNAP_PHASE in snap-create-pre) touch {0}; sleep 4 ;; esac\n".format(begun))
        first = start(cluster, hook=slow, min_interval="1h")
        until(begun.exists)
        second = module(cluster, min_interval="1h", lock_timeout="60s")
        answer = finish(first)
        check(cluster, before, answer)
        assert answer.statuses == ALL_CREATED
        assert second.statuses == dict.fromkeys(IDS, "unchanged") and second.status == 0
        assert all("younger than min_interval" in second.of(vmid)["reason"] for vmid in IDS)
        assert all(len(managed(state_of(cluster)[vmid])) == KEEP for vmid in IDS)
