# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark: ``python -m benchmark --directory DIR [--full] [--only TEXT]``.

Every guest begins with two snapshots; a run makes a third and prunes one. Real time, nothing is
extrapolated. Writes docs/benchmark/results.json and plot.png.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import sys
from dataclasses import dataclass
from typing import Any

from ansible_collections.pve.autosnap.plugins.module_utils import arguments

from . import plot
from .bound import Work, lower_bound
from .measure import Cluster, run

HERE = pathlib.Path(__file__).parent
RESULTS = HERE.parent.parent / "docs" / "benchmark"
TOKEN = "autosnap@pve!benchmark"
SECRET = "5d1f4c1e-0000-4000-8000-c0ffee000002"
PRIVILEGES = ["VM.Audit", "VM.Snapshot", "Datastore.Audit", "Pool.Audit"]
CREATE, DELETE, SPREAD, SEED = 2.0, 3.0, 0.4, 20261122
OURS = "pve.autosnap"
INFO = "pve.autosnap info"
LOOP = "community.proxmox loop"
FORKS = "community.proxmox 50 forks"
SEQUENTIAL = "sequential script"
OPEN = 50  # tasks per node


@dataclass(frozen=True)
class Case:
    """One measurement; ``limits`` is ``default`` or ``open``, and ``open`` for tools that have none."""

    tool: str
    guests: int
    nodes: int
    limits: str = "open"
    runs: int = 1


CASES = [
    *[Case(OURS, guests, nodes, limits, runs)
      for guests, runs in ((10, 3), (100, 1), (1000, 1)) for nodes in (1, 4, 16) for limits in ("default", "open")],
    Case(OURS, 200, 4, "open", 3),
    *[Case(tool, guests, 4) for guests in (10, 100) for tool in (FORKS, LOOP, SEQUENTIAL)],
    Case(INFO, 10_000, 16, "default"),
]
FULL = [Case(OURS, 10_000, 16, "default"), Case(OURS, 10_000, 16, "open")]


def world(guests: int, nodes: int) -> dict[str, Any]:
    """Guests of drawn speed, spread over nodes, each on its node's own storage; nodes that answer like real ones."""
    draw = random.Random(SEED)
    names = ["pve{0}".format(number + 1) for number in range(nodes)]
    return {
        "time_scale": 1, "latency": 0.02, "api_workers": 3, "api_seconds": 0.015,
        "nodes": {name: {} for name in names},
        "storages": {"local-lvm": {"type": "lvmthin", "size": "900T", "used": "100T"}},
        "tokens": {TOKEN: {"secret": SECRET, "grants": {"/": PRIVILEGES}}},
        "guests": [
            {"vmid": 1000 + number, "name": "vm{0:05d}".format(number), "node": names[number % nodes], "agent": True,
             "snapshots": [{"label": "daily", "count": 2}],
             "create_seconds": CREATE * draw.uniform(1 - SPREAD, 1 + SPREAD),
             "delete_seconds": DELETE * draw.uniform(1 - SPREAD, 1 + SPREAD)}
            for number in range(guests)],
    }


def limits(case: Case) -> dict[str, int]:
    """Our options; none for the shipped defaults."""
    if case.limits != "open":
        return {}
    names = ("max_parallel", "max_parallel_deletes")
    return {
        **{name: OPEN * case.nodes for name in names},
        **{name + "_per_node": OPEN for name in names}, **{name + "_per_storage": OPEN for name in names}}


def bound(case: Case, guests: list[dict[str, Any]]) -> float:
    """The lower bound under the limits of the case."""
    work = [Work(guest["node"], guest["create_seconds"], guest["delete_seconds"]) for guest in guests]
    shipped = {name: option.get("default") for name, option in arguments.LIMITS.options.items()}
    return lower_bound(work, *arguments.parallel({**shipped, **limits(case)}))


