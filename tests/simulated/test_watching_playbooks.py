# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run leaves for people and monitors, through the installed playbooks: health, metrics, page, messages, progress."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import re
import stat
import subprocess
import tempfile
from typing import Any, Iterator

import pytest
import yaml
from ansible_collections.pve.autosnap.plugins.filter import messages
from prometheus_client.parser import text_string_to_metric_families
from simulator.running import Running
from simulator.sinks import Sinks
from test_playbooks import Control
from worlds import HOSTILE, HOSTILE_HOOK, SECRET, STEERING, daily, guest, rename, world

SCRIPT = "<script>alert(1)</script>"
HALF = {"name": "autodaily261101000000", "age": 500, "description": "cv4pve-autosnap", "snapstate": "delete"}
TODAY = [{"label": "daily", "count": 2, "age": 3600}]


@pytest.fixture(name="control")
def fixture_control(tmp_path: pathlib.Path) -> Iterator[Control]:
    with Running(world(
        guest(100, snapshots=TODAY), guest(101, type="lxc", node="pve2", snapshots=daily(4)), guest(102, storage="full"),
        guest(103), guest(104, snapshots=[*TODAY, HALF]), guest(900, template=True),
    )) as cluster:
        yield Control(tmp_path, cluster)


@pytest.fixture(name="sinks")
def fixture_sinks() -> Iterator[Sinks]:
    sinks = Sinks()
    yield sinks
    sinks.close()


