# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role awx_kit makes in AWX, as plain data in the variables of infra.aap_configuration."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

PREFIX = "awx_kit_"
TEMPLATES = {
    "snap": "takes snapshots and prunes old ones", "clean": "prunes snapshots", "report": "writes a page about snapshots",
    "health": "fails where a guest has not the snapshots that it should have"}
NOTIFY_ON = ("started", "success", "error")
SECRETS = ("password", "token", "account_token", "grafana_key")
TOKENS = "AUTOSNAP_TOKENS_FILE"
# AWX gives a job no answer to a question that a schedule or a workflow leaves open, even where the question has a default.
_RRULE = re.compile(r"\ADTSTART(;TZID=[\w/+-]+:\d{8}T\d{6}|:\d{8}T\d{6}Z) RRULE:\S+\Z")


def awx_definitions(variables: Mapping[str, Any], spec: Mapping[str, Any]) -> Dict[str, List[Dict[str, Any]]]:
    """All objects, by variable of infra.aap_configuration, from the role's variables and its argument spec."""
    checked = ArgumentSpecValidator(spec).validate(variables)
    if checked.error_messages:
        raise AnsibleFilterError(checked.error_messages[0])
    settings = {name[len(PREFIX):]: value for name, value in checked.validated_parameters.items()}
    if settings["state"] == "present":
        _check(settings)
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
    """AnsibleFilterError for what AWX would refuse or misunderstand, before anything is made."""
    clusters = [cluster["name"] for cluster in settings["clusters"] if cluster["state"] == "present"]
    if not clusters:
        raise _wrong("clusters", "it names no cluster; write at least one with name and api_host")
    for cluster in settings["clusters"]:
        if cluster["state"] == "present" and not cluster["api_host"]:
            raise _wrong("clusters", "'{0}' has no api_host; name the hosts of its API".format(cluster["name"]))
    tokens = settings["credential"]["tokens"] or {}
    if tokens and set(tokens) != set(clusters):
        raise _wrong("credential", "the tokens are of {0}, the clusters are {1}; write one token for each cluster".format(
            ", ".join(sorted(tokens)), ", ".join(sorted(clusters))))
    for option, given in (("clusters", clusters), ("schedules", [schedule["name"] for schedule in settings["schedules"]]),
                          ("notifications", [notification["name"] for notification in settings["notifications"]])):
        if len(set(given)) < len(given):
            raise _wrong(option, "two of them have the same name: {0}".format(", ".join(sorted(given))))
    for schedule in settings["schedules"]:
        rrule = schedule["rrule"]
        if not _RRULE.match(rrule) or "INTERVAL=" not in rrule or "SECONDLY" in rrule:
            raise _wrong("schedules", (
                "'{0}' is no rule that AWX takes; write it as DTSTART;TZID=Europe/Vienna:20260101T021500 "
                "RRULE:FREQ=DAILY;INTERVAL=1").format(rrule))
    if not settings["project"]["scm_url"] and not settings["project"]["local_path"]:
        raise _wrong("project", "it has neither scm_url nor local_path; give the repository that holds the playbooks")


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
            "file": {"template.ca": "{{ ca }}", "template.tokens": "[tokens]\n{{ tokens }}"},
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
        "update_secrets": settings["update_secrets"]}


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
            "{{ lookup('ansible.builtin.ini', inventory_hostname, section='tokens', case_sensitive=true, interpolation=false, "
            "file=lookup('ansible.builtin.env', '" + TOKENS + "')) }}")
    if settings["report_path"]:
        variables["autosnap_report_file"] = settings["report_path"].rstrip("/") + "/{{ inventory_hostname }}.html"
    if settings["made_by"]:
        variables["autosnap_made_by"] = {
            "awx_job_id": "{{ awx_job_id }}",
            "template": "{{ awx_job_template_name }}",
            "user": "{{ awx_user_name | default(awx_schedule_name | default(awx_parent_job_schedule_name | default(''))) }}",
        }
    return {
        "name": _named(settings, "Proxmox VE clusters"), "organization": settings["organization"],
        "variables": {**variables, **settings["inventory_variables"]}}


