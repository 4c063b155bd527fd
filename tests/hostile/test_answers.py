# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of any content: wrong types in every field that is read, odd names of tasks, statuses, clocks, exchanged answers."""

from __future__ import annotations

import contextlib
import pathlib
import re
import socket
from typing import Any, Callable

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.pve import tasks
from attacked import run, some, survived
from cluster import SECRET, TOKEN, Cluster
from server import Exchange, Hostile
from worlds import hook

RAW = "@@RAW@@"
VALUES: dict[str, Any] = {
    "null": None, "list": [], "map": {}, "empty": "", "nested": [[{"a": [1]}]], "true": True, "negative": -1, "zero": 0,
    "huge float": RAW + "1e999", "nan": RAW + "NaN", "time of 10^12": 10 ** 12, "400 digits": RAW + "9" * 400,
    "long": "x" * 100_000, "deep": RAW + "[" * 100_000 + "]" * 100_000, "digits": "٣", "path": "../../access",
    "control": "a\r\nb\x1b[2J",
}
GUEST = "/nodes/n1/qemu/100"  # the guest that is attacked; 101 stands for all others
RESOURCES = "GET /cluster/resources"
FIELDS: list[tuple[str, str, str]] = [
    *((RESOURCES, "qemu/100", key) for key in (
        "type", "vmid", "node", "status", "name", "template", "lock", "tags", "pool", "id")),
    *((RESOURCES, "node/n1", key) for key in ("type", "node", "status")),
    *((RESOURCES, "storage/n1/ceph", key) for key in (
        "type", "storage", "node", "plugintype", "shared", "status", "disk", "maxdisk", "content")),
    *(("GET {0}/config".format(GUEST), "", key) for key in (
        "name", "template", "lock", "memory", "agent", "scsi0", "vmstatestorage", "digest")),
    *(("GET {0}/snapshot".format(GUEST), "auto", key) for key in (
        "name", "snaptime", "description", "parent", "snapstate", "vmstate")),
    ("GET {0}/snapshot".format(GUEST), "current", "running"), ("GET {0}/snapshot".format(GUEST), "current", "name"),
    *(("GET /nodes/n1/tasks", "UPID", key) for key in ("upid", "type", "status", "endtime", "id")),
    *((r"GET /nodes/n1/tasks/[^/]+:100:[^/]+/status", "", key) for key in ("status", "exitstatus", "upid")),
    *((r"GET /nodes/n1/tasks/[^/]+:100:[^/]+/log", "1", key) for key in ("t", "n")),
]
WHOLE = [
    "POST /access/ticket", RESOURCES, "GET /pools", "GET {0}/config".format(GUEST), "GET {0}/snapshot".format(GUEST),
    "POST {0}/snapshot".format(GUEST), "DELETE {0}/snapshot/.*".format(GUEST), "GET /nodes/n1/tasks",
    r"GET /nodes/n1/tasks/[^/]+/status", r"GET /nodes/n1/tasks/[^/]+/log", "POST {0}/agent/exec".format(GUEST),
    "GET {0}/agent/exec-status".format(GUEST)]
COMMANDS = {"pre": ["/bin/rest"], "post": ["/bin/wake"], "timeout": "2s", "on_error": "continue"}


def raw(exchange: Exchange) -> None:
    """Put the numbers and depths that json does not write into the body."""
    exchange.raw = re.sub(rb'"@@RAW@@([^"]*)"', rb"\1", exchange.body())


def with_field(what: str, entry: str, key: str, value: Any) -> Callable[[Exchange], Any]:
    def attack(exchange: Exchange) -> None:
        if not re.fullmatch(what, exchange.what):
            return
        exchange.take()
        items = exchange.data if isinstance(exchange.data, list) else [exchange.data]
        for item in items:
            told = [str(item.get(name, "")) for name in ("id", "name", "upid", "n")] if isinstance(item, dict) else []
            if isinstance(item, dict) and (not entry or any(text.startswith(entry) for text in told)):
                item[key] = value
        raw(exchange)
    return attack


def with_data(what: str, value: Any) -> Callable[[Exchange], Any]:
    def attack(exchange: Exchange) -> None:
        if re.fullmatch(what, exchange.what):
            exchange.take()
            exchange.data = value
            raw(exchange)
    return attack


FIELD_CASES = [(*field, name) for field in FIELDS for name in VALUES]


@pytest.mark.parametrize(("what", "entry", "key", "value"), some(FIELD_CASES, 7))
def test_field(what: str, entry: str, key: str, value: str) -> None:
    """The other guest gets its snapshot, and the attacked one a sentence at the most."""
    attack = with_field(what, entry, key, VALUES[value])
    with Hostile(attack=attack) as server:
        found = run(server)
        survived(server, found, foreign=not (entry == "auto"))
        # Nothing of the whole list can be read where something in it is too deep.
        if not (value == "deep" and what == RESOURCES or entry == "node/n1" and key in ("type", "node")):
            assert found.status(101) == "created", found.text[:500]
        run(server, "info")


WHOLE_CASES = [(what, name) for what in WHOLE for name in VALUES]


