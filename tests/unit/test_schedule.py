# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role schedule makes of its variables, and of crontabs of cv4pve-autosnap."""

from __future__ import annotations

import importlib.machinery
import json
import os
import pathlib
import re
import ssl
import subprocess
import types
from typing import Any
from unittest import mock

import jinja2
import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.pve.autosnap.plugins.filter import cv4pve, schedule
from ansible_collections.pve.autosnap.plugins.filter.digest import digest

ROLE = pathlib.Path(schedule.__file__).parents[2] / "roles" / "schedule"
SPEC = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
SNAP = {"name": "daily", "action": "snap", "options": {"guests": "@all", "label": "daily", "keep": 7}}
COMMON = {"api_host": ["pve1"], "ca_path": "/etc/ca.pem", "lock_timeout": "5m"}
TOKEN = {"name": "prod", "secret": "a@pve!t=s3cret"}


def jobs(*given: dict[str, Any], credentials: Any = (TOKEN,), scheduler: str = "systemd", common: Any = None) -> Any:
    return schedule.schedule_jobs(given, COMMON if common is None else common, credentials, scheduler, "/var/lib/autosnap")


def test_the_defaults_are_those_of_the_argument_spec() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    assert {name: option.get("default") for name, option in SPEC.items()} == defaults
    assert defaults["schedule_collection_source"]["name"] == "pve.autosnap"


def test_the_version_is_that_of_the_collection() -> None:

    manifest = json.loads((ROLE.parents[1] / "MANIFEST.json").read_text())
    assert SPEC["schedule_collection_source"]["default"]["version"] == manifest["collection_info"]["version"]


def test_a_job_s_defaults_are_those_of_the_argument_spec() -> None:
    options = SPEC["schedule_jobs"]["options"]
    assert {name: option["default"] for name, option in options.items() if "default" in option} == schedule.DEFAULTS
    assert set(options) == {*schedule.DEFAULTS, "name", "action", "credential"}


def test_a_job_s_options_are_those_of_the_modules() -> None:
    """Types, elements, choices and suboptions; secrets are not among them."""
    shown = SPEC["schedule_jobs"]["options"]["options"]["options"]
    assert shown == SPEC["schedule_options"]["options"]
    wanted = {name for spec in schedule.SPECS.values() for name in spec.options if name not in schedule.SECRETS}
    assert set(shown) == wanted | set(schedule.PLAYBOOK_OPTIONS["report"])
    assert all(set(options) <= set(schedule.PLAYBOOK_OPTIONS["report"]) for options in schedule.PLAYBOOK_OPTIONS.values())
    for name in wanted:
        specs = [spec.options[name] for spec in schedule.SPECS.values() if name in spec.options]
        if len({spec["type"] for spec in specs}) > 1:
            assert shown[name]["type"] == "raw"
            continue
        assert shown[name]["type"] == specs[0]["type"], name
        assert shown[name].get("elements") == specs[0].get("elements"), name
        assert shown[name].get("choices") == specs[0].get("choices"), name
        assert {key: value["type"] for key, value in shown[name].get("options", {}).items()} == {
            key: value["type"] for key, value in specs[0].get("options", {}).items()}


def test_a_job_is_completed() -> None:
    [job] = jobs(SNAP)
    assert job["randomized_delay"] == 300 and job["time_limit"] == 21600 and job["on_calendar"] == ["*-*-* 04:15:00"]
    assert job["variables"] == {
        "autosnap_api_host": ["pve1"], "autosnap_ca_path": "/etc/ca.pem", "autosnap_lock_timeout": "5m",
        "autosnap_guests": "@all", "autosnap_label": "daily", "autosnap_keep": 7, "autosnap_job_name": "daily",
        "autosnap_health_file": "/var/lib/autosnap/health/daily.json",
        "autosnap_metrics_file": "/var/lib/autosnap/metrics/daily.prom",
        "autosnap_api_token_file": "{{ lookup('ansible.builtin.env', 'CREDENTIALS_DIRECTORY') }}/secret"}
    assert "s3cret" not in str(job)


