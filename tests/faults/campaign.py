# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every fault is tried on, and what must be true after each: the whole module, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from simulator.running import Running
from worlds import daily, guest, world

FOREIGN = {"name": "before_upgrade", "age": 90_000_000, "description": "made by hand"}
PINNED = {"name": "autodaily200101000000", "age": 80_000_000, "description": "cv4pve-autosnap\nkeep this one"}
KEEP = 3
IDS = (100, 101, 102, 103)
MEASURED = "import coverage; coverage.process_startup()" if "COVERAGE_PROCESS_START" in os.environ else ""
STATUSES = {"created", "pruned", "unchanged", "skipped", "deferred", "failed", "timeout", "unreachable"}


@dataclass(frozen=True)
class Answer:
    """What a module printed, and its exit status."""

    status: int
    result: dict[str, Any]

    def of(self, vmid: int) -> dict[str, Any]:
        """A guest's entry."""
        return next(entry for entry in self.result["guests"] if entry["vmid"] == vmid)

    @property
    def warnings(self) -> str:
        """All warnings as one text, whatever form this version of ansible-core gives them."""
        return json.dumps(self.result.get("warnings", []))

    @property
    def statuses(self) -> dict[int, str]:
        """What became of each guest."""
        return {entry["vmid"]: entry["status"] for entry in self.result.get("guests", [])}


def site(**more: Any) -> dict[str, Any]:
    """Four guests of both types on two nodes, each with a foreign, a pinned and three daily snapshots.

    A key such as ``g100`` adds to that guest.
    """
    own = {number: more.pop("g{0}".format(number), {}) for number in IDS}
    guests = [
        guest(number, **{
            "type": "lxc" if number == 102 else "qemu", "node": "pve{0}".format(number % 2 + 1),
            "snapshots": [FOREIGN, PINNED, *daily(KEEP)], **own[number]})
        for number in IDS]
    return world(*guests, **{"create_seconds": 0.4, "delete_seconds": 0.4, **more})


def start(cluster: Running, name: str = "snap", prelude: str = "", **options: Any) -> subprocess.Popen[str]:
    """Begin a module as a process, after the Python of ``prelude``; ``options`` go to it beside the connection."""
    given = {
        "guests": ["@all"], "label": "daily", "keep": KEEP, "api_timeout": "2s", "lock_timeout": "10s",
        **cluster.connection(), **options}
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join([
            MEASURED, prelude, "from ansible_collections.pve.autosnap.plugins.modules.autosnap_{0} import main".format(name),
            "main()"])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "STATE_DIRECTORY": str(cluster.directory / "state")})
    assert process.stdin is not None
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {key: value for key, value in given.items() if value is not None}}))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> Answer:
    """Wait for its end."""
    output, errors = process.communicate(timeout=300)
    assert output.strip(), errors
    return Answer(process.returncode, json.loads(output.strip().splitlines()[-1]))


def module(cluster: Running, name: str = "snap", **options: Any) -> Answer:
    """Run a module to its end."""
    return finish(start(cluster, name, **options))


def state_of(cluster: Running) -> dict[int, dict[str, str]]:
    """Description by name of every snapshot of every guest."""
    return {
        one.vmid: {name: str(values.get("description", "")) for name, values in one.snapshots.items()}
        for one in [*cluster.pve.vms, *cluster.pve.cts]}


def managed(snapshots: dict[str, str]) -> set[str]:
    """Names of those that are ours by their description."""
    return {name for name, description in snapshots.items() if description.strip() in ("cv4pve-autosnap", "eve4pve-autosnap")}


def check(cluster: Running, before: dict[int, dict[str, str]], answer: Answer, keep: int = KEEP) -> None:
    """What holds after every fault: laws 1 to 3, 6, 9 and 10, and the exit status."""
    after = state_of(cluster)
    for vmid, snapshots in after.items():
        for name in set(before[vmid]) - managed(before[vmid]):
            assert snapshots[name] == before[vmid][name], "a foreign snapshot was touched"
        whole = {name for name in managed(snapshots) if not cluster.pve.guest(vmid).snapshots[name].get("snapstate")}
        assert len(whole) >= min(keep, len(managed(before[vmid]))), "retention asks for more"
    deletes = [query for method, _path, query, _status, _user in cluster.pve.log if method == "DELETE"]
    assert all("force" not in query for query in deletes)
    assert answer.status == (1 if answer.result.get("failed") else 0)
    changed = any(set(after[vmid]) != set(before[vmid]) for vmid in after)
    assert bool(answer.result.get("changed")) >= changed, "something changed in silence"
    if "guests" in answer.result:
        assert sorted(answer.statuses) == sorted(before)
        assert len(answer.result["guests"]) == len(before)
        assert set(answer.statuses.values()) <= STATUSES
        assert sum(count for status, count in answer.result["summary"].items() if status != "matched") == len(before)
        for entry in answer.result["guests"]:
            if entry["status"] == "created":
                assert entry["snapshot"] in after[entry["vmid"]]
            assert not set(entry["pruned"]) & set(after.get(entry["vmid"], ()))
