# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The installed collection as users run it: ansible-playbook, the shipped playbooks, the modules by name."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any, Iterator

import pytest
import yaml
from simulator.running import Running
from worlds import ALL, SECRET, TOKEN, daily, guest, names, world

HERE = pathlib.Path(sys.executable).parent
FOREIGN = {"name": "before_upgrade", "age": 90_000_000, "description": "made by hand"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Running]:
    with Running(world(
        guest(100, snapshots=[FOREIGN, *daily(4)]), guest(101, type="lxc", node="pve2", snapshots=daily(4)),
        guest(102, storage="full"), guest(900, template=True),
    )) as running:
        yield running


class Control:
    """A control node: a directory of its own, no configuration but what a test gives."""

    def __init__(self, directory: pathlib.Path, cluster: Running) -> None:
        self.directory = directory
        self.cluster = cluster
        self.token = directory / "token"
        self.token.write_text("{0}={1}".format(TOKEN, SECRET))
        self.environment = {
            "PATH": "{0}:{1}".format(HERE, os.environ["PATH"]), "HOME": str(directory), "LANG": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": os.environ["AUTOSNAP_COLLECTIONS"], "ANSIBLE_HOME": str(directory / ".ansible"),
            "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        }
        if "COVERAGE_PROCESS_START" in os.environ:
            self.environment["COVERAGE_PROCESS_START"] = os.environ["COVERAGE_PROCESS_START"]

    def variables(self, **more: Any) -> dict[str, Any]:
        return {
            "autosnap_api_host": self.cluster.hosts, "autosnap_ca_path": self.cluster.ca,
            "autosnap_api_token_file": str(self.token), "autosnap_guests": "100,101", "autosnap_label": "daily", **more}

    def run(self, playbook: str, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        file = self.directory / "job.yml"
        file.write_text(yaml.safe_dump({k: v for k, v in self.variables(**variables).items() if v is not None}))
        return subprocess.run(
            ["ansible-playbook", playbook, "-e", "@{0}".format(file), *arguments], env=self.environment,
            cwd=self.directory, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture
def control(tmp_path: pathlib.Path, cluster: Running) -> Control:
    return Control(tmp_path, cluster)


def test_snap_clean_and_status(control: Control) -> None:
    snap = control.run("pve.autosnap.snap", autosnap_keep=3, autosnap_verbosity="full")
    assert snap.returncode == 0, snap.stdout + snap.stderr
    lines = snap.stdout.splitlines()
    assert any(line.startswith("| 100 ") and "| created " in line for line in lines)
    assert any(line.startswith("| ceph ") and "10.0" in line for line in lines)
    assert any("no rule keeps it" in line for line in lines)
    assert any("last 1 of 3" in line for line in lines)
    assert "\\n" not in snap.stdout
    assert not any(line.startswith(('"', "    \"")) for line in lines)
    assert len(names(control.cluster, 100)) == 4
    clean = control.run("pve.autosnap.clean", autosnap_keep=1)
    assert clean.returncode == 0, clean.stdout
    assert len(names(control.cluster, 100)) == 2
    assert "before_upgrade" in names(control.cluster, 100)
    status = control.run("pve.autosnap.status", autosnap_label=["*"])
    assert any(line.startswith("| pve1 ") and "daily" in line and "whole" in line for line in status.stdout.splitlines())
    assert not any(line.startswith("| pve1 ") and "before_upgrade" in line.split("|")[5]
                   for line in status.stdout.splitlines())


def test_a_dry_run_changes_nothing_by_option_or_by_check(control: Control) -> None:
    """All four combinations."""
    before = names(control.cluster, 100)
    for arguments, dry in ((["--check"], None), ([], True), (["--check"], True), (["--check", "--diff"], False)):
        run = control.run("pve.autosnap.snap", *arguments, autosnap_keep=1, autosnap_dry_run=dry)
        assert run.returncode == 0, run.stdout
        assert "changed=1" in run.stdout
        assert names(control.cluster, 100) == before
    assert "+100 autodaily" in run.stdout
    assert "-100 autodaily" in run.stdout


def test_a_red_run_still_shows_its_tables_and_fails(control: Control) -> None:
    run = control.run("pve.autosnap.snap", autosnap_guests="100,102,nosuch")
    assert run.returncode == 2
    assert any(line.startswith("| 102 ") and "skipped" in line for line in run.stdout.splitlines())
    assert "97.0 % full" in run.stdout
    assert "option 'guests': 'nosuch' matched no guest" in run.stdout
    assert "no snapshots" in run.stdout


@pytest.mark.parametrize("output", ["text", "unicode", "unicode_alt", "markdown", "html", "json", "jsonpretty"])
def test_status_in_every_format_to_a_file(control: Control, output: str) -> None:
    file = control.directory / "status"
    run = control.run(
        "pve.autosnap.status", autosnap_output=output, autosnap_output_file=str(file), autosnap_label=["*"])
    assert run.returncode == 0, run.stdout
    text = file.read_text()
    if output.startswith("json"):
        rows = json.loads(text)
        assert {row["vmid"] for row in rows} == {100, 101}
        assert ("\n  " in text) == (output == "jsonpretty")
    else:
        first = {"text": "+", "unicode": "╭", "unicode_alt": "┏", "markdown": "|", "html": "<table>"}[output]
        assert text.startswith(first)
        assert text.endswith("\n")
        assert "vm100" in text


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"autosnap_kep": 7}, "autosnap_kep means nothing here"),
        ({"autosnap_label": None}, "autosnap_label"),
        ({"autosnap_locked": "maybe"}, "autosnap_locked"),
        ({"autosnap_hosts": "nowhere"}, "'nowhere' matches no host"),
        ({"autosnap_label": "da ily"}, "option 'label'"),
        ({"autosnap_keep": 1, "autosnap_retention": {"daily": 1}}, "mutually exclusive"),
    ],
)
def test_wrong_variables_are_refused_before_anything_is_touched(
    control: Control, variables: dict[str, Any], words: str
) -> None:
    seen = len(control.cluster.pve.log)
    run = control.run("pve.autosnap.snap", **variables)
    assert run.returncode != 0
    assert words in run.stdout + run.stderr
    assert len(control.cluster.pve.log) == seen


