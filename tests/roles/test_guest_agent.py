# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role guest_agent on real machines, which stand for VMs without the agent's device."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Machine, Play

HOOKS = "/etc/qemu/fsfreeze-hook.d"
DISPATCHER = "/etc/qemu/autosnap-fsfreeze-hook"
LOG = "/var/log/autosnap-fsfreeze.log"
WANTED: list[dict[str, Any]] = [
    {"name": "shop", "type": "mysql", "defaults_file": "/root/shop.cnf", "timeout": 20},
    {"name": "note", "type": "command", "order": 5, "freeze": "echo \"it's frozen\" >>/tmp/note",
     "thaw": "echo thawed >>/tmp/note"},
    {"name": "cache", "type": "redis", "port": 6380},
]


def apply(machine: Machine, *arguments: str, **variables: Any) -> Play:
    return machine.play(
        "pve.autosnap.guest_agent", *arguments, guest_agent_hosts=machine.name, **{"guest_agent_hooks": WANTED, **variables})


def test_the_agent_and_its_hooks_are_installed_once(machine: Machine) -> None:
    machine.write(HOOKS + "/99-of-somebody", "#!/bin/sh\necho somebody $1 >>/tmp/note\n")
    machine.run("chmod", "755", HOOKS + "/99-of-somebody")
    checked = apply(machine, "--check", "--diff")
    assert not machine.exists(DISPATCHER)
    first, second = apply(machine), apply(machine)
    print("check:  {0}\nfirst:  {1}\nsecond: {2}".format(checked.recap, first.recap, second.recap))
    assert first.status == second.status == checked.status == 0, checked.output + first.output + second.output
    # Where Python's apt is missing, check mode cannot tell of the package.
    assert checked.changed in (first.changed, first.changed - 1) and first.changed > 5 and second.changed == 0
    assert "has no device for the agent yet: enable it in the VM's options" in first.output
    assert machine.sh("ls " + HOOKS).split() == [
        "05-note", "05-note.conf", "50-cache", "50-cache.conf", "50-shop", "50-shop.conf", "99-of-somebody"]
    assert machine.sh("stat -c '%a %U' {0}/50-shop {0}/50-shop.conf {1}".format(HOOKS, DISPATCHER)).splitlines() == [
        "755 root", "600 root", "755 root"]
    assert machine.run("cat", HOOKS + "/50-shop.conf").stdout.splitlines()[1:] == ["timeout=20", "defaults_file=/root/shop.cnf"]


def test_qemu_ga_itself_finds_the_dispatcher(machine: Machine) -> None:
    """By the settings that its service has."""
    assert "fsfreeze-hook={0}\n".format(DISPATCHER) in machine.run("qemu-ga", "--dump-conf").stdout
    unit = machine.run("systemctl", "cat", "qemu-guest-agent.service").stdout
    assert "ExecStopPost=-{0} release".format(DISPATCHER) in unit
    assert machine.run("systemd-analyze", "verify", "qemu-guest-agent.service").stderr == ""


def test_what_an_admin_made_is_not_written_over(machine: Machine) -> None:
    """Another dispatcher in the agent's settings, written as people write it, and a hook of the same name."""
    machine.run("cp", "/etc/qemu/qemu-ga.conf", "/tmp/kept")
    machine.write("/etc/qemu/qemu-ga.conf", "[general]\nfsfreeze-hook = /opt/admin/hook\n")
    play = apply(machine)
    assert play.status != 0 and play.changed == 0 and "makes the agent call /opt/admin/hook" in " ".join(play.output.split())
    machine.run("cp", "/tmp/kept", "/etc/qemu/qemu-ga.conf")
    play = apply(machine, guest_agent_hooks=[*WANTED, {"name": "of-somebody", "type": "mongodb", "order": 99}])
    assert play.status != 0 and play.changed == 0
    assert "99-of-somebody is not of this role; choose another name or order" in " ".join(play.output.split())


def test_a_freeze_and_what_it_says(machine: Machine) -> None:
    apply(machine, guest_agent_hooks=[hook for hook in WANTED if hook["type"] == "command"])
    machine.run(DISPATCHER, "freeze")
    assert machine.run("cat", "/tmp/note").stdout == "it's frozen\nsomebody freeze\n"
    machine.run(DISPATCHER, "thaw")
    assert machine.run("cat", "/tmp/note").stdout == "it's frozen\nsomebody freeze\nsomebody thaw\nthawed\n"
    log = machine.run("cat", LOG).stdout
    print(log)
    assert "05-note freeze: status 0" in log and "99-of-somebody thaw: status 0" in log
    assert not machine.exists(HOOKS + "/50-shop") and not machine.exists(HOOKS + "/50-shop.conf"), "taken off the list"


@pytest.mark.thorough
@pytest.mark.once("bookworm")
@pytest.mark.parametrize(("variables", "words"), [
    ({"guest_agent_hooks": [{"name": "a b", "type": "redis"}]}, "'guest_agent_hooks': 'a b' needs a name of letters"),
    ({"guest_agent_hooks": [{"name": "a", "type": "redis", "order": 100}]}, "an order from 0 to 99"),
    ({"guest_agent_hooks": [{"name": "a", "type": "redis"}] * 2}, "a name is there twice"),
    ({"guest_agent_hooks": [{"name": "a", "type": "redis", "uri_file": "/u"}]},
     "'a' of type 'redis' does not know uri_file; it knows socket, host, port, password_file"),
    ({"guest_agent_hooks": [{"name": "a", "type": "command"}]}, "has neither freeze nor thaw"),
    ({"guest_agent_hooks": [{"name": "a", "type": "oracle"}]}, "oracle"),
    ({"guest_agent_hold": 30, "guest_agent_hooks": [{"name": "a", "type": "redis", "timeout": 30}]},
     "'guest_agent_hold': 30 must be more than the timeouts of the hooks together, with 5 for each (35)"),
    ({"guest_agent_hold": "900", "guest_agent_hooks": [{"name": "a", "type": "redis", "timeout": 146}]},
     "may be 150 at most"),
])
def test_wrong_variables_are_refused_before_anything_changes(machine: Machine, variables: dict[str, Any], words: str) -> None:
    play = apply(machine, **variables)
    assert play.status != 0 and play.changed == 0
    assert words in " ".join(play.output.split()), play.output


@pytest.mark.once("bookworm")
def test_a_container_is_left_alone(machine: Machine) -> None:
    facts = {"virtualization_type": "lxc", "service_mgr": "systemd", "os_family": "Debian"}
    play = apply(machine, ansible_facts=facts)
    print(play.recap)
    assert play.status == 0 and play.changed == 0
    assert "is a container: Proxmox VE freezes its processes itself, and there is no agent for it; nothing to do" in play.output


def test_all_of_it_is_taken_away(machine: Machine) -> None:
    play = apply(machine, guest_agent_state="absent")
    assert play.status == 0, play.output
    assert machine.sh("ls {0} {1}* /etc/systemd/system/qemu-guest-agent.service.d /var/log/autosnap* 2>/dev/null; true".format(
        HOOKS, DISPATCHER)).split() == ["/etc/qemu/fsfreeze-hook.d:", "99-of-somebody"] + [
            "/etc/systemd/system/qemu-guest-agent.service.d:"]
    assert DISPATCHER not in machine.run("qemu-ga", "--dump-conf").stdout
    again = apply(machine, guest_agent_state="absent")
    print(again.recap)
    assert again.changed == 0
