# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of AWX's API that the modules of awx.awx use: it stores objects, refuses what ``contract`` does not accept."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import urllib.parse
from typing import Any, Iterator

import contract

ENCRYPTED = "$encrypted$"
TOKEN = "controller-token-5150"
KINDS = {
    "organizations": "organization", "credential_types": "credential_type", "credentials": "credential",
    "projects": "project", "execution_environments": "execution_environment", "instance_groups": "instance_group",
    "inventories": "inventory", "hosts": "host", "schedules": "schedule", "job_templates": "job_template",
    "workflow_job_templates": "workflow_job_template", "workflow_job_template_nodes": "workflow_job_template_node",
    "notification_templates": "notification_template"}
# What the server itself adds to a new object.
DEFAULTS: dict[str, dict[str, Any]] = {
    "credential_types": {"description": "", "managed": False, "inputs": {}, "injectors": {}},
    "credentials": {"description": "", "inputs": {}},
    "execution_environments": {"description": "", "pull": "", "organization": None, "credential": None},
    "projects": {
        "description": "", "scm_type": "", "scm_url": "", "scm_branch": "", "scm_revision": "", "local_path": "",
        "credential": None, "scm_update_on_launch": False},
    "inventories": {"description": "", "kind": "", "host_filter": None, "variables": ""},
    "hosts": {"description": "", "enabled": True, "variables": ""},
    "job_templates": {
        "description": "", "job_type": "run", "forks": 0, "job_slice_count": 1, "timeout": 0, "extra_vars": "",
        "survey_enabled": False, "allow_simultaneous": False, "execution_environment": None, "ask_variables_on_launch": False},
    "workflow_job_templates": {"description": "", "extra_vars": "", "survey_enabled": False, "allow_simultaneous": False},
    "workflow_job_template_nodes": {"extra_data": {}},
    "schedules": {"description": "", "enabled": True, "extra_data": {}, "limit": None},
    "notification_templates": {"description": "", "messages": None},
}
# What goes when something else goes.
OWNED = {
    "inventories": [("hosts", "inventory")], "job_templates": [("schedules", "unified_job_template")],
    "workflow_job_templates": [("workflow_job_template_nodes", "workflow_job_template"), ("schedules", "unified_job_template")],
    "projects": [], "credential_types": []}
PENDING = 3  # so many times a deleted inventory is still listed


class Refused(Exception):
    """A 400, or another ``status``; its argument is the body."""

    def __init__(self, body: dict[str, Any], status: int = 400) -> None:
        super().__init__(body)
        self.status = status


