# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read crontabs and parameter files of cv4pve-autosnap as jobs of the role schedule."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible.errors import AnsibleFilterError

PROGRAM = "cv4pve-autosnap"
FLAGS = ("state", "only-running", "validate-certificate", "debug", "dry-run")
VALUES = (
    "host", "api-token", "username", "password", "vmid", "timeout", "timestamp-format", "max-perc-storage", "label", "keep",
    "script", "script-hook", "output")
SHORT = {"-o": "output"}
ACTIONS = {"snap": "snap", "clean": "clean", "status": "report"}
MACROS = {
    "@hourly": "hourly", "@daily": "daily", "@midnight": "daily", "@weekly": "weekly", "@monthly": "monthly",
    "@yearly": "yearly", "@annually": "yearly"}
DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WRAPPERS = "what stands before the program ({0} ...) is left out: the role has a lock, a time limit and a user of its own"
NAME_MAX = 48
_ASSIGNMENT = re.compile(r"\A\w+\s*=")


@dataclass
class _Call:
    """One call of the program: its subcommand, options by name without dashes, and what could not be read."""

    action: str = ""
    options: Dict[str, str] = field(default_factory=dict)
    unknown: List[str] = field(default_factory=list)


def cv4pve_jobs(crontab: str, files: Optional[Mapping[str, str]] = None) -> Dict[str, Any]:
    """C(schedule_jobs) and C(schedule_credentials) that do what the lines of a crontab did, and C(notes) on the rest.

    C(files) holds the texts of parameter files by path; others are read from this machine. No secret is shown.
    """
    jobs: List[Dict[str, Any]] = []
    credentials: Dict[Tuple[str, ...], Dict[str, str]] = {}
    notes: List[str] = []
    for number, line in enumerate(_lines(crontab), 1):
        if PROGRAM not in line or _ASSIGNMENT.match(line):
            continue
        try:
            job, said = _job(line, files or {}, [job["name"] for job in jobs], credentials)
        except _Unreadable as error:
            notes.append("line {0} is left out: {1}".format(number, error))
            continue
        jobs.append(job)
        notes += ["line {0}: {1}".format(number, note) for note in said]
    if not jobs:
        raise AnsibleFilterError("; ".join(notes) or "no line of the crontab calls {0}; is it the right file?".format(PROGRAM))
    return {"schedule_jobs": jobs, "schedule_credentials": list(credentials.values()), "notes": notes}


class _Unreadable(Exception):
    """A line that cannot become a job; the message says why and shows no secret."""


def _job(
    line: str, files: Mapping[str, str], names: Sequence[str], credentials: Dict[Tuple[str, ...], Dict[str, str]]
) -> Tuple[Dict[str, Any], List[str]]:
    """A line's job, and what a person must know of it."""
    schedule, words, notes = _split(line)
    call = _call(words, files)
    try:
        times = calendars(schedule)
        options = _options(call)
    except (ValueError, KeyError, IndexError):
        raise _Unreadable("its times '{0}' or the number of an option cannot be read".format(schedule)) from None
    job: Dict[str, Any] = {
        "name": _free_name(call, names), "action": ACTIONS[call.action], "cron": schedule, "on_calendar": times,
        "options": options, **_credential(call, credentials)}
    return job, notes + _notes(call)


def _lines(crontab: str) -> List[str]:
    """Lines without comments."""
    return [line.strip() if not line.lstrip().startswith("#") else "" for line in crontab.splitlines()]


def _split(line: str) -> Tuple[str, List[str], List[str]]:
    """The schedule, the words of the call from the program on, and notes on what stands around it."""
    match = re.match(r"(@\w+|(?:\S+\s+){4}\S+)\s+(.*)", line)
    if not match:
        raise _Unreadable("it is no cron line: {0}".format(_hidden(line)))
    try:
        lexer = shlex.shlex(match.group(2).replace("\\%", "%"), posix=True, punctuation_chars="<>|;&")
        lexer.whitespace_split = True
        lexer.commenters = ""
        words = list(lexer)
    except ValueError as error:
        raise _Unreadable("it cannot be read ({0})".format(error)) from None
    calls = [(before, call) for before, call in map(_program, _commands(words)) if call]
    if not calls:
        raise _Unreadable("{0} is not called as a command of its own; is it inside a script or another shell?".format(PROGRAM))
    before, call = calls[0]
    notes = [WRAPPERS.format(", ".join(before))] if before else []
    if len(calls) > 1:
        notes.append("only the first of its {0} calls is taken: write a job for each other one".format(len(calls)))
    variables = sorted({name for word in call for name in re.findall(r"\$\{?(\w+)", word)})
    if variables:
        notes.append("put the values of {0} in their place: a job has no shell".format(", ".join(variables)))
    return " ".join(match.group(1).split()), call, notes