class Bench:
    """Runs cases in a directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._environment = {
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback_plugins"), "ANSIBLE_CALLBACKS_ENABLED": "keep_result",
            "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_HOST_KEY_CHECKING": "false", "ANSIBLE_FORKS": "50",
            "STATE_DIRECTORY": str(directory / "state"), "AUTOSNAP_BENCHMARK_RESULT": str(directory / "result.json"),
        }

    def measure(self, case: Case) -> dict[str, Any]:
        """One case, the median of its runs, as an object of the results."""
        made = world(case.guests, case.nodes)
        runs = [self._once(case, made) for _number in range(case.runs)]
        runs.sort(key=lambda entry: entry["wall_s"])
        row = {
            "tool": case.tool, "guests": case.guests, "nodes": case.nodes, "limits": case.limits, "runs": case.runs,
            "lower_bound_s": None if case.tool == INFO else round(bound(case, made["guests"]), 2), **runs[len(runs) // 2]}
        row["wall_min_s"], row["wall_max_s"] = runs[0]["wall_s"], runs[-1]["wall_s"]
        return row

    def _once(self, case: Case, made: dict[str, Any]) -> dict[str, Any]:
        result = self._directory / "result.json"
        with Cluster(made, self._directory / "cluster") as cluster:
            startup = run(self._command(case, cluster, made, empty=True), self._environment, self._directory / "log")
        with Cluster(made, self._directory / "cluster") as cluster:
            result.unlink(missing_ok=True)
            measured = run(self._command(case, cluster, made), self._environment, self._directory / "log")
        if measured.status:
            raise RuntimeError((self._directory / "log").read_text(encoding="utf-8")[-3000:])
        self._check(case, result)
        return {
            "wall_s": round(measured.wall, 2), "startup_s": round(startup.wall, 2),
            "calls_per_guest": round(cluster.calls / case.guests, 2), "cpu_s": round(measured.cpu, 2),
            "startup_cpu_s": round(startup.cpu, 2), "peak_mb": round(measured.peak_mb, 1),
            "module_rss_mb": round(measured.module_rss_mb, 1),
            "result_kb": round(result.stat().st_size / 1024, 1) if result.exists() else None,
        }

    @staticmethod
    def _check(case: Case, result: pathlib.Path) -> None:
        """A run that did less than it should is no measurement."""
        if case.tool == OURS:
            guests = json.loads(result.read_text(encoding="utf-8"))["guests"]
            assert len(guests) == case.guests
            assert all(guest["status"] == "created" and len(guest["pruned"]) == 1 for guest in guests)

    def _command(self, case: Case, cluster: Cluster, made: dict[str, Any], empty: bool = False) -> list[str]:
        host, port = cluster.host.split(":")
        if case.tool == SEQUENTIAL:
            return [sys.executable, "-c", "import proxmoxer.backends.https"] if empty else [
                sys.executable, str(HERE / "sequential.py"), host, port, TOKEN, SECRET, cluster.ca]
        ids = [guest["vmid"] for guest in made["guests"]]
        inventory = {"all": {"hosts": {"guest{0}".format(number): {"vmid": number} for number in ids}}}
        if case.tool != FORKS:
            inventory = {"all": {"hosts": {"localhost": {}}}}
        task = self._ours(case, cluster) if case.tool in (OURS, INFO) else self._theirs(case, host, port, ids)
        if empty:
            task = {"ansible.builtin.ping": {}}
        play = [{
            "hosts": "all", "gather_facts": False, "connection": "local",
            "vars": {"ansible_python_interpreter": sys.executable}, "tasks": [task]}]
        for name, content in (("play.json", play), ("inventory.json", inventory)):
            (self._directory / name).write_text(json.dumps(content), encoding="utf-8")
        return ["ansible-playbook", "-i", str(self._directory / "inventory.json"), str(self._directory / "play.json")]

    @staticmethod
    def _ours(case: Case, cluster: Cluster) -> dict[str, Any]:
        options: dict[str, Any] = {
            "api_host": [cluster.host], "api_token": "{0}={1}".format(TOKEN, SECRET), "ca_path": cluster.ca, "guests": ["@all"]}
        if case.tool == INFO:
            return {"pve.autosnap.autosnap_info": options}
        return {"pve.autosnap.autosnap_snap": {**options, "label": "daily", "keep": 2, **limits(case)}}

    @staticmethod
    def _theirs(case: Case, host: str, port: str, ids: list[int]) -> dict[str, Any]:
        user, name = TOKEN.split("!")
        task: dict[str, Any] = {"community.proxmox.proxmox_snap": {
            "api_host": host, "api_port": int(port), "api_user": user, "api_token_id": name, "api_token_secret": SECRET,
            "validate_certs": False, "vmid": "{{ item }}", "snapname": "autodaily261125000000", "retention": 2,
            "timeout": 60}}
        if case.tool == FORKS:
            task["community.proxmox.proxmox_snap"]["vmid"] = "{{ vmid }}"
        else:
            task["loop"] = ids
        return task


def ratio(row: dict[str, Any]) -> float:
    """What a run takes beside its start-up, against the lower bound."""
    return float((row["wall_s"] - row["startup_s"]) / row["lower_bound_s"]) if row["lower_bound_s"] else 0.0


def line(row: dict[str, Any]) -> str:
    """A row of the printed table."""
    per_guest = (row["cpu_s"] - row["startup_cpu_s"]) / row["guests"] * 1000
    return "".join([
        "{tool:28}{guests:7}{nodes:6} {limits:8}".format(**row),
        "{wall_s:9.1f}{0:9.1f}{1:7.3f}{startup_s:8.1f}{calls_per_guest:7.2f}".format(
            row["lower_bound_s"] or 0.0, ratio(row), **row),
        "{cpu_s:8.1f}{0:7.1f}{peak_mb:8.0f}{module_rss_mb:8.0f}{1:8.0f}".format(per_guest, row["result_kb"] or 0, **row)])


HEAD = "".join([
    "{0:28}{1:>7}{2:>6} {3:8}".format("tool", "guests", "nodes", "limits"),
    "{0:>9}{1:>9}{2:>7}{3:>8}{4:>7}".format("wall s", "bound s", "ratio", "start s", "calls"),
    "{0:>8}{1:>7}{2:>8}{3:>8}{4:>8}".format("cpu s", "ms/gst", "PSS MB", "RSS MB", "KB")])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=pathlib.Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="", help="a text that a case must contain; nothing is written then")
    given = parser.parse_args()
    bench = Bench(given.directory)
    rows = []
    print(HEAD)
    for case in CASES + (FULL if given.full else []):
        if given.only in str(case):
            rows.append(bench.measure(case))
            print(line(rows[-1]), flush=True)
    if not given.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        plot.draw(rows, RESULTS / "plot.png")


if __name__ == "__main__":
    main()
