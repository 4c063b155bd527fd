# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role schedule: jobs checked and completed."""

from __future__ import annotations

import copy
import re
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.pve.autosnap.plugins.filter.cv4pve import DAYS, MONTHS
from ansible_collections.pve.autosnap.plugins.module_utils import arguments

try:
    from packaging.requirements import InvalidRequirement, Requirement
except ImportError:
    # Only where the filter is looked at without ansible-core, which brings it.
    Requirement = None

# What a job has where it says nothing; the role's argument spec shows the same.
DEFAULTS: Dict[str, Any] = {
    "state": "present",
    "on_calendar": ["*-*-* 04:15:00"],
    "cron": "15 4 * * *",
    "persistent": True,
    "randomized_delay": "5m",
    "accuracy": "1m",
    "timer_timezone": "",
    "time_limit": "6h",
    "on_failure": [],
    "environment": {},
    "options": {},
}
SPECS = {"snap": arguments.SNAP, "clean": arguments.CLEAN, "report": arguments.INFO}
SETTINGS = {"snap": arguments.snap, "clean": arguments.clean, "report": arguments.info}
# What a playbook takes beside the module's options.
_ANY_PLAYBOOK = ("job_name", "cluster", "max_run_age", "health_file", "metrics_file")
PLAYBOOK_OPTIONS = {
    "snap": _ANY_PLAYBOOK, "clean": _ANY_PLAYBOOK,
    "report": (*_ANY_PLAYBOOK, "output", "output_file", "report_file", "report_template", "report_markdown_file",
               "report_json_file")}
# Secrets have a place of their own, the credential.
SECRETS = ("api_token", "api_token_secret", "api_password", "api_otp")
CREDENTIAL_OPTIONS = ("api_token_file", "api_password_file")
_NAME = re.compile(r"\A[a-z0-9][a-z0-9_-]{0,47}\Z")
_VARIABLE = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z")
_UNIT = re.compile(r"\A[A-Za-z0-9:_.@%\\-]+\.(?:service|target|path|timer|socket|mount)\Z")
_CRON_MACROS = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
_CRON_PART = re.compile(r"\A(?:\*|([0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?)(?:/([0-9]{1,2}))?\Z")
# Lowest and highest value of each field of cron, and the names of its values.
_CRON_FIELDS: Sequence[Tuple[int, int, Mapping[str, int]]] = (
    (0, 59, {}), (0, 23, {}), (1, 31, {}), (1, 12, {name: number for number, name in enumerate(MONTHS, 1)}),
    (0, 7, {name.lower(): number for number, name in enumerate(DAYS[:7])}))
_SECRET_FILE = "{{ lookup('ansible.builtin.env', 'CREDENTIALS_DIRECTORY') }}/secret"
_SUFFIXES = {"html": "html", "markdown": "md", "json": "json", "jsonpretty": "json"}


def schedule_jobs(
    jobs: Sequence[Mapping[str, Any]], common: Mapping[str, Any], credentials: Sequence[Mapping[str, Any]], scheduler: str,
    state_path: str,
) -> List[Dict[str, Any]]:
    """Jobs with every key, times in seconds, and the variables of their playbook; an error names what is wrong."""
    jobs = [_complete(job) for job in jobs]
    names = [job["name"] for job in jobs]
    for name in names:
        if not _NAME.match(name):
            raise _Wrong("schedule_jobs", "the name '{0}' cannot name a unit; write small letters, digits, - and _".format(name))
        if names.count(name) > 1:
            raise _Wrong("schedule_jobs", "two jobs have the name '{0}'".format(name))
    for option in common:
        if not any(option in _known(action) for action in SPECS):
            raise _Wrong("schedule_options", "'{0}' is no option of any module".format(option))
    known: Dict[str, Mapping[str, Any]] = {}
    for credential in credentials:
        if str(credential["name"]) in known:
            raise _Wrong("schedule_credentials", "two credentials have the name '{0}'".format(credential["name"]))
        known[str(credential["name"])] = _credential(credential, scheduler)
    return [_job(job, common, known, scheduler, state_path) for job in jobs]


def _complete(job: Mapping[str, Any]) -> Dict[str, Any]:
    """A job with every key, its name a text, and lists where one text was written for a list, as modules take it."""
    made = {**copy.deepcopy(DEFAULTS), **{key: value for key, value in job.items() if value is not None}}
    made["name"] = str(made.get("name", ""))
    for key in ("on_calendar", "on_failure"):
        if isinstance(made[key], str):
            made[key] = [part.strip() for part in made[key].split("\n") if part.strip()]
    return made


def credential_file(credential: Mapping[str, Any], scheduler: str) -> str:
    """The name of a credential's file: sealed ones, which only systemd opens, end in C(.cred)."""
    method = credential.get("method", "auto")
    sealed = method == "systemd_encrypted" or method == "auto" and scheduler == "systemd"
    return str(credential["name"]) + (".cred" if sealed else "")


