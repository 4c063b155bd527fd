# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every definition against what AWX accepts, and wrong ones, which have to be refused."""

from __future__ import annotations

import copy
import pathlib
import re
import textwrap
from typing import Any, Callable

import contract
import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.pve.autosnap.plugins.filter import awx
from unsafe import Loader

COLLECTION = pathlib.Path(awx.__file__).parents[2]
ROLE = COLLECTION / "roles" / "awx_kit"
SPEC = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
PROJECT = COLLECTION / "playbooks" / "templates" / "awx"
PLAYBOOKS = sorted(path.name for path in PROJECT.glob("*.yml") if "import_playbook" in path.read_text())
MINIMAL = {"awx_kit_clusters": [{"name": "a", "api_host": ["h"]}], "awx_kit_project": {"scm_url": "https://git.example.com/x.git"}}
Definitions = dict[str, list[dict[str, Any]]]
TOLD = "notification_templates_error"


def defined(given: dict[str, Any]) -> Definitions:
    return awx.awx_definitions(given, SPEC)


def objections(definitions: Definitions) -> dict[str, list[str]]:
    """What AWX would object to, by kind and name of each definition."""
    types = {item["name"]: item for item in definitions["controller_credential_types"]}
    surveys = {item["name"]: item.get("survey_spec", {}) for item in [
        *definitions["controller_templates"], *definitions["controller_workflows"]]}
    found: dict[str, list[str]] = {}

    def say(kind: str, name: str, wrong: list[str]) -> None:
        found.setdefault("{0} {1}".format(kind, name), []).extend(wrong)

    for item in types.values():
        say("credential type", item["name"], contract.credential_type(item["inputs"], item["injectors"]))
    for item in definitions["controller_credentials"]:
        say("credential", item["name"], contract.credential(types[item["credential_type"]]["inputs"], item["inputs"]))
    for item in definitions["controller_notifications"]:
        say("notification", item["name"], contract.notification(
            item["notification_type"], item["notification_configuration"], item.get("messages")))
    for item in definitions["controller_templates"]:
        say("template", item["name"], contract.job_template(item, PLAYBOOKS) + contract.survey(item["survey_spec"]))
    for item in definitions["controller_schedules"]:
        spec = surveys[item["unified_job_template"]]
        say("schedule", item["name"], contract.rrule(item["rrule"]) + contract.answers(spec, item["extra_data"]))
    for item in definitions["controller_workflows"]:
        if item.get("state") == "absent":
            continue
        say("workflow", item["name"], contract.survey(item["survey_spec"]))
        for node in [step for step in item["simplified_workflow_nodes"] if step["state"] == "present"]:
            spec = surveys.get(node["unified_job_template"], {})
            say("step", node["identifier"], contract.answers(spec, node["extra_data"]))
    return found


def test_awx_accepts_every_definition(kit: dict[str, Any]) -> None:
    for given in (kit, MINIMAL):
        found = objections(defined(given))
        for name in found:
            print(name)
        assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_awx_accepts_the_examples_of_the_page() -> None:
    page = (pathlib.Path(__file__).parents[2] / "docs" / "awx.md").read_text()
    blocks = [textwrap.dedent(text) for text in re.findall(r"^ *```yaml\n(.*?)^ *```$", page, re.M | re.S)]
    kits = [yaml.load(re.sub(r'"{{ vault_token_\w+ }}"', "u@pve!t=s", text), Loader) for text in blocks if "awx_kit_" in text]
    assert len(kits) == 6
    for kit in kits:
        found = objections(defined({**kits[0], **kit}))
        assert {name: wrong for name, wrong in found.items() if wrong} == {}


def at(*path: Any) -> Callable[[Definitions], Any]:
    def walk(definitions: Definitions) -> Any:
        found: Any = definitions
        for step in path:
            found = found[step]
        return found
    return walk