def test_an_output_that_does_not_exist_is_refused(control: Control) -> None:
    run = control.run("pve.autosnap.status", autosnap_output="word")
    assert run.returncode != 0
    assert "autosnap_output" in run.stdout


def test_tabulate_missing_is_told_before_anything_is_touched(control: Control) -> None:
    blocked = control.directory / "blocked"
    blocked.mkdir()
    (blocked / "tabulate.py").write_text("raise ImportError('blocked')")
    control.environment["PYTHONPATH"] = str(blocked)
    seen = len(control.cluster.pve.log)
    run = control.run("pve.autosnap.status")
    assert run.returncode != 0
    assert "pip install tabulate" in run.stdout + run.stderr
    assert len(control.cluster.pve.log) == seen


@pytest.mark.parametrize("library", ["requests", "proxmoxer"])
def test_a_missing_library_is_named(control: Control, library: str) -> None:
    blocked = control.directory / "blocked"
    blocked.mkdir()
    (blocked / (library + ".py")).write_text("raise ImportError('blocked')")
    control.environment["PYTHONPATH"] = str(blocked)
    run = control.run("pve.autosnap.status")
    assert run.returncode != 0
    assert "the Python library '{0}' is missing".format(library) in run.stdout


def test_one_inventory_host_per_cluster(control: Control) -> None:
    inventory = control.directory / "hosts"
    inventory.write_text("cluster_a\ncluster_b\n")
    run = control.run("pve.autosnap.status", "-i", str(inventory), autosnap_hosts="all")
    assert run.returncode == 0, run.stdout
    assert "cluster_a" in run.stdout and "cluster_b" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["--limit", "cluster_a"], {}, "none that the limit leaves"),
        (["--limit", "cluster_b"], {"autosnap_hosts": "cluster_a"}, "none that the limit leaves"),
        (["-e", "x=1"], {"autosnap_output_file": "/tmp/autosnap-never", "autosnap_hosts": "all"}, "the same for several hosts"),
    ],
)
def test_a_run_that_would_do_nothing_or_half_is_refused(
    control: Control, arguments: list[str], variables: dict[str, Any], words: str
) -> None:
    inventory = control.directory / "hosts"
    inventory.write_text("cluster_a\ncluster_b\n")
    run = control.run("pve.autosnap.status", "-i", str(inventory), *arguments, **variables)
    assert run.returncode != 0, run.stdout
    assert words in " ".join(run.stdout.split())


@pytest.mark.parametrize("where", [
    "cluster_a\n[all:vars]\nautosnap_hosts=cluster_a\n", "[sites]\ncluster_a\n[sites:vars]\nautosnap_hosts=sites\n"])
def test_hosts_from_the_inventory_come_too_late(control: Control, where: str) -> None:
    inventory = control.directory / "hosts"
    inventory.write_text(where)
    run = control.run("pve.autosnap.status", "-i", str(inventory))
    assert run.returncode != 0, run.stdout
    assert "extra variable" in run.stdout


