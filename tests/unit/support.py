# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several unit tests share: a session whose answers come from a function instead of a server."""

from __future__ import annotations

import json
import pathlib
from typing import Any, Callable
from urllib.parse import unquote

import requests
from ansible_collections.pve.autosnap.plugins.module_utils.pve import session as session_module
from ansible_collections.pve.autosnap.plugins.module_utils.pve.session import Credentials, Session

RECORDINGS = pathlib.Path(__file__).parent.parent / "recordings"
TOKEN = Credentials("u@pve", token_id="t", token_secret="s3cr3t-value")
Handler = Callable[[requests.PreparedRequest], "requests.Response | Exception"]


class HandlerAdapter(requests.adapters.BaseAdapter):
    """A transport that asks a function."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self.handler = handler

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        answer = self.handler(request)
        if isinstance(answer, Exception):
            raise answer
        answer.request = request
        answer.url = request.url or ""
        return answer

    def close(self) -> None:
        """Nothing to close."""


def respond(status: int, body: Any = None, reason: str = "OK", text: str | None = None, **headers: str) -> requests.Response:
    """A response; ``body`` becomes JSON, ``text`` is sent as it is."""
    response = requests.Response()
    response.status_code = status
    response.reason = reason
    response.headers.update(headers)
    response._content = (json.dumps(body) if text is None else text).encode()
    return response


def scripted(handler: Handler, monkeypatch: Any, hosts: tuple[str, ...] = ("a",), credentials: Credentials = TOKEN) -> Session:
    """A Session over ``handler`` that does not really sleep."""
    monkeypatch.setattr(session_module, "_adapter", lambda calls, secrets: HandlerAdapter(handler))
    return Session(hosts, 8006, credentials, True, 5.0, sleep=lambda seconds: None)


def records(version: str) -> list[dict[str, Any]]:
    """The recorded dialogues of a real server that have a request and an answer."""
    lines = (RECORDINGS / "transcripts-{0}.jsonl".format(version)).read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record.get("request") and record.get("response")]


def recorded_response(record: dict[str, Any]) -> requests.Response:
    """The answer of a record, as requests hands it on."""
    answer = record["response"]
    text = answer["text"] if "json" not in answer else json.dumps(answer["json"])
    headers = {"Content-Type": "application/json;charset=UTF-8", **(answer.get("headers") or {})}
    return respond(answer["status"], reason=answer["reason"], text=text or "", **headers)


def path_of(record: dict[str, Any]) -> list[str]:
    """The path's parts below ``/api2/json``, decoded."""
    path = record["request"]["path"].split("?")[0]
    return [unquote(part) for part in path.split("/")[3:]]
