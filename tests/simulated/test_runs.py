# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of snap, clean and info against a simulated cluster, beyond the laws."""

from __future__ import annotations

import json
import pathlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils import arguments
from ansible_collections.pve.autosnap.plugins.module_utils.arguments import InputError
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import acting, reading
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.run import Ending, connect
from ansible_collections.pve.autosnap.plugins.module_utils.model import Guest
from ansible_collections.pve.autosnap.plugins.module_utils.pve import session as session_module
from ansible_collections.pve.autosnap.plugins.module_utils.pve import tasks, ticket, watcher
from ansible_collections.pve.autosnap.plugins.module_utils.pve.cluster import Cluster
from ansible_collections.pve.autosnap.plugins.module_utils.pve.errors import (
    AuthenticationFailed,
    HostUnreachable,
    NotProxmox,
    PveError,
    Undecided,
    UntrustedCertificate,
)
from simulator.running import Running, until
from worlds import ALL, SECRET, TOKEN, daily, entry, guest, names, params, run_clean, run_info, run_snap, world, writes


def test_takes_over_snapshots_of_the_original() -> None:
    legacy = [{"label": "daily", "count": 3, "description": "eve4pve-autosnap"}]
    with Running(world(guest(100, snapshots=legacy), guest(200, type="lxc", snapshots=legacy))) as cluster:
        report = run_snap(cluster, keep=2)
        assert [len(item["pruned"]) for item in report.result["guests"]] == [2, 2]
        assert len(names(cluster, 100)) == len(names(cluster, 200)) == 2


def test_neither_retention_nor_keep_prunes_nothing() -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        run_snap(cluster)
        assert len(names(cluster, 100)) == 4


def test_daily_and_daily2() -> None:
    both = [*daily(4), *daily(4, "daily2", 3600)]
    with Running(world(guest(100, snapshots=both))) as cluster:
        run_clean(cluster, keep=1)
        assert len([name for name in names(cluster, 100) if name.startswith("autodaily2") and len(name) == 22]) == 4
        run_clean(cluster, label=["daily2"], keep=1)
        assert len(names(cluster, 100)) == 2


def test_min_interval_makes_a_second_run_harmless() -> None:
    with Running(world(guest(100))) as cluster:
        assert run_snap(cluster, keep=2, min_interval="1h").result["changed"]
        again = run_snap(cluster, keep=2, min_interval="1h")
        assert not again.result["changed"]
        assert entry(again, 100)["status"] == "unchanged"
        assert len(names(cluster, 100)) == 1


def test_only_running_and_templates_are_green_skips() -> None:
    guests = [guest(100), guest(101, status="stopped"), guest(102, template=True, status="stopped")]
    with Running(world(*guests)) as cluster:
        report = run_snap(cluster, only_running=True)
        assert not report.failed
        assert entry(report, 101)["status"] == "skipped"
        assert [template["vmid"] for template in report.result["templates"]] == [102]


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (2, ""), (3, "3 guests were expected, 2 matched"), ([100, 101], ""), ([100, 102], "missing: 102"),
        ([100], "not expected: 101"),
    ])
def test_expect_guests(expected: Any, words: str) -> None:
    with Running(world(guest(100), guest(101))) as cluster:
        for report in (run_snap(cluster, expect_guests=expected), run_info(cluster, expect_guests=expected)):
            assert report.failed == bool(words)
            assert words in report.message
        assert run_snap(cluster, expect_guests=expected, fail_on="never").failed == bool(words)


def test_the_ram_is_saved_of_running_vms_only() -> None:
    with Running(world(guest(100), guest(101, status="stopped"), guest(102, type="lxc"))) as cluster:
        report = run_snap(cluster, vmstate=True)
        assert report.result["summary"]["created"] == 3
        with_ram = [vmid for vmid in (100, 101, 102) if any("vmstate" in s for s in cluster.pve.guest(vmid).snapshots.values())]
        assert with_ram == [100]
        assert report.result["storages"][0]["promised"] == 2 * 2048 * 1024 ** 2 + 500 * 1024 ** 2


@pytest.mark.parametrize(("mode", "status"), [("skip", "skipped"), ("fail", "failed")])
def test_a_full_storage(mode: str, status: str) -> None:
    with Running(world(guest(100, storage="full"), guest(101))) as cluster:
        report = run_snap(cluster, on_storage_full=mode)
        assert report.failed
        assert (entry(report, 100)["status"], entry(report, 101)["status"]) == (status, "created")
        assert "97.0 % full" in entry(report, 100)["reason"]


def test_prune_first_makes_room() -> None:
    with Running(world(guest(100, storage="full", snapshots=daily(5), delete_seconds=0.3))) as cluster:
        cluster.when_written(lambda: cluster.pve.storages["full"].update(used=10 * 1024 ** 3))
        report = run_snap(cluster, keep=3, on_storage_full="prune_first")
        assert entry(report, 100)["status"] == "created"
        assert len(names(cluster, 100)) == 3
        assert len(entry(report, 100)["pruned"]) == 3


def test_no_datastore_audit_is_an_error_not_a_pass() -> None:
    rights = {"/": ["VM.Audit", "VM.Snapshot"]}
    with Running(world(guest(100), tokens={TOKEN: {"secret": SECRET, "grants": rights}})) as cluster:
        report = run_snap(cluster)
        assert report.failed
        assert "grant Datastore.Audit on /storage/ceph" in entry(report, 100)["reason"]
        assert not writes(cluster)


def test_a_missing_privilege_is_named() -> None:
    rights = {"/": ["VM.Audit", "Datastore.Audit"]}
    with Running(world(guest(100), tokens={TOKEN: {"secret": SECRET, "grants": rights}})) as cluster:
        report = run_snap(cluster)
        assert report.failed
        assert entry(report, 100)["status"] == "skipped"
        assert "/vms/100, VM.Snapshot" in entry(report, 100)["reason"]


# ---------------------------------------------------------------------- locks


def test_a_locked_guest_is_waited_for_while_others_go_on() -> None:
    with Running(world(guest(100, lock="backup"), *[guest(101 + n) for n in range(3)])) as cluster:
        cluster.when_seen(r"POST .*/10[123]/snapshot", lambda: cluster.pve.set_lock(cluster.pve.guest(100), None), 3)
        report = run_snap(cluster, keep=1, max_parallel=1)
        assert report.result["summary"]["created"] == 4
        order = [path.split("/")[6] for method, path in writes(cluster) if method == "POST"]
        assert (sorted(order[:3]), order[3:]) == (["101", "102", "103"], ["100"])


@pytest.mark.parametrize(
    ("options", "status"),
    [({"locked": "skip"}, "skipped"), ({"locked": "fail"}, "failed"), ({"lock_timeout": "1s"}, "deferred")])
def test_a_guest_that_stays_locked(options: dict[str, Any], status: str) -> None:
    with Running(world(guest(100, lock="backup"), guest(101))) as cluster:
        report = run_snap(cluster, **options)
        assert report.failed
        assert entry(report, 100)["status"] == status
        assert "locked (backup)" in entry(report, 100)["reason"]
        assert entry(report, 101)["status"] == "created"


