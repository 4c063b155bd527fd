# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real machines, a simulated cluster that they reach, and whoever is told of their jobs."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any, Iterator

import pytest
import yaml
from simulator.running import Running
from simulator.sinks import Sinks
from worlds import SECRET, TOKEN, daily, guest, world

HERE = pathlib.Path(__file__).parent
TOOL = HERE.parent / "tools" / "machine"
COLLECTIONS = os.environ["AUTOSNAP_COLLECTIONS"]
SUITES = ("bookworm", "trixie")
CA = "/etc/pve-root-ca.pem"


def why_not() -> str:
    """Why there can be no machines here; empty where there can."""
    run = subprocess.run([str(TOOL), "ready"], capture_output=True, text=True, check=False)
    return "" if run.returncode == 0 else (run.stdout + run.stderr).strip()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs machines; what is for one of them is tried on all with AUTOSNAP_ALL."""
    if not os.environ.get("AUTOSNAP_ALL"):
        items[:] = [
            item for item in items if not item.get_closest_marker("thorough")
            and all(mark.args[0] in item.name for mark in item.iter_markers("once"))]
    reason = why_not()
    for item in items if reason else ():
        item.add_marker(pytest.mark.skip(reason=reason))


class Play:
    """What a playbook printed, and what its recap counts."""

    def __init__(self, run: subprocess.CompletedProcess[str]) -> None:
        self.output = run.stdout + run.stderr
        self.status = run.returncode
        match = re.search(r"ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", run.stdout)
        self.changed = int(match.group(2)) if match else -1
        self.recap = next((line.strip() for line in run.stdout.splitlines() if "changed=" in line), "")


class Machine:
    """A machine with its own systemd, and the control node that manages it: this process."""

    def __init__(self, suite: str, directory: pathlib.Path) -> None:
        self.suite = suite
        self.name = "autosnap-" + suite
        self.directory = directory
        self.sinks = Sinks()
        self.cluster = Running(world(
            guest(100, snapshots=daily(2)), guest(101, type="lxc", node="pve2", snapshots=daily(2)),
            guest(102, create_seconds=60, tags=["slow", "test"]), pools={"prod": [100, 101]}))
        self.cluster.__enter__()
        tree = subprocess.run([str(TOOL), "tree", suite], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        subprocess.run([str(TOOL), "down", self.name], check=True)
        subprocess.run([str(TOOL), "up", self.name, tree], check=True)
        self.write(CA, pathlib.Path(self.cluster.ca).read_text())
        self.run("chmod", "644", CA)
        # What somebody else uses Ansible for on this machine: hosts, and variables that nobody can open here.
        self.write("/etc/ansible/hosts", "[others]\nweb1\n")
        self.write("/etc/ansible/group_vars/all.yml", "$ANSIBLE_VAULT;1.1;AES256\n3030\n")

    def close(self) -> None:
        """Switch it off."""
        subprocess.run([str(TOOL), "down", self.name], check=False)
        self.cluster.__exit__()
        self.sinks.close()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the machine."""
        run = subprocess.run([str(TOOL), "exec", self.name, *command], capture_output=True, text=True, timeout=300, check=False)
        assert not check or run.returncode == 0, (command, run.stdout, run.stderr, self.last_words())
        return run

    def last_words(self) -> str:
        """What the machine has said last."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--lines=40", check=False).stdout

    def sh(self, script: str, check: bool = True) -> str:
        """What a shell script printed in the machine."""
        return self.run("sh", "-c", script, check=check).stdout

    def write(self, path: str, text: str) -> None:
        """A file in the machine."""
        script = 'mkdir -p "$(dirname "$0")"; cat >"$0"'
        subprocess.run([str(TOOL), "exec", self.name, "sh", "-c", script, path], input=text, text=True, check=True)

    def exists(self, path: str) -> bool:
        """Whether there is such a file in the machine."""
        return self.run("test", "-e", path, check=False).returncode == 0

    def play(self, playbook: str, *arguments: str, **variables: Any) -> Play:
        """Run a playbook of the installed collection against the machine."""
        inventory = self.directory / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": {self.name: {
            "ansible_connection": "machine", "ansible_become": False, "ansible_python_interpreter": "/usr/bin/python3"}}}}))
        file = self.directory / "variables.yml"
        file.write_text(json.dumps({"schedule_hosts": self.name, **variables}))
        return Play(subprocess.run(
            ["ansible-playbook", "-i", str(inventory), playbook, "-e", "@{0}".format(file), *arguments],
            env={
                "PATH": "{0}:{1}".format(pathlib.Path(sys.executable).parent, os.environ["PATH"]), "HOME": str(self.directory),
                "LC_ALL": "C.UTF-8", "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS, "ANSIBLE_HOME": str(self.directory / ".ansible"),
                "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection_plugins"), "ANSIBLE_PIPELINING": "true",
                "ANSIBLE_NOCOLOR": "1"},
            cwd=self.directory, capture_output=True, text=True, timeout=600, check=False))

    def variables(self, *jobs: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The role's variables for these jobs, and three jobs where none are given."""
        return {
            "schedule_jobs": list(jobs) or three_jobs(),
            "schedule_options": {"api_host": self.cluster.hosts, "ca_path": CA},
            "schedule_credentials": [{"name": "prod", "secret": "{0}={1}".format(TOKEN, SECRET)}],
            "schedule_collection_source": {"type": "file", "name": os.environ["AUTOSNAP_TARBALL"]},
            "schedule_notify": {
                "mail": {"to": "ops@example.com", "server": "127.0.0.1", "port": self.sinks.smtp_port},
                "webhook": {"url": self.sinks.url + "/hook"}, "ntfy": {"url": self.sinks.url + "/topic"},
                "health_check": {key: self.sinks.url + "/health/" + key for key in ("start", "success", "failure")}},
            **more}

    def schedule(self, *jobs: dict[str, Any], arguments: tuple[str, ...] = (), **more: Any) -> Play:
        """Apply the role."""
        play = self.play("pve.autosnap.schedule", *arguments, **self.variables(*jobs, **more))
        assert play.status == 0, play.output
        return play

    def property(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, "--property", name, "--value").stdout.strip()

    def journal(self, unit: str) -> str:
        """Everything that a unit has said."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit).stdout

    def snapshots(self, vmid: int, label: str = "daily") -> list[str]:
        """Names of a guest's snapshots of a label."""
        return sorted(name for name in self.cluster.pve.guest(vmid).snapshots if name.startswith("auto" + label))


def three_jobs() -> list[dict[str, Any]]:
    """Those of the README."""
    readme = pathlib.Path(COLLECTIONS, "ansible_collections", "pve", "autosnap", "README.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```yaml\n(.*?)```", readme, re.S) if "pve.autosnap.schedule" in block)
    jobs: list[dict[str, Any]] = yaml.safe_load(block)[0]["roles"][0]["schedule_jobs"]
    return jobs


@pytest.fixture(scope="session", params=SUITES)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine of each Debian, for all tests; they go on from one another."""
    made = Machine(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.close()
