# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command against a simulated cluster and measure it: time, CPU and memory of the whole process tree."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

SAMPLE = 0.1  # seconds between two looks at the memory


@dataclass
class Measured:
    """``wall`` and ``cpu`` in seconds (user and system, descendants included), memory in MB."""

    wall: float
    cpu: float
    peak_mb: float
    module_rss_mb: float
    status: int


class Cluster:
    """``with Cluster(world, directory)``: a simulated cluster in a process of its own."""

    def __init__(self, world: dict[str, Any], directory: pathlib.Path) -> None:
        self._world = world
        self._directory = directory
        self.calls = 0

    def __enter__(self) -> Cluster:
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._directory / "world.json"
        file.write_text(json.dumps(self._world), encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "simulator", str(file), "--directory", str(self._directory), "--seconds", "7200"],
            stdin=subprocess.PIPE)
        while not (self._directory / "ready").exists() or not self.host:
            if self._process.poll() is not None:
                raise RuntimeError("the simulated cluster did not start")
            time.sleep(0.05)
        return self

    def __exit__(self, *_unused: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self.calls = json.loads((self._directory / "stats.json").read_text(encoding="utf-8"))["calls"]
        (self._directory / "ready").unlink()

    @property
    def host(self) -> str:
        """``host:port``."""
        return (self._directory / "ready").read_text(encoding="utf-8").strip()

    @property
    def ca(self) -> str:
        """The file of its certificate authority."""
        return str(self._directory / "ca.crt")


def run(command: list[str], environment: dict[str, str], log: pathlib.Path) -> Measured:
    """Run a command to its end."""
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        peak = module = 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            tree = _tree(process.pid)
            peak = max(peak, sum(_kilobytes(number, "smaps_rollup", "Pss:") for number in tree) / 1024)
            module = max([module, *(_kilobytes(number, "status", "VmHWM:") / 1024 for number in tree if _is_module(number))])
            time.sleep(SAMPLE)
    return Measured(
        time.monotonic() - began, usage.ru_utime + usage.ru_stime, peak, module, os.waitstatus_to_exitcode(status))


def _tree(root: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = pathlib.Path("/proc", entry, "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        number = todo.pop()
        found.append(number)
        todo += children.get(number, [])
    return found


def _kilobytes(number: int, file: str, key: str) -> float:
    try:
        for line in pathlib.Path("/proc", str(number), file).read_text(encoding="utf-8").splitlines():
            if line.startswith(key):
                return float(line.split()[1])
    except OSError:
        pass
    return 0.0


def _is_module(number: int) -> bool:
    try:
        return b"AnsiballZ_autosnap" in pathlib.Path("/proc", str(number), "cmdline").read_bytes()
    except OSError:
        return False