class Api:
    """``with Api(playbooks) as api:`` listens at ``api.url``; ``objects`` are what it holds, ``writes`` what was written."""

    def __init__(self, playbooks: list[str]) -> None:
        self.playbooks = playbooks
        self.objects: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.surveys: dict[int, dict[str, Any]] = {}
        self.links: dict[tuple[int, str], list[int]] = {}
        self.secrets: dict[int, dict[str, Any]] = {}
        self.writes: list[str] = []
        self._dying: dict[int, int] = {}
        self._next = 0
        self._lock = threading.Lock()
        self.create("organizations", {"name": "Default"})
        self.create("instance_groups", {"name": "default"})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = "http://127.0.0.1:{0}".format(self._server.server_port)

    def __enter__(self) -> Api:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Status and body of one request."""
        with self._lock:
            if method != "GET":
                self.writes.append("{0} {1}".format(method, path))
            parts = path.strip("/").split("/")[2:]
            try:
                return self._routed(method, parts, query, body)
            except Refused as error:
                return error.status, error.args[0]
            except KeyError:
                return 404, {"detail": "Not found."}

    def _routed(self, method: str, parts: list[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        kind = parts[0]
        if len(parts) == 1:
            return (201, self.create(kind, body)) if method == "POST" else (200, _page(self._found(kind, query)))
        number = int(parts[1])
        if kind == "project_updates":
            return 200, {
                "id": number, "status": "successful", "finished": "2026-01-01T00:00:00Z", "event_processing_finished": True,
                "failed": False, "scm_revision": ""}
        if len(parts) == 2:
            return self._one(method, kind, number, body)
        if parts[2] == "update":
            return 202, {"url": "/api/v2/project_updates/1/"}
        if parts[2] == "survey_spec":
            return self._survey(method, number, body)
        return self._linked(method, kind, number, parts[2], body)

    def _found(self, kind: str, query: dict[str, str]) -> list[dict[str, Any]]:
        kinds = ["job_templates", "workflow_job_templates", "projects"] if kind == "unified_job_templates" else [kind]
        if kind == "inventories":
            self._forget()
        shown = [self._shown(of, item) for of in kinds for item in self.objects[of].values()]
        return [item for item in shown if all(str(item.get(key)) == value for key, value in query.items())]

    def create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """A new object, as the API shows it."""
        self._check(kind, {**DEFAULTS.get(kind, {}), **body}, {})
        self._next += 1
        item = {**DEFAULTS.get(kind, {}), "id": self._next, "type": KINDS[kind]}
        self.objects[kind][self._next] = item
        self._store(kind, item, body)
        return self._shown(kind, item)

    def _one(self, method: str, kind: str, number: int, body: Any) -> tuple[int, Any]:
        item = self.objects[kind][number]
        if method == "PATCH":
            self._check(kind, {**item, **body}, item)
            self._store(kind, item, body)
        elif method == "DELETE":
            return self._deleted(kind, number)
        return 200, self._shown(kind, item)

    def _deleted(self, kind: str, number: int) -> tuple[int, Any]:
        if kind == "credential_types" and self._in_use(number):
            raise Refused({"detail": "Credential types that are in use cannot be deleted."}, 403)
        if kind == "inventories":
            if number in self._dying:
                raise Refused({"error": "Inventory is already pending deletion."})
            self._dying[number] = PENDING
            return 202, None
        self._remove(kind, number)
        return 204, None

    def _in_use(self, number: int) -> bool:
        return any(item["credential_type"] == number for item in self.objects["credentials"].values())

    def _forget(self) -> None:
        """Inventories that were deleted go after a while."""
        for number in list(self._dying):
            self._dying[number] -= 1
            if not self._dying[number]:
                del self._dying[number]
                self._remove("inventories", number)

    def _remove(self, kind: str, number: int) -> None:
        del self.objects[kind][number]
        for owned, by in OWNED.get(kind, []):
            for other in [key for key, item in self.objects[owned].items() if item.get(by) == number]:
                self._remove(owned, other)

    def _store(self, kind: str, item: dict[str, Any], body: dict[str, Any]) -> None:
        item.update(body)
        if kind == "credentials" and "inputs" in body:
            fields = self.objects["credential_types"][item["credential_type"]]["inputs"]["fields"]
            hidden = {field["id"] for field in fields if field.get("secret")}
            kept = self.secrets.setdefault(item["id"], {})
            kept.update({name: value for name, value in body["inputs"].items() if name in hidden and value != ENCRYPTED})
            item["inputs"] = {name: ENCRYPTED if name in hidden else value for name, value in body["inputs"].items()}
        if kind == "notification_templates" and "notification_configuration" in body:
            item["notification_configuration"] = {
                name: ENCRYPTED if name in ("password", "token") and value else value
                for name, value in body["notification_configuration"].items()}

    def _shown(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        url = "/api/v2/{0}/{1}/".format(kind, item["id"])
        related = {"survey_spec": url + "survey_spec/", "update": url + "update/"}
        return {**item, "url": url, "related": related, "summary_fields": {}}

    def _survey(self, method: str, number: int, body: Any) -> tuple[int, Any]:
        if method == "POST":
            wrong = contract.survey(body)
            if wrong:
                return 400, {"error": "; ".join(wrong)}
            self.surveys[number] = body
            return 200, None
        return 200, self.surveys.get(number, {})

    def _linked(self, method: str, kind: str, number: int, name: str, body: Any) -> tuple[int, Any]:
        self.objects[kind][number]  # 404 without it
        linked = self.links.setdefault((number, name), [])
        of = {"success_nodes": "workflow_job_template_nodes"}.get(name, name if name in KINDS else "notification_templates")
        if method == "GET":
            return 200, _page([self._shown(of, self.objects[of][one]) for one in linked if one in self.objects[of]])
        if body.get("disassociate"):
            linked.remove(body["id"])
        else:
            self._check_link(name, linked, body["id"])
            linked.append(body["id"])
        return 204, None

    def _check_link(self, name: str, linked: list[int], number: int) -> None:
        credentials = self.objects["credentials"]
        if name == "credentials" and any(
                credentials[one]["credential_type"] == credentials[number]["credential_type"] for one in linked):
            raise Refused({"error": "Cannot assign multiple credentials of one type."})

    def _check(self, kind: str, body: dict[str, Any], before: dict[str, Any]) -> None:
        """Refused, where AWX refuses."""
        wrong: list[str] = []
        of = self.objects
        if kind == "credential_types":
            wrong = contract.credential_type(body.get("inputs", {}), body.get("injectors", {}))
            if before and body["inputs"] != before["inputs"] and self._in_use(before["id"]):
                raise Refused({"detail": "Modifications to inputs are not allowed for credential types that are in use."}, 403)
        elif kind == "credentials":
            wrong = contract.credential(of["credential_types"][body["credential_type"]]["inputs"], body.get("inputs", {}))
            if not before and ENCRYPTED in body.get("inputs", {}).values():
                wrong.append("$encrypted$ is no secret of a new credential")
        elif kind == "job_templates":
            wrong = contract.job_template(body, self.playbooks)
        elif kind == "notification_templates":
            wrong = contract.notification(body["notification_type"], body["notification_configuration"], body.get("messages"))
        elif kind in ("schedules", "workflow_job_template_nodes"):
            wrong = contract.rrule(body["rrule"]) if kind == "schedules" else []
            spec = self.surveys.get(body["unified_job_template"], {})
            wrong += contract.answers(spec, body.get("extra_data", {}), everything=kind == "schedules")
        if wrong:
            raise Refused({"__all__": ["; ".join(wrong)]})


def _page(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {"count": len(results), "next": None, "previous": None, "results": results}


def _handler(api: Api) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
            if self.headers.get("Authorization") != "Bearer " + TOKEN:
                status, answer = 401, {"detail": "Authentication credentials were not provided."}
            elif not re.match(r"/api/v2/\w+/", url.path):
                status, answer = 404, {"detail": "The requested resource could not be found."}
            else:
                status, answer = api.answer(self.command, url.path, query, body)
            text = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.send_header("X-API-Product-Name", "AWX")
            self.send_header("X-API-Product-Version", "24.6.1")
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, *_unused: object) -> None:
            pass

    return Handler


def named(api: Api, kind: str) -> Iterator[str]:
    """The names of all objects of a kind."""
    for item in api.objects[kind].values():
        yield item.get("name") or item["identifier"]