def test_a_hibernated_guest_is_not_waited_for() -> None:
    with Running(world(guest(100, lock="suspended"))) as cluster:
        assert entry(run_snap(cluster), 100)["status"] == "skipped"


@pytest.mark.parametrize("kind", ["qemu", "lxc"])
def test_a_lock_that_nobody_holds_needs_unlock(kind: str) -> None:
    with Running(world(guest(100, type=kind, lock="snapshot-delete"))) as cluster:
        report = run_snap(cluster, lock_timeout="1s")
        assert entry(report, 100)["status"] == "failed"
        command = "qm" if kind == "qemu" else "pct"
        assert "needs unlock: run '{0} unlock 100' as root on node pve1".format(command) in entry(report, 100)["reason"]


def test_a_lock_that_comes_between_list_and_post_is_waited_for() -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["VM is locked (backup)"]
        assert entry(run_snap(cluster), 100)["status"] == "created"


def test_replication_on_a_delete_is_waited_for() -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["Failed to obtain guest migration lock - replication running?"]
        report = run_clean(cluster, keep=1)
        assert entry(report, 100)["status"] == "pruned"
        assert len(names(cluster, 100)) == 1


def test_a_guest_that_moved_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100, snapshots=daily(3)), guest(101))) as cluster:
        original = session_module.Session.write

        def moving(self: Any, method: str, *path: object, **values: Any) -> Any:
            if method == "post" and cluster.pve.guest(100).node == "pve1":
                cluster.pve.guest(100).node = "pve2"
            return original(self, method, *path, **values)

        monkeypatch.setattr(session_module.Session, "write", moving)
        report = run_snap(cluster, "100", keep=1)
        assert entry(report, 100)["status"] == "created"
        assert len(names(cluster, 100)) == 1


def test_a_task_that_outlives_its_time_is_left_running() -> None:
    with Running(world(guest(100), guest(101))) as cluster:
        cluster.hold(100)
        report = run_snap(cluster, keep=1, timeout="5s")
        assert entry(report, 100)["status"] == "timeout"
        assert entry(report, 100)["upids"]
        assert entry(report, 101)["status"] == "created"
        assert report.failed


def time_is_up_when_seen(cluster: Running, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    """run_timeout passes as soon as a request was carried out, however fast this machine is."""
    up = threading.Event()
    monkeypatch.setattr(Ending, "reason", lambda self: "run_timeout has passed" if up.is_set() else None)
    cluster.when_seen(pattern, up.set)


def test_run_timeout_starts_nothing_new_and_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    guests = [guest(100 + n, create_seconds=5, snapshots=daily(3)) for n in range(4)]
    with Running(world(*guests)) as cluster:
        time_is_up_when_seen(cluster, monkeypatch, r"GET .*/tasks")
        report = run_snap(cluster, keep=1, max_parallel=1)
        assert report.failed
        assert report.result["summary"]["timeout"] == 4
        [(_method, path)] = writes(cluster)
        for item in report.result["guests"]:
            assert "run_timeout" in item["reason"]
            assert bool(item["upids"]) == ("/{0}/".format(item["vmid"]) in path) == ("not started" not in item["reason"])


@pytest.mark.parametrize(("given", "peak"), [({}, 1), ({"max_parallel_per_storage": 3}, 3)])
def test_a_slow_storage_is_worked_on_one_by_one_unless_told_otherwise(given: dict[str, Any], peak: int) -> None:
    storages = {"nas": {"type": "nfs", "shared": 1, "size": "1T", "used": "10G", "path": "/mnt/pve/nas"}}
    guests = [guest(100 + n, storage="nas", config={"scsi0": "nas:{0}/disk.qcow2,size=1G".format(100 + n)}, create_seconds=0.3)
              for n in range(4)]
    with Running(world(*guests, storages=storages)) as cluster:
        vmids = range(100, 104)
        cluster.hold(*vmids)
        cluster.when_seen(r"POST .*/snapshot", lambda: cluster.let_go(*vmids), count=peak)
        assert run_snap(cluster, **given).result["summary"]["created"] == 4
        assert cluster.pve.running_peak == peak


# ------------------------------------------------------------------- selection


def test_pools_with_sub_pools_and_members_that_cannot_be_seen() -> None:
    rights = {"/vms/100": ALL, "/pool/prod/db": ["Pool.Audit"], "/pool/prod": ["Pool.Audit"], "/storage": ["Datastore.Audit"]}
    pools = {"prod": [100], "prod/db": [101], "other": [102]}
    with Running(world(guest(100), guest(101), guest(102), pools=pools,
                       tokens={TOKEN: {"secret": SECRET, "grants": rights}})) as cluster:
        report = run_snap(cluster, "@pool-prod")
        assert [item["vmid"] for item in report.result["guests"]] == [100, 101]
        assert entry(report, 100)["status"] == "created"
        assert entry(report, 101)["status"] == "unreachable"
        assert "grant VM.Audit on /vms/101" in entry(report, 101)["reason"]
        assert not run_snap(cluster, "@pool-prod,-@pool-prod/db").failed


@pytest.mark.parametrize("guests", ["100,101,-@pool-prod", "@all,-@pool-prod", "@all,-@pool-prod&@type-qemu"])
@pytest.mark.parametrize("name", ["snap", "clean", "info"])
def test_an_exclusion_that_cannot_be_decided_stops_the_run_before_any_write(guests: str, name: str) -> None:
    rights = {"/vms": ALL[:2], "/storage": ["Datastore.Audit"]}
    tokens = {TOKEN: {"secret": SECRET, "grants": rights}}
    with Running(world(guest(100), guest(101), pools={"prod": [101]}, tokens=tokens)) as cluster:
        run = {"snap": run_snap, "clean": run_clean, "info": run_info}[name]
        with pytest.raises(Undecided, match=r"whom '-@pool-prod.*' excludes cannot be decided.*Pool.Audit on /pool/prod"):
            run(cluster, guests, on_unmatched="warn", **{"keep": 1} if name == "clean" else {})
        assert not writes(cluster)
        cluster.pve.grant(TOKEN, "/pool/prod", "Pool.Audit")
        report = run(cluster, guests, **{"keep": 1} if name == "clean" else {})
        assert not report.failed and [item["vmid"] for item in report.result["guests"]] == [100]


def test_an_exclusion_by_a_pool_of_which_only_a_sub_pool_is_seen_is_not_decided() -> None:
    rights = {"/vms": ALL[:2], "/storage": ["Datastore.Audit"], "/pool/prod/a": ["Pool.Audit"]}
    tokens = {TOKEN: {"secret": SECRET, "grants": rights}}
    with Running(world(guest(100), guest(101), guest(102), pools={"prod": [101], "prod/a": [102]}, tokens=tokens)) as cluster:
        with pytest.raises(Undecided, match="Pool.Audit on /pool/prod"):
            run_snap(cluster, "@all,-@pool-prod")
        assert not run_snap(cluster, "@all,-@pool-prod/a").failed


def test_an_empty_pool_excludes_nobody_and_is_warned_of() -> None:
    with Running(world(guest(100), pools={"prod": []})) as cluster:
        report = run_snap(cluster, "@all,-@pool-prod")
        assert not report.failed and any("'-@pool-prod' matched no guest" in warning for warning in report.warnings)


def test_a_pool_that_may_not_be_audited_is_not_found_and_the_privilege_is_named() -> None:
    """api-facts 1.5: without Pool.Audit neither the pool nor the guests' ``pool`` is shown."""
    rights = {"/vms": ["VM.Audit", "VM.Snapshot"], "/storage": ["Datastore.Audit"]}
    with Running(world(guest(100), guest(101), pools={"prod": [101]},
                       tokens={TOKEN: {"secret": SECRET, "grants": rights}})) as cluster:
        report = run_snap(cluster, "@pool-prod")
        assert report.failed and "Pool.Audit" in report.message
        assert not writes(cluster)


def test_a_nameless_guest_on_a_living_node_gets_its_name_from_its_config() -> None:
    nodes = {"pve1": {"nameless": True}, "pve2": {}}
    with Running(world(guest(100), guest(101, template=True), nodes=nodes)) as cluster:
        report = run_snap(cluster, "vm1%")
        assert entry(report, 100)["status"] == "created"
        assert entry(report, 100)["name"] == "vm100"
        assert [template["vmid"] for template in report.result["templates"]] == [101]


# ------------------------------------------------------------------ connection


def test_password_login_and_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100, create_seconds=0.3))) as cluster:
        monkeypatch.setattr(ticket, "TICKET_RENEW_AGE", 0.1)
        report = run_snap(cluster, api_token=None, api_user="autosnap@pve", api_password="pass-word-77")
        assert entry(report, 100)["status"] == "created"
        logins = [path for method, path, *_rest in cluster.pve.log if path.endswith("/access/ticket")]
        assert len(logins) > 1