INPUTS = at("controller_credential_types", 0, "inputs")
FIELD = at("controller_credential_types", 0, "inputs", "fields", 0)
INJECTORS = at("controller_credential_types", 0, "injectors")
CREDENTIAL = at("controller_credentials", 0, "inputs")
NOTIFICATION = at("controller_notifications", 0, "notification_configuration")
MESSAGES = at("controller_notifications", 0, "messages")
TEMPLATE = at("controller_templates", 0)
SURVEY = at("controller_templates", 0, "survey_spec")
QUESTION = at("controller_templates", 0, "survey_spec", "spec", 0)
CHOICE = at("controller_templates", 0, "survey_spec", "spec", 3)
SCHEDULE = at("controller_schedules", 0)
ANSWERS = at("controller_schedules", 0, "extra_data")
STEP = at("controller_workflows", 0, "simplified_workflow_nodes", 0, "extra_data")
START = "DTSTART:20260101T000000Z "
WRONG = [
    (INPUTS, {"dependencies": {}}, "'dependencies' is not allowed"),
    (INPUTS, {"required": ["nothing"]}, "there is no field 'nothing'"),
    (FIELD, {"format": None}, "format is None"),
    (FIELD, {"format": "email"}, "'email' is not one of ['ssh_private_key', 'url']"),
    (FIELD, {"type": "integer"}, "'integer' is not one of"),
    (FIELD, {"id": "1st"}, "'1st' is no name of a field"),
    (FIELD, {"id": "tower"}, "'tower' is no name of a field"),
    (FIELD, {"id": "ca"}, "given twice"),
    (FIELD, {"label": ""}, "no label"),
    (FIELD, {"width": 3}, "'width' is not allowed"),
    (FIELD, {"type": "boolean", "secret": True}, "only a string"),
    (FIELD, {"choices": []}, "choices are texts"),
    (FIELD, {"default": True}, "the default is no string"),
    (INJECTORS, {"env": {"ANSIBLE_FOO": "{{ hosts }}"}}, "ANSIBLE_FOO is not allowed"),
    (INJECTORS, {"env": {"PATH": "{{ hosts }}"}}, "PATH is not allowed"),
    (INJECTORS, {"env": {"A-B": "x"}}, "'A-B' is no name of a variable"),
    (INJECTORS, {"env": {"A": "{{ nothing }}"}}, "'nothing' is undefined"),
    (INJECTORS, {"env": {"A": "{{ tower.filename.nothing }}"}}, "has no attribute 'nothing'"),
    (INJECTORS, {"env": {"A": "{{ hosts"}}, "unexpected end"),
    (INJECTORS, {"file": {"ca": "x"}}, "'ca' is no name of a file"),
    (INJECTORS, {"file": {"template": "x", "template.b": "y"}}, "template goes with no other"),
    (INJECTORS, {"vars": {}}, "'vars' is not allowed"),
    (CREDENTIAL, {"port": "8006"}, "'port' is no field"),
    (CREDENTIAL, {"verify": False}, "it is no string"),
    (CREDENTIAL, {"verify": "maybe"}, "'maybe' is not one of"),
    (NOTIFICATION, {"headers": None}, "headers: it is missing"),
    (NOTIFICATION, {"url": 7}, "url: it is missing, empty or of the wrong type"),
    (MESSAGES, {"changed": {"message": "x"}}, "'changed' is no event"),
    (MESSAGES, {"error": {"text": "x"}}, "neither message nor body"),
    (MESSAGES, {"error": {"message": "a\nb"}}, "a message is one line"),
    (MESSAGES, {"error": {"message": "{{ job.secret }}"}}, "has no attribute 'secret'"),
    (TEMPLATE, {"playbook": "other.yml"}, "'other.yml' is not found in the project"),
    (TEMPLATE, {"inventory": None}, "inventory: it is missing"),
    (TEMPLATE, {"job_type": "scan"}, "'scan' is neither run nor check"),
    (TEMPLATE, {"forks": -1}, "forks: -1"),
    (TEMPLATE, {"job_slice_count": "3"}, "job_slice_count: '3'"),
    (SURVEY, {"name": None}, "'name' is missing"),
    (SURVEY, {"spec": []}, "no question"),
    (QUESTION, {"type": "dict"}, "'dict' is no type"),
    (QUESTION, {"required": "yes"}, "required is no boolean"),
    (QUESTION, {"variable": "autosnap label"}, "'autosnap label' is no name"),
    (QUESTION, {"variable": "autosnap_label"}, "asked for twice"),
    (QUESTION, {"min": 1.5}, "min is no whole number"),
    (QUESTION, {"default": 7}, "the default is of the wrong type"),
    (QUESTION, {"max": 3}, "too short or too long"),
    (CHOICE, {"choices": []}, "there are no choices"),
    (CHOICE, {"default": "maybe"}, "'maybe' is none of the choices"),
    (SCHEDULE, {"rrule": "RRULE:FREQ=DAILY;INTERVAL=1"}, "DTSTART is missing"),
    (SCHEDULE, {"rrule": "DTSTART:20260101T000000 RRULE:FREQ=DAILY;INTERVAL=1"}, "without a time zone"),
    (SCHEDULE, {"rrule": START + "RRULE:FREQ=DAILY"}, "INTERVAL is missing"),
    (SCHEDULE, {"rrule": START + "RRULE:FREQ=SECONDLY;INTERVAL=1"}, "SECONDLY is not supported"),
    (SCHEDULE, {"rrule": "DTSTART;TZID=Europe/Nowhere:20260101T000000 RRULE:FREQ=DAILY;INTERVAL=1"}, "is no time zone"),
    (SCHEDULE, {"rrule": START + "RRULE:FREQ=DAILY;INTERVAL=1;COUNT=1000"}, "COUNT is above 999"),
    (SCHEDULE, {"rrule": START + "RRULE:FREQ=MONTHLY;INTERVAL=1;BYDAY=1MO"}, "BYDAY with a number"),
    (SCHEDULE, {"rrule": START + "RRULE:FREQ=OFTEN;INTERVAL=1"}, "it cannot be read"),
    (ANSWERS, {"autosnap_keep": 7}, "'autosnap_keep' is no question"),
    (ANSWERS, {"autosnap_guests": None}, "'autosnap_guests' expected to be a string"),
    (ANSWERS, {"autosnap_guests": ""}, "too short or too long"),
    (ANSWERS, {"autosnap_dry_run": "maybe"}, "'maybe' is not in"),
    (STEP, {"autosnap_keep": 7}, "'autosnap_keep' is no question"),
]