def requirements_for(requirements: Sequence[str], python_version: str) -> List[str]:
    """The requirements whose marker fits a version of Python, without the marker."""
    found = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise _Wrong("schedule_requirements", "'{0}' is not what pip takes ({1})".format(text, error)) from None
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python_version}):
            found.append(text.split(";")[0].strip())
    return found


def unit_quoted(text: str) -> str:
    """A text as one word of a line of a unit file."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"{0}"'.format(escaped)


class _Wrong(AnsibleFilterError):
    """A wrong variable; one sentence with variable, value and remedy."""

    def __init__(self, variable: str, message: str) -> None:
        super().__init__("'{0}': {1}".format(variable, message))


def _known(action: str) -> Sequence[str]:
    return (*SPECS[action].options, *PLAYBOOK_OPTIONS[action])


def _credential(credential: Mapping[str, Any], scheduler: str) -> Mapping[str, Any]:
    name, method, secret = str(credential["name"]), credential.get("method", "auto"), str(credential["secret"])
    if not _NAME.match(name):
        raise _Wrong(
            "schedule_credentials", "the name '{0}' cannot name a file; write small letters, digits, - and _".format(name))
    if scheduler == "cron" and method not in ("auto", "file"):
        raise _Wrong("schedule_credentials", "the method '{0}' of '{1}' needs systemd; write 'file'".format(method, name))
    if not secret.strip() or re.search("[\\x00-\\x1f\\x7f]", secret):
        raise _Wrong("schedule_credentials", "the secret of '{0}' must be one line of text".format(name))
    if credential.get("kind", "api_token") == "api_token":
        try:
            _connection(api_host=["x"], api_token=secret)
        except arguments.InputError:
            raise _Wrong("schedule_credentials", "the secret of '{0}' is not of the form USER@REALM!TOKENID=SECRET; write the "
                                                 "whole token, or kind: api_password".format(name)) from None
    return {**{key: value for key, value in credential.items() if key != "secret"}, "name": name}


def _connection(**given: Any) -> None:
    """What the modules say of their connection options; nothing is taken from this machine's environment."""
    arguments.connection(
        {**{name: option.get("default") for name, option in arguments.CONNECTION.options.items()}, **given}, environ={})


def _job(
    job: Mapping[str, Any], common: Mapping[str, Any], credentials: Mapping[str, Mapping[str, Any]], scheduler: str,
    state_path: str,
) -> Dict[str, Any]:
    made = dict(job)
    where = "job '{0}': ".format(made["name"])
    if made["state"] == "absent":
        return made
    _check_texts(made, where)
    if made.get("action") not in SPECS:
        raise _Wrong("schedule_jobs", where + "the action '{0}' is not snap, clean or report".format(made.get("action")))
    for key in ("randomized_delay", "accuracy", "time_limit"):
        try:
            made[key] = arguments.duration(key, made[key])
        except arguments.InputError as error:
            raise _Wrong("schedule_jobs", where + str(error)) from None
    if scheduler == "cron":
        _check_cron(made, where)
    for unit in made["on_failure"]:
        if not _UNIT.match(str(unit)):
            raise _Wrong("schedule_jobs", where + "'on_failure' names '{0}', which is no unit of systemd; write its whole name, "
                                                  "such as alert@%n.service".format(unit))
    _check_environment(made["environment"], where)
    made["credential"] = _chosen(made, credentials, where)
    made["variables"] = _variables(made, common, where, state_path)
    return made


def unprintable(values: Any) -> List[str]:
    """The texts in values, however deep, that hold more than what is printed in one line: C(\\r) too begins one for systemd.

    And those with digits that are not of ASCII, which some programs read and others do not.
    """
    if isinstance(values, Mapping):
        return unprintable(list(values)) + unprintable(list(values.values()))
    if isinstance(values, (list, tuple)):
        return [text for value in values for text in unprintable(value)]
    text = str(values)
    odd = any(character.isdecimal() and not character.isascii() for character in text)
    return [text] if odd or not text.isprintable() else []


def _check_texts(job: Mapping[str, Any], where: str) -> None:
    """All that goes into a unit, a crontab or a shell file."""
    for key in ("on_calendar", "cron", "timer_timezone", "on_failure", "environment"):
        for text in unprintable(job[key]):
            raise _Wrong("schedule_jobs", where + "'{0}' holds {1!r}, which has a character that cannot be used there; write one "
                                                  "line of text".format(key, text[:60]))


def _check_cron(job: Mapping[str, Any], where: str) -> None:
    """One wrong line, and cron ignores the whole file."""
    text = str(job["cron"])
    fields = text.split(" ")
    right = text in _CRON_MACROS or len(fields) == 5 and all(map(_cron_field, fields, _CRON_FIELDS))
    if not right:
        raise _Wrong("schedule_jobs", where + "'cron' is '{0}'; write five fields with one blank between them, such as "
                                              "15 4 * * *, or @daily".format(text))
    if job["on_failure"]:
        raise _Wrong("schedule_jobs", where + "'on_failure' names units of systemd; with cron use schedule_notify")
    if job["timer_timezone"]:
        raise _Wrong("schedule_jobs", where + "'timer_timezone' needs systemd; cron goes by the machine's own time zone")


