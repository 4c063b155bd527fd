# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check for monitoring systems, as they call it: its line and its exit status."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.filter import digest as digests

CHECK = pathlib.Path(digests.__file__).parents[2] / "playbooks" / "files" / "monitoring" / "check_autosnap"
GUEST = {"vmid": 100, "name": "web|1", "node": "pve1", "status": "failed", "reason": "no\nspace", "red": True, "errors": []}


def health(tmp_path: pathlib.Path, age: int = 60, **result: Any) -> pathlib.Path:
    """A health file as a playbook makes it."""
    made = digests.digest(
        {"msg": "1 guests: 1 created", "summary": {"matched": 1, "created": 1}, **result}, "snap", "daily", "prod")
    made["time"] = int(time.time()) - age
    path = tmp_path / "health.json"
    path.write_text(json.dumps(made))
    return path


def check(path: pathlib.Path | str, *arguments: str) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, str(CHECK), "--file", str(path), *(arguments or ("--max-age", "26h"))], capture_output=True, text=True,
        check=False)
    assert run.stderr == "" and run.stdout.count("\n") == 1
    return run.returncode, run.stdout


@pytest.mark.parametrize(("result", "status", "words"), [
    ({}, 0, "AUTOSNAP OK - daily of prod: 1 guests: 1 created | age="),
    ({"broken": [{"vmid": 1, "node": "n", "snapshot": "s", "snapstate": "delete"}]}, 1,
     "AUTOSNAP WARNING - daily of prod: 1 broken"),
    ({"failed": True, "guests": [GUEST]}, 2, "AUTOSNAP CRITICAL - daily of prod: 100 web/1 failed (no space) |"),
    ({"failed": True, "guests": [{**GUEST, "vmid": n} for n in range(100, 105)]}, 2, "(no space) and 2 more |"),
])
def test_the_line_and_the_exit_status(tmp_path: pathlib.Path, result: dict[str, Any], status: int, words: str) -> None:
    code, line = check(health(tmp_path, **result))
    assert code == status and words in line
    assert line.count("|") == 1 and re.search(r"\| age=\d+s duration=[\d.]+s api_calls=\d+ problems=\d+;;;0", line)


def test_a_name_that_the_terminal_cannot_show(tmp_path: pathlib.Path) -> None:
    run = subprocess.run(
        [sys.executable, str(CHECK), "--file", str(health(tmp_path, failed=True, guests=[{**GUEST, "name": "b\u00fcro"}]))],
        capture_output=True, env={"PYTHONIOENCODING": "ascii"}, check=False)
    assert run.returncode == 2 and b"b?ro" in run.stdout and not run.stderr


def test_a_time_that_is_still_to_come_is_no_health(tmp_path: pathlib.Path) -> None:
    code, line = check(health(tmp_path, -90000))
    assert code == 3 and "which clock is wrong?" in line


@pytest.mark.parametrize(("age", "limit", "status"), [(60, "2m", 0), (3600, "30m", 3), (90000, "26h", 0), (94000, "26h", 3)])
def test_an_old_file_is_no_health(tmp_path: pathlib.Path, age: int, limit: str, status: int) -> None:
    code, line = check(health(tmp_path, age), "--max-age", limit)
    assert code == status and ("the last run of daily of prod ended" in line) is (status == 3)


@pytest.mark.parametrize(("text", "words"), [
    (None, "cannot be read"), ("{", "is no health file"), ("[]", "is no health file"), ("{}", "is no health file"),
    ('{"format": 1, "status": "ok", "time": 1, "max_run_age": 1}', "is no health file"),
    ('{"format": 2}', "newer version"), ('{"format": 1, "status": "fine", "time": 1}', "is no health file"),
])
def test_no_health_is_unknown(tmp_path: pathlib.Path, text: str | None, words: str) -> None:
    path = tmp_path / "health.json"
    if text is not None:
        path.write_text(text)
    code, line = check(path)
    assert code == 3 and line.startswith("AUTOSNAP UNKNOWN - ") and words in line


def test_what_the_file_holds_steers_nothing(tmp_path: pathlib.Path) -> None:
    """The job's user may write it."""
    path = health(tmp_path)
    made = json.loads(path.read_text())
    made.update(job_name="j\x1b]0;pwn\x07", cluster="c\u202e", message="m\x9b31m")
    made["summary"] = {"x\nCRITICAL\x1b[2J|": 1, "created": 2}
    path.write_text(json.dumps(made))
    code, line = check(path)
    assert code == 0 and line.startswith("AUTOSNAP OK - j?]0;pwn? of c?: m?31m | age=")
    assert line.rstrip("\n").isprintable() and "CRITICAL" not in line and line.endswith(" created=2;;;0\n")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "health.json"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    code, line = check(path)
    assert code == 3 and "it is no regular file" in line


def test_the_job_says_how_old_it_may_be(tmp_path: pathlib.Path) -> None:
    for age, status in ((93000, 0), (94000, 3)):
        run = subprocess.run(
            [sys.executable, str(CHECK), "--file", str(health(tmp_path, age))], capture_output=True, text=True, check=False)
        assert run.returncode == status


def test_wrong_arguments_are_unknown_not_critical() -> None:
    assert check("/x", "--max-age", "soon") == (
        3, "AUTOSNAP UNKNOWN - argument --max-age: 'soon' is not a duration; write seconds, or 30s, 15m, 26h, 7d\n")
