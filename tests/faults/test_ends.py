# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are cut off - killed, told to stop, out of time - and what the next one says about them."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import stat
import time

import pytest
from campaign import IDS, check, finish, module, site, start, state_of
from simulator.running import Running, until
from worlds import SECRET, hook


def records(cluster: Running) -> list[pathlib.Path]:
    return sorted((cluster.directory / "state").glob("*.run"))


def wait_for_tasks(cluster: Running, count: int = 1) -> None:
    """Until so many tasks are in the record."""
    until(lambda: sum(record.read_text().count('"upid"') for record in records(cluster)) >= count)


def wait_for(path: pathlib.Path, text: str) -> None:
    until(lambda: path.exists() and text in path.read_text())


def test_a_killed_run_is_told_by_the_next_one() -> None:
    with Running(site()) as cluster:
        before = state_of(cluster)
        cluster.hold(*IDS)
        killed = start(cluster, max_parallel=2)
        wait_for_tasks(cluster, 2)
        killed.kill()
        killed.wait()
        [record] = records(cluster)
        assert stat.S_IMODE(record.stat().st_mode) == 0o600
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        assert [guest["vmid"] for guest in lines[0]["plan"]] == list(IDS)
        assert SECRET not in record.read_text()
        started = {line["vmid"]: line["upid"] for line in lines[1:] if "upid" in line}
        assert len(started) == 2

        shown = module(cluster, _ansible_check_mode=True)
        assert {entry["vmid"] for entry in shown.result["unfinished"]} == set(IDS)
        cluster.let_go(*IDS)
        answer = module(cluster, label="hourly")
        check(cluster, before, answer)
        assert answer.statuses == dict.fromkeys(IDS, "created")
        told = {entry["vmid"]: entry for entry in answer.result["unfinished"]}
        assert set(told) == set(IDS)
        for vmid, entry in told.items():
            assert entry["upid"] == started.get(vmid, "")
            assert entry["result"] in (("OK", "running") if vmid in started else ("not started",))
        assert "did not see the end of its work, task" in answer.warnings
        assert "before it came to 2 guests" in answer.warnings


def test_a_record_stays_while_its_task_runs_and_goes_with_it() -> None:
    with Running(site()) as cluster:
        cluster.hold(100)
        killed = start(cluster, guests=["100"])
        wait_for_tasks(cluster)
        killed.kill()
        killed.wait()
        first = module(cluster, guests=["101"])
        assert [entry["result"] for entry in first.result["unfinished"]] == ["running"]
        assert len(records(cluster)) == 1
        cluster.let_go(100)
        until(lambda: not cluster.pve.running_now)
        second = module(cluster, guests=["101"], label="hourly")
        assert [entry["result"] for entry in second.result["unfinished"]] == ["OK"]
        assert records(cluster) == []
        assert module(cluster, guests=["101"], label="weekly").result["unfinished"] == []


def test_a_line_that_was_cut_off_costs_nothing_else() -> None:
    with Running(site()) as cluster:
        cluster.hold(*IDS)
        killed = start(cluster)
        wait_for_tasks(cluster, 4)
        killed.kill()
        killed.wait()
        cluster.let_go(*IDS)
        [record] = records(cluster)
        text = record.read_bytes()
        record.write_bytes(text[:-20])
        answer = module(cluster, label="hourly")
        assert sorted(entry["vmid"] for entry in answer.result["unfinished"]) == list(IDS)
        assert sum(bool(entry["upid"]) for entry in answer.result["unfinished"]) == 3


def test_a_clean_end_leaves_no_record() -> None:
    with Running(site()) as cluster:
        module(cluster)
        assert records(cluster) == []
        assert [path.suffix for path in (cluster.directory / "state").iterdir()] == [".lock"]