def test_a_limit_and_a_file_of_its_own_for_each_host(control: Control) -> None:
    inventory = control.directory / "hosts"
    inventory.write_text("cluster_a\ncluster_b\n")
    run = control.run(
        "pve.autosnap.status", "-i", str(inventory), "--limit", "cluster_b", autosnap_hosts="all",
        autosnap_output_file=str(control.directory / "{{ inventory_hostname }}.txt"))
    assert run.returncode == 0, run.stdout
    assert (control.directory / "cluster_b.txt").exists()
    both = control.run(
        "pve.autosnap.status", "-i", str(inventory), autosnap_hosts="all",
        autosnap_output_file=str(control.directory / "{{ inventory_hostname }}.txt"))
    assert both.returncode == 0, both.stdout
    assert (control.directory / "cluster_a.txt").exists()


def test_the_guest_side(tmp_path: pathlib.Path) -> None:
    """The agent switched on, a snapshot that must be frozen, and commands around it; the variables are those of one job."""
    grants = {"/": [*ALL, "VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted", "VM.Config.Options"]}
    with Running(world(
        guest(100), guest(101, agent=False), guest(102, type="lxc"), guest(103, freeze_error="the hook failed"),
        tokens={TOKEN: {"secret": SECRET, "grants": grants}},
    )) as cluster:
        control = Control(tmp_path, cluster)
        job = {"autosnap_guests": "@all", "autosnap_keep": 3, "autosnap_require_frozen": "skip", "autosnap_guest_commands": {
            "pre": ["/bin/quiesce", "a b"], "post": ["/bin/resume"]}}
        listed = control.run("pve.autosnap.agent", **job)
        print(listed.stdout)
        assert listed.returncode == 0 and "changed=0" in listed.stdout
        assert re.search(r"^\| 101 +\| vm101 +\| pve1 +\| running +\| disabled +\| switch it on", listed.stdout, re.M)
        planned = control.run("pve.autosnap.agent", "--check", "--diff", autosnap_enable=True, **job)
        assert "-101 vm101: agent not set" in planned.stdout and "+101 vm101: agent enabled=1" in planned.stdout
        enabled = control.run("pve.autosnap.agent", autosnap_enable=True, **job)
        print(enabled.stdout)
        assert "changed=1" in enabled.stdout and re.search(r"^\| 101 .* waiting +\| shut it down and start", enabled.stdout, re.M)
        run = control.run("pve.autosnap.snap", **job)
        print(run.stdout)
        assert run.returncode == 2
        assert re.search(r"^\| 100 .* created +\| autodaily\d+ \| frozen ", run.stdout, re.M)
        assert re.search(r"^\| 101 .* skipped +\| +\| +\| +\| it would not be frozen", run.stdout, re.M)
        assert re.search(r"^\| 102 .* created +\| autodaily\d+ \| container ", run.stdout, re.M)
        assert re.search(r"^\| 103 .* created +\| autodaily\d+ \| not_frozen ", run.stdout, re.M)
        assert cluster.pve.vm(100).agent_requests[1][1]["command"] == ["/bin/quiesce", "a b"]


def test_module_defaults_reach_all_modules(control: Control) -> None:
    play = control.directory / "play.yml"
    play.write_text(yaml.safe_dump([{
        "hosts": "localhost", "connection": "local", "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "module_defaults": {"group/pve.autosnap.autosnap": {
            "api_host": control.cluster.hosts, "api_token_file": str(control.token), "ca_path": control.cluster.ca}},
        "tasks": [
            {"pve.autosnap.autosnap_snap": {"guests": "100", "label": "hourly", "keep": 1}, "register": "one"},
            {"pve.autosnap.autosnap_info": {"guests": "100", "label": "hourly"}, "register": "two"},
            {"pve.autosnap.autosnap_clean": {"guests": "100", "label": "hourly", "keep": 0}, "register": "three"},
            {"pve.autosnap.autosnap_agent": {"guests": "100"}, "register": "four"},
            {"ansible.builtin.assert": {"that": [
                "one.guests.0.status == 'created'", "two.guests.0.snapshots | length == 1",
                "three.guests.0.pruned == [one.guests.0.snapshot]", "four.guests.0.status == 'enabled'"]}},
        ],
    }]))
    run = control.run(str(play))
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("way", ["option", "file", "environment", "password"])
def test_law_12_no_secret_in_anything_printed_or_written(control: Control, way: str) -> None:
    """A failing run with -vvv, and a hook that prints its whole environment."""
    hook = control.directory / "hook"
    hook.write_text("#!/bin/sh\nenv >\"$0.printed\"\necho read: $(cat {0})\nenv | sort\n".format(control.token))
    hook.chmod(0o755)
    secret, given = SECRET, {"autosnap_api_token_file": None}
    if way == "option":
        given = {"autosnap_api_token_file": None, "autosnap_api_token": "{0}={1}".format(TOKEN, SECRET)}
    elif way == "file":
        given = {}
    elif way == "environment":
        control.environment.update(PROXMOX_TOKEN_ID=TOKEN, PROXMOX_TOKEN_SECRET=SECRET, ALSO="x" + SECRET)
    else:
        secret = "pass-word-77"
        given.update(autosnap_api_user="autosnap@pve", autosnap_api_password=secret)
    control.cluster.pve.task_errors[(100, "qmsnapshot")] = ["it broke"]
    control.environment["ANSIBLE_KEEP_REMOTE_FILES"] = "0"
    run = control.run("pve.autosnap.snap", "-vvv", autosnap_hook=str(hook), autosnap_keep=3, **given)
    assert run.returncode == 2
    assert "it broke" in run.stdout
    assert "CV4PVE_AUTOSNAP_PHASE=snap-create-pre" in run.stdout
    assert secret not in run.stdout + run.stderr
    assert way == "password" or re.search(r"read: (\S+=)?\*{8}", run.stdout)
    assert "AUTOSNAP_HOST=" in (control.directory / "hook.printed").read_text()
    ours = {control.directory / "job.yml", control.token}
    for path in control.directory.rglob("*"):
        if path.is_file() and path not in ours:
            assert secret.encode() not in path.read_bytes(), path
    control.cluster.pve.task_errors.clear()


