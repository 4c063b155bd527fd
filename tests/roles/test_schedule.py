# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role schedule on real machines: systemd timers, cron, and a job's whole life. The tests go on from one another."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
from typing import Any

import pytest
import yaml
from conftest import Machine, three_jobs
from simulator.running import until
from worlds import HOSTILE, HOSTILE_HOOK, SECRET, STEERING, rename

ROLE = pathlib.Path(os.environ["AUTOSNAP_COLLECTIONS"]) / "ansible_collections" / "pve" / "autosnap" / "roles" / "schedule"
UNIT = "autosnap@daily"
SYSTEMD = "/etc/systemd/system"


def test_check_mode_tells_what_the_first_run_does(machine: Machine) -> None:
    """On a machine where nothing is installed yet."""
    machine.cluster.pve.log.clear()
    checked = machine.schedule(arguments=("--check", "--diff"))
    assert not any(machine.exists(path) for path in ("/opt/autosnap", "/etc/autosnap", SYSTEMD + "/autosnap@.service"))
    assert "OnCalendar=*-*-* 04:15:00" in checked.output
    assert SECRET not in checked.output
    first = machine.schedule()
    second = machine.schedule()
    print("check:  {0}\nfirst:  {1}\nsecond: {2}".format(checked.recap, first.recap, second.recap))
    assert checked.changed == first.changed > 10
    assert second.changed == 0
    assert machine.schedule(arguments=("--check", "--diff")).changed == 0
    assert not machine.cluster.pve.log, "nobody has asked for a snapshot"


def test_the_units_are_as_systemd_wants_them(machine: Machine) -> None:
    # It takes files only: a copy with the name of the instance has the job's own settings too.
    verified = machine.run("sh", "-c", (
        "mkdir /tmp/units && cp {0}/autosnap@.service /tmp/units/autosnap@daily.service && "
        "cp {0}/autosnap-notify@.service /tmp/units/autosnap-notify@x.service && "
        "systemd-analyze verify /tmp/units/* {0}/autosnap@*.timer").format(SYSTEMD))
    assert verified.stdout + verified.stderr == ""
    score = machine.run("systemd-analyze", "security", "--no-pager", "--threshold=20", UNIT + ".service")
    print(machine.suite, score.stdout.strip().splitlines()[-1])
    timers = machine.run("systemctl", "list-timers", "--no-pager", "autosnap@*").stdout
    print(timers)
    assert {job + ".timer" for job in re.findall(r"autosnap@\w+(?=\.timer)", timers)} == {
        "autosnap@{0}.timer".format(job["name"]) for job in three_jobs()}


def test_a_job_runs_and_its_monitor_is_told(machine: Machine) -> None:
    machine.run("systemctl", "start", UNIT + ".service")
    assert machine.property(UNIT + ".service", "Result") == "success"
    assert len(machine.snapshots(100)) == 3 and len(machine.snapshots(101)) == 3 and not machine.snapshots(102)
    said = machine.journal(UNIT + ".service")
    print(said)
    assert "| created " in said and "failed=0" in said
    assert until(lambda: [path for _method, path, _body in machine.sinks.requests if path == "/health/success"])
    assert "/health/start" in [path for _method, path, _body in machine.sinks.requests]
    assert machine.sinks.mails == []
    checked = machine.run("/opt/autosnap/bin/check_autosnap", "--file", "/var/lib/autosnap/health/daily.json", "--max-age", "26h")
    print(checked.stdout)
    assert checked.stdout.startswith("AUTOSNAP OK - daily of 127.0.0.1:")
    assert 'pve_autosnap_guests{cluster="127.0.0.1' in machine.run("cat", "/var/lib/autosnap/metrics/daily.prom").stdout


def test_a_report_is_written(machine: Machine) -> None:
    machine.run("systemctl", "start", "autosnap@report.service")
    report = machine.run("cat", "/var/lib/autosnap/report.md").stdout
    assert report.startswith("| NODE") and "autodaily" in report
    assert "<h2>Guests</h2>" in machine.run("cat", "/var/lib/autosnap/report.report.html").stdout