def _commands(words: Sequence[str]) -> List[List[str]]:
    """The commands of a shell's line; what is redirected is left out."""
    commands: List[List[str]] = [[]]
    skip = False
    for word in words:
        if re.match(r"\A[<>|;&]+\Z", word):
            skip = word[0] in "<>"
            if skip and commands[-1] and re.match(r"\A[0-9]\Z", commands[-1][-1]):
                commands[-1].pop()
            elif not skip:
                commands.append([])
        elif skip:
            skip = False
        else:
            commands[-1].append(word)
    return commands


def _program(words: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Names of the programs before ours in a command, without their arguments, and our call with what follows."""
    for index, word in enumerate(words):
        if os.path.basename(word) == PROGRAM and words[0] != "cd":
            before = [part for part in words[:index] if "=" not in part]
            return before[:1], list(words[index:])
    return [], []


def _hidden(text: str) -> str:
    """The text without what follows a password or a token."""
    return re.sub(r"((?:password|api-token)[=: ]\s*)\S+", r"\1...", text)


def _call(words: Sequence[str], files: Mapping[str, str]) -> _Call:
    call = _Call()
    rest = _expanded(words[1:], files)
    while rest:
        word = rest.pop(0)
        option, separator, value = [*re.split("([=:])", word, maxsplit=1), "", ""][:3]
        name = SHORT.get(option, option.lstrip("-"))
        if word in ACTIONS:
            call.action = word
        elif word.startswith("-") and name in FLAGS:
            call.options[name] = value.lower() if separator else "true"
            if not separator and rest and rest[0].lower() in ("true", "false"):
                call.options[name] = rest.pop(0).lower()
        elif word.startswith("-") and name in VALUES:
            call.options[name] = value if separator else rest.pop(0) if rest else ""
        else:
            call.unknown.append(_hidden(word))
    if not call.action:
        raise _Unreadable("it calls {0} without snap, clean or status".format(PROGRAM))
    return call


def _expanded(words: Sequence[str], files: Mapping[str, str]) -> List[str]:
    """The words with each C(@file) replaced by its lines: one word a line, comments begin with C(#)."""
    found: List[str] = []
    for index, word in enumerate(words):
        value = index > 0 and re.match(r"\A--(?:{0})\Z".format("|".join(VALUES)), words[index - 1])
        if not word.startswith("@") or value:
            found.append(word)
            continue
        text = files.get(word[1:])
        if text is None:
            try:
                with open(word[1:], encoding="utf-8") as handle:
                    text = handle.read()
            except OSError as error:
                raise _Unreadable(
                    "it names the parameter file '{0}', which cannot be read ({1})".format(word[1:], error.strerror)) from None
        found += [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    return found


def _free_name(call: _Call, taken: Sequence[str]) -> str:
    action = ACTIONS[call.action]
    base = re.sub(r"[^a-z0-9_-]", "-", call.options.get("label", action).lower()).strip("-_") or action
    return _free(base if action in ("snap", base) else "{0}-{1}".format(action, base), taken)


def _free(wanted: str, taken: Collection[str]) -> str:
    """The name, or with the first number behind it that makes it another than those taken."""
    base = wanted[:NAME_MAX - 4]
    return next(name for name in (base, *("{0}-{1}".format(base, number) for number in range(2, 1000))) if name not in taken)


def _options(call: _Call) -> Dict[str, Any]:
    """The modules' options; those that a subcommand did not look at are left out."""
    given, snap = call.options, call.action == "snap"
    found: Dict[str, Any] = {
        "api_host": [host.strip() for host in given["host"].split(",")] if "host" in given else None,
        "guests": given.get("vmid"),
        "label": given.get("label") if snap or "label" not in given else [given["label"]],
        "timestamp_format": given.get("timestamp-format"),
        "api_user": _user(given) if "api-token" not in given and "username" in given else None,
    }
    if call.action == "status":
        found["output"] = given["output"].lower() if "output" in given else None
    else:
        found["keep"] = int(given["keep"]) if "keep" in given else None
        found["hook"] = given.get("script-hook", given.get("script"))
        found["timeout"] = given["timeout"] + "s" if given.get("timeout", "0") != "0" else None
    if snap:
        found["vmstate"] = given.get("state") == "true" or None
        found["only_running"] = given.get("only-running") == "true" or None
        found["max_storage_percent"] = int(given["max-perc-storage"]) if "max-perc-storage" in given else None
    return {option: value for option, value in found.items() if value is not None}


def _notes(call: _Call) -> List[str]:
    """What has no counterpart, or another meaning now."""
    given = call.options
    notes = []
    if given.get("timeout") == "0":
        notes.append("--timeout=0 (do not wait) has no counterpart: every task is waited for")
    if given.get("validate-certificate") != "true":
        notes.append("certificates are verified now: set ca_path, or validate_certs: false")
    if given.get("dry-run") == "true":
        notes.append("--dry-run has no counterpart in a schedule: run the playbook with --check")
    if given.get("debug") == "true":
        notes.append("--debug has no counterpart in a schedule: run the playbook with -vvv")
    if {"script", "script-hook"} & set(given):
        notes.append("the exit code of the hook counts now: see on_hook_failure")
    for term in given.get("vmid", "").split(","):
        if "%" in term.strip()[1:-1] or term.strip().startswith("%") != term.strip().endswith("%"):
            notes.append("'{0}' is read as it is written now: 'x%' begins with x, '%x' ends with it".format(term.strip()))
    return notes + ["'{0}' has no counterpart".format(word) for word in call.unknown]


def _user(given: Mapping[str, str]) -> str:
    return given["username"] if "@" in given["username"] else given["username"] + "@pam"


def _credential(call: _Call, known: Dict[Tuple[str, ...], Dict[str, str]]) -> Dict[str, Any]:
    """The job's credential and the user it belongs to; the secret itself is for the reader to fill in."""
    given = call.options
    if "api-token" in given:
        who, kind, where = given["api-token"].split("=", 1)[0], "api_token", "the whole token of --api-token: {0}=..."
    elif "username" in given:
        who, kind = _user(given), "api_password"
        where = "the password of {0}"
        if given.get("password", "").startswith("file:"):
            where += "; the file of --password cannot be taken over, its password must be written anew"
    else:
        return {}
    key = (kind, who, *sorted(host.strip() for host in given.get("host", "").split(",")))
    if key not in known:
        wanted = re.sub(r"[^a-z0-9_-]", "-", who.lower()).strip("-_")
        name = _free(wanted, {credential["name"] for credential in known.values()})
        known[key] = {"name": name, "kind": kind, "secret": "TODO: {0} on {1}".format(where.format(who), given.get("host", ""))}
    return {"credential": known[key]["name"]}


def calendars(schedule: str) -> List[str]:
    """The C(OnCalendar) expressions that fire when a cron schedule does.

    Where both the day of the month and that of the week are given, cron takes either; hence two expressions. Where one
    of them begins with C(*), cron takes both.
    """
    if schedule.startswith("@"):
        if schedule not in MACROS:
            raise _Unreadable("'{0}' has no counterpart in a calendar; choose times for that job".format(schedule))
        return [MACROS[schedule]]
    minute, hour, day, month, weekday = schedule.split()
    time = "{0}:{1}:00".format(_field(hour, 2), _field(minute, 2))
    months = _field(_numbered(month, MONTHS, 1), 2, 1)
    dates = "{0}-{1} {2}".format(months, _field(day, 2, 1), time)
    if weekday == "*":
        days = [dates]
    elif day == "*":
        days = ["{0} *-{1}-* {2}".format(_weekdays(weekday), months, time)]
    elif day.startswith("*") or weekday.startswith("*"):
        days = ["{0} *-{1}".format(_weekdays(weekday), dates)]
    else:
        days = [dates, "{0} *-{1}-* {2}".format(_weekdays(weekday), months, time)]
    return [text if text[0].isalpha() else "*-" + text for text in days]


def _field(text: str, width: int, first: int = 0) -> str:
    """C(*/15) as C(00/15), C(1-5) as C(01..05), a range with a step as the values it means."""
    parts = []
    for part in text.split(","):
        values, _slash, step = part.partition("/")
        if step and "-" in values:
            begin, end = (int(value) for value in values.split("-"))
            parts += ["{0:0{1}d}".format(value, width) for value in range(begin, end + 1, int(step))]
            continue
        values = str(first) if step and values == "*" else values
        shown = "..".join(value if value == "*" else "{0:0{1}d}".format(int(value), width) for value in values.split("-"))
        parts.append(shown + ("/" + step if step else ""))
    return ",".join(parts)


def _numbered(text: str, names: Sequence[str], first: int) -> str:
    for number, name in enumerate(names, first):
        text = re.sub(name, str(number), text, flags=re.I)
    return text


def _weekdays(text: str) -> str:
    """Names of days, also of 0 to 7 and of ranges that go over the end of the week."""
    numbers = _numbered(text, [day.lower() for day in DAYS[:7]], 0)
    parts = []
    for part in numbers.split(","):
        values, _slash, step = part.partition("/")
        if step:
            first, last = (0, 6) if values == "*" else (int(value) for value in values.split("-"))
            parts += [DAYS[value] for value in range(first, last + 1, int(step))]
        elif "-" in values:
            first, last = (int(value) for value in values.split("-"))
            parts += [DAYS[value % 7] for value in range(first, (last if last >= first else last + 7) + 1)]
        else:
            parts.append(DAYS[int(values)])
    return ",".join(dict.fromkeys(parts))


class FilterModule:
    """The filter of this file."""

    def filters(self) -> Dict[str, Any]:
        """Name and function."""
        return {"cv4pve_jobs": cv4pve_jobs}