def oldest_python() -> str | None:
    """A Python 3.9 with the libraries, where the test runner made one."""
    return os.environ.get("AUTOSNAP_PYTHON39")


@pytest.mark.skipif(not oldest_python(), reason="no Python 3.9 on this machine")
def test_modules_run_on_python_3_9(control: Control) -> None:
    play = control.directory / "play.yml"
    play.write_text(yaml.safe_dump([{
        "hosts": "localhost", "connection": "local", "gather_facts": False,
        "vars": {"ansible_python_interpreter": oldest_python()},
        "tasks": [{"pve.autosnap." + module: {
            "api_host": control.cluster.hosts, "api_token_file": str(control.token), "ca_path": control.cluster.ca,
            "guests": "100", **more}} for module, more in (
                ("autosnap_snap", {"label": "old", "keep": 1}), ("autosnap_info", {"label": "old"}),
                ("autosnap_clean", {"label": "old", "keep": 0}), ("autosnap_agent", {}))],
    }]))
    run = control.run(str(play))
    assert run.returncode == 0, run.stdout
    assert "changed=2" in run.stdout


def test_every_example_of_the_documentation_is_a_valid_task(control: Control) -> None:
    """EXAMPLES run in check mode's first step: their arguments are accepted and the connection is what fails."""
    documented = json.loads(subprocess.run(
        ["ansible-doc", "--json", *("pve.autosnap.autosnap_" + name for name in ("snap", "clean", "info", "agent"))],
        env=control.environment, capture_output=True, text=True, check=True).stdout)
    assert len(yaml.safe_load(documented["pve.autosnap.autosnap_snap"]["examples"])) >= 6
    (control.directory / "hook").write_text("#!/bin/sh\n")
    (control.directory / "hook").chmod(0o755)
    for name, plugin in documented.items():
        text = plugin["examples"].replace("/etc/autosnap/token", str(control.token)).replace(
            "/etc/ssl/pve-root-ca.pem", control.cluster.ca).replace(
            "/usr/local/bin/autosnap-hook", str(control.directory / "hook"))
        for host in ("pve1", "pve2", "pve3"):
            text = text.replace(host + ".example.com", control.cluster.hosts[0])
        play = control.directory / "play.yml"
        play.write_text(yaml.safe_dump([{
            "hosts": "localhost", "connection": "local", "gather_facts": False,
            "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}", "autosnap_token_secret": SECRET},
            "module_defaults": {"group/pve.autosnap.autosnap": {"ca_path": control.cluster.ca}},
            "tasks": [{"block": [task], "rescue": [{"ansible.builtin.debug": {"msg": "red"}}]} for task in yaml.safe_load(text)],
        }]))
        run = control.run(str(play), "--check")
        assert run.returncode == 0, run.stdout
        refused = [line for line in run.stdout.splitlines() if "Unsupported parameters" in line or "option '" in line]
        about_this_cluster = (
            "option 'guests': '@", "option 'expect_guests'", "option 'guests': '1", "option 'expect': '@", "the status is")
        assert not [line for line in refused if not any(words in line for words in about_this_cluster)], (name, refused)


def test_the_tarball_holds_what_users_need() -> None:
    installed = pathlib.Path(os.environ["AUTOSNAP_COLLECTIONS"]) / "ansible_collections" / "pve" / "autosnap"
    assert (installed / "README.md").exists()
    assert (installed / "playbooks" / "snap.yml").exists()
    assert not (installed / "tests" / "simulator").exists()
    assert shutil.which("ansible-playbook", path=str(HERE))
