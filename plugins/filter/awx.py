# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role awx_kit makes in AWX, as plain data in the variables of infra.aap_configuration."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional

import yaml
from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.pve.autosnap.plugins.filter.tables import unknown_variables
from ansible_collections.pve.autosnap.plugins.module_utils import arguments
from ansible_collections.pve.autosnap.plugins.module_utils.policy.naming import NAME_CHARACTERS
from ansible_collections.pve.autosnap.plugins.module_utils.policy.selection import SelectorError, parse

PREFIX = "awx_kit_"
TEMPLATES = {
    "snap": "takes snapshots and prunes old ones", "clean": "prunes snapshots", "report": "writes a page about snapshots",
    "health": "fails where a guest has not the snapshots that it should have"}
NOTIFY_ON = ("started", "success", "error")
VARIABLE_OPTIONS = {"autosnap_guests": "guests", "autosnap_label": "label", "autosnap_retention": "retention"}
SET_INSTEAD = {
    "autosnap_hosts": "the templates set it; name the clusters in awx_kit_clusters, and set a limit in awx_kit_schedules",
    "autosnap_keep": "the templates ask for autosnap_retention in its place; write last=7 for keep 7 in awx_kit_retention"}
SECRET_VARIABLES = ("autosnap_api_password", "autosnap_api_otp", "autosnap_api_token_secret", "autosnap_api_token")
TOKENS = "AUTOSNAP_TOKENS_FILE"
_HOST = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_GUEST_ID = re.compile(r"\A[1-9][0-9]*\Z")
_RRULE = re.compile(r"\ADTSTART(;TZID=[\w/+-]+:\d{8}T\d{6}|:\d{8}T\d{6}Z) RRULE:\S+\Z")


def awx_definitions(variables: Mapping[str, Any], spec: Mapping[str, Any]) -> Dict[str, List[Dict[str, Any]]]:
    """All objects, by variable of infra.aap_configuration, from the role's variables and its argument spec."""
    checked = ArgumentSpecValidator(spec).validate(variables)
    if checked.error_messages:
        raise AnsibleFilterError(checked.error_messages[0])
    settings = {name[len(PREFIX):]: value for name, value in checked.validated_parameters.items()}
    if settings["state"] == "present":
        _check(settings)
    made = _made(settings)
    if settings["state"] == "absent":
        return {name: [{**item, "state": "absent"} for item in items] for name, items in made.items()}
    return made


def _made(settings: Mapping[str, Any]) -> Dict[str, List[Dict[str, Any]]]:
    return {
        "controller_credential_types": [_credential_type(settings)],
        "controller_credentials": [_credential(settings)],
        "controller_execution_environments": _execution_environments(settings),
        "controller_notifications": [_notification(settings, given) for given in settings["notifications"]],
        "controller_projects": [_project(settings)],
        "controller_inventories": [_inventory(settings)],
        "controller_hosts": [_host(settings, cluster) for cluster in settings["clusters"]],
        "controller_templates": [_template(settings, name) for name in TEMPLATES],
        "controller_workflows": [_workflow(settings)],
        "controller_schedules": [_schedule(settings, given) for given in settings["schedules"]],
    }


def _check(settings: Mapping[str, Any]) -> None:
    """AnsibleFilterError for what AWX or the jobs would refuse or misunderstand, before anything is made."""
    _check_clusters(settings)
    _check_credential(settings)
    project = settings["project"]
    if bool(project["scm_url"]) == bool(project["local_path"]):
        raise _wrong("project", "give either scm_url or local_path: where the playbooks are")
    for option, least in (("job_slice_count", 1), ("forks", 0), ("timeout", 0)):
        if settings[option] < least:
            raise _wrong(option, "{0} is less than {1}".format(settings[option], least))
    for option, given in [("extra_vars", settings["extra_vars"]), ("inventory_variables", settings["inventory_variables"])] + [
            ("clusters", cluster["variables"]) for cluster in settings["clusters"]]:
        _check_variables(option, given)
    for name in TEMPLATES:
        for question in _questions(settings, name):
            _check_answer(VARIABLE_OPTIONS.get(question["variable"], "schedules"), question, question["default"])
    for option in ("schedules", "notifications"):
        _check_twice(option, [given["name"] for given in settings[option]])
    for schedule in settings["schedules"]:
        rrule = schedule["rrule"]
        if not _RRULE.match(rrule) or "INTERVAL=" not in rrule or "SECONDLY" in rrule:
            raise _wrong("schedules", (
                "'{0}' is no rule that AWX takes; write it as DTSTART;TZID=Europe/Vienna:20260101T021500 "
                "RRULE:FREQ=DAILY;INTERVAL=1").format(rrule))
        _answers(settings, "schedules", schedule["template"], schedule["variables"])


