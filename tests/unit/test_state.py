# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state directory where disks are full, locks unknown and records damaged."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import state as state_module
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.outcome import Outcome
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.plan import GuestPlan, Plan
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.reading import GuestState
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.state import State
from ansible_collections.pve.autosnap.plugins.module_utils.model import Guest
from ansible_collections.pve.autosnap.plugins.module_utils.pve import errors
from ansible_collections.pve.autosnap.plugins.module_utils.pve.tasks import Tasks


class FakeTasks(Tasks):
    """Knows how tasks ended."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.asked: list[str] = []

    def result(self, upid: str) -> str:
        self.asked.append(upid)
        found = self.results[upid]
        if isinstance(found, Exception):
            raise found
        return str(found)


def upid(vmid: int) -> str:
    return "UPID:n1:00000001:00000001:6B000000:qmsnapshot:{0}:u@pve!t:".format(vmid)


def planned(*ids: int) -> Plan:
    return Plan(tuple(
        GuestPlan(GuestState(Guest(vmid, "qemu", "n1", "running")), create="autodaily261125000000") for vmid in ids))


def state(directory: pathlib.Path, hosts: tuple[str, ...] = ("a:8006",)) -> State:
    return State(str(directory), ["n1", "n2"], list(hosts))


def died(directory: pathlib.Path, *ids: int) -> State:
    """A run that was cut off after it had started these guests' tasks."""
    made = state(directory)
    made.begin("snap", planned(100, 101, 102))
    for vmid in ids:
        made.sent(vmid)
        made.task(vmid, upid(vmid))
    assert made._record is not None
    os.close(made._record._file)
    return made


def test_what_a_run_left_is_told_until_it_is_final(tmp_path: pathlib.Path) -> None:
    died(tmp_path, 100, 101)
    tasks = FakeTasks({upid(100): "OK", upid(101): ""})
    for result in ("running", "running", "it failed"):
        tasks.results[upid(101)] = "" if result == "running" else result
        later = state(tmp_path)
        assert {entry["vmid"]: entry["result"] for entry in later.unfinished(tasks)} == {
            100: "OK", 101: result, 102: "not started"}
        later.close()
    assert state(tmp_path).unfinished(tasks) == []


def test_nothing_is_forgotten_by_a_run_that_does_not_come_to_its_end(tmp_path: pathlib.Path) -> None:
    died(tmp_path, 100)
    tasks = FakeTasks({upid(100): "OK"})
    assert state(tmp_path).unfinished(tasks) == state(tmp_path).unfinished(tasks) != []


def test_a_silent_node_is_asked_once(tmp_path: pathlib.Path) -> None:
    died(tmp_path, 100, 101, 102)
    silent = errors.NodeUnreachable("595 No route to host", 595)
    tasks = FakeTasks({upid(vmid): silent for vmid in (100, 101, 102)})
    later = state(tmp_path)
    assert {entry["result"] for entry in later.unfinished(tasks)} == {"unknown: its node does not answer"}
    assert len(tasks.asked) == 1
    later.close()
    assert len(state(tmp_path).unfinished(tasks)) == 3