def test_common_options_go_to_the_actions_that_know_them() -> None:
    report = {"name": "r", "action": "report", "options": {"guests": "@all", "output": "html"}}
    [job] = jobs(report)
    assert "autosnap_lock_timeout" not in job["variables"]
    assert job["variables"]["autosnap_output_file"] == "/var/lib/autosnap/r.html"


def with_options(**options: Any) -> dict[str, Any]:
    return {**SNAP, "options": {**SNAP["options"], **options}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("given", "more", "words"),
    [
        ([{**SNAP, "name": "Daily/1"}], {}, "the name 'Daily/1' cannot name a unit"),
        ([SNAP, SNAP], {}, "two jobs have the name 'daily'"),
        ([{**SNAP, "action": "rollback"}], {}, "the action 'rollback' is not"),
        ([with_options(api_password="x")], {}, "'api_password' is a secret; put it into schedule_credentials"),
        ([with_options(repair="force")], {}, "'repair' is no option of the action 'snap'"),
        ([with_options(keep="many")], {}, "keep"),
        ([with_options(keep=0)], {}, "job 'daily': option 'keep': 0 would delete every snapshot"),
        ([with_options(locked="maybe")], {}, "locked"),
        ([with_options(guests="a&")], {}, "option 'guests'"),
        ([with_options(lock_timeout="soon")], {}, "'soon' is not a duration"),
        ([{"name": "x", "action": "clean", "options": {"guests": "1", "label": ["d"]}}], {},
         "one of the following is required: keep"),
        ([{**SNAP, "options": {"label": "daily"}}], {}, "guests"),
        ([SNAP], {"common": {}}, "api_host"),
        ([SNAP], {"common": {**COMMON, "api_hots": ["x"]}}, "'schedule_options': 'api_hots' is no option"),
        ([SNAP], {"common": {**COMMON, "api_token": "x"}}, "'schedule_options': it holds a secret"),
        ([{**SNAP, "time_limit": "a while"}], {}, "'a while' is not a duration"),
        ([{**SNAP, "cron": "15 4 * *"}], {"scheduler": "cron"}, "write five fields"),
        ([{**SNAP, "cron": "15 4 * * *; rm"}], {"scheduler": "cron"}, "write five fields"),
        *[([{**SNAP, "cron": wrong}], {"scheduler": "cron"}, "write five fields") for wrong in (
            "60 4 * * *", "15 24 * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 8", "0 0 * * MONDAY", "*/0 4 * * *", "15 4",
            "5/2 4 * * *", "9-5 4 * * *", "0 0 * * xyz", "@reboot", "", "15 4 * * * ")],
        ([{**SNAP, "on_failure": ["alert"]}], {}, "'on_failure' names 'alert', which is no unit"),
        ([SNAP], {"credentials": [TOKEN, TOKEN]}, "two credentials have the name"),
        ([SNAP], {"credentials": [{**TOKEN, "secret": "s3cret"}]}, "is not of the form USER@REALM!TOKENID=SECRET"),
        ([with_options(api_host="http://pve1")], {}, "'http://pve1' is not a host"),
        ([with_options(api_timeout="soon")], {}, "'soon' is not a duration"),
        ([with_options(api_token_id="a@pve!b")], {}, "mutually exclusive"),
        ([with_options(api_token_id="a@pve!b")], {"credentials": []}, "it is missing beside api_token_id"),
        ([SNAP], {"credentials": [{**TOKEN, "kind": "api_password"}]}, "'api_user'"),
        ([{**SNAP, "on_failure": ["x.service"]}], {"scheduler": "cron"}, "with cron use schedule_notify"),
        ([{**SNAP, "timer_timezone": "UTC"}], {"scheduler": "cron"}, "'timer_timezone' needs systemd"),
        *[([{**SNAP, key: value}], {}, "'{0}' holds ".format(key)) for key, value in (
            ("on_calendar", ["daily\rExecStart=/bin/sh"]), ("on_calendar", ["daily\u2028x"]), ("timer_timezone", "UTC\nX=1"),
            ("on_failure", ["a.service\rX=1"]), ("environment", {"A": "1\rExecStart=/x"}), ("environment", {"A\x00": "1"}),
            ("cron", "15 4 * * *\r"), ("environment", {"A": "\x1b[2J"}))],
        ([{**SNAP, "cron": "15\u0664 4 * * *"}], {"scheduler": "cron"}, "'cron' holds "),
        ([{**SNAP, "cron": "\uff15 4 * * *"}], {"scheduler": "cron"}, "'cron' holds "),
        ([{**SNAP, "on_calendar": ["*-*-* 0\u0664:15"]}], {}, "'on_calendar' holds "),
        ([{**SNAP, "name": "daily\u0661"}], {}, "cannot name a unit"),
        ([{**SNAP, "time_limit": "\u0661h"}], {}, "is not a duration"),
        ([SNAP], {"credentials": [{**TOKEN, "secret": TOKEN["secret"] + "\r"}]}, "must be one line"),
        ([{**SNAP, "environment": {"A B": "1"}}], {}, "'A B' in 'environment' is no name"),
        ([{**SNAP, "environment": {"PROXMOX_TOKEN": "1"}}], {}, "would be readable by everybody"),
        ([{**SNAP, "credential": "dev"}], {}, "there is no credential 'dev'"),
        ([SNAP], {"credentials": [TOKEN, {**TOKEN, "name": "dev"}]}, "there are several credentials; name one"),
        ([SNAP], {"credentials": [{**TOKEN, "method": "systemd_encrypted"}], "scheduler": "cron"}, "needs systemd; write 'file'"),
        ([SNAP], {"credentials": [{**TOKEN, "secret": "a\nb"}]}, "must be one line"),
        ([SNAP], {"credentials": [{**TOKEN, "name": "../x"}]}, "cannot name a file"),
    ])