def _cron_field(text: str, field: Tuple[int, int, Mapping[str, int]]) -> bool:
    """Whether cron takes it: values within their limits, ranges upwards, and steps of a range."""
    low, high, names = field
    for part in text.lower().split(","):
        match = _CRON_PART.match(part)
        if not match:
            return False
        ends = [int(names.get(end, end)) if names.get(end) is not None or end.isdecimal() else -1
                for end in match.group(1, 2) if end is not None]
        if ends != sorted(ends) or any(not low <= end <= high for end in ends):
            return False
        if match.group(3) is not None and (int(match.group(3)) < 1 or len(ends) == 1):
            return False
    return True


def _check_environment(environment: Mapping[str, Any], where: str) -> None:
    for name, value in environment.items():
        if not _VARIABLE.match(str(name)) or "\n" in str(value):
            raise _Wrong(
                "schedule_jobs", where + "'{0}' in 'environment' is no name of a variable, or has several lines".format(name))
        if str(name).startswith("PROXMOX_") and re.search("TOKEN|PASSWORD|OTP", str(name)):
            raise _Wrong("schedule_jobs", where + "'{0}' in 'environment' would be readable by everybody; use "
                                                  "schedule_credentials".format(name))


def _chosen(job: Mapping[str, Any], credentials: Mapping[str, Mapping[str, Any]], where: str) -> Mapping[str, Any]:
    """The credential that a job names, else the only one there is; {} where the job brings a file of its own."""
    name = job.get("credential")
    if name is None:
        if any(option in job["options"] for option in CREDENTIAL_OPTIONS) or not credentials:
            return {}
        if len(credentials) > 1:
            raise _Wrong("schedule_jobs", where + "there are several credentials; name one as 'credential'")
        return next(iter(credentials.values()))
    if name not in credentials:
        raise _Wrong("schedule_jobs", where + "there is no credential '{0}' in schedule_credentials".format(name))
    return credentials[name]


def _variables(job: Mapping[str, Any], common: Mapping[str, Any], where: str, state_path: str) -> Dict[str, Any]:
    action = job["action"]
    own = {option: value for option, value in job["options"].items() if value is not None}
    for option in own:
        if option in SECRETS:
            raise _Wrong("schedule_jobs", where + "'{0}' is a secret; put it into schedule_credentials".format(option))
        if option not in _known(action):
            raise _Wrong("schedule_jobs", where + "'{0}' is no option of the action '{1}'".format(option, action))
    options = {**{option: value for option, value in common.items() if option in _known(action)}, **own}
    if any(option in SECRETS for option in options):
        raise _Wrong("schedule_options", "it holds a secret; put it into schedule_credentials")
    if job["credential"]:
        kind = job["credential"].get("kind", "api_token")
        options["api_token_file" if kind == "api_token" else "api_password_file"] = _SECRET_FILE
    _check_options(action, options, where)
    try:
        arguments.duration("max_run_age", options.get("max_run_age", 0))
    except arguments.InputError as error:
        raise _Wrong("schedule_jobs", where + str(error)) from None
    if action == "report":
        suffix = _SUFFIXES.get(options.get("output", "text"), "txt")
        options.setdefault("output_file", "{0}/{1}.{2}".format(state_path, job["name"], suffix))
        options.setdefault("report_file", "{0}/{1}.report.html".format(state_path, job["name"]))
    options.setdefault("job_name", job["name"])
    options.setdefault("health_file", "{0}/health/{1}.json".format(state_path, job["name"]))
    options.setdefault("metrics_file", "{0}/metrics/{1}.prom".format(state_path, job["name"]))
    return {"autosnap_" + option: value for option, value in options.items()}


def _check_options(action: str, options: Mapping[str, Any], where: str) -> None:
    """Types and choices by the module's own spec, then everything that the module itself would refuse."""
    spec = SPECS[action].to_kwargs()
    for option in spec["argument_spec"].values():
        option.pop("fallback", None)
    given = {option: value for option, value in options.items() if option in spec["argument_spec"]}
    checked = ArgumentSpecValidator(
        spec["argument_spec"], mutually_exclusive=spec["mutually_exclusive"],
        required_one_of=spec["required_one_of"]).validate(given)
    if checked.error_messages:
        raise _Wrong("schedule_jobs", where + "; ".join(checked.error_messages))
    # Files are on the machine that runs the job, which is not this one.
    params = checked.validated_parameters
    secret = {"api_password": "-"} if params["api_password_file"] else {"api_token": "user@realm!id=-"}
    try:
        SETTINGS[action]({**params, "hook": None})
        _connection(**{
            **{name: params[name] for name in arguments.CONNECTION.options}, "ca_path": None, "api_token_file": None,
            "api_password_file": None, **({} if params["api_token_id"] else secret)})
    except arguments.InputError as error:
        raise _Wrong("schedule_jobs", where + str(error)) from None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        """Name and function of each."""
        return {
            "schedule_jobs": schedule_jobs, "unprintable": unprintable,
            "credential_file": credential_file, "requirements_for": requirements_for,
            "unit_quoted": unit_quoted}