def test_what_there_was_no_room_to_ask_for_is_asked_for_by_the_next_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a record that has more tasks than one run asks for does not stay for ever."""
    monkeypatch.setattr(state_module, "ASKED_MAX", 2)
    tasks = FakeTasks({upid(vmid): "OK" for vmid in (100, 101, 102)})
    died(tmp_path, 100, 101)
    died(tmp_path, 102)
    later = state(tmp_path)
    [unasked] = [entry["upid"] for entry in later.unfinished(tasks) if entry["result"] == state_module.UNASKED]
    later.close()
    after = state(tmp_path)
    assert [entry["result"] for entry in after.unfinished(tasks) if entry["upid"] == unasked] == ["OK"]
    after.close()
    died(tmp_path, 100, 101, 102)
    alone = state(tmp_path)
    assert [entry["result"] for entry in alone.unfinished(tasks)].count(state_module.UNASKED) == 1
    alone.close()
    assert state(tmp_path).unfinished(tasks) == []


def test_a_write_without_an_answer_is_not_called_not_started(tmp_path: pathlib.Path) -> None:
    died(tmp_path)
    [path] = tmp_path.glob("*.run")
    with path.open("a") as handle:
        handle.write('{"vmid": 100, "sent": true}\n{"vmid": 101, "se')
    results = {entry["vmid"]: entry["result"] for entry in state(tmp_path).unfinished(FakeTasks({}))}
    assert results == {100: state_module.UNANSWERED, 101: "not started", 102: "not started"}


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"[]\n", b'{"version": 1}\n', b'{"version": 7, "hosts": ["a:8006"]}\n'])
def test_a_damaged_record_costs_nothing(content: bytes, tmp_path: pathlib.Path) -> None:
    died(tmp_path, 100)
    [path] = tmp_path.glob("*.run")
    path.write_bytes(content)
    assert state(tmp_path).unfinished(FakeTasks({})) == []


def test_a_record_of_a_cluster_with_the_same_nodes_is_left_alone(tmp_path: pathlib.Path) -> None:
    died(tmp_path, 100)
    assert state(tmp_path, ("b:8006",)).unfinished(FakeTasks({})) == []


OTHER_RUN = """
import sys
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.state import Claims, cluster_key
claims = Claims(sys.argv[1], cluster_key(["n1", "n2"]), sys.argv[2].split(","))
print(claims.take(int(sys.argv[3])), flush=True)
sys.stdin.read()
"""


class Elsewhere:
    """Another process, a run with these API hosts, that tries to claim a guest; ``with`` it, it keeps what it got."""

    def __init__(self, directory: pathlib.Path, hosts: tuple[str, ...], vmid: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OTHER_RUN, str(directory), ",".join(hosts), str(vmid)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.claimed = self._process.stdout.readline() == "True\n"

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._process.communicate()


def claimed_elsewhere(directory: pathlib.Path, hosts: tuple[str, ...], vmid: int) -> bool:
    with Elsewhere(directory, hosts, vmid) as other:
        return other.claimed


def test_a_claim_holds_against_runs_with_an_api_host_in_common_and_no_others(tmp_path: pathlib.Path) -> None:
    """Two clusters of one control node may both have the nodes n1 and n2."""
    made = state(tmp_path, ("b:8006", "c:8006"))
    made.begin("snap", planned(100))
    assert made.take(100)
    assert not claimed_elsewhere(tmp_path, ("a:8006", "b:8006"), 100)
    assert not claimed_elsewhere(tmp_path, ("c:8006",), 100)
    assert claimed_elsewhere(tmp_path, ("a:8006", "b:8006"), 101)
    assert claimed_elsewhere(tmp_path, ("a:8006", "d:8006"), 100)
    made.ended(Outcome(planned(100).guests[0]), unfinished=False)
    assert claimed_elsewhere(tmp_path, ("b:8006",), 100)


def test_a_claim_that_was_not_had_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    first = state(tmp_path, ("a:8006", "b:8006"))
    first.begin("snap", planned(100))
    with Elsewhere(tmp_path, ("b:8006",), 100) as other:
        assert other.claimed and not first.take(100)
    assert claimed_elsewhere(tmp_path, ("a:8006",), 100)


def test_a_full_disk_costs_a_line_and_not_the_next_one(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = state(tmp_path)
    made.begin("snap", planned(100, 101))
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, data: write(file, data[:9]))
        made.task(100, upid(100))
    made.task(101, upid(101))
    assert made._record is not None
    os.close(made._record._file)
    results = {entry["vmid"]: entry["result"] for entry in state(tmp_path).unfinished(FakeTasks({upid(101): "OK"}))}
    assert results == {100: "not started", 101: "OK"}


def test_a_disk_that_is_full_at_the_beginning_is_a_problem_and_nothing_more(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda file, data: 0)
    made = state(tmp_path)
    made.begin("snap", planned(100))
    assert "state_dir" in made.problem
    assert made.take(100)
    made.task(100, upid(100))
    made.ended(Outcome(planned(100).guests[0]), unfinished=False)
    made.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_file_system_without_locks_is_a_problem_and_nothing_more(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlockable(*_unused: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    made = state(tmp_path)
    made.begin("snap", planned(100))
    monkeypatch.setattr(fcntl, "lockf", unlockable)
    assert made.take(100)
    assert "No locks available" in made.problem
    made.ended(Outcome(planned(100).guests[0]), unfinished=False)
    made.close()


def test_the_directory_goes_away(tmp_path: pathlib.Path) -> None:
    made = state(tmp_path / "state")
    made.begin("snap", planned(100))
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    (tmp_path / "state").rmdir()
    made.ended(Outcome(planned(100).guests[0]), unfinished=False)
    made.close()


def test_a_disk_that_is_full_at_the_end_costs_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS tells of it when a file is closed."""
    made = state(tmp_path)
    made.begin("snap", planned(100))
    original = os.close

    def full(file: int) -> None:
        original(file)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "close", full)
    made.close()


def test_a_lock_that_others_could_open_is_closed_to_them(tmp_path: pathlib.Path) -> None:
    first = state(tmp_path)
    first.begin("snap", planned(100))
    first.close()
    [lock] = tmp_path.glob("*.lock")
    lock.chmod(0o666)
    second = state(tmp_path)
    second.begin("snap", planned(100))
    assert lock.stat().st_mode & 0o777 == 0o600 and second.take(100)
    second.close()


def test_a_file_with_another_name_elsewhere_is_neither_read_nor_changed(tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    other.chmod(0o444)
    died(tmp_path / "state", 100)
    [path] = (tmp_path / "state").glob("*.run")
    path.unlink()
    os.link(other, path)
    later = state(tmp_path / "state")
    assert later.unfinished(FakeTasks({})) == []
    assert "a file with another name elsewhere" in later.warnings[0] and other.stat().st_mode & 0o777 == 0o444


def test_a_record_costs_a_bounded_number_of_calls_and_comes_to_an_end(tmp_path: pathlib.Path) -> None:
    ids = range(100, 100 + state_module.ASKED_MAX + 50)
    made = state(tmp_path)
    made.begin("snap", planned(*ids))
    for vmid in ids:
        made.task(vmid, upid(vmid) if vmid % 2 else upid(vmid).replace(":n1:", ":gone:"))
    assert made._record is not None
    os.close(made._record._file)
    later, tasks = state(tmp_path), FakeTasks({upid(vmid): "OK" for vmid in ids})
    results = [entry["result"] for entry in later.unfinished(tasks)]
    assert len(tasks.asked) <= state_module.ASKED_MAX and results.count(state_module.ELSEWHERE) == len(ids) // 2
    later.close()
    assert state(tmp_path).unfinished(tasks) == []


def test_many_damaged_files_are_one_warning(tmp_path: pathlib.Path) -> None:
    died(tmp_path, 100)
    [path] = tmp_path.glob("*.run")
    for number in range(30):
        (tmp_path / path.name.replace(".run", "-{0}.run".format(number))).write_text("?")
    later = state(tmp_path)
    later.unfinished(FakeTasks({upid(100): "OK"}))
    assert len(later.warnings) == 1 and "and 29 more" in later.warnings[0]