def test_what_is_wrong_is_named(given: list[dict[str, Any]], more: dict[str, Any], words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=re.escape(words)) as raised:
        jobs(*given, **more)
    assert "s3cret" not in str(raised.value)


def test_a_job_that_goes_needs_no_more_than_its_name() -> None:
    assert jobs({"name": "old", "state": "absent"})[0]["state"] == "absent"


def test_a_job_with_a_file_of_its_own_needs_no_credential() -> None:
    assert jobs(with_options(api_token_file="/root/token"))[0]["credential"] == {}


@pytest.mark.parametrize(("method", "scheduler", "file"), [
    ("auto", "systemd", "prod.cred"), ("auto", "cron", "prod"), ("systemd", "systemd", "prod"), ("file", "cron", "prod")])
def test_the_file_of_a_credential(method: str, scheduler: str, file: str) -> None:
    assert schedule.credential_file({"name": "prod", "method": method}, scheduler) == file


def test_requirements_go_by_the_version_of_python() -> None:
    default = SPEC["schedule_requirements"]["default"]
    assert schedule.requirements_for(default, "3.11")[0] == "ansible-core==2.19.14"
    assert schedule.requirements_for(default, "3.13")[0] == "ansible-core==2.21.5"
    assert len(schedule.requirements_for(default, "3.13")) == len(default) - 1
    with pytest.raises(AnsibleFilterError, match="is not what pip takes"):
        schedule.requirements_for(["ansible core"], "3.13")