def test_a_ticket_that_is_refused_in_mid_run_is_replaced() -> None:
    with Running(world(guest(100, create_seconds=1.5))) as cluster:
        cluster.when_written(cluster.pve.revoke_tickets)
        report = run_snap(cluster, api_token=None, api_user="autosnap@pve", api_password="pass-word-77")
        assert entry(report, 100)["status"] == "created"


def test_a_second_factor() -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.otp = "123456"
        login = {"api_token": None, "api_user": "autosnap@pve", "api_password": "pass-word-77"}
        with pytest.raises(AuthenticationFailed, match="API token"):
            run_snap(cluster, **login)
        assert entry(run_snap(cluster, api_otp="123456", **login), 100)["status"] == "created"


@pytest.mark.parametrize(
    "login",
    [
        {"api_token": None, "api_token_id": TOKEN, "api_token_secret": SECRET},
        {"api_token": None, "api_user": "autosnap@pve", "api_token_id": "test", "api_token_secret": SECRET},
        {"api_token": "{0}={1}".format(TOKEN, SECRET)},
    ],
)
def test_every_form_of_token(login: dict[str, Any]) -> None:
    with Running(world(guest(100))) as cluster:
        assert entry(run_snap(cluster, **login), 100)["status"] == "created"


def test_a_token_from_a_file_and_from_the_environment(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "token"
    file.write_text("{0}={1}\n".format(TOKEN, SECRET))
    with Running(world(guest(100))) as cluster:
        assert not run_snap(cluster, api_token=None, api_token_file=str(file)).failed
        assert not run_snap(cluster, api_token=None, environ={"PROXMOX_TOKEN_FILE": str(file)}).failed
        assert not run_snap(
            cluster, api_token=None, environ={"PROXMOX_TOKEN_ID": TOKEN, "PROXMOX_TOKEN_SECRET": SECRET}).failed


def test_wrong_credentials_are_told_without_the_secret() -> None:
    with Running(world(guest(100))) as cluster:
        with pytest.raises(AuthenticationFailed) as refused:
            run_snap(cluster, api_token="{0}={1}".format(TOKEN, "wrong-secret-9"))
        assert "wrong-secret-9" not in str(refused.value)
        with pytest.raises(AuthenticationFailed, match="realm"):
            run_snap(cluster, api_token=None, api_user="autosnap@pve", api_password="no")


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_a_certificate_that_is_not_trusted_is_refused_with_a_remedy() -> None:
    with Running(world(guest(100))) as cluster, Running(world()) as other:
        with pytest.raises(UntrustedCertificate, match="pve-root-ca.pem"):
            run_snap(cluster, ca_path=other.ca)
        assert not run_snap(cluster, ca_path=None, validate_certs=False).failed


def test_the_next_host_takes_over_at_the_start_and_in_mid_run() -> None:
    with Running(world(guest(100, create_seconds=2.0, snapshots=daily(3))), hosts=2) as cluster:
        cluster.call(cluster.pve.kill_host(0))
        assert not run_snap(cluster, keep=2).failed
        cluster.call(cluster.pve.revive_host(0))

        cluster.pve.log.clear()
        cluster.when_written(lambda: cluster.pve.kill_host(0))
        report = run_snap(cluster, label="hourly", keep=1)
        assert entry(report, 100)["status"] == "created"
        assert not report.failed


def test_no_host_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "RETRY_MAX", 0.01)
    with Running(world(guest(100))) as cluster:
        with pytest.raises(HostUnreachable, match="does not answer"):
            run_snap(cluster, api_host=["127.0.0.1:1"])


def test_a_server_that_is_no_proxmox() -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.fail("GET", "/cluster/resources", 200, "<html>hello</html>", html=True)
        with pytest.raises(NotProxmox, match="api_host"):
            run_snap(cluster)


@pytest.mark.parametrize("status", [595, 596, 599, 502, 503])
def test_reads_are_retried(status: int) -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.fault("GET", r"/(resources|config|snapshot|status)$", 3, status=status, reason="x")
        assert entry(run_snap(cluster), 100)["status"] == "created"