@pytest.mark.parametrize(("what", "value"), some(WHOLE_CASES, 4))
def test_whole_answer(what: str, value: str) -> None:
    with Hostile(attack=with_data(what, VALUES[value])) as server:
        guests = "100,101,@pool-prod" if "pools" in what else "@all"
        found = run(server, password="ticket" in what, guests=guests, guest_commands=COMMANDS, on_unmatched="warn")
        survived(server, found)
        if what not in (WHOLE[0], RESOURCES, "GET /pools"):
            assert found.status(101) == "created", found.text[:500]


UPIDS = {
    "repeated": lambda exchange: "UPID:n1:00000001:0000ABCD:6A1B2C3D:{0}:{1}:{2}:".format(
        "qmsnapshot" if exchange.method == "POST" else "qmdelsnapshot", exchange.path.split("/")[4], TOKEN),
    "one for all": lambda exchange: "UPID:n1:00000001:0000ABCD:6A1B2C3D:qmsnapshot:100:{0}:".format(TOKEN),
    "of another guest": lambda exchange: exchange.data.replace(":100:", ":101:").replace(":101:", ":100:"),
    "of another node": lambda exchange: exchange.data.replace(":n1:", ":n7:").replace(":n2:", ":n7:"),
    "of another type": lambda exchange: exchange.data.replace("snapshot", "igrate"),
    "with a path": lambda exchange: exchange.data.replace("UPID:n", "UPID:../../n"),
    "with control characters": lambda exchange: exchange.data + "\r\n\x1b[2J",
    "endless": lambda exchange: exchange.data + "x" * 200_000,
    "of too few parts": lambda _exchange: "UPID:n1:1", "a number": lambda _exchange: 7, "a map": lambda _exchange: {"upid": "x"},
    "empty": lambda _exchange: "", "null": lambda _exchange: None, "an error": lambda _exchange: "got no worker upid",
}


@pytest.mark.parametrize("kind", UPIDS)
def test_upid(kind: str) -> None:
    """What names no new task of this guest and this work is a lost write: it is looked for, and nothing is sent twice."""
    def attack(exchange: Exchange) -> None:
        if exchange.method in ("POST", "DELETE") and "/qemu/" in exchange.path:
            exchange.take()
            exchange.data = UPIDS[kind](exchange)

    with Hostile(Cluster(guests=3), attack) as server:
        found = run(server)
        survived(server, found)
        # Three writes at the most of each guest: a create and two deletes, as without the attack.
        assert len(server.cluster.writes) == 9
        assert [found.status(vmid) for vmid in (100, 101, 102)] == ["created"] * 3


STATUSES = (
    201, 204, 304, 400, 401, 403, 404, 408, 418, 423, 429, 500, 501, 502, 503, 504, 505, 595, 596, 597, 598, 599, 600, 999)
STATUS_CASES = [(what, status) for what in WHOLE[1:10] if "pools" not in what for status in STATUSES]


@pytest.mark.parametrize(("what", "status"), some(STATUS_CASES, 6))
@pytest.mark.parametrize("before", [True, False])
def test_status(what: str, status: int, before: bool) -> None:
    """A status instead of the answer, before or after the server did what it was asked."""
    def attack(exchange: Exchange) -> None:
        if re.fullmatch(what, exchange.what):
            if not before:
                exchange.take()
            exchange.taken = True
            exchange.status, exchange.reason, exchange.data = status, "odd", None

    with Hostile(attack=attack) as server:
        survived(server, run(server))


ODD_ERRORS = [
    {"errors": ["x"]}, {"errors": "x"}, {"errors": 7}, {"errors": {"snapname": [1]}}, {"errors": {"a" * 10 ** 5: "b" * 10 ** 5}},
    {"message": ["x"]}, {"message": {"a": 1}}, {"message": "can't lock file '" * 50_000},
    {"message": "Configuration file '" * 50_000}, {"message": "cfs-lock '" * 50_000 + " - got timeout"},
    {"message": "\x1b[2J" * 1000}]