def test_the_example_of_the_readme_is_right() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROLE.parents[1] / "README.md").read_text(), re.S)
    [play] = yaml.safe_load(next(block for block in blocks if "pve.autosnap.schedule" in block))
    [role] = play["roles"]
    assert {name for name in role if name != "role"} <= set(SPEC)
    made = schedule.schedule_jobs(
        role["schedule_jobs"], role["schedule_options"], [{**role["schedule_credentials"][0], "secret": "u@pve!t=x"}], "systemd",
        "/var/lib/autosnap")
    assert len(made) == 3


def test_a_value_for_a_unit_is_quoted() -> None:
    assert schedule.unit_quoted('A=b "c" \\ 5%') == '"A=b \\"c\\" \\\\ 5%%"'


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("15 2 * * *", ["*-*-* 02:15:00"]), ("*/15 * * * *", ["*-*-* *:00/15:00"]), ("0 */4 1-5 * *", ["*-*-01..05 00/4:00:00"]),
        ("30 3 * * 1-5", ["Mon,Tue,Wed,Thu,Fri *-*-* 03:30:00"]), ("30 3 * * fri-sun", ["Fri,Sat,Sun *-*-* 03:30:00"]),
        ("5 4 1 * 0", ["*-*-01 04:05:00", "Sun *-*-* 04:05:00"]), ("0 0 1 jan,jul *", ["*-01,07-01 00:00:00"]),
        ("10-50/20 1 * * 7", ["Sun *-*-* 01:10,30,50:00"]), ("0 3 */2 */3 *", ["*-01/3-01/2 03:00:00"]), ("@weekly", ["weekly"]),
        ("0 3 */2 * 1", ["Mon *-*-01/2 03:00:00"]), ("5 4 1 * */2", ["Sun,Tue,Thu,Sat *-*-01 04:05:00"]),
        ("0 12 * * */2", ["Sun,Tue,Thu,Sat *-*-* 12:00:00"]),
    ])
def test_a_cron_schedule_as_a_calendar(cron: str, expected: list[str]) -> None:
    assert cv4pve.calendars(cron) == expected


LINE = "0 1 * * * cv4pve-autosnap --host=a --api-token=u@pve!t=s3cret --vmid=@all "


def test_every_option_of_the_original_has_its_place() -> None:
    made = cv4pve.cv4pve_jobs(
        LINE + "--timeout=60 --timestamp-format=yyyyMMddHHmm --max-perc-storage=80 --validate-certificate=true --debug --dry-run "
        "snap --label=daily --keep=7 --state --only-running --script-hook=/h extra\n")
    [job] = made["schedule_jobs"]
    assert job["options"] == {
        "api_host": ["a"], "guests": "@all", "label": "daily", "timestamp_format": "yyyyMMddHHmm", "keep": 7, "hook": "/h",
        "timeout": "60s", "vmstate": True, "only_running": True, "max_storage_percent": 80}
    assert [note.split(": ", 1)[1].split(" ")[0] for note in made["notes"]] == ["--dry-run", "--debug", "the", "'extra'"]
    assert "s3cret" not in str(made)
    assert schedule.schedule_jobs(
        [job], {}, [{**made["schedule_credentials"][0], "secret": "u@pve!t=x"}], "systemd", "/var/lib/autosnap")


def test_a_parameter_file_and_a_selector_that_begins_like_one() -> None:
    file = "--host=a\n# no\n--username=root\n--password=x\n"
    made = cv4pve.cv4pve_jobs("0 1 * * * cv4pve-autosnap @/p --vmid @all snap --label d --keep 3\n", {"/p": file})
    assert made["schedule_jobs"][0]["options"] == {
        "api_host": ["a"], "guests": "@all", "label": "d", "api_user": "root@pam", "keep": 3}
    assert made["schedule_credentials"][0]["kind"] == "api_password"