def test_a_silent_node_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other guests do not hold up those of the living nodes (api-facts 10)."""
    monkeypatch.setattr(session_module, "RETRY_FIRST", 0.01)
    guests = [guest(101 + n, node="pve2") for n in range(20)]
    with Running(world(guest(100), *guests)) as cluster:
        cluster.pve.fault("GET", r"/nodes/pve2/", None, status=595, reason="No route to host")
        report = run_snap(cluster)
        assert entry(report, 100)["status"] == "created"
        assert report.result["summary"]["unreachable"] == 20
        asked = [path for _method, path, *_rest in cluster.pve.log if "/nodes/pve2/" in path]
        assert len(asked) <= reading.READERS * session_module.ATTEMPTS + 20


@pytest.mark.parametrize("answer", [(596, "Connection timed out"), (595, "No route to host")])
def test_a_node_that_is_silent_for_a_while_does_not_end_a_create(
    answer: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "RETRY_FIRST", 0.001)
    with Running(world(guest(100, create_seconds=0.5))) as cluster:
        cluster.pve.fault("GET", r"/status$", 12, status=answer[0], reason=answer[1])
        assert entry(run_snap(cluster), 100)["status"] == "created"


def test_a_task_that_is_no_longer_known_is_judged_by_its_effect() -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.fault("GET", r"/status$", None, status=400, reason="no such task")
        report = run_snap(cluster)
        assert entry(report, 100)["status"] == "created"
        assert "no such task" in entry(report, 100)["warnings"][0]


def test_a_lost_post_is_remembered_while_its_guest_waits_for_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: the answer was lost, nothing was found, the next try met a lock, the one after it "already used"."""
    with Running(world(guest(100))) as cluster:
        cluster.pve.fault("POST", r"/snapshot$")

        def nothing(self: Any, *unused: Any) -> Any:
            yield from ()

        monkeypatch.setattr(tasks.Tasks, "_look_for", nothing)
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["WARNINGS: 1", "VM is locked (backup)"]
        report = run_snap(cluster)
        assert entry(report, 100)["status"] == "created"
        assert len(names(cluster, 100)) == 1


def test_the_answer_of_a_post_is_lost_and_then_the_node_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: nothing is given up before its time, and nothing sent again unseen."""
    monkeypatch.setattr(session_module, "RETRY_FIRST", 0.001)
    monkeypatch.setattr(tasks, "LOST_WAIT", 35.0)
    with Running(world(guest(100))) as cluster:
        cluster.pve.fault("POST", r"/snapshot$")
        cluster.pve.fault("GET", r"/tasks$", 9, status=596, reason="Connection timed out")
        report = run_snap(cluster)
        assert entry(report, 100)["status"] == "created"
        assert len(writes(cluster)) == 1


def test_a_guest_that_moved_while_the_run_began_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100), guest(101))) as cluster:
        original = session_module.Session.read

        def moving(self: Any, *path: object, **values: Any) -> Any:
            if path[-1] == "config":
                cluster.pve.guest(100).node = "pve2"
            return original(self, *path, **values)

        monkeypatch.setattr(session_module.Session, "read", moving)
        report = run_snap(cluster)
        assert report.result["summary"]["created"] == 2


def test_a_guest_that_is_deleted_before_its_prune_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100, snapshots=daily(3)), guest(101, snapshots=daily(3)))) as cluster:
        original = session_module.Session.write_while

        def vanishing(self: Any, still: Any, method: str, *path: object, **values: Any) -> Any:
            if method == "delete" and cluster.pve.guest(100) is not None and 100 in path:
                cluster.pve.vms = [vm for vm in cluster.pve.vms if vm.vmid != 100]
                cluster.pve._by_id = {}
            return original(self, still, method, *path, **values)

        monkeypatch.setattr(session_module.Session, "write_while", vanishing)
        report = run_clean(cluster, keep=1)
        assert entry(report, 100)["status"] == "skipped"
        assert "gone" in entry(report, 100)["reason"]
        assert entry(report, 101)["status"] == "pruned"


def test_a_lock_met_in_a_delete_is_skipped_where_asked() -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["VM is locked (backup)"]
        assert entry(run_clean(cluster, keep=1, locked="skip"), 100)["status"] == "skipped"


def test_a_fresh_snapshot_counts_more_than_a_lock() -> None:
    with Running(world(guest(100, lock="backup", snapshots=[{"label": "daily", "count": 1, "age": 60}]))) as cluster:
        report = run_snap(cluster, min_interval="1h", locked="fail")
        assert entry(report, 100)["status"] == "unchanged"
        assert not report.failed


def test_a_task_that_outlives_its_time_changes_something() -> None:
    with Running(world(guest(100, create_seconds=3))) as cluster:
        assert run_snap(cluster, timeout="1s").result["changed"]


def test_the_storage_of_the_ram_is_in_the_table() -> None:
    with Running(world(guest(100, config={"scsi0": "ceph:vm-100-disk-0,size=1G", "vmstatestorage": "dir"}))) as cluster:
        report = run_snap(cluster, vmstate=True)
        assert [row["storage"] for row in report.result["storages"]] == ["ceph", "dir"]


def test_broken_snapshots_of_others_are_reported_too() -> None:
    half = {"name": "by_hand", "age": 500, "description": "mine", "snapstate": "prepare"}
    with Running(world(guest(100, snapshots=[half]))) as cluster:
        assert [b["snapshot"] for b in run_info(cluster).result["broken"]] == ["by_hand"]
        report = run_snap(cluster)
        assert [b["snapshot"] for b in report.result["broken"]] == ["by_hand"]
        assert "by_hand" in names(cluster, 100)


def test_odd_values_in_the_resources_cost_nobody_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100), guest(101))) as cluster:
        original = session_module.Session.read

        def odd(self: Any, *path: object, **values: Any) -> Any:
            answer = original(self, *path, **values)
            if path == ("cluster", "resources"):
                for item in answer.data:
                    if item["type"] == "storage":
                        item.update(maxdisk="1e13", shared="1")
                    elif "vmid" in item:
                        item.update(template="", lock=None)
            return answer

        monkeypatch.setattr(session_module.Session, "read", odd)
        assert run_snap(cluster).result["summary"]["created"] == 2


def test_a_connection_cut_while_reading_is_retried() -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.fault("GET", r"/snapshot$", 1, before=True)
        assert entry(run_snap(cluster), 100)["status"] == "created"


@pytest.mark.parametrize("status", [596, 599, 504])
def test_a_write_that_may_have_run_is_looked_for(status: int) -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.fault("POST", r"/snapshot$", 1, status=status, reason="Connection timed out")
        report = run_snap(cluster)
        assert entry(report, 100)["status"] == "created"
        assert len(names(cluster, 100)) == 1


def test_a_node_that_dies_leaves_its_guests_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "RETRY_MAX", 0.01)
    with Running(world(guest(100), guest(101, node="pve2"))) as cluster:
        cluster.pve.fault("GET", r"/nodes/pve2/", None, status=595, reason="No route to host")
        report = run_snap(cluster)
        assert (entry(report, 100)["status"], entry(report, 101)["status"]) == ("created", "unreachable")


# ------------------------------------------------------------------------ info


def test_info_lists_what_is_managed_and_what_is_broken() -> None:
    half = {"name": "autodaily261101000000", "age": 500, "description": "cv4pve-autosnap", "snapstate": "prepare"}
    by_hand = {"name": "mine", "age": 9999, "description": "x"}
    with Running(world(guest(100, snapshots=[*daily(2), *daily(1, "weekly"), half, by_hand]), guest(101, lock="snapshot",
                       snapshots=[half]), guest(102, status="stopped", template=True))) as cluster:
        report = run_info(cluster)
        assert not report.failed
        listed = {(s["label"], s["state"]) for s in entry(report, 100)["snapshots"]}
        assert listed == {("daily", "whole"), ("weekly", "whole"), ("daily", "broken")}
        assert entry(report, 100)["foreign"] == 1
        assert [s["state"] for s in entry(report, 101)["snapshots"]] == ["in_progress"]
        [broken] = report.result["broken"]
        assert (broken["vmid"], broken["lock"], broken["task"]) == (100, None, "")
        assert 490 <= broken["age"] <= 600
        assert {s["label"] for s in entry(run_info(cluster, label=["weekly"]), 100)["snapshots"]} == {"weekly"}
        assert not writes(cluster)


def test_info_names_the_task_that_left_a_broken_snapshot() -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        cluster.pve.half_deletes.add(100)
        run_clean(cluster, keep=2)
        [locked] = run_info(cluster).result["broken"]
        assert locked["lock"] == "snapshot-delete"
        cluster.pve.set_lock(cluster.pve.guest(100), None)
        [broken] = run_info(cluster).result["broken"]
        assert (broken["snapstate"], broken["lock"]) == ("delete", None)
        assert ":qmdelsnapshot:100:" in broken["task"]
        assert "qemu-img snapshot -d" in broken["task_result"]


def test_info_needs_vm_audit_only() -> None:
    with Running(world(guest(100, snapshots=daily(1)), tokens={
            TOKEN: {"secret": SECRET, "grants": {"/vms": ["VM.Audit"]}}})) as cluster:
        assert len(entry(run_info(cluster), 100)["snapshots"]) == 1


def test_info_tells_what_it_could_not_read() -> None:
    nodes = {"pve1": {}, "pve2": {"online": False}}
    with Running(world(guest(100), guest(101, node="pve2"), nodes=nodes)) as cluster:
        report = run_info(cluster, "@all,nosuch")
        assert report.failed
        assert entry(report, 101)["status"] == "unreachable"
        assert any("101" in warning for warning in report.warnings)


# ----------------------------------------------------------------------- sizes


def test_a_guest_s_entry_stays_small() -> None:
    with Running(world(guest(100, name="n" * 60, snapshots=daily(8)), guest(101, lock="backup"))) as cluster:
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["x" * 2000]
        report = run_snap(cluster, keep=1, lock_timeout="1s")
        for item in report.result["guests"]:
            assert len(json.dumps(item)) <= 1024
        full = run_snap(cluster, keep=1, lock_timeout="1s", verbosity="full")
        assert entry(full, 100)["kept"][0]["why"]


def test_api_calls_of_a_steady_state_run_on_100_guests(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the pace of real life: 2 s a create, 3 s a delete, and our own polling."""
    monkeypatch.setattr(watcher, "POLL_FIRST", 0.5)
    many = {"first": 1000, "count": 100, "name": "vm", "nodes": ["pve1", "pve2"], "guest": guest(0, snapshots=daily(3))}
    with Running(world(many=many, create_seconds=2, delete_seconds=3)) as cluster:
        report = run_snap(cluster, keep=3)
        assert report.result["summary"]["created"] == 100
        assert sum(len(item["pruned"]) for item in report.result["guests"]) == 100
        with capsys.disabled():
            print("\n100 guests, one created and one pruned each: {0:.2f} API calls per guest".format(
                report.result["api_calls"] / 100))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("label", "da ily", "'label'"),
        ("label", "d" * 30, "'label'"),
        ("timestamp_format", "dMyyyy", "'timestamp_format'"),
        ("timezone", "Mars/Olympus", "'timezone'"),
        ("prefix", "1x", "'prefix'"),
        ("description", "", "'description'"),
        ("description", "0", "'description'"),
        ("adopt", ["x", " "], "'adopt'"),
        ("keep", 0, "'keep'"),
        ("retention", {}, "'retention'"),
        ("retention", {"daily": 0}, "'retention'"),
        ("retention", {"daily": -1}, "'retention'"),
        ("retention", {"within": "soon"}, "'retention'"),
        ("lock_timeout", "ten", "'lock_timeout'"),
        ("min_storage_free", "lots", "'min_storage_free'"),
        ("max_storage_percent", 101, "'max_storage_percent'"),
        ("max_parallel", 0, "'max_parallel'"),
        ("hook", "/nonexistent", "'hook'"),
        ("hook_timeout", "0", "'hook_timeout'"),
        ("expect_guests", "many", "'expect_guests'"),
        ("expect_guests", True, "'expect_guests'"),
        ("expect_guests", -5, "'expect_guests'"),
        ("expect_guests", [100.7], "'expect_guests'"),
        ("guests", "@nonsense", "'guests'"),
        ("api_host", ["http://x"], "'api_host'"),
        ("api_host", [], "'api_host'"),
        ("api_token", "nonsense", "'api_token'"),
        ("ca_path", "/nonexistent", "'ca_path'"),
        ("ca_path", __file__, "'ca_path'"),
    ],
)
def test_bad_input_names_the_option_before_anything_is_touched(option: str, value: Any, words: str) -> None:
    with Running(world(guest(100))) as cluster:
        given = {option: value}
        with pytest.raises(InputError) as refused:
            run_snap(cluster, given.pop("guests", "@all"), **given)
        assert str(refused.value).startswith("option " + words)
        assert "\n" not in str(refused.value)
        assert not cluster.pve.log