@pytest.mark.parametrize("beside", ODD_ERRORS, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("what", ["GET {0}/config".format(GUEST), "POST {0}/snapshot".format(GUEST)])
@pytest.mark.parametrize("status", [400, 500])
def test_refusal(beside: dict[str, Any], what: str, status: int) -> None:
    def attack(exchange: Exchange) -> None:
        if exchange.what == what:
            exchange.taken = True
            exchange.status, exchange.reason, exchange.beside = status, "refused", beside

    with Hostile(attack=attack) as server:
        found = run(server)
        survived(server, found)
        assert found.status(101) == "created" and found.seconds < 15


DATES = [None, "", "yesterday", "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT",
         "Sun, 22 Nov 99999999 02:15:00 GMT", "Sun, 22 Nov 2026 02:15:00 +9999", "x" * 60_000, "Mon, 01 Jan 2001 00:00:00 GMT",
         "Wed, 01 Jan 2200 00:00:00 GMT"]


@pytest.mark.parametrize("date", DATES, ids=lambda date: str(date)[:20])
@pytest.mark.parametrize("job", ["snap", "info"])
def test_clock(date: str | None, job: str) -> None:
    def attack(exchange: Exchange) -> None:
        exchange.headers["Date"] = date  # type: ignore[assignment]

    with Hostile(attack=attack) as server:
        survived(server, run(server, job))


EXCHANGED = ["config", "snapshot", "tasks", "cluster/resources", "status", "log", "version"]


@pytest.mark.parametrize("here", EXCHANGED)
@pytest.mark.parametrize("there", EXCHANGED)
def test_exchanged_answers(here: str, there: str) -> None:
    """A proxy that mixes up its connections: an answer to another question."""
    known: dict[str, tuple[Any, dict[str, Any]]] = {}

    def attack(exchange: Exchange) -> None:
        if exchange.method != "GET":
            return
        exchange.take()
        kind = next((kind for kind in EXCHANGED if exchange.path.endswith(kind)), "")
        known[kind] = exchange.data, exchange.beside
        if kind == here and there in known and ("/101/" not in exchange.path and ":101:" not in exchange.path):
            exchange.data, exchange.beside = known[there]

    with Hostile(attack=attack) as server:
        survived(server, run(server))


def test_a_server_that_echoes_what_it_was_sent_gets_no_secret_into_the_result() -> None:
    """Law 12: the ticket and the token against forgery are secrets too."""
    def attack(exchange: Exchange) -> None:
        if exchange.path != "/access/ticket":
            exchange.take()
            told = " ".join(exchange.request_headers.values())
            if exchange.path.endswith("/100/config"):
                exchange.status, exchange.reason, exchange.beside = 500, told.replace("\n", " ")[:2000], {"message": told}
            if exchange.path == "/cluster/resources":
                # No escape in it: its bytes are searched. Elsewhere the decoded texts are.
                next(item for item in exchange.data if item.get("vmid") == 101)["name"] = told
            if exchange.path.endswith("/101/snapshot") and exchange.method == "GET":
                exchange.data.append({"name": "autodaily200101000000", "description": told, "snaptime": 5})
                exchange.raw = exchange.body().replace(b"-", b"\\u002d").replace(b":autosnap@", b":autosnap\\u0040")

    for password in (True, False):
        with Hostile(attack=attack) as server:
            for job in ("snap", "info"):
                # The foreign ones are listed with their descriptions.
                found = run(server, job, password=password, **({"max_foreign_age": "1s"} if job == "info" else {}))
                survived(server, found)
                assert "PVE:autosnap" not in found.text
            assert "********" in run(server, "snap", password=password).text


@pytest.mark.parametrize("password", [True, False])
def test_no_cookie_of_a_load_balancer_is_kept_or_sent(password: bool) -> None:
    """One in place of the ticket would win over a token too (api-facts 1.1)."""
    cookies: list[str] = []

    def attack(exchange: Exchange) -> None:
        exchange.headers["Set-Cookie"] = "SERVERID=a7; Path=/; HttpOnly\r\nSet-Cookie: PVEAuthCookie=stolen; Path=/"
        cookies.append(exchange.request_headers.get("cookie", ""))
        if password and exchange.path != "/access/ticket" and not cookies[-1].startswith("PVEAuthCookie=PVE:"):
            exchange.taken, exchange.status, exchange.reason = True, 401, "No ticket"

    with Hostile(attack=attack) as server:
        found = run(server, password=password)
        survived(server, found)
        assert [found.status(vmid) for vmid in (100, 101)] == ["created", "created"]
        assert not any("SERVERID" in cookie or "stolen" in cookie for cookie in cookies)
        assert sum(what == "POST /access/ticket" for _when, what in server.seen) == password


@pytest.mark.parametrize("how", ["status line", "encoding", "reason", "escaped"])
def test_no_secret_goes_to_a_hook_or_to_who_watches(how: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attack(exchange: Exchange) -> Any:
        if exchange.what != "POST {0}/snapshot".format(GUEST):
            return None
        exchange.taken, exchange.status = True, 500
        if how == "status line":
            exchange.send("HTTPX {0}\r\n\r\n".format(SECRET).encode())
            exchange.connection.close()
            return True
        if how == "encoding":
            exchange.headers["Content-Encoding"] = SECRET
        elif how == "reason":
            exchange.reason = "no {0} {1}".format(SECRET, SHORT)
        else:
            exchange.raw = '{{"data":null,"message":"no {0}"}}'.format(SECRET.replace("-", "\\u002d")).encode()
        return None

    told = tmp_path / "told"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "socket"))
    listener.settimeout(0.5)
    monkeypatch.setenv("AUTOSNAP_PROGRESS", str(tmp_path / "socket"))
    monkeypatch.setattr(tasks, "LOST_WAIT", 0.2)
    with Hostile(Cluster(guests=1), attack) as server:
        found = run(server, api_otp=SHORT, hook=hook(tmp_path, "env >> {0}\n".format(told)))
    heard = b""
    with contextlib.suppress(OSError):
        while True:
            heard += listener.recv(65536)
    assert SECRET not in found.text and SECRET not in told.read_text() and SECRET.encode() not in heard
    assert b"ended" not in heard or b'"failed": 1' in heard


SHORT = "77"
