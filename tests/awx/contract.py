# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API of AWX 24.6 refuses, as far as the definitions of the role awx_kit touch it.

Each function gives the objections to one object, an empty list where there is none. They were written from what a real AWX
answered and from its published rules; the simulated API refuses by them, and the tests hold every definition against them.
"""

from __future__ import annotations

import re
from typing import Any, Iterator

import dateutil.rrule
import dateutil.tz
import jinja2
import jinja2.sandbox

IDENTIFIER = re.compile(r"\A[a-zA-Z_][a-zA-Z0-9_]*\Z")
FIELD_KEYS = {"id", "label", "type", "format", "choices", "help_text", "multiline", "secret", "ask_at_runtime", "default"}
FORMATS = ("ssh_private_key", "url")
RESERVED = {
    "VIRTUAL_ENV", "PATH", "PYTHONPATH", "JOB_ID", "INVENTORY_ID", "INVENTORY_SOURCE_ID", "INVENTORY_UPDATE_ID",
    "AD_HOC_COMMAND_ID", "REST_API_URL", "REST_API_TOKEN", "MAX_EVENT_RES", "CALLBACK_QUEUE", "CALLBACK_CONNECTION", "CACHE",
    "JOB_CALLBACK_DEBUG", "INVENTORY_HOSTVARS", "AWX_HOST", "PROJECT_REVISION", "SUPERVISOR_CONFIG_PATH"}
QUESTIONS: dict[str, Any] = {
    "text": str, "textarea": str, "password": str, "multiplechoice": str, "multiselect": str, "integer": int, "float": float}
NOTIFICATIONS: dict[str, dict[str, Any]] = {
    "email": {
        "host": str, "port": int, "username": str, "password": str, "use_tls": bool, "use_ssl": bool, "sender": str,
        "recipients": list},
    "slack": {"token": str, "channels": list},
    "webhook": {"url": str, "headers": dict},
    "mattermost": {"mattermost_url": str, "mattermost_no_verify_ssl": bool},
    "rocketchat": {"rocketchat_url": str, "rocketchat_no_verify_ssl": bool},
    "grafana": {"grafana_url": str, "grafana_key": str},
    "pagerduty": {"token": str, "service_key": str, "subdomain": str, "client_name": str},
    "twilio": {"account_sid": str, "account_token": str, "from_number": str, "to_numbers": list},
    "irc": {"server": str, "port": int, "nickname": str, "password": str, "use_ssl": bool, "targets": list},
}
EVENTS = {"started", "success", "error", "workflow_approval"}
# What a message is rendered with when it is saved: a job without artifacts.
JOB = {"id": 1, "name": "n", "status": "failed", "artifacts": {}, "url": "u", "created": "", "limit": "", "summary_fields": {}}


def credential_type(inputs: dict[str, Any], injectors: dict[str, Any]) -> list[str]:
    """Objections to a type."""
    return [*_fields(inputs), *_injectors([field.get("id") for field in inputs.get("fields", [])], injectors)]


def _fields(inputs: dict[str, Any]) -> Iterator[str]:
    names = [field.get("id", "") for field in inputs.get("fields", [])]
    for key in set(inputs) - {"fields", "required"}:
        yield "inputs: '{0}' is not allowed".format(key)
    for field in inputs.get("fields", []):
        yield from _field(field)
        if names.count(field.get("id", "")) > 1:
            yield "{0}: given twice".format(field["id"])
    for name in inputs.get("required", []):
        if name not in names:
            yield "required: there is no field '{0}'".format(name)


def _field(field: dict[str, Any]) -> Iterator[str]:
    name, kind = field.get("id", ""), field.get("type", "string")
    for key, value in field.items():
        if key not in FIELD_KEYS:
            yield "{0}: '{1}' is not allowed".format(name, key)
        elif value is None:
            yield "{0}: {1} is None".format(name, key)
    if not IDENTIFIER.match(name) or name in ("tower", "awx"):
        yield "'{0}' is no name of a field".format(name)
    if not field.get("label"):
        yield "{0}: there is no label".format(name)
    if kind not in ("string", "boolean"):
        yield "{0}: '{1}' is not one of ['string', 'boolean']".format(name, kind)
    if "format" in field and field["format"] not in FORMATS:
        yield "{0}: '{1}' is not one of {2}".format(name, field["format"], list(FORMATS))
    if kind == "boolean" and {"choices", "multiline", "format", "secret"} & set(field):
        yield "{0}: only a string has choices, lines, a format or a secret".format(name)
    if "choices" in field and (not field["choices"] or any(not isinstance(choice, str) for choice in field["choices"])):
        yield "{0}: choices are texts".format(name)
    if "default" in field and not isinstance(field["default"], bool if kind == "boolean" else str):
        yield "{0}: the default is no {1}".format(name, kind)


def _injectors(fields: list[str], injectors: dict[str, Any]) -> Iterator[str]:
    templates = set(injectors.get("file", {}))
    for key in set(injectors) - {"file", "env", "extra_vars"}:
        yield "injectors: '{0}' is not allowed".format(key)
    for name in templates:
        if not re.match(r"\Atemplate(\.[a-zA-Z_][a-zA-Z0-9_]*)?\Z", name):
            yield "'{0}' is no name of a file".format(name)
    if "template" in templates and len(templates) > 1:
        yield "file: template goes with no other"
    names = {name.partition(".")[2] for name in templates}
    filename: Any = "FILE" if "template" in templates else dict.fromkeys(names, "FILE")
    space: dict[str, Any] = dict.fromkeys(fields, "EXAMPLE")
    if templates:
        space["tower"] = {"filename": filename}
    engine = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    for place, given in injectors.items():
        for name, text in given.items():
            if place != "file" and not IDENTIFIER.match(name):
                yield "{0}: '{1}' is no name of a variable".format(place, name)
            if place == "env" and (name.startswith("ANSIBLE_") or name in RESERVED):
                yield "env: {0} is not allowed".format(name)
            try:
                engine.from_string(text).render(**space)
            except jinja2.TemplateError as error:
                yield "{0}.{1}: {2}".format(place, name, error)


def credential(inputs: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """Objections to what a credential of a type holds."""
    fields = {field["id"]: field for field in inputs["fields"]}
    found = []
    for name, value in given.items():
        if name not in fields:
            found.append("'{0}' is no field of the type".format(name))
        elif not isinstance(value, bool if fields[name]["type"] == "boolean" else str):
            found.append("{0}: it is no {1}".format(name, fields[name]["type"]))
        elif "choices" in fields[name] and value not in fields[name]["choices"]:
            found.append("{0}: '{1}' is not one of {2}".format(name, value, fields[name]["choices"]))
    return found


def survey(spec: dict[str, Any]) -> list[str]:
    """Objections to a survey."""
    found = []
    for key, kind in (("name", str), ("description", str), ("spec", list)):
        if not isinstance(spec.get(key), kind):
            found.append("'{0}' is missing or of the wrong type".format(key))
    if not spec.get("spec"):
        return [*found, "'spec' has no question"]
    variables = [question.get("variable") for question in spec["spec"]]
    if len(set(variables)) < len(variables):
        found.append("a variable is asked for twice")
    for question in spec["spec"]:
        found += _question(question)
    return found


def _question(question: dict[str, Any]) -> Iterator[str]:
    name, kind = question.get("variable"), question.get("type")
    for key in ("type", "question_name", "variable", "required"):
        if key not in question:
            yield "{0}: '{1}' is missing".format(name, key)
    if kind not in QUESTIONS:
        yield "{0}: '{1}' is no type of a question".format(name, kind)
        return
    if not isinstance(question.get("required"), bool):
        yield "{0}: required is no boolean".format(name)
    if not isinstance(name, str) or not IDENTIFIER.match(name):
        yield "'{0}' is no name of a variable".format(name)
    for bound in ("min", "max"):
        value = question.get(bound)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            yield "{0}: {1} is no whole number".format(name, bound)
    default = question.get("default", "")
    if default != "" and not isinstance(default, QUESTIONS[kind]):
        yield "{0}: the default is of the wrong type".format(name)
    if default != "" and kind in ("text", "textarea", "password", "integer") and isinstance(default, QUESTIONS[kind]):
        yield from _answer(question, default)
    if kind in ("multiplechoice", "multiselect"):
        choices = _choices(question)
        if not choices:
            yield "{0}: there are no choices".format(name)
        if default and default not in choices:
            yield "{0}: the default '{1}' is none of the choices".format(name, default)


def _choices(question: dict[str, Any]) -> list[str]:
    given = question.get("choices") or []
    return [line for line in given.splitlines() if line.strip()] if isinstance(given, str) else list(given)


def answers(spec: dict[str, Any], given: dict[str, Any], everything: bool = True) -> list[str]:
    """Objections to the answers of a launch or a schedule; a step of a workflow need not answer ``everything``."""
    questions = {question["variable"]: question for question in spec.get("spec", [])}
    found = ["'{0}' is no question of the survey".format(name) for name in given if name not in questions]
    for name, question in questions.items():
        if name not in given:
            if question["required"] and everything:
                found.append("'{0}' value missing".format(name))
            continue
        found += _answer(question, given[name])
    return found


def _answer(question: dict[str, Any], value: Any) -> Iterator[str]:
    name, kind = question["variable"], question["type"]
    low, high = question.get("min"), question.get("max")
    if kind in ("text", "textarea", "password"):
        if not isinstance(value, str):
            yield "'{0}' expected to be a string".format(name)
        elif low is not None and len(value) < low or high is not None and len(value) > high:
            yield "'{0}' is too short or too long".format(name)
    elif kind == "multiplechoice":
        if value not in _choices(question):
            yield "'{0}': {1!r} is not in {2}".format(name, value, _choices(question))
    elif kind == "integer":
        if isinstance(value, bool) or not isinstance(value, int):
            yield "'{0}' expected to be an integer".format(name)
        elif low is not None and value < low or high is not None and value > high:
            yield "'{0}' is too small or too large".format(name)


def rrule(text: str) -> list[str]:
    """Objections to the rule of a schedule."""
    found = []
    if len(re.findall(r"DTSTART", text)) != 1 or not re.search(
            r"DTSTART(;TZID=[^:;\s]+:\d{8}T\d{6}|:\d{8}T\d{6}Z)(?=\s)", text):
        return ["DTSTART is missing, given twice or without a time zone"]
    zone = re.search(r"TZID=([^:;\s]+)", text)
    if zone and dateutil.tz.gettz(zone.group(1)) is None:
        found.append("TZID {0} is no time zone".format(zone.group(1)))
    if re.search(r"EXDATE|RDATE", text):
        found.append("dates are not supported")
    rules = re.findall(r"(?:EX)?RULE:(\S*)", text)
    if not rules:
        found.append("RRULE is missing")
    for rule in rules:
        if "INTERVAL=" not in rule:
            found.append("INTERVAL is missing")
        if "SECONDLY" in rule:
            found.append("SECONDLY is not supported")
        if re.search(r"BYDAY=[^;]*\d", rule):
            found.append("BYDAY with a number is not supported")
        if "COUNT=" in rule and "UNTIL=" in rule:
            found.append("COUNT goes not with UNTIL")
        count = re.search(r"COUNT=(\d+)", rule)
        if count and int(count.group(1)) > 999:
            found.append("COUNT is above 999")
    if not found:
        try:
            dateutil.rrule.rrulestr(text.replace(" ", "\n"), tzids=dateutil.tz.gettz)
        except (ValueError, TypeError) as error:
            found.append("it cannot be read: {0}".format(error))
    return found


def notification(kind: str, configuration: dict[str, Any], messages: dict[str, Any] | None) -> list[str]:
    """Objections to a notification template."""
    found = []
    for name, of_type in NOTIFICATIONS[kind].items():
        if not isinstance(configuration.get(name), of_type) or of_type is list and not configuration[name]:
            found.append("{0}: it is missing, empty or of the wrong type".format(name))
    engine = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    for event, parts in (messages or {}).items():
        if event not in EVENTS:
            found.append("messages: '{0}' is no event".format(event))
            continue
        for part, text in (parts or {}).items():
            if part not in ("message", "body"):
                found.append("messages.{0}: '{1}' is neither message nor body".format(event, part))
            if part == "message" and "\n" in (text or ""):
                found.append("messages.{0}: a message is one line".format(event))
            try:
                engine.from_string(text or "").render(job=JOB, job_friendly_name="Job", url="u", job_metadata="{}")
            except jinja2.TemplateError as error:
                found.append("messages.{0}: {1}".format(event, error))
    return found


def job_template(given: dict[str, Any], playbooks: list[str]) -> list[str]:
    """Objections to a job template whose project has these playbooks."""
    found = []
    if not given.get("inventory") and not given.get("ask_inventory_on_launch"):
        found.append("inventory: it is missing")
    if not given.get("project"):
        found.append("project: it is missing")
    if given.get("playbook") not in playbooks:
        found.append("playbook: '{0}' is not found in the project".format(given.get("playbook")))
    if given.get("job_type") not in ("run", "check"):
        found.append("job_type: '{0}' is neither run nor check".format(given.get("job_type")))
    for name in ("forks", "job_slice_count", "timeout"):
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or name != "timeout" and value < 0:
            found.append("{0}: {1!r} is no whole number from 0 on".format(name, value))
    return found