def _check_clusters(settings: Mapping[str, Any]) -> None:
    clusters = settings["clusters"]
    present = [cluster for cluster in clusters if cluster["state"] == "present"]
    if not present:
        raise _wrong("clusters", "it names no cluster; write at least one with name and api_host")
    _check_twice("clusters", [cluster["name"] for cluster in clusters])
    for cluster in present:
        if not _HOST.match(cluster["name"]):
            raise _wrong("clusters", "'{0}' is no name of a host; use letters, digits, '.', '-' and '_'".format(cluster["name"]))
        if not cluster["api_host"] and not (settings["credential"]["hosts"] and len(present) == 1):
            raise _wrong("clusters", "'{0}' has no api_host; name the hosts of its API".format(cluster["name"]))


def _check_credential(settings: Mapping[str, Any]) -> None:
    given = settings["credential"]
    tokens = given["tokens"] or {}
    clusters = sorted(cluster["name"] for cluster in settings["clusters"] if cluster["state"] == "present")
    if tokens and (given["token_id"] or given["token_secret"]):
        raise _wrong("credential", "give either tokens, one for each cluster, or token_id and token_secret")
    if tokens and sorted(tokens) != clusters:
        raise _wrong("credential", "the tokens are of {0}, the clusters are {1}; write one token for each cluster".format(
            ", ".join(sorted(tokens)), ", ".join(clusters)))
    for name, token in tokens.items():
        if not arguments.is_token(token):
            raise _wrong("credential", "the token of '{0}' is not written as USER@REALM!ID=SECRET".format(name))