@pytest.mark.parametrize("name", ["current\n", "a", "x" * 41, "1a", "ä1"])
def test_a_bad_name_never_reaches_the_server(name: str) -> None:
    with Running(world(guest(100))) as cluster:
        session = connect(arguments.connection(params(arguments.SNAP, cluster, guests="100"), {}))
        made = tasks.Tasks(session, Cluster(session))
        with pytest.raises(PveError, match=re.escape(repr(name))):
            next(made.create(Guest(100, "qemu", "pve1", "running"), name, "x", False, 1.0, lambda upid: None))
        assert not cluster.pve.log


def test_what_is_kept_is_told_by_what_was_done() -> None:
    """A create that failed is not among what stays, and what it would have let go is."""
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        before = names(cluster, 100)
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["it broke"]
        report = run_snap(cluster, keep=3, verbosity="full")
        assert sorted(kept["name"] for kept in entry(report, 100)["kept"]) == sorted(before) == sorted(names(cluster, 100))
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["it broke too"]
        report = run_snap(cluster, keep=3, verbosity="full")
        why = {kept["name"]: kept["why"] for kept in entry(report, 100)["kept"]}
        assert sorted(why) == sorted(names(cluster, 100))
        assert why[before[0]] == ["no rule keeps it, but it was not deleted in this run"]


def test_a_delete_that_finds_nothing_changes_nothing() -> None:
    """api-facts 10: somebody else was quicker."""
    with Running(world(guest(100, snapshots=daily(2)))) as cluster:
        oldest = names(cluster, 100)[0]
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["snapshot '{0}' does not exist".format(oldest)]
        report = run_clean(cluster, keep=1)
        assert not report.result["changed"] and not report.failed
        assert entry(report, 100)["pruned"] == [] and entry(report, 100)["status"] == "unchanged"
        assert "already gone" in entry(report, 100)["warnings"][0]