@pytest.mark.parametrize(("line", "words"), [
    ("# nothing\n", "no line of the crontab calls"), ("cv4pve-autosnap snap\n", "is no cron line"),
    ("0 1 * * * cv4pve-autosnap --host=a\n", "without snap, clean or status"),
    ("0 1 * * * cv4pve-autosnap @/nosuch snap\n", "'/nosuch', which cannot be read"),
    ("@reboot cv4pve-autosnap snap --label=x --keep=1\n", "'@reboot' has no counterpart"),
    ("0 1 * * * cv4pve-autosnap --api-token=s3cret 'snap\n", "cannot be read"),
    ("0 1 * * * bash -c 'cv4pve-autosnap --api-token=s3cret snap'\n", "is not called as a command of its own"),
    ("0 1 * * * /opt/cv4pve-autosnap/run.sh\n", "is not called as a command of its own"),
    ("0 1 * * * cv4pve-autosnap snap --label=x --keep=s3cret\n", "the number of an option cannot be read"),
    ("0 1 L * * cv4pve-autosnap snap --label=x --keep=1\n", "its times '0 1 L * *'"),
    ("BIN=/usr/bin/cv4pve-autosnap\n", "no line of the crontab calls"),
])
def test_a_line_that_cannot_be_taken_over_is_named_and_the_others_are_taken(line: str, words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=re.escape(words)) as raised:
        cv4pve.cv4pve_jobs(line)
    assert "s3cret" not in str(raised.value)
    made = cv4pve.cv4pve_jobs(line + LINE + "snap --label=d --keep=1\n")
    assert [job["name"] for job in made["schedule_jobs"]] == ["d"]
    assert "s3cret" not in str(made)


@pytest.mark.parametrize(("line", "words"), [
    (LINE + "snap --label=d --keep=1 && cv4pve-autosnap --host=b clean --label=d --keep=1", "only the first of its 2 calls"),
    ("0 1 * * * sshpass -p hunter2 cv4pve-autosnap --host=a snap --label=d --keep=1", "(sshpass ...)"),
    ("0 1 * * * cd /opt/cv4pve-autosnap && ./cv4pve-autosnap --host=$HOST --vmid=@all snap --label=d --keep=1", "of HOST in"),
    ("0 1 * * * cv4pve-autosnap --host=a --vmid=web% snap --label=d --keep=1", "'web%' is read as it is written now"),
])
def test_what_a_person_must_know_is_noted(line: str, words: str) -> None:
    made = cv4pve.cv4pve_jobs(line + "\n")
    assert [job["action"] for job in made["schedule_jobs"]] == ["snap"]
    assert any(words in note for note in made["notes"])
    assert "hunter2" not in str(made)


def test_values_that_are_easily_misread() -> None:
    made = cv4pve.cv4pve_jobs(
        "0 1 * * * cv4pve-autosnap --host=a --username=root snap --label=a#b --keep=2 --state=True --only-running=True >>/l "
        "2>&1\n"
        "0 2 * * * cv4pve-autosnap --host=b --username=root snap --label={0} --keep=2\n".format("x" * 60))
    first, second = made["schedule_jobs"]
    assert (first["options"]["label"], first["options"]["keep"], first["options"]["vmstate"]) == ("a#b", 2, True)
    assert first["options"]["only_running"] is True
    assert len(second["name"]) <= 48
    assert first["credential"] != second["credential"], "they are of two clusters"


def test_what_yaml_makes_of_a_job_is_taken_as_it_is_meant() -> None:
    [job] = jobs({**SNAP, "name": 100, "on_calendar": "daily", "on_failure": "alert@%n.service", "environment": None,
                  "time_limit": None, "options": {**SNAP["options"], "keep": None, "retention": {"last": 3}}})
    assert (job["name"], job["on_calendar"], job["on_failure"], job["environment"], job["time_limit"]) == (
        "100", ["daily"], ["alert@%n.service"], {}, 21600)
    assert "autosnap_keep" not in job["variables"]


