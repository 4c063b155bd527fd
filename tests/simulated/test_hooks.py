# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks: what they are told, what their exit codes mean, and that none of them stops a run."""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import signal
import threading
import time
from typing import Any, Iterator

import ansible_collections.pve.autosnap.plugins.module_utils.jobs.hooks as hooks_module
import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.hooks import clean_environment
from simulator.running import Running, until
from worlds import SECRET, daily, entry, guest, hook, names, run_clean, run_snap, world

EXAMPLES = pathlib.Path(hooks_module.__file__).parents[3] / "playbooks" / "files" / "hooks"
OLD_NAMES = (
    "PHASE", "VMID", "VMNAME", "VMTYPE", "LABEL", "KEEP", "SNAP_NAME", "VMSTATE", "DURATION", "STATE", "DEBUG", "DRY_RUN")


def gone(pid: int) -> bool:
    """True when the process has ended, also where nobody has collected it yet."""
    try:
        state = pathlib.Path("/proc/{0}/stat".format(pid)).read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


def phases(report: Any) -> list[tuple[str, Any]]:
    return [(call["phase"], call["vmid"]) for call in report.result["hooks"]]


def test_every_phase_with_every_variable(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    path = hook(tmp_path, "env | grep AUTOSNAP_ | sort | tr '\\n' ' ' >> {0}; echo >> {0}".format(log))
    with Running(world(guest(100, snapshots=daily(2)))) as cluster:
        report = run_snap(cluster, keep=2, hook=path)
        assert phases(report) == [
            ("snap-job-start", None), ("snap-create-pre", 100), ("snap-create-post", 100), ("snap-remove-pre", 100),
            ("snap-remove-post", 100), ("snap-job-end", None)]
        clean = run_clean(cluster, keep=1, hook=path)
        assert [phase for phase, _vmid in phases(clean)] == [
            "clean-job-start", "snap-remove-pre", "snap-remove-post", "clean-job-end"]
        lines = [dict(word.split("=", 1) for word in line.split()) for line in log.read_text().splitlines()]
        for line in lines:
            assert {"CV4PVE_AUTOSNAP_" + name for name in OLD_NAMES} <= set(line)
            assert {"AUTOSNAP_NODE", "AUTOSNAP_UPID", "AUTOSNAP_ERROR", "AUTOSNAP_HOST"} <= set(line)
        post = lines[2]
        assert post["CV4PVE_AUTOSNAP_PHASE"] == "snap-create-post"
        assert post["CV4PVE_AUTOSNAP_VMID"] == "100"
        assert post["CV4PVE_AUTOSNAP_VMNAME"] == "vm100"
        assert post["CV4PVE_AUTOSNAP_VMTYPE"] == "qemu"
        assert post["CV4PVE_AUTOSNAP_LABEL"] == "daily"
        assert post["CV4PVE_AUTOSNAP_KEEP"] == "2"
        assert post["CV4PVE_AUTOSNAP_STATE"] == "1"
        assert post["CV4PVE_AUTOSNAP_SNAP_NAME"] == entry(report, 100)["snapshot"]
        assert float(post["CV4PVE_AUTOSNAP_DURATION"]) > 0
        assert post["AUTOSNAP_NODE"] == "pve1"
        assert post["AUTOSNAP_UPID"].startswith("UPID:pve1:")
        assert post["AUTOSNAP_HOST"] == cluster.hosts[0]


@pytest.mark.parametrize(("mode", "status"), [("continue", "created"), ("skip_guest", "skipped")])
def test_a_failing_pre_hook(tmp_path: pathlib.Path, mode: str, status: str) -> None:
    path = hook(tmp_path, '[ "$CV4PVE_AUTOSNAP_PHASE-$CV4PVE_AUTOSNAP_VMID" = snap-create-pre-100 ] && echo no && exit 3; exit 0')
    with Running(world(guest(100), guest(101))) as cluster:
        report = run_snap(cluster, hook=path, on_hook_failure=mode)
        assert (entry(report, 100)["status"], entry(report, 101)["status"]) == (status, "created")
        assert report.failed == (mode == "skip_guest")
        of_100 = [phase for phase, vmid in phases(report) if vmid == 100]
        assert of_100 == ["snap-create-pre", "snap-create-abort" if mode == "skip_guest" else "snap-create-post"]
        said = json.dumps(entry(report, 100))
        assert "exit code 3: no" in said


def test_law_5_what_is_pinned_while_the_pre_hook_runs_is_not_deleted(tmp_path: pathlib.Path) -> None:
    path = hook(tmp_path, "[ $CV4PVE_AUTOSNAP_PHASE != snap-remove-pre ] || sleep 1\n")
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        oldest = names(cluster, 100)[0]
        cluster.when_seen(
            r"GET .*/100/snapshot", lambda: cluster.pve.guest(100).snapshots[oldest].update(description="I need this"), 2)
        report = run_clean(cluster, keep=1, hook=path)
        assert oldest in names(cluster, 100)
        assert len(entry(report, 100)["pruned"]) == 1
        assert "snap-remove-abort" in [phase for phase, _vmid in phases(report)]


def test_a_veto_of_a_delete_and_of_the_whole_job(tmp_path: pathlib.Path) -> None:
    path = hook(tmp_path, '[ "$CV4PVE_AUTOSNAP_PHASE" = snap-remove-pre ] && exit 1; exit 0')
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        report = run_clean(cluster, keep=1, hook=path, on_hook_failure="skip_guest")
        assert entry(report, 100)["status"] == "skipped"
        assert len(names(cluster, 100)) == 3
        path = hook(tmp_path, "exit 1")
        report = run_snap(cluster, hook=path, on_hook_failure="skip_guest")
        assert entry(report, 100)["status"] == "skipped"
        assert len(names(cluster, 100)) == 3


def test_abort_follows_pre_when_the_create_or_the_delete_fails(tmp_path: pathlib.Path) -> None:
    path = hook(tmp_path, 'echo "$AUTOSNAP_ERROR"')
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["storage broke"]
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ["storage broke again"]
        report = run_snap(cluster, keep=1, hook=path)
        assert [phase for phase, vmid in phases(report) if vmid] == [
            "snap-create-pre", "snap-create-abort", "snap-remove-pre", "snap-remove-abort"]
        outputs = {call["phase"]: call["output"].strip() for call in report.result["hooks"]}
        assert outputs["snap-create-abort"] == "storage broke"
        assert outputs["snap-remove-abort"] == "storage broke again"


def test_post_comes_right_after_the_create_not_after_the_deletes(tmp_path: pathlib.Path) -> None:
    """peers B20."""
    path = hook(tmp_path, "exit 0")
    with Running(world(guest(100, snapshots=daily(4), delete_seconds=0.3))) as cluster:
        order = [phase for phase, _vmid in phases(run_snap(cluster, keep=1, hook=path))]
        assert order.index("snap-create-post") < order.index("snap-remove-pre")


def test_a_hook_that_hangs_is_killed_with_its_children(tmp_path: pathlib.Path) -> None:
    pid = tmp_path / "pid"
    path = hook(tmp_path, 'trap "" TERM; sleep 77 & echo $! > {0}; sleep 77'.format(pid))
    with Running(world(guest(100))) as cluster:
        began = time.monotonic()
        report = run_snap(cluster, hook=path, hook_timeout="1s")
        assert time.monotonic() - began < 40
        assert entry(report, 100)["status"] == "created"
        assert "was killed after 1 s" in entry(report, 100)["warnings"][0]
        until(lambda: gone(int(pid.read_text())))


def test_a_child_that_holds_the_output_does_not_hold_the_run(tmp_path: pathlib.Path) -> None:
    pid = tmp_path / "pid"
    path = hook(tmp_path, "echo hello; sleep 30 & echo $! >> {0}".format(pid))
    with Running(world(guest(100))) as cluster:
        began = time.monotonic()
        report = run_snap(cluster, hook=path)
        assert time.monotonic() - began < 20
        assert report.result["hooks"][0]["output"] == "hello\n"
    for child in pid.read_text().split():
        os.kill(int(child), signal.SIGKILL)


def test_output_is_bounded(tmp_path: pathlib.Path) -> None:
    path = hook(tmp_path, "head -c 10000000 /dev/zero | tr '\\0' x")
    with Running(world(guest(100))) as cluster:
        report = run_snap(cluster, hook=path)
        assert all(len(call["output"]) <= 1024 for call in report.result["hooks"])
        assert not report.failed


def test_a_file_that_is_no_program(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "hook"
    path.write_text("\x00\x01 no program")
    path.chmod(0o755)
    with Running(world(guest(100))) as cluster:
        report = run_snap(cluster, hook=str(path))
        assert "could not be started" in entry(report, 100)["warnings"][0]
        assert not report.failed


def test_check_mode_runs_no_hook_and_lists_what_it_would(tmp_path: pathlib.Path) -> None:
    """Law 11."""
    ran = tmp_path / "ran"
    path = hook(tmp_path, "touch {0}".format(ran))
    with Running(world(guest(100, snapshots=daily(2)))) as cluster:
        planned = run_snap(cluster, keep=2, hook=path, check=True)
        assert not ran.exists()
        assert all(call["would_run"] for call in planned.result["hooks"])
        assert phases(planned) == phases(run_snap(cluster, keep=2, hook=path))
        assert ran.exists()


def test_check_mode_lists_the_hooks_of_repairs(tmp_path: pathlib.Path) -> None:
    """Law 11."""
    path = hook(tmp_path, "exit 0")
    half = {"name": "autodaily261101000000", "age": 1000, "description": "cv4pve-autosnap", "snapstate": "delete"}
    with Running(world(guest(100, snapshots=[*daily(2), half]))) as cluster:
        planned = run_clean(cluster, keep=1, hook=path, repair="retry", check=True)
        assert phases(planned) == phases(run_clean(cluster, keep=1, hook=path, repair="retry"))
        assert len(phases(planned)) == 6


def test_law_12_a_hook_sees_no_secret(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXMOX_TOKEN_SECRET", SECRET)
    monkeypatch.setenv("SOMETHING_ELSE", "x{0}y".format(SECRET))
    path = hook(tmp_path, "env")
    with Running(world(guest(100))) as cluster:
        report = run_snap(cluster, hook=path)
        text = json.dumps(report.result)
        assert "AUTOSNAP_HOST" in text
        assert SECRET not in text
        assert "PROXMOX_" not in text


def test_the_environment_loses_nothing_else() -> None:
    cleaned = clean_environment({"PATH": "/bin", "PROXMOX_HOST": "a", "X": "1 s3 2"}, frozenset(["s3"]))
    assert cleaned == {"PATH": "/bin"}


# --------------------------------------------------------------- example hooks


class Sink(http.server.BaseHTTPRequestHandler):
    """Takes every POST and remembers it."""

    received: list[tuple[str, str, str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.received.append((self.path, self.headers.get("Authorization", ""), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_unused: Any) -> None:
        """Quiet."""


@pytest.fixture
def sink() -> Iterator[str]:
    Sink.received = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield "http://127.0.0.1:{0}".format(server.server_port)
    server.shutdown()
    server.server_close()


def test_the_hooks_are_executable_after_install() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir() if os.access(path, os.X_OK)) == ["print", "push_metrics"]


def test_the_example_that_prints() -> None:
    with Running(world(guest(100))) as cluster:
        report = run_snap(cluster, hook=str(EXAMPLES / "print"))
        assert "CV4PVE_AUTOSNAP_PHASE=snap-create-pre" in report.result["hooks"][1]["output"]


@pytest.mark.parametrize("form", ["pushgateway", "influxdb", "json", "loki"])
def test_the_example_that_pushes(form: str, sink: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("AUTOSNAP_PUSH_FORMAT", form)
    monkeypatch.setenv("AUTOSNAP_PUSH_URL", sink)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "push").write_text("push-token")
    monkeypatch.setenv("AUTOSNAP_PUSH_TOKEN_FILE", str(tmp_path / "push"))
    with Running(world(guest(100, name='we"b\\1', snapshots=daily(1)))) as cluster:
        cluster.pve.task_errors[(100, "qmdelsnapshot")] = ['it "broke"']
        report = run_snap(cluster, keep=1, hook=str(EXAMPLES / "push_metrics"))
        assert [call["rc"] for call in report.result["hooks"]] == [0] * 6, report.result["hooks"]
    assert len(Sink.received) == 3
    assert {auth for _path, auth, _body in Sink.received} == {"Bearer push-token"}
    created, removed, _job = Sink.received
    if form == "pushgateway":
        # A push replaces its group: each operation has its own.
        assert created[0] == "/metrics/job/autosnap/label/daily/vmid/100/operation/snap-create"
        assert removed[0] == "/metrics/job/autosnap/label/daily/vmid/100/operation/snap-remove"
        assert created[2].endswith("\n")
        assert 'success{name="we\\"b\\\\1",node="pve1"} 1\n' in created[2]
        assert "} 0\n" in removed[2]
    elif form == "influxdb":
        assert 'pve_autosnap,operation=snap-create,label=daily,vmid=100,name=we"b\\1,node=pve1 success=1i,' in created[2]
    elif form == "json":
        assert json.loads(created[2])["name"] == 'we"b\\1'
        assert json.loads(removed[2])["error"] == 'it "broke"'
    else:
        stream = json.loads(removed[2])["streams"][0]
        assert stream["stream"] == {"job": "autosnap", "label": "daily"}
        assert json.loads(stream["values"][0][1])["success"] == 0


def test_the_example_that_pushes_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSNAP_PUSH_FORMAT", "nonsense")
    monkeypatch.setenv("AUTOSNAP_PUSH_URL", "http://127.0.0.1:9")
    with Running(world(guest(100))) as cluster:
        report = run_snap(cluster, hook=str(EXAMPLES / "push_metrics"))
        assert "use pushgateway, influxdb, json or loki" in entry(report, 100)["warnings"][0]