def test_prunes_that_the_end_of_the_run_leaves_are_listed_also_after_a_failed_create(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100, snapshots=daily(5), delete_seconds=2))) as cluster:
        before = names(cluster, 100)
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["it broke"]
        time_is_up_when_seen(cluster, monkeypatch, "DELETE ")
        report = run_snap(cluster, keep=1, verbosity="full")
        said = " ".join([entry(report, 100)["reason"], *entry(report, 100)["errors"]])
        assert "not pruned: " + before[0] in said and before[3] in said and before[4] not in said


def test_with_locked_skip_nobody_is_told_to_unlock_a_guest_that_another_works_on() -> None:
    with Running(world(guest(100, snapshots=daily(2)))) as cluster:
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["VM is locked (snapshot-delete)"]
        oldest = names(cluster, 100)[0]
        cluster.when_written(lambda: (
            cluster.pve.guest(100).snapshots[oldest].update(snapstate="delete"),
            cluster.pve.set_lock(cluster.pve.guest(100), "snapshot-delete")))
        report = run_clean(cluster, keep=1, locked="skip")
        assert entry(report, 100)["status"] == "skipped"
        assert "unlock" not in entry(report, 100)["reason"]


def test_what_is_half_made_under_a_lock_that_outlives_lock_timeout_is_broken() -> None:
    half = {"name": "autodaily261101000000", "age": 1000, "description": "cv4pve-autosnap", "snapstate": "prepare"}
    with Running(world(guest(100, lock="backup", snapshots=[*daily(1), half]))) as cluster:
        report = run_snap(cluster, lock_timeout="1s")
        assert entry(report, 100)["status"] == "deferred"
        assert [broken["snapshot"] for broken in report.result["broken"]] == ["autodaily261101000000"]


def test_many_that_wait_for_the_resources_share_one_failure() -> None:
    """Not one after the other, each with all its tries, while the API is down."""
    asked: list[int] = []
    come: list[int] = []

    class Dead:
        def resources(self, owed: bool = False) -> Any:
            asked.append(1)
            until(lambda: len(come) == 20)
            time.sleep(0.5)  # the last of them is about to wait
            raise PveError("down")

    live = acting.LiveResources(Dead())  # type: ignore[arg-type]

    def ask(number: int) -> object:
        come.append(number)
        return pytest.raises(PveError, live.get)

    with ThreadPoolExecutor(20) as pool:
        failed = list(pool.map(ask, range(20)))
    assert len(failed) == 20 and len(asked) <= 2


def test_resources_that_are_no_list_are_an_error_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100))) as cluster:
        monkeypatch.setattr(session_module.Session, "read", lambda self, *path, **values: session_module.Answer(7))
        with pytest.raises(PveError, match="the answer about the cluster's resources was not understood"):
            run_snap(cluster)


ODD_ENTRIES = [
    {"vmid": 101, "id": "qemu/101"}, {"type": ["qemu"], "vmid": 101}, {"type": "qemu", "vmid": 101}, "x", None,
    {"type": "qemu", "vmid": "many", "node": "pve1"}, {"type": "qemu", "vmid": 1e300, "node": "pve1"},
    {"type": "lxc", "vmid": 101, "node": "../../access"}, {"type": "qemu", "vmid": 100, "node": "pve2", "id": "qemu/100"}]


