# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How consistent snapshots are, by the logs of their tasks; require_frozen; commands in the guests."""

from __future__ import annotations

import pathlib
import threading
import time
from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils import arguments
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import acting, guest_commands
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.agent import agent
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.run import Ending, Report, connect
from ansible_collections.pve.autosnap.plugins.module_utils.pve.agent import Agent
from ansible_collections.pve.autosnap.plugins.module_utils.pve.cluster import Cluster
from simulator.running import Running, until
from worlds import ALL, SECRET, TOKEN, daily, entry, guest, hook, names, params, run_clean, run_snap, world, writes

AGENT = [*ALL, "VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"]
PRE, POST = ["/bin/quiesce", "a b", "--now"], ["/bin/resume"]
COMMANDS: dict[str, Any] = {"pre": PRE, "post": POST}


def told(report: Any, vmid: int) -> tuple[str, str]:
    found = entry(report, vmid)
    return found["consistency"], found["consistency_reason"]


def allowed(*guests: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A world whose token may talk to the agents."""
    return world(*guests, tokens={TOKEN: {"secret": SECRET, "grants": {"/": AGENT}}}, **more)


def asked(cluster: Running, vmid: int) -> list[str]:
    """What the guest's agent was asked, but for how a command goes on."""
    return [command + " ".join(["", *given.get("command", [])]) for command, given in cluster.pve.vm(vmid).agent_requests
            if command != "exec-status"]


OUTCOMES = [
    ("9.2.11", {}, "frozen", ""),
    ("9.2.11", {"freeze_error": "child process has failed to execute fsfreeze hook"}, "not_frozen",
     "unable to freeze guest fs - child process has failed to execute fsfreeze hook"),
    ("9.2.11", {"agent_answers": False}, "not_frozen", "skipping guest filesystem freeze - agent configured but not running?"),
    ("9.2.11", {"agent": "1,freeze-fs-on-backup=0"}, "not_frozen", "skipping guest filesystem freeze - disabled in VM options"),
    ("9.2.11", {"agent": "1,freeze-fs=0"}, "not_frozen", "the agent option says freeze-fs=0"),
    ("9.2.11", {"agent": False}, "not_frozen", "the guest agent is not enabled"),
    ("9.2.11", {"status": "stopped"}, "stopped", ""),
    ("9.2.11", {"type": "lxc"}, "container", ""),
    ("8.4.19", {}, "frozen", ""),
    ("8.4.19", {"agent_answers": False}, "not_frozen",
     "QEMU Guest Agent is not running - VM 100 qmp command 'guest-ping' failed - got timeout"),
    ("8.4.19", {"freeze_error": "VM 100 qmp command 'guest-fsfreeze-freeze' failed - got timeout"}, "not_frozen",
     "guest-fsfreeze-freeze problems - VM 100 qmp command 'guest-fsfreeze-freeze' failed - got timeout"),
]


@pytest.mark.parametrize(("version", "given", "value", "reason"), OUTCOMES)
def test_every_outcome_of_a_freeze(version: str, given: dict[str, Any], value: str, reason: str) -> None:
    with Running(world(guest(100, snapshots=daily(2), **given), version=version)) as cluster:
        report = run_snap(cluster, keep=2, verbosity="full")
        print(version, given, told(report, 100))
        assert told(report, 100) == (value, reason)
        assert not report.failed
        assert (entry(report, 100)["status"], len(entry(report, 100)["pruned"])) == ("created", 1)
        assert cluster.pve.guest(100).status == given.get("status", "running")


def test_an_earlier_freeze_that_still_holds_is_none_of_ours() -> None:
    with Running(world(guest(100))) as cluster:
        cluster.pve.vm(100).agent_frozen = True
        report = run_snap(cluster)
        assert told(report, 100) == ("not_frozen", "skipping guest filesystem freeze - already frozen")


def test_the_ram_counts_only_where_it_was_saved() -> None:
    with Running(world(guest(100, create_seconds=0.5), guest(101), guest(102, type="lxc"))) as cluster:
        cluster.when_seen(r"POST .*/100/snapshot", lambda: setattr(cluster.pve.vm(101), "status", "stopped"))
        report = run_snap(cluster, vmstate=True, max_parallel=1)
        assert told(report, 100) == ("memory", "")
        assert told(report, 101) == ("stopped", "it was stopped meanwhile: there was no RAM to save")
        assert told(report, 102) == ("container", "")


def test_an_agent_that_waits_for_a_restart_freezes_nothing() -> None:
    with Running(world(guest(100, agent=False))) as cluster:
        cluster.pve.vm(100).pending["agent"] = "1"
        assert told(run_snap(cluster), 100) == ("not_frozen", "the guest agent is not enabled")


def test_only_where_the_log_can_tell_it_is_read() -> None:
    with Running(world(guest(100), guest(101, status="stopped"), guest(102, type="lxc"), guest(103, agent=False))) as cluster:
        run_snap(cluster)
        assert len([path for _method, path, *_rest in cluster.pve.log if path.endswith("/101/snapshot")]) == 3, "whether it runs"
        logs = [path for _method, path, *_rest in cluster.pve.log if path.endswith("/log")]
        assert len(logs) == 1 and "%3A100%3A" in logs[0].replace(":", "%3A")


def test_a_log_that_cannot_be_read_is_unknown_and_stops_nothing() -> None:
    with Running(world(guest(100, snapshots=daily(2)))) as cluster:
        cluster.pve.fault("GET", "/log$", times=None, status=403, reason="Permission check failed (/nodes/pve1, Sys.Audit)")
        report = run_snap(cluster, keep=2)
        value, reason = told(report, 100)
        assert value == "unknown" and "Permission check failed" in reason
        assert not report.failed and len(entry(report, 100)["pruned"]) == 1


def test_a_guest_that_was_not_thawed_is_red() -> None:
    with Running(world(guest(100, thaw_error="VM 100 qmp command 'guest-fsfreeze-thaw' failed - got timeout"))) as cluster:
        report = run_snap(cluster)
        found = entry(report, 100)
        assert report.failed and (found["status"], found["consistency"]) == ("created", "frozen")
        assert "look whether the guest hangs ('qm guest cmd 100 fsfreeze-status' on node pve1)" in found["reason"]


def test_law_4_a_thaw_with_trouble_pushes_nothing_out_either() -> None:
    """The hooks may have let go before the disks were cut."""
    with Running(allowed(guest(100, snapshots=daily(2), thaw_error="fsfreeze hook has failed with status 1"))) as cluster:
        report = run_snap(cluster, require_frozen="skip", keep=2)
        assert report.failed and entry(report, 100)["pruned"] == []
        assert len(entry(run_snap(cluster, label="other", keep=1), 100)["pruned"]) == 0


@pytest.mark.parametrize(("before", "after", "value"), [("stopped", "running", "not_frozen"), ("running", "stopped", "stopped")])
def test_a_vm_that_was_started_or_stopped_since_it_was_read(
    before: str, after: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "STATUS_AGE", 0.1)
    other = guest(101, status=before, agent_answers=False, snapshots=daily(1))
    with Running(allowed(guest(100, create_seconds=0.6), other)) as cluster:
        cluster.when_seen(r"POST .*/100/snapshot", lambda: setattr(cluster.pve.vm(101), "status", after))
        report = run_snap(cluster, max_parallel=1, keep=1, require_frozen="never" if before == "running" else "skip")
        assert told(report, 101)[0] == value
        assert entry(report, 101)["red"] == (value == "not_frozen")
        assert bool(entry(report, 101)["pruned"]) == (value == "stopped")


def test_check_mode_tells_what_is_known_before() -> None:
    with Running(world(guest(100), guest(101, status="stopped"), guest(102, agent=False), guest(103, type="lxc"))) as cluster:
        report = run_snap(cluster, check=True)
        assert [found["consistency"] for found in report.result["guests"]] == ["", "stopped", "not_frozen", "container"]


# ------------------------------------------------------------ require_frozen


@pytest.mark.parametrize(("mode", "status"), [("skip", "skipped"), ("fail", "failed")])
@pytest.mark.parametrize("check", [False, True])
def test_require_frozen_before(mode: str, status: str, check: bool) -> None:
    with Running(allowed(
        guest(100, snapshots=daily(3)), guest(101, agent_answers=False, snapshots=daily(3)), guest(102, agent=False),
        guest(103, agent="1,freeze-fs=0"), guest(104, status="stopped", agent=False), guest(105, type="lxc"),
    )) as cluster:
        report = run_snap(cluster, require_frozen=mode, keep=2, check=check)
        statuses = {found["vmid"]: found["status"] for found in report.result["guests"]}
        assert statuses == {100: "created", 101: status, 102: status, 103: status, 104: "created", 105: "created"}
        assert report.failed
        assert entry(report, 101)["reason"] == "it would not be frozen (require_frozen): QEMU guest agent is not running"
        assert entry(report, 102)["reason"] == "it would not be frozen (require_frozen): the guest agent is not enabled"
        assert len(entry(report, 101)["pruned"]) == 1, "what may go without a new one"
        pings = [path for _method, path in writes(cluster) if path.endswith("/agent/ping")]
        assert len(pings) == 3
        if check:
            assert len(writes(cluster)) == len(pings), "nothing else was written"


def test_require_frozen_asks_nobody_where_ram_is_saved() -> None:
    with Running(world(guest(100, agent=False))) as cluster:
        report = run_snap(cluster, require_frozen="skip", vmstate=True)
        assert not report.failed and told(report, 100) == ("memory", "")
        assert not [path for _method, path in writes(cluster) if "agent" in path]


def test_require_frozen_names_the_privilege() -> None:
    with Running(world(guest(100), guest(101, agent=False))) as cluster:
        report = run_snap(cluster, require_frozen="skip")
        assert entry(report, 100)["status"] == "skipped"
        said = entry(report, 100)["reason"]
        assert said.startswith("missing privilege: Permission check failed (/vms/100, VM.GuestAgent.Audit")


def test_law_4_a_snapshot_that_was_not_frozen_pushes_nothing_out() -> None:
    with Running(allowed(guest(100, snapshots=daily(3), freeze_error="the hook failed"))) as cluster:
        before = names(cluster, 100)
        report = run_snap(cluster, require_frozen="skip", keep=3)
        found = entry(report, 100)
        assert report.failed and found["red"] and found["status"] == "created"
        assert found["reason"] == "not known to be frozen (require_frozen): unable to freeze guest fs - the hook failed"
        assert names(cluster, 100) == [*before, found["snapshot"]]
        assert found["held"] == [{"label": "daily", "count": 4, "newest": found["held"][0]["newest"]}]


def test_a_ping_whose_answer_was_lost_is_sent_again() -> None:
    with Running(allowed(guest(100))) as cluster:
        cluster.pve.fault("POST", "/agent/ping$")
        report = run_snap(cluster, require_frozen="skip")
        assert not report.failed and told(report, 100) == ("frozen", "")


# ------------------------------------------------------------ guest_commands


def test_commands_run_around_the_snapshot_of_running_vms() -> None:
    with Running(allowed(guest(100), guest(101, status="stopped"), guest(102, type="lxc"))) as cluster:
        cluster.pve.vm(100).agent["exec"] = {" ".join(PRE): {"out-data": "flushed\n", "err-data": "slowly\n"}}
        report = run_snap(cluster, guest_commands=COMMANDS)
        assert not report.failed
        assert [found["status"] for found in report.result["guests"]] == ["created"] * 3
        assert asked(cluster, 100) == ["exec /bin/quiesce a b --now", "exec /bin/resume"]
        assert cluster.pve.vm(100).agent_requests[0][1]["command"] == PRE
        calls = [dict(call, duration=0) for call in report.result["guest_commands"]]
        assert calls == [
            {"vmid": 100, "phase": "pre", "rc": 0, "output": "flushed\nslowly\n", "problem": "", "duration": 0},
            {"vmid": 100, "phase": "post", "rc": 0, "output": "", "problem": "", "duration": 0}]
        paths = [path.rsplit("/", 1)[1] for _method, path in writes(cluster) if "/100/" in path]
        assert paths == ["exec", "snapshot", "exec"]


@pytest.mark.parametrize(("on_error", "status"), [("skip", "skipped"), ("fail", "failed"), ("continue", "created")])
@pytest.mark.parametrize(("answer", "words"), [
    ({"exitcode": 3, "err-data": "busy"}, "guest command pre ended with exit code 3: busy"),
    ({"exitcode": None, "signal": 9}, "guest command pre was ended by a signal: no output"),
    ({"exited": 0}, "guest command pre was started, but its end was not seen: it still ran after 1 s"),
])
def test_a_command_before_it_that_fails_is_a_veto(
    on_error: str, status: str, answer: dict[str, Any], words: str, tmp_path: pathlib.Path
) -> None:
    with Running(allowed(guest(100, snapshots=daily(2)))) as cluster:
        cluster.pve.vm(100).agent["exec"] = {" ".join(PRE): answer}
        path = hook(tmp_path, "exit 0")
        report = run_snap(cluster, guest_commands={**COMMANDS, "on_error": on_error, "timeout": "1s"}, hook=path)
        found = entry(report, 100)
        assert found["status"] == status and report.failed == (on_error != "continue")
        assert any(text.startswith(words) for text in [found["reason"], *found["warnings"]]), found
        assert asked(cluster, 100)[-1] == "exec /bin/resume", "that after it runs all the same"
        assert len(names(cluster, 100)) == (3 if on_error == "continue" else 2)
        phases = [call["phase"] for call in report.result["hooks"] if call["vmid"]]
        assert phases == ["snap-create-pre", "snap-create-post" if on_error == "continue" else "snap-create-abort"]


def test_the_command_after_it_runs_when_the_snapshot_fails() -> None:
    with Running(allowed(guest(100))) as cluster:
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["storage broke"]
        cluster.pve.vm(100).agent["exec"] = {" ".join(POST): {"exitcode": 1, "out-data": "still stopped"}}
        report = run_snap(cluster, guest_commands=COMMANDS)
        found = entry(report, 100)
        assert (found["status"], found["reason"]) == ("failed", "storage broke")
        assert found["errors"] == ["guest command post ended with exit code 1: still stopped"]


@pytest.mark.parametrize(("on_error", "red"), [("skip", True), ("continue", False)])
def test_a_command_after_it_that_fails_is_red(on_error: str, red: bool) -> None:
    with Running(allowed(guest(100, snapshots=daily(2)))) as cluster:
        cluster.pve.vm(100).agent["exec"] = {" ".join(POST): {"exitcode": 1}}
        report = run_snap(cluster, guest_commands={**COMMANDS, "on_error": on_error}, keep=2)
        found = entry(report, 100)
        assert (found["status"], found["red"], report.failed) == ("created", red, red)
        assert "guest command post ended with exit code 1" in found["reason"] + "".join(found["warnings"])
        assert len(found["pruned"]) == 1, "the snapshot is as good as any"


def test_the_command_after_it_is_started_when_the_run_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to end while the command before the snapshot runs: no snapshot any more, but the guest is not left so."""
    stop = threading.Event()
    monkeypatch.setattr(Ending, "reason", lambda self: "told to end" if stop.is_set() else None)
    monkeypatch.setattr(guest_commands, "POLL_FIRST", 0.05)
    with Running(allowed(guest(100))) as cluster:
        cluster.pve.vm(100).agent["exec"] = {" ".join(PRE): {"exited": 0}}
        cluster.when_seen(r"GET .*/100/agent/exec-status", stop.set, 2)
        report = run_snap(cluster, guest_commands=COMMANDS)
        assert asked(cluster, 100) == ["exec /bin/quiesce a b --now", "exec /bin/resume"]
        assert names(cluster, 100) == []
        assert entry(report, 100)["status"] == "timeout"
        assert "told to end" in entry(report, 100)["reason"]


def test_the_command_after_it_is_started_when_the_snapshot_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    monkeypatch.setattr(Ending, "reason", lambda self: "told to end" if stop.is_set() else None)
    with Running(allowed(guest(100, create_seconds=3))) as cluster:
        cluster.when_seen(r"GET .*/tasks", stop.set)
        report = run_snap(cluster, guest_commands=COMMANDS)
        assert entry(report, 100)["status"] == "timeout"
        assert asked(cluster, 100)[-1] == "exec /bin/resume"
        assert until(lambda: len(names(cluster, 100)) == 1)


def test_trouble_with_the_command_after_it_is_red_whatever_comes_of_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot met a lock, and while it was waited for another run took one that is young enough."""
    with Running(allowed(guest(100))) as cluster:
        cluster.pve.task_errors[(100, "qmsnapshot")] = ["VM is locked (backup)"]
        cluster.pve.vm(100).agent["exec"] = {" ".join(POST): {"exitcode": 1}}
        cluster.when_seen(r"POST .*/100/agent/exec", lambda: cluster.pve.vm(100).snapshots.update(
            autodaily261127000000={"snaptime": int(time.time()), "description": "cv4pve-autosnap"}), 2)
        report = run_snap(cluster, guest_commands=COMMANDS, min_interval="1h")
        found = entry(report, 100)
        assert (found["status"], found["red"], report.failed) == ("unchanged", True, True)
        assert found["errors"] == ["guest command post ended with exit code 1: no output"]


@pytest.mark.parametrize("answer", [{"exited": 1, "exitcode": "?"}, {"exited": 1, "exitcode": []}])
def test_an_answer_of_a_shape_never_seen_stops_nothing(answer: dict[str, Any]) -> None:
    with Running(allowed(guest(100))) as cluster:
        cluster.pve.vm(100).agent["exec"] = {" ".join(POST): answer}
        report = run_snap(cluster, guest_commands=COMMANDS)
        found = entry(report, 100)
        assert (found["status"], found["red"]) == ("created", True) and found["snapshot"] in names(cluster, 100)
        assert "a command in guest 100 was not understood" in found["reason"]


def test_a_lost_start_is_a_veto_before_and_sent_again_after() -> None:
    with Running(allowed(guest(100))) as cluster:
        cluster.pve.fault("POST", "/agent/exec$", times=2)
        report = run_snap(cluster, guest_commands=COMMANDS)
        assert entry(report, 100)["status"] == "skipped"
        assert "guest command pre could not be started: the answer of" in entry(report, 100)["reason"]
        assert asked(cluster, 100) == ["exec /bin/quiesce a b --now", "exec /bin/resume", "exec /bin/resume"]


def test_commands_need_their_privilege_and_an_agent() -> None:
    with Running(world(guest(100), guest(101, agent=False))) as cluster:
        report = run_snap(cluster, guest_commands=COMMANDS)
        assert "VM.GuestAgent.Unrestricted" in entry(report, 100)["reason"]
        assert entry(report, 101)["status"] == "skipped"
        assert not names(cluster, 100) and not names(cluster, 101)


@pytest.mark.parametrize("before", ["start", "ended", "start_regardless"])
def test_commands_follow_a_guest_to_its_new_node(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves right before the command is started, while it runs, or before the one after the snapshot."""
    with Running(allowed(guest(100))) as cluster:
        original, moved = getattr(Agent, before), []

        def move(agent: Agent, *arguments: Any) -> Any:
            if not moved:
                moved.append(True)
                cluster.pve.vm(100).node = "pve2"
            return original(agent, *arguments)

        monkeypatch.setattr(Agent, before, move)
        report = run_snap(cluster, guest_commands=COMMANDS)
        assert not report.failed and len(names(cluster, 100)) == 1, entry(report, 100)
        assert asked(cluster, 100) == ["exec /bin/quiesce a b --now", "exec /bin/resume"]


def test_check_mode_runs_no_command() -> None:
    with Running(allowed(guest(100))) as cluster:
        report = run_snap(cluster, guest_commands={"post": POST}, check=True)
        assert report.result["guest_commands"] == [{"vmid": 100, "phase": "post", "would_run": True}]
        assert not writes(cluster)


@pytest.mark.parametrize(("given", "words"), [
    ({}, "it has neither pre nor post"), ({"pre": [], "timeout": "1m"}, "it has neither pre nor post"),
    ({"pre": [" "]}, "pre begins with an empty text"), ({"pre": PRE, "timeout": "soon"}, "'soon' is not a duration"),
    ({"pre": PRE, "timeout": "0"}, "0 is less than 1"),
])
def test_wrong_commands_get_one_sentence(given: dict[str, Any], words: str) -> None:
    with Running(world(guest(100))) as cluster:
        with pytest.raises(ValueError, match="option 'guest_commands'") as raised:
            run_snap(cluster, guest_commands=given)
        assert words in str(raised.value)
        assert not cluster.pve.log


def test_a_clean_run_has_neither() -> None:
    with Running(world(guest(100, snapshots=daily(3)))) as cluster:
        report = run_clean(cluster, keep=1)
        assert told(report, 100) == ("", "") and report.result["guest_commands"] == []


# ---------------------------------------------------------- the agent option


def agent_options(cluster: Running, *, check: bool = False, diff: bool = False, **given: Any) -> Report:
    """autosnap_agent in this process."""
    values = params(arguments.AGENT, cluster, **{"guests": "@all", **given})
    return agent(arguments.agent(values), connect(arguments.connection(values, {})), check, diff)


def options_world() -> dict[str, Any]:
    return world(
        guest(100), guest(101, agent=False), guest(102, agent="0,fstrim_cloned_disks=1"),
        guest(103, agent=False, status="stopped"), guest(104, type="lxc"), guest(105, agent=False, lock="backup"),
        tokens={TOKEN: {"secret": SECRET, "grants": {"/": [*ALL, "VM.Config.Options"]}}})


def statuses(report: Report) -> dict[int, str]:
    return {found["vmid"]: found["status"] for found in report.result["guests"]}


def test_the_agent_option_is_only_listed_unless_told_otherwise() -> None:
    with Running(options_world()) as cluster:
        report = agent_options(cluster)
        assert statuses(report) == {100: "enabled", 101: "disabled", 102: "disabled", 103: "disabled", 105: "disabled"}
        assert not report.failed and not report.result["changed"] and not writes(cluster)
        assert report.message == "5 VMs: 1 enabled, 4 disabled"


def test_the_agent_option_is_switched_on_and_who_must_be_restarted_is_told() -> None:
    with Running(options_world()) as cluster:
        planned = agent_options(cluster, enable=True, check=True, diff=True)
        assert not writes(cluster)
        assert statuses(planned) == {100: "enabled", 101: "waiting", 102: "waiting", 103: "enabled", 105: "waiting"}
        report = agent_options(cluster, enable=True, diff=True)
        assert statuses(report) == {**statuses(planned), 105: "failed"}
        assert entry(report, 105)["reason"] == "VM is locked (backup)" and report.failed
        assert [found["vmid"] for found in report.result["guests"] if found["restart"]] == [101, 102]
        assert cluster.pve.vm(102).pending["agent"] == "enabled=1,fstrim_cloned_disks=1"
        assert cluster.pve.vm(103).config["agent"] == "enabled=1"
        assert "101 vm101: agent enabled=1\n" in report.result["diff"]["after"]
        changed = report.result["diff"]["after"].replace("105 vm105: agent not set", "105 vm105: agent enabled=1")
        assert planned.result["diff"]["after"] == changed
        again = agent_options(cluster, guests="100:103", enable=True)
        assert not again.result["changed"] and not again.failed
        assert statuses(again) == {100: "enabled", 101: "waiting", 102: "waiting", 103: "enabled"}


def test_a_lost_answer_to_the_change_is_looked_for() -> None:
    with Running(options_world()) as cluster:
        cluster.pve.fault("PUT", "/101/config$")
        report = agent_options(cluster, guests="101", enable=True)
        assert statuses(report) == {101: "waiting"} and report.result["changed"]


def test_what_was_switched_on_counts_as_changed_also_where_it_cannot_be_read_then() -> None:
    with Running(options_world()) as cluster:
        cluster.pve.fault("GET", "/103/config$", times=None, status=403, reason="Permission check failed", after=2)
        report = agent_options(cluster, guests="103", enable=True)
        assert statuses(report) == {103: "failed"} and report.result["changed"]
        assert cluster.pve.vm(103).config["agent"] == "enabled=1"


def test_somebody_else_s_change_in_between_is_not_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(options_world()) as cluster:
        original = Cluster.enable_agent

        def late(self: Cluster, *arguments: Any) -> None:
            cluster.pve.vm(103).config["agent"] = "0,type=isa"
            original(self, *arguments)

        monkeypatch.setattr(Cluster, "enable_agent", late)
        report = agent_options(cluster, guests="103", enable=True)
        assert statuses(report) == {103: "failed"} and "checksum mismatch" in entry(report, 103)["reason"]
        assert cluster.pve.vm(103).config["agent"] == "0,type=isa"


def test_the_option_needs_its_privilege_and_a_vm() -> None:
    with Running(world(guest(100, agent=False), guest(101, type="lxc"))) as cluster:
        report = agent_options(cluster, enable=True)
        assert report.failed and entry(report, 100)["reason"] == "missing privilege: VM.Config.Options on /vms/100"
        report = agent_options(cluster, guests="101")
        assert report.failed and report.message == "the selector matches no VM; containers have no agent"