@pytest.mark.parametrize("cron", ["59 23 31 12 7", "*/15 0-23/2 1,15 jan-mar mon-fri", "0 0 * * 0,6", "@daily"])
def test_what_cron_takes(cron: str) -> None:
    assert jobs({**SNAP, "cron": cron}, scheduler="cron")[0]["cron"] == cron


SPECIMEN = {
    "schedule_user": "autosnap", "schedule_config_path": "/etc/autosnap", "schedule_state_path": "/var/lib/autosnap",
    "schedule_venv_path": "/opt/autosnap/venv", "schedule_path": "/opt/autosnap", "schedule_log_path": "/var/log/autosnap"}


@pytest.mark.parametrize("log", ["journal", "file"])
def test_the_program_that_cron_starts_is_sound_bash(log: str, tmp_path: pathlib.Path) -> None:
    template = jinja2.Template((ROLE / "templates" / "autosnap-job.j2").read_text(), trim_blocks=True)
    program = tmp_path / "autosnap-job"
    program.write_text(template.render(schedule_log=log, **SPECIMEN))
    checked = subprocess.run(
        ["shellcheck", str(program)], stdout=subprocess.PIPE, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def notifier() -> Any:
    """The program that tells, as a module."""
    loader = importlib.machinery.SourceFileLoader("autosnap_notify", str(ROLE / "files" / "autosnap-notify"))
    notify = types.ModuleType("autosnap_notify")
    notify.__file__ = loader.path
    loader.exec_module(notify)
    return notify


def test_the_notifier_trusts_no_mail_server_but_a_proved_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context that STARTTLS gets; the rest of it is tested with real mails in tests/roles."""
    notify = notifier()
    server = mock.MagicMock()
    monkeypatch.setattr(notify.smtplib, "SMTP", server)
    told = {"event": "failure", "job": "d", "host": "h", "result": "", "exit_status": "2", "log": "x", "summary": ""}
    notify.mail({"to": "a@b", "starttls": True}, told)
    notify.mail({"to": "a@b", "starttls": True, "validate_certs": False}, told)
    begun = server.return_value.__enter__.return_value.starttls.call_args_list
    contexts = [call.kwargs["context"] for call in begun]
    assert [context.verify_mode for context in contexts] == [ssl.CERT_REQUIRED, ssl.CERT_NONE]
    assert contexts[0].check_hostname


def test_services_are_told_what_the_job_says_or_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    notify = notifier()
    monkeypatch.setenv("AUTOSNAP_HEALTH_PATH", str(tmp_path))
    settings = {"ntfy": {"url": "https://ntfy.example.com/topic", "token": "t"}, "webhook": {"url": "https://x"}}
    told = {"event": "failure", "job": "d", "host": "h", "result": "exit-code", "exit_status": "2", "log": "a\nno credential"}
    request = notify.services(settings, told)["ntfy"]
    assert list(notify.services(settings, told)) == ["ntfy"]
    assert (request["url"], request["body"]["topic"]) == ("https://ntfy.example.com", "topic")
    assert request["body"]["message"].startswith("the run: exit-code (no credential)")
    guest = {"vmid": 7, "name": "web", "node": "n", "status": "failed", "reason": "full", "red": True, "errors": []}
    said = digest({"failed": True, "guests": [guest]}, "snap", "d", "c")
    (tmp_path / "d.json").write_text(json.dumps(said))
    assert notify.services(settings, told)["ntfy"]["body"]["message"].startswith("7 web on n: failed (full)")
    # One of an earlier run, and one of a run that was green before it failed, do not count.
    for wrong in ({**said, "time": said["time"] - 9000}, {**said, "status": "ok", "problems": []}):
        (tmp_path / "d.json").write_text(json.dumps(wrong))
        assert "no credential" in notify.services(settings, told)["ntfy"]["body"]["message"]
    (tmp_path / "d.json").write_text(json.dumps({**said, "status": "ok", "problems": [], "failed": False}))
    assert notify.services(settings, {**told, "event": "success"})["ntfy"]["body"]["title"].endswith("is well")


@pytest.mark.parametrize(
    "kind", ["pipe", "link", "directory", "device", "huge", "deep", "list", "odd times", "odd problems", "not text"])
def test_whatever_lies_where_health_is_looked_for_the_services_are_told(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """The job's user may put anything there; who waits for a word gets the job's last ones."""
    notify, path = notifier(), tmp_path / "d.json"
    said = digest({"failed": True, "guests": []}, "snap", "d", "c")
    {
        "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("/etc/passwd"), "directory": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"), "huge": lambda: path.write_text(" " * (notify.HEALTH_MAX + 1) + "{}"),
        "deep": lambda: path.write_text("[" * 200_000), "list": lambda: path.write_text("[1]"),
        "odd times": lambda: path.write_text(json.dumps({**said, "time": "now"})),
        "odd problems": lambda: path.write_text(json.dumps({**said, "problems": [7, {}], "summary": 3, "duration": "x"})),
        "not text": lambda: path.write_bytes(b"\xff\xfe{"),
    }[kind]()
    monkeypatch.setenv("AUTOSNAP_HEALTH_PATH", str(tmp_path))
    told = {"event": "failure", "job": "d", "host": "h", "result": "exit-code", "exit_status": "2", "log": "a\nlast words"}
    settings = {"ntfy": {"url": "https://ntfy.example.com/topic"}}
    assert notify.services(settings, told)["ntfy"]["body"]["message"].startswith("the run: exit-code (last words)")
    assert "last words" in notify.summary(settings, told)


def test_health_with_words_without_end_is_told_in_a_few(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """Services refuse long messages, and Linux long variables."""
    notify = notifier()
    said = digest({"failed": True, "guests": []}, "snap", "d", "c")
    (tmp_path / "d.json").write_text(json.dumps({**said, "status": "critical", "summary": {"a" * 200_000: 1}}))
    monkeypatch.setenv("AUTOSNAP_HEALTH_PATH", str(tmp_path))
    told = {"event": "failure", "job": "d", "host": "h", "result": "exit-code", "exit_status": "2", "log": "x",
            "summary": "y" * 10 ** 6}
    settings = {"slack": {"url": "https://example.com"}, "teams": {"url": "https://example.com"}}
    assert all(len(json.dumps(request["body"])) < 5000 for request in notify.services(settings, told).values())
    assert len(notify.summary(settings, told)) < 2000
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\ncat >/dev/null\n")
    program.chmod(0o755)
    notify.command(str(program), told)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to read as somebody else")
def test_health_is_read_as_the_job_s_user(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    notify, path = notifier(), tmp_path / "d.json"
    path.write_text("secret of root")
    path.chmod(0o600)
    tmp_path.chmod(0o755)
    assert notify.read(str(path), 100) == b"secret of root"
    with pytest.raises(PermissionError):
        notify.read(str(path), 100, "nobody")
    assert os.geteuid() == 0 and notify.read(str(path), 4) == b"root"


def test_the_log_that_is_told_steers_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n" * 90_000 + "\x1b[2J\u202eweb\r\nlast\ttab\x9b\n", newline="")
    monkeypatch.setenv("AUTOSNAP_LOG", str(log))
    told = notifier().log("d")
    assert told.endswith("old\n?[2J?web\nlast\ttab?") and len(told.split("\n")) <= 60
    log.unlink()
    os.mkfifo(log)
    assert notifier().log("d") == ""


@pytest.mark.parametrize(
    "values", ["a\rb", ["x", "y\n"], {"k": ["\x1b"]}, {"k\x00": 1}, "\u202e", "\u2028", "\u0665", ["port \uff15"]])
def test_what_cannot_be_printed_is_found_however_deep(values: Any) -> None:
    assert schedule.unprintable(values) and not schedule.unprintable({"k": ["Ärger 5 %", 7, None]})