def samples(path: pathlib.Path) -> dict[tuple[str, str], float]:
    """Values of a metrics file by name and, where there is one, the label that tells them apart."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key not in ("cluster", "job_name", "guest", "node")}
            found[sample.name.removeprefix("pve_autosnap_"), ",".join(labels.values())] = sample.value
    return found


def test_health_and_metrics_after_every_run(control: Control) -> None:
    health, metrics = control.directory / "health.json", control.directory / "daily.prom"
    files = {"autosnap_health_file": str(health), "autosnap_metrics_file": str(metrics), "autosnap_cluster": "prod"}
    assert control.run("pve.autosnap.snap", autosnap_keep=2, autosnap_guests="100,101,104", **files).returncode == 0
    first = samples(metrics)
    told = json.loads(health.read_text())
    assert (told["status"], told["job_name"], told["cluster"], told["action"]) == ("warning", "snap-daily", "prod", "snap")
    assert [(problem["vmid"], problem["status"]) for problem in told["problems"]] == [(104, "broken")]
    assert first["guests", "created"] == 3 and first["guests_matched", ""] == 3 and first["guests_red", ""] == 0
    assert first["broken_snapshots", ""] == 1
    assert first["guest_snapshots", "daily,100"] == 2 and first["guest_snapshots", "daily,101"] == 2
    assert abs(first["guest_newest_snapshot_timestamp_seconds", "daily,100"] - first["last_run_timestamp_seconds", ""]) < 30
    assert first["storage_used_ratio", "ceph"] == 0.1 and first["storage_ok", "ceph"] == 1
    assert first["last_success_timestamp_seconds", ""] == first["last_run_timestamp_seconds", ""]
    assert stat.S_IMODE(metrics.stat().st_mode) == 0o644
    # A red run keeps the time of the last green one.
    assert control.run("pve.autosnap.snap", autosnap_guests="@tag-nosuch", **files).returncode == 2
    second = samples(metrics)
    assert second["last_run_success", ""] == 0 and second["status", ""] == 2
    assert second["last_success_timestamp_seconds", ""] == first["last_success_timestamp_seconds", ""]
    assert json.loads(health.read_text())["status"] == "critical"
    # So does one that could not even begin, and a dry run is none.
    before = health.read_text()
    assert control.run("pve.autosnap.snap", "--check", **files).returncode == 0
    assert health.read_text() == before
    control.token.write_text("autosnap@pve!test=wrong")
    assert control.run("pve.autosnap.snap", **files).returncode == 2
    told = json.loads(health.read_text())
    assert told["status"] == "critical" and "refused the credentials" in told["problems"][0]["reason"]
    assert samples(metrics)["last_success_timestamp_seconds", ""] == first["last_success_timestamp_seconds", ""]
    assert not list(control.directory.glob(".*.new"))


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_file_keeps_its_mode_when_it_is_replaced(mode: int, control: Control) -> None:
    health = control.directory / "health.json"
    health.write_text("old")
    health.chmod(mode)
    table = control.directory / "table"
    table.write_text("old")
    table.chmod(mode)
    assert control.run("pve.autosnap.snap", autosnap_guests="100", autosnap_health_file=str(health)).returncode == 0
    assert control.run("pve.autosnap.status", autosnap_guests="100", autosnap_output_file=str(table)).returncode == 0
    for path in (health, table):
        assert path.read_text() != "old" and stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("option", ["autosnap_health_file", "autosnap_metrics_file"])
def test_a_pipe_in_the_place_of_a_file_hangs_nobody(option: str, control: Control) -> None:
    pipe = control.directory / "pipe"
    os.mkfifo(pipe)
    run = control.run("pve.autosnap.snap", autosnap_guests="100", **{option: str(pipe)})
    assert run.returncode == 2 and "'{0}' cannot be written: it is no regular file".format(pipe) in " ".join(run.stdout.split())
    assert len(control.cluster.pve.guest(100).snapshots) == 3


def test_what_info_tells_as_metrics(control: Control) -> None:
    metrics = control.directory / "report.prom"
    run = control.run(
        "pve.autosnap.status", autosnap_metrics_file=str(metrics), autosnap_label=None, autosnap_guests="@all",
        autosnap_expect=[{"label": "daily", "max_age": "26h"}])
    assert run.returncode == 0, run.stdout
    found = samples(metrics)
    assert found["guest_ok", "ok,100"] == 1 and found["guest_ok", "missing,103"] == 0
    assert found["guests_by_health", "missing"] == 2
    assert found["storage_used_ratio", "full"] == 0.97 and found["storage_ok", "full"] == 0
    assert found["status", ""] == 2


def test_a_file_that_cannot_be_written_makes_the_run_red_and_keeps_nothing_else_back(control: Control, sinks: Sinks) -> None:
    metrics = control.directory / "daily.prom"
    run = control.run("pve.autosnap.snap", autosnap_health_file="/nowhere/health.json", autosnap_metrics_file=str(metrics),
                      autosnap_notify={"when": "always", "webhook": {"url": sinks.url + "/hook"}})
    assert run.returncode == 2
    assert "'/nowhere/health.json' cannot be written" in run.stdout
    assert "| created " in run.stdout and metrics.exists()
    assert [path for _method, path, _body in sinks.requests] == ["/hook"]


def test_a_run_that_does_not_come_to_its_module_is_told_too(control: Control, sinks: Sinks) -> None:
    health = control.directory / "health.json"
    run = control.run("pve.autosnap.snap", autosnap_kep=3, autosnap_health_file=str(health), autosnap_notify={
        "webhook": {"url": sinks.url + "/hook"}, "health_check": {"failure": sinks.url + "/failure", "start": None},
        "mail": None})
    assert run.returncode == 2 and "autosnap_kep means nothing here" in run.stdout
    assert json.loads(health.read_text())["status"] == "critical"
    assert [path for _method, path, _body in sinks.requests] == ["/failure", "/hook"]
    assert "so nothing was touched" in json.loads(sinks.requests[1][2])["text"]
    assert not control.cluster.pve.log


def test_numbers_are_handed_on_to_workflows(control: Control) -> None:
    control.environment["ANSIBLE_SHOW_CUSTOM_STATS"] = "true"
    run = control.run("pve.autosnap.snap", autosnap_guests="100,102", autosnap_cluster="prod")
    text = run.stdout[run.stdout.index("CUSTOM STATS"):]
    made = json.loads(text[text.index("{"):text.rindex("}") + 1])["autosnap"]["localhost"]
    assert (made["status"], made["failed"], made["red"], made["critical_guests"]) == ("critical", True, 1, [102])
    assert made["summary"]["created"] == 1 and made["cluster"] == "prod" and len(json.dumps(made)) < 1024


def test_what_is_about_no_guest_is_told_beside_those_that_are(control: Control, sinks: Sinks) -> None:
    control.run("pve.autosnap.snap", autosnap_guests="100,102", autosnap_expect_guests=[100, 102, 105], autosnap_label="daily",
                autosnap_notify={"webhook": {"url": sinks.url}})
    text = json.loads(sinks.requests[0][2])["text"]
    assert "option 'expect_guests': missing: 105" in text and "102 vm102 on pve1: skipped" in text


def test_what_was_repaired_is_not_broken_any_more(control: Control) -> None:
    health = control.directory / "health.json"
    run = control.run("pve.autosnap.clean", autosnap_guests="104", autosnap_keep=5, autosnap_repair="force",
                      autosnap_health_file=str(health))
    assert run.returncode == 0, run.stdout
    assert json.loads(health.read_text())["problems"] == []


def test_a_page_on_which_nothing_is_expected_is_not_green(control: Control) -> None:
    page = control.directory / "r.html"
    run = control.run("pve.autosnap.report", autosnap_guests="100,103", autosnap_label=None, autosnap_report_file=str(page))
    assert run.returncode == 0, run.stdout
    text = page.read_text()
    assert "Nothing is expected of these guests" in text and "Nothing needs your attention" not in text
    assert ">not judged</td>" in text and ">no snapshots</td>" in text and ">ok</td>" not in text


def test_many_problems_leave_room_for_numbers_and_link() -> None:
    problem = {"vmid": 100, "name": "n" * 200, "node": "pve1", "status": "failed", "reason": "r" * 500}
    digest = {"problems": [problem] * 40, "summary": {"failed": 40}, "health": {}, "duration": 3.0, "message": ""}
    text = messages.message_text(digest, "https://example.com/" + "x" * 100)
    assert len(text) <= messages.TEXT_MAX
    assert text.splitlines()[-3:-1] == ["40 failed", "took 3 s"] and text.endswith("x" * 100) and "more" in text


def test_the_report_in_three_forms(control: Control) -> None:
    rename(control.cluster, 100, SCRIPT)
    rename(control.cluster, 103, "n" * 200)
    control.cluster.pve.guest(101).config["tags"] = "a|b;" + SCRIPT
    control.cluster.pve.guest(104).snapshots["mine"] = {"snaptime": 1_000_000_000, "description": SCRIPT}
    control.cluster.pve.storages[SCRIPT] = dict(control.cluster.pve.storages["ceph"])
    files = {"autosnap_report_{0}file".format(form): str(control.directory / "r.{0}".format(end))
             for form, end in (("", "html"), ("markdown_", "md"), ("json_", "json"))}
    run = control.run("pve.autosnap.report", autosnap_guests="@all", autosnap_label=None,
                      autosnap_expect=[{"label": "daily", "max_age": "26h"}], autosnap_max_foreign_age="30d", **files)
    assert run.returncode == 0, run.stdout
    page, markdown = (control.directory / "r.html").read_text(), (control.directory / "r.md").read_text()
    assert SCRIPT not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "n" * 200 in page
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://", page), "it needs the network"
    assert SCRIPT not in markdown and "&lt;script&gt;" in markdown
    told = json.loads((control.directory / "r.json").read_text())
    assert told["status"] == "critical" and len(told["guests"]) == 5
    assert page.count("&lt;script&gt;") >= 4 and markdown.count("&lt;script&gt;") >= 2
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (6, 10) for row in rows)


def test_a_template_of_one_s_own(control: Control) -> None:
    template = control.directory / "mine.j2"
    template.write_text("{% for guest in report.guests %}{{ guest.vmid }} {{ guest.name }};{% endfor %}")
    rename(control.cluster, 100, SCRIPT)
    page = control.directory / "r.html"
    variables = {"autosnap_guests": "100", "autosnap_report_file": str(page), "autosnap_report_template": str(template)}
    assert control.run("pve.autosnap.report", **variables).returncode == 0
    assert page.read_text() == "100 &lt;script&gt;alert(1)&lt;/script&gt;;"
    template.write_text("{{ report.nosuch }}")
    wrong = control.run("pve.autosnap.report", **variables)
    assert wrong.returncode == 2 and "'autosnap_report_template'" in wrong.stdout and "nosuch" in wrong.stdout


def test_messages_as_they_are_received(control: Control, sinks: Sinks) -> None:
    secret = "s3cret-token-77"
    notify = {
        "webhook": {"url": sinks.url + "/hook", "headers": {"X-Key": secret}}, "link": "https://example.com/r.html",
        "ntfy": {"url": sinks.url + "/backups", "token": secret}, "gotify": {"url": sinks.url, "token": secret},
        "slack": {"url": sinks.url + "/slack"}, "mattermost": {"url": sinks.url + "/mattermost"},
        "teams": {"url": sinks.url + "/teams"},
        "health_check": {event: sinks.url + "/health/" + event for event in ("start", "success", "failure")}}
    rename(control.cluster, 102, "a<b>&c")
    run = control.run("pve.autosnap.snap", "-vvv", autosnap_guests="100,102", autosnap_notify=notify)
    assert run.returncode == 2
    assert secret not in run.stdout + run.stderr and SECRET not in run.stdout + run.stderr
    got = {path: body for _method, path, body in sinks.requests}
    print(json.dumps(got, indent=1))
    assert list(got) == ["/health/start", "/health/failure", "/hook", "/", "/message", "/slack", "/mattermost", "/teams"]
    hook = json.loads(got["/hook"])
    assert hook["title"].startswith("pve.autosnap: snap-daily of 127.0.0.1:") and hook["title"].endswith(" FAILED")
    assert hook["text"].splitlines()[0].startswith("102 a<b>&c on pve1: skipped (storage 'full' would be 97.0 % full")
    assert hook["text"].endswith("https://example.com/r.html") and hook["status"] == "critical"
    ntfy = json.loads(got["/"])
    assert (ntfy["topic"], ntfy["priority"], ntfy["title"]) == ("backups", 5, hook["title"])
    assert json.loads(got["/message"])["message"] == hook["text"]
    assert "a&lt;b&gt;&amp;c" in json.loads(got["/slack"])["text"]
    card = json.loads(got["/teams"])["attachments"][0]["content"]
    assert card["body"][0]["text"] == messages.unmarked(hook["title"]) and card["type"] == "AdaptiveCard"
    sent = dict(zip((path for _method, path, _body in sinks.requests), sinks.headers))
    assert sent["/"]["Authorization"] == "Bearer " + secret and sent["/message"]["X-Gotify-Key"] == secret
    assert sent["/hook"]["X-Key"] == secret


def test_hostile_text_steers_nothing_wherever_it_is_shown(control: Control, sinks: Sinks, tmp_path: pathlib.Path) -> None:
    """A name, a description and what a command in a guest printed: on a terminal, in files, mails and messages."""
    rename(control.cluster, 102, HOSTILE)
    control.cluster.pve.vm(104).snapshots["autodaily261101000000"]["description"] = "cv4pve-autosnap\u200b\x1b[31m"
    hook = tmp_path / "hook"
    hook.write_text(HOSTILE_HOOK)
    hook.chmod(0o755)
    names = ("health.json", "daily.prom", "page.html", "page.md", "page.json", "table")
    files = {name: control.directory / name for name in names}
    notify = {"when": "always", "link": "https://example.com/r", **{
        name: {"url": sinks.url + "/" + name} for name in ("webhook", "ntfy", "gotify", "slack", "mattermost", "teams")}}
    shown = [control.run(
        "pve.autosnap.snap", "-vvv", autosnap_guests="100,102,104", autosnap_hook=str(hook), autosnap_notify=notify,
        autosnap_health_file=str(files["health.json"]), autosnap_metrics_file=str(files["daily.prom"]))]
    shown.append(control.run(
        "pve.autosnap.report", autosnap_guests="@all", autosnap_label=None, autosnap_report_file=str(files["page.html"]),
        autosnap_report_markdown_file=str(files["page.md"]), autosnap_report_json_file=str(files["page.json"]),
        autosnap_output_file=str(files["table"])))
    assert [run.returncode for run in shown] == [2, 0], shown[0].stdout + shown[1].stdout
    texts = {name: path.read_text() for name, path in files.items()}
    texts.update({path: body for _method, path, body in sinks.requests})
    texts.update({"terminal {0}".format(number): run.stdout + run.stderr for number, run in enumerate(shown)})
    for name, text in texts.items():
        print("=== {0}\n{1}".format(name, text))
        decoded = json.dumps(json.loads(text), ensure_ascii=False) if text.startswith("{") else text
        for steering in STEERING:
            # A mention is broken by a character that nobody sees, in chats alone.
            assert steering not in decoded or steering == "\u200b" and name in ("/mattermost", "/teams"), (name, steering)
        assert not re.search(r"^PLAY RECAP \*\*\*\*\*$|^localhost : ok=9", text, re.MULTILINE), name
    assert "web?[2J?[1;1H" in texts["page.html"] and "web?[2J?[1;1H" in texts["table"]
    assert "](http" not in texts["page.md"]


@pytest.mark.parametrize(("when", "guests", "told"), [
    ("failure", "100", False), ("always", "100", True), ("warning", "100", False), ("warning", "100,104", True),
    ("failure", "100,104", False), ("failure", "100,102", True)])
def test_who_is_told_when(control: Control, sinks: Sinks, when: str, guests: str, told: bool) -> None:
    control.run("pve.autosnap.snap", autosnap_guests=guests, autosnap_notify={
        "when": when, "webhook": {"url": sinks.url + "/hook"}, "health_check": {"success": sinks.url + "/ok"}})
    assert ("/hook" in [path for _method, path, _body in sinks.requests]) is told
    assert ("/ok" in [path for _method, path, _body in sinks.requests]) is (guests != "100,102")


def test_a_dry_run_tells_nobody(control: Control, sinks: Sinks) -> None:
    notify = {"when": "always", "webhook": {"url": sinks.url}, "health_check": {"start": sinks.url, "success": sinks.url}}
    assert control.run("pve.autosnap.snap", autosnap_dry_run=True, autosnap_notify=notify).returncode == 0
    assert sinks.requests == []


def test_a_service_that_cannot_be_reached_is_named_and_the_others_are_told(control: Control, sinks: Sinks) -> None:
    run = control.run("pve.autosnap.snap", autosnap_guests="100", autosnap_notify={
        "when": "always", "webhook": {"url": sinks.url + "/broken"}, "gotify": {"url": sinks.url, "token": "x"}})
    assert run.returncode == 2
    assert "webhook could not be told of this run;" in " ".join(run.stdout.split())
    assert "/message" in [path for _method, path, _body in sinks.requests]


@pytest.mark.parametrize(("notify", "words"), [
    ({"when": "sometimes"}, "sometimes"), ({"ntfy": {"token": "x"}}, "url"), ({"sms": {}}, "sms"),
    ({"mail": {"to": ["a@b"]}}, "mail needs the collection community.general"),
])
def test_wrong_settings_are_refused_before_anything_is_touched(control: Control, notify: dict[str, Any], words: str) -> None:
    run = control.run("pve.autosnap.snap", autosnap_notify=notify)
    assert run.returncode == 2 and words in " ".join(run.stdout.split())
    assert not control.cluster.pve.log


def test_a_wrong_age_of_runs_is_refused_before_anything_is_touched(control: Control) -> None:
    run = control.run("pve.autosnap.snap", autosnap_max_run_age="soon")
    assert run.returncode == 2 and "option 'autosnap_max_run_age': 'soon' is not a duration" in " ".join(run.stdout.split())
    assert not control.cluster.pve.log


def test_progress_in_a_log(control: Control) -> None:
    control.environment["ANSIBLE_CALLBACKS_ENABLED"] = "pve.autosnap.progress"
    run = control.run("pve.autosnap.snap", autosnap_guests="100,101,102")
    lines = [line.split(" ", 4) for line in run.stdout.splitlines() if " snap daily " in line]
    assert sorted(words[4].split(" (")[0] for words in lines) == [
        "100 vm100: created", "101 vm101: created", "102 vm102: skipped"]
    assert [words[3] for words in lines] == ["1/3", "2/3", "3/3"]
    # With everybody done already, and as another user's module: all are told, none is missed.
    control.environment["ANSIBLE_BECOME_METHOD"] = "su"
    again = control.run("pve.autosnap.snap", "--become", autosnap_guests="100,101,103,104", autosnap_min_interval="1h")
    assert again.returncode == 0, again.stdout
    del control.environment["ANSIBLE_CALLBACKS_ENABLED"]
    assert " snap daily 1/" not in control.run("pve.autosnap.snap", autosnap_guests="100").stdout
    assert not list(pathlib.Path(tempfile.gettempdir()).glob("autosnap-*/progress"))


def test_progress_on_a_terminal(control: Control) -> None:
    control.environment["ANSIBLE_CALLBACKS_ENABLED"] = "pve.autosnap.progress"
    (control.directory / "job.yml").write_text(yaml.safe_dump(control.variables()))
    leader, follower = pty.openpty()
    with subprocess.Popen(["ansible-playbook", "pve.autosnap.snap", "-e", "@job.yml"], env=control.environment,
                          cwd=control.directory, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                seen += os.read(leader, 65536)
            except OSError:
                break
        assert process.wait(60) == 0, seen
    os.close(leader)
    lines = [line.split(b"\r")[0] for line in seen.split(b"\r\033[K")]
    assert any(line.startswith(b"snap daily: 2/2 done, 0 running, 0 waiting, 0 failed") for line in lines)
    # Cleared before what comes after it is printed.
    assert b"failed\r\n" not in seen.replace(b"0 failed\r\n", b"") and b" 0 failed" not in seen.split(b"PLAY RECAP")[1]