def test_the_timer_fires_and_never_overlaps(machine: Machine) -> None:
    """The real timer, its calendar replaced at run time."""
    before = len(machine.snapshots(100, "weekly"))
    machine.write("/run/systemd/system/autosnap@weekly.timer.d/test.conf",
                  "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/2\nRandomizedDelaySec=0\nAccuracySec=100ms\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "autosnap@weekly.timer")
    until(lambda: len(machine.snapshots(100, "weekly")) >= before + 2)
    machine.run("rm", "-r", "/run/systemd/system/autosnap@weekly.timer.d")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "autosnap@weekly.timer")
    until(lambda: machine.property("autosnap@weekly.service", "ActiveState") == "inactive")
    assert machine.property("autosnap@weekly.service", "TriggeredBy") == "autosnap@weekly.timer"
    print(machine.run("systemctl", "list-timers", "--no-pager", "autosnap@*").stdout)
    # Each start is followed by its end before the next one begins.
    words = re.findall(r"^(Starting|Finished) autosnap@weekly", machine.journal("autosnap@weekly.service"), re.M)
    assert words and words == ["Starting", "Finished"] * (len(words) // 2)
    assert len(words) == 2 * len(machine.snapshots(100, "weekly"))


def test_a_missed_run_is_caught_up_with(machine: Machine) -> None:
    before = len(machine.snapshots(100))
    # Its jitter comes on top, which is not waited for here.
    machine.write("/run/systemd/system/autosnap@daily.timer.d/test.conf", "[Timer]\nRandomizedDelaySec=0\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "stop", UNIT + ".timer")
    machine.run("touch", "-d", "3 days ago", "/var/lib/systemd/timers/stamp-autosnap@daily.timer")
    machine.run("systemctl", "start", UNIT + ".timer")
    until(lambda: machine.journal(UNIT + ".service").count("PLAY RECAP") == 2)
    assert len(machine.snapshots(100)) == before + 1
    machine.run("rm", "-r", "/run/systemd/system/autosnap@daily.timer.d")
    machine.run("systemctl", "daemon-reload")


def test_a_failure_is_told(machine: Machine) -> None:
    machine.sinks.requests.clear()
    job = {"name": "broken", "action": "snap", "options": {"guests": "@tag-nosuch", "label": "daily"}}
    machine.schedule(*three_jobs(), job)
    assert machine.run("systemctl", "start", "autosnap@broken.service", check=False).returncode != 0
    assert machine.property("autosnap@broken.service", "Result") == "exit-code"
    mail = until(lambda: machine.sinks.mails)[0]
    print(mail)
    assert re.search(r"^Subject: pve\.autosnap: broken on autosnap-\w+ FAILED", mail, re.M)
    assert "@tag-nosuch" in mail
    hooks = until(lambda: [body for _method, path, body in machine.sinks.requests if path == "/hook"])
    told = json.loads(hooks[0])
    assert told["event"] == "failure" and told["job"] == "broken" and told["result"] == "exit-code" and told["exit_status"] == "2"
    assert until(lambda: [path for _method, path, _body in machine.sinks.requests if path == "/health/failure"])
    phone = json.loads(until(lambda: [body for _method, path, body in machine.sinks.requests if path == "/"])[0])
    assert phone["topic"] == "topic" and phone["title"].startswith("pve.autosnap: broken of")
    assert "@tag-nosuch" in phone["message"]
    machine.sinks.mails.clear()


def test_hostile_text_steers_neither_the_journal_nor_what_is_told_of_it(machine: Machine) -> None:
    """A guest's name and what a hook printed: the journal, and the mail and the messages with the job's last lines."""
    machine.sinks.requests.clear()
    machine.write("/usr/local/bin/hostile", HOSTILE_HOOK)
    machine.run("chmod", "755", "/usr/local/bin/hostile")
    name = machine.cluster.pve.guest(100).name
    rename(machine.cluster, 100, HOSTILE)
    machine.schedule(*three_jobs(), {"name": "broken", "action": "snap", "options": {
        "guests": "100", "label": "daily", "hook": "/usr/local/bin/hostile", "on_hook_failure": "skip_guest"}})
    assert machine.run("systemctl", "start", "autosnap@broken.service", check=False).returncode != 0
    rename(machine.cluster, 100, name)
    bodies = until(lambda: [body for _method, path, body in machine.sinks.requests if path in ("/", "/hook")][1:])
    journal = machine.run("journalctl", "--no-pager", "--output=export", "--unit=autosnap@broken.service").stdout
    # What journald takes for unprintable it writes as a length and the bytes.
    assert "MESSAGE\n" not in journal
    texts = {"journal": machine.journal("autosnap@broken.service"), "mail": until(lambda: machine.sinks.mails)[0],
             **{"message {0}".format(number): body for number, body in enumerate(bodies)}}
    for where, text in texts.items():
        print("=== {0}\n{1}".format(where, text))
        decoded = json.dumps(json.loads(text), ensure_ascii=False) if text.startswith("{") else text
        assert not [one for one in STEERING if one in decoded.replace("\r\n", "\n")], where
        assert not re.search(r"^PLAY RECAP \*\*\*\*\*$|^localhost : ok=9", text, re.MULTILINE), where
    assert "web?[2J?[1;1H" in texts["journal"] and "one?[2J" in texts["journal"]
    machine.sinks.mails.clear()


def test_no_secret_is_where_it_can_be_read(machine: Machine) -> None:
    """Law 12, while a job runs: process list, environment, units, journal, configuration with its modes."""
    job = {"name": "slow", "action": "snap", "time_limit": "8s", "options": {"guests": "@tag-slow", "label": "slow"}}
    machine.schedule(*three_jobs(), job)
    machine.run("systemctl", "start", "--no-block", "autosnap@slow.service")
    until(lambda: machine.cluster.pve.running_now)
    # From a file, so that the search does not find itself; the tests in the collection know the secret, of course.
    machine.write("/root/secret", SECRET + "\n")
    found = machine.sh(
        "for one in /proc/[0-9]*; do tr '\\0' ' ' <$one/cmdline; tr '\\0' ' ' <$one/environ; done 2>/dev/null | "
        "grep -acFf /root/secret; journalctl --no-pager -o export | grep -acFf /root/secret; "
        "systemctl show 'autosnap@slow.service' | grep -cFf /root/secret; "
        "grep -rlFf /root/secret --exclude-dir=tests /etc /opt/autosnap /var/lib/autosnap /run/systemd/system /var/log",
        check=False)
    modes = machine.sh("find /etc/autosnap -printf '%m %u:%g %p\\n' | sort -k3")
    print(found, modes, sep="\n")
    assert found.split() == ["0", "0", "0"]
    assert "600 root:root /etc/autosnap/credentials/prod.cred" in modes and "700 root:root /etc/autosnap/credentials\n" in modes
    assert "600 root:root /etc/autosnap/notify.json" in modes and "640 root:autosnap /etc/autosnap/jobs/slow.yml" in modes
    # The time limit ends it as a signal does, and says so.
    until(lambda: machine.property("autosnap@slow.service", "Result") == "timeout")
    until(lambda: machine.property("autosnap@slow.service", "ActiveState") == "failed")
    assert "timed out" in machine.journal("autosnap@slow.service")
    assert until(lambda: machine.sinks.mails)
    machine.sinks.mails.clear()


def test_the_record_of_the_run_that_was_ended_is_there(machine: Machine) -> None:
    assert ".run" in machine.sh("ls /var/lib/autosnap")
    assert machine.sh("stat -c %U /var/lib/autosnap/*.run").split()[0] == "autosnap"


def test_a_missing_credential_fails_before_anything_runs(machine: Machine) -> None:
    machine.run("mv", "/etc/autosnap/credentials/prod.cred", "/root/prod.cred")
    assert machine.run("systemctl", "start", UNIT + ".service", check=False).returncode != 0
    assert machine.property(UNIT + ".service", "ExecMainStatus") == "243"
    assert until(lambda: machine.sinks.mails)
    machine.run("mv", "/root/prod.cred", "/etc/autosnap/credentials/prod.cred")
    machine.run("systemctl", "start", UNIT + ".service")
    machine.sinks.mails.clear()


@pytest.mark.once("trixie")
@pytest.mark.parametrize("method", ["systemd", pytest.param("file", marks=pytest.mark.thorough)])
def test_a_credential_in_a_root_only_file(machine: Machine, method: str) -> None:
    variables = machine.variables()
    credential = {**variables["schedule_credentials"][0], "method": method}
    machine.schedule(schedule_credentials=[credential])
    assert machine.sh("stat -c '%a %U' /etc/autosnap/credentials/*").splitlines() == ["600 root"]
    assert "LoadCredential=secret:/etc/autosnap/credentials/prod\n" in machine.run(
        "cat", SYSTEMD + "/autosnap@daily.service.d/job.conf").stdout
    machine.run("systemctl", "start", UNIT + ".service")
    assert machine.property(UNIT + ".service", "Result") == "success"


@pytest.mark.once("trixie")
def test_jobs_change_rest_and_go(machine: Machine) -> None:
    daily, weekly, report = three_jobs()
    daily["on_calendar"] = ["*-*-* 03:30:00", "*-*-* 15:30:00"]
    machine.schedule(daily, {**weekly, "state": "disabled"}, {**report, "state": "absent"})
    assert machine.property(UNIT + ".timer", "TimersCalendar").count("OnCalendar=") == 2
    assert machine.property("autosnap@weekly.timer", "ActiveState") == "inactive"
    assert machine.property("autosnap@weekly.timer", "UnitFileState") == "disabled"
    assert not machine.exists(SYSTEMD + "/autosnap@report.timer")
    assert machine.schedule(daily, {**weekly, "state": "disabled"}, {**report, "state": "absent"}).changed == 0
    machine.schedule(daily)
    left = machine.sh("ls {0} /etc/autosnap/jobs /var/lib/systemd/timers".format(SYSTEMD))
    assert "daily" in left and not re.search("weekly|report|slow|broken", left)
    assert machine.sh("ls /var/lib/autosnap/health /var/lib/autosnap/metrics | grep -c weekly", check=False).strip() == "0"
    assert "broken" not in machine.sh("systemctl list-units --all --no-legend 'autosnap@*'")
    assert machine.schedule(daily).changed == 0


@pytest.mark.thorough
def test_a_timer_that_rested_does_not_catch_up(machine: Machine) -> None:
    """Nor does one whose new time has passed today already."""
    before = machine.journal(UNIT + ".service").count("PLAY RECAP")
    job = {**three_jobs()[0], "randomized_delay": "0", "on_calendar": ["*-*-* 00:00:00"]}
    machine.schedule({**job, "state": "disabled"})
    machine.run("touch", "-d", "3 days ago", "/var/lib/systemd/timers/stamp-autosnap@daily.timer")
    machine.schedule(job)
    machine.schedule({**job, "on_calendar": ["*-*-* 00:00:01"]})
    assert machine.property(UNIT + ".timer", "ActiveState") == "active"
    assert machine.property(UNIT + ".service", "ActiveState") == "inactive"
    assert machine.journal(UNIT + ".service").count("PLAY RECAP") == before


@pytest.mark.thorough
def test_a_run_of_the_role_that_broke_off_is_made_good(machine: Machine) -> None:
    """A job that is off the list, its file gone and its timer not; and a unit that systemd has not read."""
    machine.schedule(*three_jobs())
    machine.run("rm", "/etc/autosnap/jobs/weekly.yml")
    machine.sh("sed -i 's/04:15/04:20/' {0}/autosnap@daily.timer".format(SYSTEMD))
    assert machine.property(UNIT + ".timer", "NeedDaemonReload") == "yes"
    machine.sh("sed -i 's/04:20/04:15/' {0}/autosnap@daily.timer".format(SYSTEMD))
    machine.schedule(three_jobs()[0])
    assert not machine.exists(SYSTEMD + "/autosnap@weekly.timer")
    assert machine.property(UNIT + ".timer", "NeedDaemonReload") == "no"


@pytest.mark.thorough
def test_check_mode_is_right_on_a_machine_that_has_the_role(machine: Machine) -> None:
    machine.schedule()
    variables = machine.variables()
    other = {**variables["schedule_credentials"][0], "secret": "autosnap@pve!other=0"}
    checked = machine.schedule(arguments=("--check",), schedule_credentials=[other])
    assert checked.changed == machine.schedule(schedule_credentials=[other]).changed == 1
    machine.schedule()
    libraries = [*yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())["schedule_requirements"], "pyfiglet"]
    checked = machine.schedule(arguments=("--check",), schedule_requirements=libraries)
    assert checked.changed == machine.schedule(schedule_requirements=libraries).changed == 2
    machine.schedule()


@pytest.mark.thorough
def test_a_collection_from_git_and_one_that_cannot_be_fetched(machine: Machine) -> None:
    """The one in use stays, and jobs go on, where the other cannot be had."""
    manifest = "/opt/autosnap/collections/ansible_collections/pve/autosnap/MANIFEST.json"
    for source in ({"name": "/root/nosuch", "type": "git"}, {"name": "pve.nosuch", "version": "9.9.9"}):
        failed = machine.play("pve.autosnap.schedule", **machine.variables(schedule_collection_source=source))
        assert failed.status != 0
        assert machine.exists(manifest)
    machine.run("systemctl", "start", UNIT + ".service")
    machine.sh(
        "cp -r /opt/autosnap/collections/ansible_collections/pve/autosnap /root/repository && cd /root/repository && "
        "rm MANIFEST.json FILES.json && git init -q -b main && git config user.email a@b && git config user.name a && "
        "printf 'namespace: pve\nname: autosnap\nversion: 0.1.2\nauthors: [a]\nreadme: README.md\n' >galaxy.yml && "
        "git add -A && git commit -qm a && git tag v0.1.2")
    source = {"name": "file:///root/repository", "type": "git", "version": "v0.1.2"}
    machine.schedule(schedule_collection_source=source)
    assert json.loads(machine.run("cat", manifest).stdout)["collection_info"]["version"] == "0.1.2"
    assert machine.schedule(schedule_collection_source=source).changed == 0
    told = machine.play("pve.autosnap.upgrade", schedule_collection_source=source)
    assert told.status == 0 and told.changed == 0, told.output
    machine.run("systemctl", "start", UNIT + ".service")
    assert machine.sh("stat -c %a {0}".format(manifest)).strip() == "644"
    machine.schedule()


@pytest.mark.thorough
def test_logs_in_files(machine: Machine) -> None:
    machine.schedule(three_jobs()[0], schedule_log="file")
    machine.run("systemctl", "start", UNIT + ".service")
    assert "| created " in machine.run("cat", "/var/log/autosnap/daily.log").stdout
    machine.run("logrotate", "--force", "/etc/logrotate.d/autosnap")
    broken = {"name": "broken", "action": "snap", "options": {"guests": "@tag-nosuch", "label": "daily"}}
    machine.sinks.mails.clear()
    machine.schedule(three_jobs()[0], broken, schedule_log="file")
    machine.run("systemctl", "start", "autosnap@broken.service", check=False)
    assert "@tag-nosuch" in until(lambda: machine.sinks.mails)[0]
    machine.sinks.mails.clear()
    assert machine.schedule(three_jobs()[0], broken, schedule_log="file").changed == 0
    machine.schedule(three_jobs()[0])
    assert not machine.exists("/etc/logrotate.d/autosnap")


def test_the_jobs_are_there_after_a_reboot(machine: Machine) -> None:
    began = ("cut", "-d ", "-f22", "/proc/1/stat")
    before = machine.run(*began).stdout
    machine.run("systemctl", "reboot", check=False)
    until(lambda: machine.run(*began, check=False).stdout not in ("", before))
    until(lambda: machine.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"))
    assert machine.property(UNIT + ".timer", "ActiveState") == "active"
    machine.run("systemctl", "start", UNIT + ".service")


def test_cron_runs_the_same_jobs(machine: Machine) -> None:
    """The switch leaves nothing of systemd's behind; the crontab fires each minute here."""
    daily, *others = three_jobs()
    jobs = [{**daily, "cron": "* * * * *", "randomized_delay": "0"}, *others]
    machine.schedule(*jobs, schedule_scheduler="cron")
    assert "autosnap" not in machine.sh("ls {0} /var/lib/systemd/timers".format(SYSTEMD))
    assert machine.schedule(*jobs, schedule_scheduler="cron").changed == 0
    machine.sinks.requests.clear()
    status = until(lambda: machine.run("cat", "/var/lib/autosnap/daily.status", check=False).stdout, 100)
    print(machine.sh("cat /etc/cron.d/autosnap-*"), status, sep="\n")
    assert json.loads(status)["status"] == 0
    said = machine.run("journalctl", "--no-pager", "-o", "cat", "-t", "autosnap-daily").stdout
    print(said)
    assert "| created " in said
    assert until(lambda: "/health/success" in [path for _method, path, _body in machine.sinks.requests])
    assert SECRET not in machine.sh("journalctl --no-pager -o export", check=False)
    assert machine.sh("ls -d /run/autosnap/job.* 2>/dev/null", check=False) == ""
    assert machine.sh("stat -c '%a %U' /etc/autosnap/credentials/prod").strip() == "600 root"


def test_cron_has_a_lock_a_time_limit_and_a_voice(machine: Machine) -> None:
    slow = {"name": "slow", "action": "snap", "cron": "@yearly", "time_limit": "6s", "randomized_delay": "0",
            "options": {"guests": "@tag-slow", "label": "slow"}}
    # A link where its status is written leads nowhere but to what its user may write.
    machine.write("/root/precious", "as it was\n")
    # Who is told may hang: it must not hold the job's lock, nor read as root what the job's user points it at.
    machine.write("/root/fds", "#!/bin/sh\nls -l /proc/$PPID/fd /proc/self/fd >>/root/open; cat >>/root/told; sleep 100 &\n")
    machine.run("chmod", "755", "/root/fds")
    notify = {**machine.variables()["schedule_notify"], "command": "/root/fds"}
    machine.schedule(slow, schedule_scheduler="cron", schedule_notify=notify)
    machine.sh("ln -s /root/precious /var/lib/autosnap/health/slow.json")
    machine.sh("ln -s /root/precious /var/lib/autosnap/slow.status.new")
    assert machine.sh("ls /etc/cron.d").split().count("autosnap-slow") == 1 and not machine.exists("/etc/cron.d/autosnap-daily")
    machine.sinks.mails.clear()
    first = subprocess.Popen([str(pathlib.Path(__file__).parents[1] / "tools" / "machine"), "exec", machine.name,
                              "/opt/autosnap/bin/autosnap-job", "slow"], stdin=subprocess.DEVNULL)
    until(lambda: machine.cluster.pve.running_now)
    assert machine.run("/opt/autosnap/bin/autosnap-job", "slow", check=False).returncode == 75
    users = machine.sh("grep -l '^ansible-playboo' /proc/[0-9]*/comm | xargs -n 1 dirname | xargs stat -c %U").split()
    assert first.wait(60) == 124 and set(users) == {"autosnap"}
    assert machine.run("cat", "/root/precious").stdout == "as it was\n"
    machine.run("rm", "/var/lib/autosnap/slow.status.new", "/var/lib/autosnap/health/slow.json")
    assert "slow.lock" not in until(lambda: machine.sh("cat /root/open 2>/dev/null", check=False))
    machine.run("flock", "--nonblock", "/run/autosnap/slow.lock", "true")
    machine.sh("pkill -f '^sleep 100'", check=False)
    assert "time limit" in machine.sh("cat /root/told") and "as it was" not in machine.sh("cat /root/told")
    assert "time limit" in machine.run("journalctl", "--no-pager", "-o", "cat", "-t", "autosnap-slow").stdout
    assert re.search("Subject: .*slow on .* FAILED", until(lambda: machine.sinks.mails)[0])
    machine.sinks.mails.clear()
    machine.run("mv", "/etc/autosnap/credentials/prod", "/root/prod")
    assert machine.run("/opt/autosnap/bin/autosnap-job", "slow", check=False).returncode == 1
    assert "the credential prod is missing" in until(lambda: machine.sinks.mails)[0]
    assert json.loads(machine.run("cat", "/var/lib/autosnap/slow.status").stdout)["status"] == 1
    machine.run("mv", "/root/prod", "/etc/autosnap/credentials/prod")
    # Before it has a place of its own too: the first start after a boot.
    machine.sinks.mails.clear()
    machine.sh("rm -rf /run/autosnap; mv /etc/autosnap/jobs/slow.env /root/slow.env")
    assert machine.run("/opt/autosnap/bin/autosnap-job", "slow", check=False).returncode == 1
    assert "slow" in until(lambda: machine.sinks.mails)[0]
    machine.run("mv", "/root/slow.env", "/etc/autosnap/jobs/slow.env")
    machine.schedule({**slow, "state": "disabled"}, schedule_scheduler="cron")
    assert not machine.exists("/etc/cron.d/autosnap-slow")


CRONTAB = pathlib.Path(__file__).parent / "crontab.txt"
WEEKLY = "--host={host}\n--api-token={token}\n# which\n--vmid=@all,-102\nsnap\n--label=weekly\n--keep=4\n"


@pytest.mark.once("bookworm")
def test_a_crontab_of_cv4pve_autosnap_goes_on(machine: Machine, tmp_path: pathlib.Path) -> None:
    """Converted by the playbook, its secrets filled in, scheduled, and run."""
    token = machine.variables()["schedule_credentials"][0]["secret"]
    parameters = tmp_path / "weekly.parm"
    words = {"host": machine.cluster.hosts[0], "token": token, "parameters": str(parameters)}
    parameters.write_text(WEEKLY.format(**words))
    crontab = tmp_path / "crontab"
    crontab.write_text(CRONTAB.read_text().format(**words))
    shown = machine.play("pve.autosnap.convert_crontab", autosnap_crontab=str(crontab))
    assert shown.status == 0, shown.output
    assert SECRET not in shown.output
    print(shown.output)
    text = shown.output[shown.output.index("---\nschedule_credentials"):]
    made = yaml.safe_load(re.split(r"\n(?:TASK|PLAY) ", text)[0])
    assert [job["name"] for job in made["schedule_jobs"]] == [
        "daily", "fourhourly", "weekly", "monthly", "clean-hourly", "hourly", "report", "half"]
    for credential in made["schedule_credentials"]:
        assert credential["secret"].startswith("TODO")
        credential["secret"] = token if credential["kind"] == "api_token" else "pass-word-77"
    jobs = [job for job in made["schedule_jobs"] if job["name"] != "monthly"]
    machine.schedule(*jobs, schedule_credentials=made["schedule_credentials"], schedule_scheduler="systemd")
    assert "autosnap" not in machine.sh("ls /etc/cron.d")
    for name in ("daily", "weekly", "fourhourly", "half", "clean-hourly", "report"):
        machine.run("systemctl", "start", "autosnap@{0}.service".format(name))
        assert machine.property("autosnap@{0}.service".format(name), "Result") == "success"
    assert len(machine.snapshots(100, "fourhourly")) == 1 and len(machine.snapshots(101, "half")) == 0
    assert "<table>" in machine.run("cat", "/var/lib/autosnap/report.html").stdout


def newer(tarball: str, directory: pathlib.Path) -> str:
    """The same collection with a higher version."""
    installed = pathlib.Path(os.environ["AUTOSNAP_COLLECTIONS"]) / "ansible_collections" / "pve" / "autosnap"
    copy = directory / "collection"
    shutil.copytree(installed, copy)
    with tarfile.open(tarball) as archive:
        manifest: Any = json.load(archive.extractfile("MANIFEST.json"))  # type: ignore[arg-type]
    information = manifest["collection_info"]
    galaxy = {key: information[key] for key in ("namespace", "name", "authors", "readme", "license")}
    (copy / "galaxy.yml").write_text(json.dumps({**galaxy, "version": "0.1.1"}))
    for name in ("MANIFEST.json", "FILES.json"):
        (copy / name).unlink()
    build = ["ansible-galaxy", "collection", "build", "--output-path", str(directory), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    return str(directory / "pve-autosnap-0.1.1.tar.gz")


@pytest.mark.once("bookworm")
def test_an_upgrade_is_told_and_made(machine: Machine, tmp_path: pathlib.Path) -> None:
    machine.schedule()
    source = {"type": "file", "name": newer(os.environ["AUTOSNAP_TARBALL"], tmp_path)}
    variables = {"schedule_collection_source": source}
    told = machine.play("pve.autosnap.upgrade", "--check", **variables)
    assert told.status == 0 and "0.1.0 is installed, 0.1.1 is the newest" in " ".join(told.output.split()), told.output
    manifest = "/opt/autosnap/collections/ansible_collections/pve/autosnap/MANIFEST.json"
    assert json.loads(machine.run("cat", manifest).stdout)["collection_info"]["version"] == "0.1.0"
    made = machine.play("pve.autosnap.upgrade", **variables)
    assert made.status == 0, made.output
    assert json.loads(machine.run("cat", manifest).stdout)["collection_info"]["version"] == "0.1.1"
    again = machine.play("pve.autosnap.upgrade", **variables)
    assert again.changed == 0 and "0.1.1 is installed, 0.1.1 is the newest" in " ".join(again.output.split())
    machine.run("systemctl", "start", UNIT + ".service")
    assert machine.schedule(schedule_collection_source=source).changed == 0


@pytest.mark.once("bookworm")
def test_a_directory_of_others_is_neither_used_nor_taken_away(machine: Machine) -> None:
    """Named by mistake: nothing is written into it, and nothing in it is deleted."""
    others = {
        "schedule_path": "/srv/postgres/bin/postgres", "schedule_venv_path": "/srv/webapp/requirements.txt",
        "schedule_config_path": "/srv/ansible/ansible.cfg", "schedule_log_path": "/srv/photos/one.jpg",
        "schedule_state_path": "/var/lib/photos/one.jpg"}
    for path in others.values():
        machine.write(path, "x")
    before = machine.sh("ls -lRa /srv /var/lib/photos")
    for name, path in others.items():
        place = "/".join(path.split("/")[:3 if name != "schedule_state_path" else 4])
        for state in ("present", "absent"):
            play = machine.play("pve.autosnap.schedule", **machine.variables(
                **{name: place, "schedule_state": state, "schedule_log": "file"}))
            words = "'{0}' holds no .autosnap-schedule that says".format(place)
            assert play.status != 0 and words in " ".join(play.output.split()), play.output
    assert machine.sh("ls -lRa /srv /var/lib/photos") == before
    machine.sh("rm -r /srv/* /var/lib/photos")


def test_an_installation_without_the_mark_gets_it_and_is_not_taken_away_before(machine: Machine) -> None:
    """As an earlier version left it."""
    machine.schedule()
    places = ("/opt/autosnap", "/opt/autosnap/venv", "/etc/autosnap", "/var/lib/autosnap")
    assert all(machine.exists(place + "/.autosnap-schedule") for place in places)
    machine.sh("rm " + " ".join(place + "/.autosnap-schedule" for place in places))
    play = machine.play("pve.autosnap.schedule", **machine.variables(schedule_state="absent"))
    assert play.status != 0 and "apply it with schedule_state=present first, which marks it" in " ".join(play.output.split())
    assert machine.exists("/opt/autosnap/bin/autosnap-notify") and machine.exists("/etc/autosnap/jobs/daily.yml")
    assert machine.schedule().changed > 0
    assert all(machine.exists(place + "/.autosnap-schedule") for place in places)
    assert machine.schedule().changed == 0


@pytest.mark.once("trixie")
@pytest.mark.parametrize(("name", "value"), [
    ("schedule_user", "auto\rsnap"), ("schedule_path", "/opt/auto snap"), ("schedule_state_path", "/var/lib/a\rExecStart=/x"),
    ("schedule_hardening_overrides", {"IPAddressDeny": "any\rExecStart=/x"}), ("schedule_log_path", "/var/log/\u0661"),
    ("schedule_python", "/usr/bin/python3\r")])
def test_what_would_begin_a_line_of_a_unit_is_refused(machine: Machine, name: str, value: Any) -> None:
    play = machine.play("pve.autosnap.schedule", "--check", **machine.variables(**{name: value}))
    assert play.status != 0 and "'{0}': ".format(name) in " ".join(play.output.split()), play.output


def test_nothing_is_left(machine: Machine) -> None:
    """Also while a job runs; what others put beside the configuration stays."""
    slow = {"name": "slow", "action": "snap", "options": {"guests": "@tag-slow", "label": "slow"}}
    machine.schedule(slow)
    machine.run("systemctl", "start", "--no-block", "autosnap@slow.service")
    until(lambda: machine.cluster.pve.running_now)
    machine.write("/etc/autosnap/mine.pem", "x")
    machine.schedule(schedule_state="absent")
    assert machine.sh("ls /etc/autosnap") == "mine.pem\n"
    machine.run("rm", "/etc/autosnap/mine.pem")
    machine.schedule(schedule_state="absent")
    assert machine.sh("systemctl list-units --all --no-legend 'autosnap*'") == ""
    left = machine.sh(
        "ls -d /opt/autosnap /etc/autosnap /var/lib/autosnap /var/log/autosnap /etc/cron.d/autosnap* /etc/logrotate.d/autosnap "
        "/etc/systemd/system/*autosnap* /etc/systemd/system/*/*autosnap* /var/lib/systemd/timers/*autosnap* 2>/dev/null; "
        "getent passwd autosnap; systemctl list-unit-files --no-legend 'autosnap*'", check=False)
    assert left == ""
    assert machine.schedule(schedule_state="absent").changed == 0
    assert len(machine.snapshots(100)) > 0, "snapshots stay"