@pytest.mark.parametrize(("where", "change", "words"), WRONG)
def test_a_wrong_definition_is_refused(
    kit: dict[str, Any], where: Callable[[Definitions], Any], change: dict[str, Any], words: str
) -> None:
    definitions = copy.deepcopy(defined(kit))
    where(definitions).update(change)
    said = [sentence for wrong in objections(definitions).values() for sentence in wrong]
    assert any(words in sentence for sentence in said), said


def test_an_answer_that_is_missing_is_refused(kit: dict[str, Any]) -> None:
    definitions = defined(kit)
    del definitions["controller_schedules"][0]["extra_data"]["autosnap_label"]
    assert objections(definitions)["schedule Autosnap - Daily snapshots"] == ["'autosnap_label' value missing"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clusters": []}, "'awx_kit_clusters': it names no cluster"),
        ({"clusters": [{"name": "prod"}]}, "'prod' has no api_host"),
        ({"clusters": [{"name": "a", "api_host": ["h"]}] * 2, "credential": {}}, "'awx_kit_clusters': 'a' is there twice"),
        ({"clusters": [{"name": "a:b", "api_host": ["h"]}], "credential": {}}, "'a:b' is no name of a host"),
        ({"clusters": [{"name": "a", "api_host": ["h"], "variables": {"autosnap_guests": "1"}}], "credential": {}},
         "the answer wins"),
        ({"extra_vars": {"autosnap_api_token": "t"}}, "'awx_kit_extra_vars': 'autosnap_api_token' is a secret"),
        ({"extra_vars": {"autosnap_kep": 3}}, "autosnap_kep means nothing"),
        ({"extra_vars": {"autosnap_keep": 3}}, "'autosnap_keep' has no place here: the templates ask for autosnap_retention"),
        ({"extra_vars": {"autosnap_hosts": "x"}}, "'autosnap_hosts' has no place here: the templates set it"),
        ({"extra_vars": {"autosnap_dry_run": True}}, "'autosnap_dry_run' is asked for"),
        ({"guests": "0100"}, "'0100' does not reach"),
        ({"credential": {"tokens": {"prod": None, "dev": "u@pve!t=s"}}},
         "the token of 'prod' is not written as USER@REALM!ID=SECRET"),
        ({"credential": {"tokens": {"prod": "u@pve!t=s\nx = y", "dev": "u@pve!t=s"}}}, "the token of 'prod' is not written"),
        ({"credential": {"tokens": {"prod": "t"}, "token_id": "u@pve!t"}}, "either tokens"),
        ({"guests": "[100]"}, "'awx_kit_guests': 'autosnap_guests': '[100]' is no text"),
        ({"guests": "@nothing"}, "'awx_kit_guests': "),
        ({"label": "a b"}, "'awx_kit_label': 'autosnap_label': 'a b' may only have letters"),
        ({"label": "yes"}, "'yes' does not reach a job of AWX as this text"),
        ({"label": "007"}, "'007' does not reach"),
        ({"guests": "*"}, "'*' does not reach"),
        ({"label": "x" * 50}, "is no text of 1 to 40 characters"),
        ({"retention": "lots"}, "'awx_kit_retention': 'autosnap_retention': 'lots' is no retention"),
        ({"retention": "daily=0"}, "is no retention"),
        ({"forks": -1}, "'awx_kit_forks': -1 is less than 0"),
        ({"job_slice_count": 0}, "'awx_kit_job_slice_count': 0 is less than 1"),
        ({"workflow": {"patch_template": "P", "guests": "1," * 600}}, "'awx_kit_workflow': 'autosnap_guests'"),
        ({"schedules": [{"name": "x", "template": "snap", "rrule": START + "RRULE:FREQ=DAILY;INTERVAL=1", "variables": {
            "autosnap_dry_run": True}}]}, "'autosnap_dry_run': True is not one of no, yes; write it in quotes"),
        ({"clusters": [{"name": "prod", "api_host": ["h"], "colour": "red"}]}, "colour"),
        ({"credential": {"tokens": {"prod": "t"}}}, "'awx_kit_credential': the tokens are of prod, the clusters are dev, prod"),
        ({"project": {}}, "'awx_kit_project': give either scm_url or local_path"),
        ({"schedules": [{"name": "x", "template": "snap", "rrule": "FREQ=DAILY"}]}, "'FREQ=DAILY' is no rule that AWX takes"),
        ({"schedules": [{"name": "x", "template": "purge", "rrule": START + "RRULE:FREQ=DAILY;INTERVAL=1"}]}, "purge"),
        ({"schedules": [{"name": "x", "template": "report", "rrule": START + "RRULE:FREQ=DAILY;INTERVAL=1", "variables": {
            "autosnap_keep": 7}}]}, "'autosnap_keep' is no question of the template report; it asks for autosnap_guests"),
    ])