def _check_twice(option: str, names: List[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise _wrong(option, "'{0}' is there twice; leave one out".format(name))


def _check_variables(option: str, given: Mapping[str, Any]) -> None:
    """Names that mean nothing, secrets in the open, and what the templates set or ask for and would win over."""
    for name in given:
        if name in VARIABLE_OPTIONS or name in ("autosnap_dry_run", "autosnap_fail_on_status"):
            raise _wrong(option, "'{0}' is asked for by the templates, and the answer wins; set it in awx_kit_schedules, with a "
                                 "limit where it is for one cluster".format(name))
        if name in SET_INSTEAD:
            raise _wrong(option, "'{0}' has no place here: {1}".format(name, SET_INSTEAD[name]))
        if name in SECRET_VARIABLES:
            raise _wrong(option, "'{0}' is a secret, and AWX shows variables; put it into awx_kit_credential".format(name))
    unknown = unknown_variables([name for name in given if name.startswith("autosnap_")], "snap")
    if unknown:
        raise _wrong(option, "{0} means nothing to the playbooks; is it spelt right?".format(", ".join(unknown)))


def _check_answer(option: str, question: Mapping[str, Any], answer: Any) -> None:
    """By the rules of AWX's surveys, and by those of the modules."""
    variable = question["variable"]
    if question["choices"]:
        if answer not in question["choices"]:
            raise _wrong(option, "'{0}': {1!r} is not one of {2}; write it in quotes".format(
                variable, answer, ", ".join(question["choices"])))
        return
    if not isinstance(answer, str) or not 1 <= len(answer) <= question["max"] or answer.startswith("["):
        raise _wrong(option, "'{0}': {1!r} is no text of 1 to {2} characters".format(variable, answer, question["max"]))
    kind = yaml.SafeLoader("").resolve(yaml.ScalarNode, answer, (True, False)).rpartition(":")[2]
    if kind != "str" and not (variable == "autosnap_guests" and kind == "int" and _GUEST_ID.match(answer)):
        # The file of variables says !unsafe '*', and ansible-core asks again what the text means.
        raise _wrong(option, "'{0}': {1!r} does not reach a job of AWX as this text; choose another".format(variable, answer))
    if variable == "autosnap_label" and not NAME_CHARACTERS.match(answer):
        raise _wrong(option, "'{0}': {1!r} may only have letters, digits, - and _".format(variable, answer))
    if variable == "autosnap_guests":
        try:
            parse([answer])
        except SelectorError as error:
            raise _wrong(option, str(error)) from error
    if variable == "autosnap_retention":
        spec = {"retention": arguments.RETENTION.options["retention"]}
        if not re.search(r"[1-9]", answer) or ArgumentSpecValidator(spec).validate({"retention": answer}).error_messages:
            raise _wrong(option, "'{0}': {1!r} is no retention; write last=7, or daily=7 weekly=4".format(variable, answer))


def _wrong(option: str, message: str) -> AnsibleFilterError:
    return AnsibleFilterError("'{0}{1}': {2}".format(PREFIX, option, message))


def _named(settings: Mapping[str, Any], name: str) -> str:
    return "{0} - {1}".format(settings["name"], name)


def _credential_type(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """A type of its own: the variables of the environment are those that the modules read anyway.

    "verify" is a text: AWX takes a yes or no that nobody answered for a no.
    """
    fields = [
        _field("hosts", "API hosts", "Comma-separated. Those of a host of the inventory come before these."),
        _field("token_id", "Token id", "USER@REALM!ID"),
        _field("token_secret", "Token secret", "", secret=True),
        _field("tokens", "Tokens of several clusters", (
            "In place of the two above, a line for each: HOST_OF_THE_INVENTORY = USER@REALM!ID=SECRET"),
            secret=True, multiline=True),
        _field("ca", "CA certificates", "/etc/pve/pve-root-ca.pem of each cluster, one after the other.", multiline=True),
        _field("verify", "Verify certificates", "", choices=["yes", "no"], default="yes"),
    ]
    return {
        "name": _named(settings, "Proxmox VE"),
        "description": "API tokens of Proxmox VE for pve.autosnap",
        "kind": "cloud",
        "inputs": {"fields": fields},
        "injectors": {
            "file": {"template.ca": "{{ ca }}", "template.tokens": "{{ tokens }}"},
            "env": {
                "PROXMOX_HOST": "{{ hosts }}",
                "PROXMOX_TOKEN_ID": "{{ token_id }}",
                "PROXMOX_TOKEN_SECRET": "{{ token_secret }}",
                "PROXMOX_CA_PATH": "{{ tower.filename.ca if ca else '' }}",
                "PROXMOX_VALIDATE_CERTS": "{{ 'false' if verify == 'no' else 'true' }}",
                TOKENS: "{{ tower.filename.tokens }}",
            },
        },
    }


def _field(name: str, label: str, help_text: str, **more: Any) -> Dict[str, Any]:
    return {"id": name, "label": label, "type": "string", **({"help_text": help_text} if help_text else {}), **more}


def _credential(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Inputs that were not given are left to the web interface or to a secret management system."""
    given = settings["credential"]
    tokens = sorted((given["tokens"] or {}).items())
    inputs = {
        "hosts": ",".join(given["hosts"] or []), "token_id": given["token_id"], "token_secret": given["token_secret"],
        "tokens": "".join("{0} = {1}\n".format(*token) for token in tokens), "ca": given["ca"],
        "verify": "yes" if given["verify"] else "no"}
    return {
        "name": _named(settings, "Proxmox VE"), "organization": settings["organization"],
        "credential_type": _named(settings, "Proxmox VE"), "inputs": {name: text for name, text in inputs.items() if text},
        **_left_alone(settings, "present")}


def _left_alone(settings: Mapping[str, Any], state: str) -> Dict[str, str]:
    """The state of what may hold a secret: once made it is left alone, unless it is to be written anew.

    AWX shows no secret, so nobody can tell whether it is another one; and what somebody entered in AWX must not go.
    """
    return {"state": "exists" if state == "present" and not settings["update_secrets"] else state}


def _execution_environments(settings: Mapping[str, Any]) -> List[Dict[str, Any]]:
    if not settings["execution_environment_image"]:
        return []
    return [{
        "name": _environment(settings), "organization": settings["organization"],
        "image": settings["execution_environment_image"], "pull": "missing"}]


def _environment(settings: Mapping[str, Any]) -> str:
    made = _named(settings, "Execution environment") if settings["execution_environment_image"] else ""
    return str(settings["execution_environment"] or made)


def _project(settings: Mapping[str, Any]) -> Dict[str, Any]:
    given = {key: value for key, value in settings["project"].items() if value is not None}
    scm_type = "git" if "scm_url" in given else "manual"
    return {"name": _named(settings, "Playbooks"), "organization": settings["organization"], "scm_type": scm_type, **given}


def _inventory(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """One host for each cluster. Variables of an inventory are templated, other than those of a template or a survey."""
    variables: Dict[str, Any] = {"ansible_connection": "local"}
    if settings["credential"]["tokens"]:
        variables["autosnap_api_token"] = (
            "{{ lookup('ansible.builtin.file', lookup('ansible.builtin.env', '" + TOKENS + "')) "
            "| pve.autosnap.cluster_token(inventory_hostname) }}")
    if settings["report_path"]:
        variables["autosnap_report_file"] = settings["report_path"].rstrip("/") + "/{{ inventory_hostname }}.html"
    if settings["made_by"]:
        variables["autosnap_made_by"] = {
            "awx_job_id": "{{ awx_job_id }}",
            "template": "{{ awx_job_template_name[:40] }}",
            "user": (
                "{{ (awx_user_name | default(awx_schedule_name | default(awx_parent_job_schedule_name | default(''))))[:30] }}"),
        }
    return {
        "name": _named(settings, "Proxmox VE clusters"), "organization": settings["organization"],
        "variables": {**variables, **settings["inventory_variables"]}}


def _host(settings: Mapping[str, Any], cluster: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "name": cluster["name"], "inventory": _named(settings, "Proxmox VE clusters"), "state": cluster["state"],
        "variables": {**({"autosnap_api_host": cluster["api_host"]} if cluster["api_host"] else {}), **cluster["variables"]}}


def _template(settings: Mapping[str, Any], name: str) -> Dict[str, Any]:
    questions = _questions(settings, name)
    variables: Dict[str, Any] = {"autosnap_hosts": "all"}
    if name == "health":
        variables["autosnap_expect"] = settings["expect"] or [{"label": settings["label"], "max_age": "26h"}]
    environment = _environment(settings)
    return {
        "name": _named(settings, name.capitalize()),
        "description": "pve.autosnap: " + TEMPLATES[name],
        "organization": settings["organization"],
        "job_type": "run",
        "inventory": _named(settings, "Proxmox VE clusters"),
        "project": _named(settings, "Playbooks"),
        "playbook": name + ".yml",
        "credentials": [_named(settings, "Proxmox VE"), *settings["extra_credentials"]],
        **({"execution_environment": environment} if environment else {}),
        "extra_vars": {**variables, **settings["extra_vars"]},
        "forks": settings["forks"],
        "job_slice_count": settings["job_slice_count"],
        "instance_groups": settings["instance_groups"],
        "timeout": settings["timeout"],
        "allow_simultaneous": False,
        "ask_job_type_on_launch": True,
        "ask_limit_on_launch": True,
        "ask_verbosity_on_launch": True,
        "survey_enabled": True,
        "survey_spec": {"name": "", "description": "", "spec": questions},
        **_told(settings),
    }


def _told(settings: Mapping[str, Any]) -> Dict[str, List[str]]:
    """Who is told of what, of all that are there to be told."""
    return {
        "notification_templates_" + event: [
            _named(settings, given["name"]) for given in settings["notifications"]
            if event in given["when"] and given["state"] == "present"]
        for event in NOTIFY_ON}


def _questions(settings: Mapping[str, Any], name: str) -> List[Dict[str, Any]]:
    """The survey of a template; every question has to be answered."""
    guests = _question("autosnap_guests", "Guests", "A selector, such as @all,-@tag-test", settings["guests"], 1024)
    if name == "report":
        return [guests]
    if name == "health":
        return [guests, _question(
            "autosnap_fail_on_status", "Fail from which status on", "", "critical", choices=["never", "warning", "critical"])]
    return [
        guests,
        _question("autosnap_label", "Label", "A part of the snapshots' names, such as daily", settings["label"], 40),
        _question(
            "autosnap_retention", "What to keep", "Such as last=7, or daily=7 weekly=4 monthly=6", settings["retention"], 200),
        _question("autosnap_dry_run", "Dry run", "yes: show what would be done, and change nothing", "no", choices=["no", "yes"]),
    ]


def _question(
    variable: str, name: str, description: str, default: str, most: Optional[int] = None, choices: Optional[List[str]] = None
) -> Dict[str, Any]:
    return {
        "variable": variable, "question_name": name, "question_description": description, "required": True, "default": default,
        "type": "multiplechoice" if choices else "text", "min": 1 if most else None, "max": most, "choices": choices or ""}


def _answers(settings: Mapping[str, Any], option: str, template: str, variables: Mapping[str, Any]) -> Dict[str, Any]:
    """Answers to all questions of a template: AWX applies no default where nobody is asked."""
    questions = {question["variable"]: question for question in _questions(settings, template)}
    for variable, answer in variables.items():
        if variable not in questions:
            raise _wrong(option, "'{0}' is no question of the template {1}; it asks for {2}".format(
                variable, template, ", ".join(questions)))
        _check_answer(option, questions[variable], answer)
    return {**{variable: question["default"] for variable, question in questions.items()}, **variables}


def _schedule(settings: Mapping[str, Any], given: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "name": _named(settings, given["name"]),
        "unified_job_template": _named(settings, given["template"].capitalize()),
        "organization": settings["organization"],
        "rrule": given["rrule"],
        "extra_data": _answers(settings, "schedules", given["template"], given["variables"]),
        "limit": given["limit"],
        "enabled": given["enabled"],
        "state": given["state"],
    }


def _notification(settings: Mapping[str, Any], given: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "name": _named(settings, given["name"]), "organization": settings["organization"], "notification_type": given["type"],
        "notification_configuration": given["configuration"], **({"messages": given["messages"]} if given["messages"] else {}),
        **_left_alone(settings, given["state"])}


def _workflow(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Snapshot, then patch, then verify: each only after the success of the one before."""
    given = settings["workflow"]
    name = _named(settings, "Snapshot, patch, verify")
    if not given["patch_template"]:
        return {"name": name, "organization": settings["organization"], "state": "absent"}
    answers = {"autosnap_guests": given["guests"], "autosnap_label": given["label"], "autosnap_retention": given["retention"]}
    snapshot = _answers(settings, "workflow", "snap", answers)
    guests = next(question for question in _questions(settings, "snap") if question["variable"] == "autosnap_guests")
    # A step cannot be given less answers than it had, so that of another template is another step.
    own, other = ("verify_own", "verify") if given["verify_template"] else ("verify", "verify_own")
    verify = given["verify_template"] or _named(settings, "Health")
    checks = {} if given["verify_template"] else _answers(settings, "workflow", "health", {"autosnap_guests": given["guests"]})
    return {
        "name": name,
        "description": "Takes snapshots, and only where that went well patches, and then looks whether all is well",
        "organization": settings["organization"],
        "allow_simultaneous": False,
        "survey_enabled": True,
        "survey_spec": {"name": "", "description": "", "spec": [{**guests, "default": given["guests"]}]},
        **_told(settings),
        "simplified_workflow_nodes": [
            _node(settings, "snapshot", _named(settings, "Snap"), snapshot, ["patch"]),
            _node(settings, "patch", given["patch_template"], {}, [own]),
            _node(settings, own, verify, checks, []),
            {"identifier": other, "state": "absent"},
        ],
    }


def _node(settings: Mapping[str, Any], name: str, template: str, answers: Mapping[str, Any], then: List[str]) -> Dict[str, Any]:
    return {
        "identifier": name, "unified_job_template": template, "lookup_organization": settings["organization"],
        "extra_data": dict(answers), "success_nodes": then, "state": "present"}


def cluster_token(text: str, host: str) -> str:
    """The token of a host out of the credential's field for several; errors never show a line."""
    found: Dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, token = (part.strip() for part in line.partition("="))
        if not line.strip():
            continue
        if not equals or not arguments.is_token(token) or name in found:
            raise AnsibleFilterError(
                "line {0} of the field 'Tokens of several clusters' in the credential is not HOST = USER@REALM!ID=SECRET, or the "
                "second of its host; correct it there".format(number))
        found[name] = token
    if host not in found:
        raise AnsibleFilterError(
            "the field 'Tokens of several clusters' in the credential has no line for '{0}'; it has some for {1}".format(
                host, ", ".join(sorted(found)) or "nobody"))
    return found[host]


def aap_escaped(definitions: Any) -> Any:
    """The same with C({{) as infra.aap_configuration wants it written, so that it is AWX that templates it."""
    if isinstance(definitions, dict):
        return {key: aap_escaped(value) for key, value in definitions.items()}
    if isinstance(definitions, list):
        return [aap_escaped(value) for value in definitions]
    if isinstance(definitions, str) and "{%" in definitions:
        raise AnsibleFilterError("'{0}data_file': infra.aap_configuration takes no {{%; use {{{{ }}}} alone".format(PREFIX))
    return definitions.replace("{{", "{  {") if isinstance(definitions, str) else definitions


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        """Name and function of each."""
        return {"awx_definitions": awx_definitions, "aap_escaped": aap_escaped, "cluster_token": cluster_token}
