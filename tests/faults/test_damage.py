# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever lies in the state directory, every later run works, and says what it could not read."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any, Callable

import pytest
from campaign import IDS, Answer, check, finish, module, site, start, state_of
from simulator.running import Running, until

ELSEWHERE = "UPID:../../access:00000001:00000001:6B000000:qmsnapshot:100:u@pve:"
PLAN = [{"vmid": 100, "node": "pve1", "create": "autodaily261120000000", "deletes": []}]


def header(**more: Any) -> dict[str, Any]:
    return {"version": 1, "job": "snap", "began": 1_795_000_000, "pid": 1, "nodes": ["pve1", "pve2"], "plan": PLAN, **more}


def text(*lines: Any) -> Callable[[pathlib.Path], Any]:
    """A record of these lines, JSON where they are none yet; the hosts are put in later."""
    def write(path: pathlib.Path) -> None:
        host = json.loads(path.read_text().splitlines()[0])["hosts"]
        made = [{"hosts": host, **line} if isinstance(line, dict) and "version" in line else line for line in lines]
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in made))
    return write


def instead(make: Callable[[pathlib.Path], Any]) -> Callable[[pathlib.Path], Any]:
    """Something else in the place of the record."""
    def do(path: pathlib.Path) -> None:
        path.unlink()
        make(path)
    return do


def endless_file(path: pathlib.Path) -> None:
    with path.open("wb") as handle:
        handle.truncate(200 * 1024 ** 3)


def lock(make: Callable[[pathlib.Path], Any]) -> Callable[[pathlib.Path], Any]:
    """Something else in the place of the lock file."""
    def do(path: pathlib.Path) -> None:
        path.unlink()
        [found] = path.parent.glob("*.lock")
        found.unlink()
        make(found)
    return do