def _host(settings: Mapping[str, Any], cluster: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "name": cluster["name"], "inventory": _named(settings, "Proxmox VE clusters"), "state": cluster["state"],
        "variables": {"autosnap_api_host": cluster["api_host"], **cluster["variables"]}}


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


def _answers(settings: Mapping[str, Any], template: str, variables: Mapping[str, Any]) -> Dict[str, Any]:
    """Answers to all questions of a template: AWX applies no default where nobody is asked."""
    defaults = {question["variable"]: question["default"] for question in _questions(settings, template)}
    for variable in variables:
        if variable not in defaults:
            raise _wrong("schedules", "'{0}' is no question of the template {1}; it asks for {2}".format(
                variable, template, ", ".join(defaults)))
    return {**defaults, **variables}


def _schedule(settings: Mapping[str, Any], given: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "name": _named(settings, given["name"]),
        "unified_job_template": _named(settings, given["template"].capitalize()),
        "organization": settings["organization"],
        "rrule": given["rrule"],
        "extra_data": _answers(settings, given["template"], given["variables"]),
        "enabled": given["enabled"],
        "state": given["state"],
    }


def _notification(settings: Mapping[str, Any], given: Mapping[str, Any]) -> Dict[str, Any]:
    """One with a secret is only made, or written anew when asked to: AWX does not tell whether the secret is another one."""
    state = given["state"]
    if state == "present" and not settings["update_secrets"] and any(given["configuration"].get(name) for name in SECRETS):
        state = "exists"
    return {
        "name": _named(settings, given["name"]), "organization": settings["organization"], "notification_type": given["type"],
        "notification_configuration": given["configuration"], **({"messages": given["messages"]} if given["messages"] else {}),
        "state": state}


def _workflow(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Snapshot, then patch, then verify: each only after the success of the one before."""
    given = settings["workflow"]
    name = _named(settings, "Snapshot, patch, verify")
    if not given["patch_template"]:
        return {"name": name, "organization": settings["organization"], "state": "absent"}
    verify = given["verify_template"] or _named(settings, "Health")
    answers = _answers(settings, "health", {}) if verify == _named(settings, "Health") else {}
    questions = _questions(settings, "snap")
    snapshot = _answers(settings, "snap", {"autosnap_label": given["label"], "autosnap_retention": given["retention"]})
    return {
        "name": name,
        "description": "Takes snapshots, and only where that went well patches, and then looks whether all is well",
        "organization": settings["organization"],
        "allow_simultaneous": False,
        "survey_enabled": True,
        "survey_spec": {"name": "", "description": "", "spec": [
            {**question, "default": given["guests"]} for question in questions if question["variable"] == "autosnap_guests"]},
        **_told(settings),
        "simplified_workflow_nodes": [
            _node(settings, "snapshot", _named(settings, "Snap"), snapshot, ["patch"]),
            _node(settings, "patch", given["patch_template"], {}, ["verify"]),
            _node(settings, "verify", verify, answers, []),
        ],
    }


def _node(settings: Mapping[str, Any], name: str, template: str, answers: Mapping[str, Any], then: List[str]) -> Dict[str, Any]:
    return {
        "identifier": name, "unified_job_template": template, "lookup_organization": settings["organization"],
        "extra_data": dict(answers), "success_nodes": then}


def aap_escaped(definitions: Any) -> Any:
    """The same with C({{) as infra.aap_configuration wants it written, so that it is AWX that templates it."""
    if isinstance(definitions, dict):
        return {key: aap_escaped(value) for key, value in definitions.items()}
    if isinstance(definitions, list):
        return [aap_escaped(value) for value in definitions]
    return definitions.replace("{{", "{  {") if isinstance(definitions, str) else definitions


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        """Name and function of each."""
        return {"awx_definitions": awx_definitions, "aap_escaped": aap_escaped}