@pytest.mark.parametrize("odd", ODD_ENTRIES, ids=repr)
@pytest.mark.parametrize("on_unmatched", ["fail", "warn"])
def test_law_10_an_entry_of_the_cluster_that_cannot_be_read_is_named(
    odd: Any, on_unmatched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = session_module.Session.read

    def read(self: Any, *path: object, **values: Any) -> Any:
        answer = original(self, *path, **values)
        return session_module.Answer([*answer.data, odd]) if path == ("cluster", "resources") else answer

    monkeypatch.setattr(session_module.Session, "read", read)
    with Running(world(guest(100))) as cluster:
        for report in (run_snap(cluster, on_unmatched=on_unmatched), run_info(cluster, on_unmatched=on_unmatched)):
            assert len(report.result["unreadable"]) == 1 and report.result["unreadable"][0] in report.warnings
            assert report.failed == (on_unmatched == "fail")
        assert len(names(cluster, 100)) == 1


def test_a_secret_in_the_wrong_option_is_not_repeated() -> None:
    with Running(world(guest(100))) as cluster, pytest.raises(arguments.InputError) as raised:
        run_snap(cluster, api_token=None, api_token_id="autosnap@pve!test=" + SECRET, api_token_secret="x")
    assert SECRET not in str(raised.value) and "api_token" in str(raised.value)


def test_what_a_guest_holds_after_a_run_is_told_as_it_is() -> None:
    with Running(world(guest(100, snapshots=[*daily(3), *daily(2, "weekly")]), guest(101, node="pve2"), guest(102),
                       nodes={"pve1": {}, "pve2": {"online": False}})) as cluster:
        began = int(time.time())
        checked = run_snap(cluster, keep=2, check=True)
        report = run_snap(cluster, keep=2)
        for made in (checked, report):
            [held] = entry(made, 100)["held"]
            assert (held["label"], held["count"]) == ("daily", 2)
            assert began - 1 <= held["newest"] <= time.time() + 1
            assert entry(made, 101)["held"] == []
            assert entry(made, 102)["held"][0]["count"] == 1
            assert {item["vmid"]: item["red"] for item in made.result["guests"]} == {100: False, 101: True, 102: False}
        cleaned = run_clean(cluster, "100", label=["*"], keep=1)
        assert [(held["label"], held["count"]) for held in entry(cleaned, 100)["held"]] == [("daily", 1), ("weekly", 1)]
        listed = entry(run_info(cluster), 100)["snapshots"]
        assert {s["label"]: s["snaptime"] for s in listed} == {h["label"]: h["newest"] for h in entry(cleaned, 100)["held"]}


def test_who_made_a_snapshot_stands_in_its_description_and_it_counts_as_any_other() -> None:
    with Running(world(guest(100), guest(101, type="lxc"))) as cluster:
        made_by = {"job": 7, "template": "Snap", "user": "Zoë"}
        assert run_snap(cluster, keep=2, made_by=made_by).result["changed"]
        first = {vmid: dict(cluster.pve.guest(vmid).snapshots) for vmid in (100, 101)}
        for taken in first.values():
            assert [snapshot["description"].rstrip("\n") for snapshot in taken.values()] == [
                'cv4pve-autosnap\nautosnap: {"job": 7, "template": "Snap", "user": "Zo\\u00eb"}']
        # A run without it counts and prunes them all the same.
        report = run_snap(cluster, keep=1)
        assert not report.failed
        assert {vmid: entry(report, vmid)["pruned"] for vmid in first} == {vmid: list(taken) for vmid, taken in first.items()}


@pytest.mark.parametrize("made_by", [{}, {"job": None}, {"job": [1]}, {"job": "x" * 500}])
def test_who_made_it_is_a_short_line(made_by: dict[str, Any]) -> None:
    with Running(world(guest(100))) as cluster, pytest.raises(InputError, match="option 'made_by'"):
        run_snap(cluster, made_by=made_by)


@pytest.mark.parametrize(("text", "kind"), [
    ("unexpected status", "qemu"), ("Connection refused", "qemu"), ("Connection refused", "lxc"),
    ("VM 100 qmp command 'query-savevm' failed - client closed connection", "qemu")])
def test_a_create_that_leaves_its_lock_says_so_whatever_it_ended_with(text: str, kind: str) -> None:
    with Running(world(guest(100, type=kind, snapshots=daily(3)), guest(101))) as cluster:
        cluster.pve.half_creates[100] = text
        report = run_snap(cluster, keep=3)
        found = entry(report, 100)
        command = "pct" if kind == "lxc" else "qm"
        assert found["status"] == "failed"
        assert found["reason"].startswith("needs unlock: run '{0} unlock 100' as root on node pve1; create: ".format(command))
        assert text in found["reason"]
        [broken] = report.result["broken"]
        assert (broken["vmid"], broken["lock"], broken["snapstate"]) == (100, "snapshot", "prepare")
        assert [held["count"] for held in found["held"]] == [3] and entry(report, 101)["status"] == "created"


@pytest.mark.parametrize("kind", ["qemu", "lxc"])
def test_a_delete_that_breaks_is_among_the_broken_of_the_same_run(kind: str) -> None:
    with Running(world(guest(100, type=kind, half_deletes=True, snapshots=daily(3)))) as cluster:
        report = run_clean(cluster, keep=1)
        [broken] = report.result["broken"]
        assert (broken["vmid"], broken["snapshot"], broken["snapstate"]) == (100, names(cluster, 100)[0], "delete")
        assert [held["count"] for held in entry(report, 100)["held"]] == [2]


@pytest.mark.parametrize("repair", ["report", "retry"])
def test_clean_tells_of_an_interrupted_guest_though_it_has_nothing_to_prune(repair: str) -> None:
    """As a lost node leaves it: the lock is there, and no task works on it."""
    half = {"name": "autodaily261101000000", "age": 5000, "description": "cv4pve-autosnap", "snapstate": "delete"}
    with Running(world(guest(100, lock="snapshot-delete", snapshots=[*daily(2), half]), guest(101))) as cluster:
        report = run_clean(cluster, keep=5, repair=repair, lock_timeout="1s")
        assert report.failed and entry(report, 101)["status"] == "unchanged"
        assert entry(report, 100)["status"] == "failed"
        assert "needs unlock: run 'qm unlock 100' as root on node pve1" in entry(report, 100)["reason"]
        assert [broken["snapshot"] for broken in report.result["broken"]] == [half["name"]]
        assert any("autodaily261101000000 is broken (delete)" in warning for warning in report.warnings)
        assert not writes(cluster)


def test_check_mode_tells_what_clean_would_wait_for() -> None:
    half = {"name": "autodaily261101000000", "age": 5000, "description": "cv4pve-autosnap", "snapstate": "delete"}
    with Running(world(guest(100, lock="snapshot-delete", snapshots=[*daily(2), half]))) as cluster:
        found = entry(run_clean(cluster, keep=5, check=True), 100)
        assert found["reason"] == "locked (snapshot-delete), with autodaily261101000000 half done: waited for"
        # Where there is something to prune, that is what a guest is waited for.
        assert entry(run_clean(cluster, keep=1, check=True), 100)["reason"] == ""


def test_clean_leaves_a_guest_alone_on_which_somebody_works() -> None:
    """It waits for the end where it does not see who does."""
    half = {"name": "autodaily261101000000", "age": 50, "description": "cv4pve-autosnap", "snapstate": "prepare"}
    with Running(world(guest(100, lock="snapshot", snapshots=[*daily(2), half]))) as cluster:
        one = cluster.pve.guest(100)

        def end() -> None:
            one.snapshots[half["name"]].pop("snapstate")
            cluster.pve.set_lock(one, None)

        cluster.when_seen("GET .*/cluster/resources", end, count=2)
        report = run_clean(cluster, keep=5, lock_timeout="60s")
        assert not report.failed and entry(report, 100)["status"] == "unchanged"
        assert report.result["broken"] == [] and not report.warnings


def test_clean_is_never_silent_on_a_young_lock_that_stays() -> None:
    """Without Sys.Audit nobody is seen to work on it, and it may be half an hour old."""
    half = {"name": "autodaily261101000000", "age": 600, "description": "cv4pve-autosnap", "snapstate": "prepare"}
    with Running(world(guest(100, lock="snapshot", snapshots=[*daily(2), half]))) as cluster:
        report = run_clean(cluster, keep=5, lock_timeout="1s")
        assert report.failed and "needs unlock: run 'qm unlock 100'" in entry(report, 100)["reason"]


@pytest.mark.parametrize("text", [
    "cfs-lock 'storage-x' error: got lock request timeout",
    "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout"])
def test_a_create_that_leaves_its_lock_is_called_so_whatever_its_text(text: str) -> None:
    """Also where the text is one that is waited for."""
    with Running(world(guest(100, snapshots=daily(2)))) as cluster:
        cluster.pve.half_creates[100] = text
        report = run_snap(cluster, lock_timeout="0")
        assert entry(report, 100)["status"] == "failed"
        assert "needs unlock: run 'qm unlock 100' as root on node pve1" in entry(report, 100)["reason"]


def test_what_a_guest_holds_is_read_again_after_a_wait() -> None:
    with Running(world(guest(100, lock="backup", snapshots=daily(3)), guest(101, snapshots=daily(3)))) as cluster:
        one = cluster.pve.guest(100)

        def change() -> None:
            for name in sorted(one.snapshots)[:2]:
                one.snapshots.pop(name)

        cluster.when_seen("POST .*/101/snapshot", change)
        report = run_snap(cluster, lock_timeout="2s")
        assert entry(report, 100)["status"] == "deferred"
        assert entry(report, 100)["held"][0]["count"] == 1


@pytest.mark.parametrize("name", ["snap", "clean", "info"])
def test_what_has_just_been_begun_is_not_called_broken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another control node begins a snapshot between the reading of the lock and that of the list."""
    with Running(world(guest(100, snapshots=daily(2)))) as cluster:
        one, original, begun = cluster.pve.guest(100), Cluster.snapshots, "autodaily261101000000"

        def end() -> None:
            one.snapshots[begun].pop("snapstate")
            cluster.pve.set_lock(one, None)

        def overtaken(self: Cluster, of: Guest) -> Any:
            if begun not in one.snapshots:
                cluster.pve.set_lock(one, "snapshot")
                one.snapshots[begun] = {
                    "snaptime": int(time.time()), "description": "cv4pve-autosnap", "snapstate": "prepare"}
                threading.Timer(0.5, end).start()
            return original(self, of)

        monkeypatch.setattr(Cluster, "snapshots", overtaken)
        report = {"snap": run_snap, "clean": run_clean, "info": run_info}[name](
            cluster, **{} if name == "info" else {"keep": 5, "lock_timeout": "20s"})
        assert report.result["broken"] == [] and not report.failed
        assert not any("broken" in warning for warning in report.warnings)


def test_what_is_held_is_what_the_guest_has_in_the_end() -> None:
    """One delete fails, one snapshot is edited and one removed by somebody in mid-run."""
    with Running(world(guest(100, snapshots=[*daily(5), *daily(2, "weekly")]))) as cluster:
        one = cluster.pve.guest(100)
        _first, _second, third, fourth, _fifth = [name for name in names(cluster, 100) if "daily" in name]
        cluster.pve.delete_seconds = 0.5
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["", "storage is full"]

        def meddle() -> None:
            one.snapshots[fourth]["description"] = "mine now"
            cluster.pve.drop_snapshot(one, third)

        cluster.when_written(meddle)
        report = run_clean(cluster, keep=3, label=["daily", "weekly"])
        listed = {s["label"]: s for s in entry(run_info(cluster), 100)["snapshots"]}
        counts = {label: sum(1 for s in entry(run_info(cluster), 100)["snapshots"] if s["label"] == label) for label in listed}
        assert {held["label"]: held["count"] for held in entry(report, 100)["held"]} == counts
        assert {held["label"]: held["newest"] for held in entry(report, 100)["held"]} == {
            label: max(s["snaptime"] for s in entry(run_info(cluster), 100)["snapshots"] if s["label"] == label)
            for label in counts}


@pytest.mark.parametrize("offset", [0, 3, -3600])
def test_the_newest_that_is_held_has_the_server_s_time(offset: int) -> None:
    with Running(world(guest(100, snapshots=daily(2)), nodes={"pve1": {"clock_offset": offset}}, create_seconds=1.2)) as cluster:
        found = entry(run_snap(cluster, keep=5), 100)
        newest = max(values["snaptime"] for name, values in cluster.pve.guest(100).snapshots.items() if name.startswith("auto"))
        assert found["held"] == [{"label": "daily", "count": 3, "newest": newest}]


def test_a_snapshot_of_another_timestamp_format_is_never_pruned_by_every_label() -> None:
    old = [{"name": "autodaily2026112{0}020000".format(day), "age": 100_000 - day, "description": "cv4pve-autosnap"}
           for day in range(3)]
    with Running(world(guest(100, snapshots=[*daily(2), *old]))) as cluster:
        report = run_clean(cluster, label=["*"], keep=0)
        assert sorted(names(cluster, 100)) == sorted(one["name"] for one in old)
        [warning] = report.warnings
        assert warning == (
            "guest 100: snapshot autodaily20261120020000 is perhaps of another timestamp_format than this run's: no run with "
            "this one would ever prune it. So it is with 2 more")
        shown = run_info(cluster)
        assert {s["name"]: (s["state"], s["label"]) for s in entry(shown, 100)["snapshots"]} == {
            one["name"]: ("ambiguous", "daily20") for one in old}
        assert list(shown.warnings) == [warning]
        run_clean(cluster, label=["daily20"], keep=0)
        assert names(cluster, 100) == []


def test_a_wrong_one_time_code_is_called_so() -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.otp = "123456"
        words = "took the password of 'autosnap@pve' and refused the one-time code; check api_otp"
        with pytest.raises(AuthenticationFailed, match=words):
            run_snap(cluster, api_token=None, api_user="autosnap@pve", api_password="pass-word-77", api_otp="000000")


def test_a_silent_node_is_named_and_what_is_not_known_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task ended long before ``timeout``, and nobody could see that."""
    with Running(world(guest(100, node="pve2"), create_seconds=0.2)) as cluster:
        monkeypatch.setattr(watcher, "POLL_MAX", 0.2)
        cluster.pve.fault("GET", r"/nodes/pve2/tasks", None, status=595, reason="Connection refused")
        report = run_snap(cluster, timeout="2s")
        found = entry(report, 100)
        assert found["status"] == "timeout"
        assert found["reason"].startswith("how the task ended is not known, since node pve2 has not answered for ")
        assert "still ran" not in found["reason"] and "595 Connection refused" in found["reason"]


def test_an_answer_595_names_its_node() -> None:
    with Running(world(guest(100, node="pve2"))) as cluster:
        cluster.pve.fault("GET", r"/nodes/pve2/", None, status=595, reason="Connection refused")
        found = entry(run_snap(cluster, api_timeout="1s"), 100)
        assert (found["status"], found["reason"]) == ("unreachable", "node pve2 does not answer: 595 Connection refused")


@pytest.mark.parametrize("locked", ["wait", "skip", "fail"])
def test_a_create_that_leaves_its_lock_says_so_with_the_text_of_another_lock_too(
    locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "STUCK_WAIT", 0.5)
    with Running(world(guest(100))) as cluster:
        cluster.pve.half_creates[100] = "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout"
        report = run_snap(cluster, locked=locked, lock_timeout="2s")
        assert "needs unlock: run 'qm unlock 100'" in entry(report, 100)["reason"]
        assert [broken["snapstate"] for broken in report.result["broken"]] == ["prepare"]


def test_a_create_that_loses_quorum_at_its_commit_says_that_it_left_its_lock() -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.half_creates[100] = "unable to open file '/etc/pve/nodes/n/qemu-server/100.conf.tmp.1' - Permission denied"
        cluster.pve.lose_quorum()
        report = run_snap(cluster)
        assert "needs unlock: run 'qm unlock 100'" in entry(report, 100)["reason"]
        assert "Permission denied" in entry(report, 100)["reason"]
        assert [broken["snapstate"] for broken in report.result["broken"]] == ["prepare"]


def test_info_calls_nothing_broken_that_began_after_the_task_that_failed() -> None:
    """Without Sys.Audit the task of somebody else is not seen, and the last that is seen is an old one of ours."""
    with Running(world(guest(100))) as cluster:
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["no space left"]
        assert run_snap(cluster).failed
        one = cluster.pve.guest(100)
        one.snapshots["by_hand"] = {"snaptime": int(time.time()) + 200, "description": "", "snapstate": "prepare"}
        cluster.pve.set_lock(one, "snapshot")
        assert run_info(cluster).result["broken"] == []


def test_what_is_not_known_at_the_end_of_a_run_is_said_so() -> None:
    with Running(world(guest(100, node="pve2"), create_seconds=0.2)) as cluster:
        cluster.pve.fault("GET", r"/nodes/pve2/tasks", None, status=595, reason="Connection refused")
        found = entry(run_snap(cluster, run_timeout="3s"), 100)
        assert found["status"] == "timeout" and "how the task ended is not known" in found["reason"]
        assert "still runs" not in found["reason"]


def test_a_write_whose_answer_a_node_owes_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(world(guest(100, node="pve2"))) as cluster:
        cluster.pve.fault("POST", r"/snapshot$", None, status=596, reason="Connection timed out")
        found = entry(run_snap(cluster), 100)
        assert found["status"] == "failed"
        assert found["reason"] == "node pve2 may have carried it out, and did not answer: 596 Connection timed out"