def test_a_state_directory_that_cannot_be_written_is_a_warning() -> None:
    with Running(site()) as cluster:
        answer = module(cluster, state_dir="/proc/nowhere")
        assert answer.statuses == dict.fromkeys(IDS, "created")
        assert "'state_dir': '/proc/nowhere'" in answer.warnings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_run_at_once(number: signal.Signals) -> None:
    """Nothing new is started, what runs is named, and the exit status is not 0."""
    with Running(site()) as cluster:
        before = state_of(cluster)
        cluster.hold(*IDS)
        run = start(cluster, max_parallel=2)
        wait_for_tasks(cluster, 2)
        os.kill(run.pid, number)
        answer = finish(run)
        check(cluster, before, answer)
        assert answer.status == 1
        assert number.name in answer.result["msg"]
        assert set(answer.statuses.values()) == {"timeout"}
        started = [entry for entry in answer.result["guests"] if entry["upids"]]
        assert len(started) == 2
        assert all("it goes on" in entry["reason"] for entry in started)
        assert all(entry["reason"].startswith("not started") for entry in answer.result["guests"] if not entry["upids"])
        assert sum(1 for method, *_rest in cluster.pve.log if method == "POST") == 2
        assert len(records(cluster)) == 1


def test_a_signal_while_the_cluster_is_read_does_nothing_at_all() -> None:
    with Running(site()) as cluster:
        before = state_of(cluster)
        cluster.pve.fault("GET", r"/config$", None, delay=50)
        run = start(cluster, api_timeout="60s")
        until(lambda: any(path.endswith("/config") for _method, path, *_rest in cluster.pve.log))
        os.kill(run.pid, signal.SIGTERM)
        answer = finish(run)
        assert answer.status == 1 and "SIGTERM" in answer.result["msg"]
        assert state_of(cluster) == before


def test_a_signal_during_a_pre_hook_starts_no_task() -> None:
    with Running(site()) as cluster:
        before = state_of(cluster)
        log = cluster.directory / "phases"
        path = hook(cluster.directory, 'echo $CV4PVE_AUTOSNAP_PHASE >> {0}; case $CV4PVE_AUTOSNAP_PHASE in snap-create-pre) '
                    'sleep 5 ;; esac\n'.format(log))
        run = start(cluster, hook=path, guests=["100"])
        wait_for(log, "snap-create-pre")
        os.kill(run.pid, signal.SIGTERM)
        answer = finish(run)
        assert answer.of(100)["status"] == "timeout"
        assert log.read_text().split() == ["snap-job-start", "snap-create-pre", "snap-create-abort", "snap-job-end"]
        assert state_of(cluster) == before


def test_run_timeout_names_what_runs() -> None:
    with Running(site()) as cluster:
        before = state_of(cluster)
        cluster.hold(*IDS)
        answer = module(cluster, run_timeout="8s", max_parallel=2)
        check(cluster, before, answer)
        assert answer.status == 1
        started = [entry for entry in answer.result["guests"] if entry["upids"]]
        assert len(started) == 2
        assert all("run_timeout has passed; it goes on" in entry["reason"] for entry in started)
        assert set(answer.statuses.values()) == {"timeout"}
        cluster.let_go(*set(IDS) - {entry["vmid"] for entry in started})
        later = module(cluster, guests=["@all"], label="hourly", locked="skip")
        assert {entry["vmid"]: entry["result"] for entry in later.result["unfinished"]} == {
            entry["vmid"]: "running" for entry in started}


def test_the_same_signal_twice_is_one() -> None:
    """systemd signals every process of a unit, and ansible-playbook hands on what it gets."""
    with Running(site()) as cluster:
        before = state_of(cluster)
        cluster.hold(*IDS)
        log = cluster.directory / "phases"
        path = hook(cluster.directory, "echo $CV4PVE_AUTOSNAP_PHASE >> {0}\n".format(log))
        run = start(cluster, max_parallel=2, hook=path)
        wait_for_tasks(cluster, 2)
        for _number in range(3):
            os.kill(run.pid, signal.SIGTERM)
            time.sleep(0.05)
        answer = finish(run)
        check(cluster, before, answer)
        assert answer.status == 1 and "SIGTERM" in answer.result["msg"]
        phases = log.read_text().split()
        assert phases.count("snap-create-pre") == phases.count("snap-create-abort") == 2
        assert phases[-1] == "snap-job-end"


def test_a_later_signal_kills() -> None:
    with Running(site()) as cluster:
        pid = cluster.directory / "pid"
        run = start(cluster, hook=hook(cluster.directory, "echo $$ > {0}; sleep 60\n".format(pid)))
        wait_for(pid, "\n")

        def ended() -> bool:
            os.kill(run.pid, signal.SIGTERM)
            return run.poll() is not None

        until(ended)
        os.killpg(int(pid.read_text()), signal.SIGKILL)
        assert run.returncode == -signal.SIGTERM