def test_wrong_variables_get_one_sentence(kit: dict[str, Any], change: dict[str, Any], words: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        defined({**kit, **{"awx_kit_" + name: value for name, value in change.items()}})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_no_secret_is_in_variables_that_awx_shows(kit: dict[str, Any]) -> None:
    """Only the credential and the notification hold any, and AWX encrypts both."""
    definitions = defined(kit)
    for name in ("controller_credentials", "controller_notifications"):
        definitions.pop(name)
    assert "11111111" not in repr(definitions) and "hook-password" not in repr(definitions)
    injected = definitions["controller_credential_types"][0]["injectors"]
    assert set(injected) == {"file", "env"}


def test_a_token_is_found_by_its_host_and_a_wrong_line_is_not_shown() -> None:
    text = "\nprod = u@pve!t=s;%#=x\nDev=u@pve!t=5ecret\n"
    assert awx.cluster_token(text, "prod") == "u@pve!t=s;%#=x" and awx.cluster_token(text, "Dev") == "u@pve!t=5ecret"
    for wrong, words in (
            (text, "no line for 'dev'; it has some for Dev, prod"), ("5ecret", "line 1 of the field"), ("", "for nobody"),
            (text + "prod = u@pve!t=5ecret", "line 4 of the field"), ("dev = 5ecret", "line 1 of the field")):
        with pytest.raises(AnsibleFilterError, match=words) as caught:
            awx.cluster_token(wrong, "dev")
        assert "5ecret" not in str(caught.value)


def test_one_cluster_may_have_its_hosts_in_the_credential() -> None:
    definitions = defined({**MINIMAL, "awx_kit_clusters": [{"name": "localhost"}], "awx_kit_credential": {"hosts": ["a", "b"]}})
    assert definitions["controller_hosts"][0]["variables"] == {}
    assert definitions["controller_credentials"][0]["inputs"]["hosts"] == "a,b"


def test_a_statement_cannot_be_written_for_aap_configuration() -> None:
    with pytest.raises(AnsibleFilterError, match="takes no {%"):
        awx.aap_escaped({"a": ["{% if b %}{{ c }}{% endif %}"]})


def test_braces_are_written_as_aap_configuration_wants_them(kit: dict[str, Any]) -> None:
    escaped = awx.aap_escaped(defined(kit))
    assert escaped["controller_credential_types"][0]["injectors"]["env"]["PROXMOX_HOST"] == "{  { hosts }}"
    assert "{{" not in repr(escaped)