def foreign(path: pathlib.Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a file of somebody else")
    os.chown(path, 65534, 65534)


DAMAGES: dict[str, Callable[[pathlib.Path], Any]] = {
    "empty": text(), "blank lines": text("", ""), "no text": lambda path: path.write_bytes(b"\xff\xfe\x00\n\x80"),
    "a list": text("[]"), "a number": text("7"), "null": text("null"), "cut off": text('{"version": 1, "jo'),
    "of another version": text(header(version=7)), "a version of true": text(header(version=True, plan="x")),
    "without a plan": text({"version": 1}), "a plan of another type": text(header(plan={"a": 1})),
    "a plan of texts": text(header(plan=["a"])), "a guest without id": text(header(plan=[{"node": "pve1"}])),
    "an id that is a text": text(header(plan=[{**PLAN[0], "vmid": "100"}])),
    "an id without end": text(header(plan=[{**PLAN[0], "vmid": 10 ** 400}])),
    "an id below nothing": text(header(plan=[{**PLAN[0], "vmid": -1}])), "a job that is a list": text(header(job=[1])),
    "a time that is none": text(header(began="yesterday")), "a time without end": text(header(began=10 ** 30)),
    "too deep": text("[" * 200_000), "numbers that are none": text('{"version": NaN}'),
    **{"hosts that are {0!r}".format(hosts): text(header(hosts=hosts)) for hosts in ("127.0.0.1:8006", {}, [], [[]], [1])},
    "a line of another type": text(header(), "[]", {"vmid": 100, "upid": "x"}),
    "a task that is a map": text(header(), {"vmid": 100, "upid": {}}),
    "a task of elsewhere": text(header(), {"vmid": 100, "upid": ELSEWHERE}),
    "an odd status": text(header(), {"vmid": 100, "status": {"a": [1]}}),
    "an id in a line that is none": text(header(), {"vmid": [100], "upid": "x"}),
    "steering characters": text(
        header(job="a\x1b[2J\nPLAY RECAP\u202e", plan=[{**PLAN[0], "node": "\x1b[31m", "create": "\ud800"}])),
    "a directory": instead(lambda path: path.mkdir()), "a pipe": instead(os.mkfifo),
    "a link to itself": instead(lambda path: path.symlink_to(path)),
    "a link to nothing": instead(lambda path: path.symlink_to("/nowhere")),
    "a link to an endless device": instead(lambda path: path.symlink_to("/dev/zero")),
    "a link to a file of others": instead(lambda path: path.symlink_to("/etc/passwd")), "endless": instead(endless_file),
    "that may not be read": lambda path: path.chmod(0), "of somebody else": foreign,
    "a lock that is a directory": lock(lambda path: path.mkdir()), "a lock that is a pipe": lock(os.mkfifo),
    "a lock that is a link to an endless device": lock(lambda path: path.symlink_to("/dev/zero")),
    "a lock that is a link to nothing": lock(lambda path: path.symlink_to("/nowhere/at/all")),
    "a lock that may not be opened": lock(lambda path: (path.touch(), path.chmod(0))),
    "a directory that is a file": lambda path: (shutil.rmtree(path.parent), path.parent.write_text("x")),
    "a directory that may not be written": lambda path: path.parent.chmod(0o500),
}
# What is a whole record all the same, or no record at all: nothing is said of them.
SILENT = {"an odd status", "that may not be read", "a task of elsewhere", "steering characters",
          "a directory that is a file", "a directory that may not be written"}


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_later_run_works(kind: str) -> None:
    with Running(site()) as cluster:
        state = cluster.directory / "state"
        first = start(cluster)
        path = until(lambda: next(iter(state.glob("*.run")), None))
        until(lambda: '"upid"' in path.read_text())
        first.kill()
        first.communicate()
        DAMAGES[kind](path)
        before = state_of(cluster)
        for number in range(2):
            # Another label, so that each run has something to do whatever the one that was killed did.
            answer = module(cluster, label="again{0}".format(number), lock_timeout="30s")
            check(cluster, before, answer)
            assert answer.statuses == dict.fromkeys(IDS, "created"), kind
            assert "\x1b" not in answer.warnings and "internal error" not in answer.warnings
            if number == 0 and kind not in SILENT and not kind.startswith("a lock"):
                assert "option 'state_dir'" in answer.warnings, kind
        if state.is_dir():
            state.chmod(0o700)
            # Whose it is, is told each time; anything else has been told once.
            assert kind == "of somebody else" or not [path for path in state.iterdir() if path.suffix == ".run"]


def test_a_run_that_works_is_no_damage() -> None:
    """Its lock and its record are left alone by a run beside it."""
    with Running(site()) as cluster:
        cluster.hold(101)
        state = cluster.directory / "state"
        first = start(cluster, guests=["101"])
        path = until(lambda: next(iter(state.glob("*.run")), None))
        second = module(cluster, label="other", guests=["100"])
        assert path.exists() and not list(state.glob("*.damaged")) and "state_dir" not in second.warnings
        cluster.let_go(101)
        finish(first)
        assert not list(state.glob("*.run"))


def test_two_runs_of_one_control_node_in_the_same_second() -> None:
    """The second waits for each guest, reads it again, and finds what the first one made; here the hour is the second."""
    with Running(site()) as cluster:
        before = state_of(cluster)
        runs = [start(cluster, timestamp_format="yyMMddHH", lock_timeout="60s") for _number in range(2)]
        answers = [finish(run) for run in runs]
        changed = any(answer.result["changed"] for answer in answers)
        for answer in answers:
            # One of them may have come to every guest first: what changed is told by the two together.
            check(cluster, before, Answer(answer.status, {**answer.result, "changed": changed}))
            assert answer.status == 0, answer.result["msg"]
        # Where one began in another hour, both made theirs.
        for vmid in IDS:
            new = set(state_of(cluster)[vmid]) - set(before[vmid])
            assert [answer.statuses[vmid] for answer in answers].count("created") == len(new) >= 1
