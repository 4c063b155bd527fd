# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that is slow, endless or elsewhere: trickling at every stage, redirects, bodies without an end, broken connections."""

from __future__ import annotations

import contextlib
import gzip
import json
import pathlib
import re
import socket
import struct
import threading
import time
from typing import Any, Callable

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.pve import errors, session, tasks, transport
from attacked import run, some, survived
from cluster import SECRET, Cluster
from server import Exchange, Hostile
from worlds import hook

G100 = "/nodes/n1/qemu/100"
STAGES = {
    "login": "POST /access/ticket", "resources": "GET /cluster/resources", "config": "GET {0}/config".format(G100),
    "list": "GET {0}/snapshot".format(G100), "create": "POST {0}/snapshot".format(G100),
    "delete": "DELETE {0}/snapshot/.*".format(G100), "tasks": "GET /nodes/n1/tasks",
    "status": r"GET /nodes/n1/tasks/[^/]+/status", "log": r"GET /nodes/n1/tasks/[^/]+/log",
    "exec": "POST {0}/agent/exec".format(G100), "exec-status": "GET {0}/agent/exec-status".format(G100)}
OF_ALL = ("login", "resources")  # without these no guest can be worked on
COMMANDS = {"pre": ["/bin/rest"], "post": ["/bin/wake"], "timeout": "2s", "on_error": "continue"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def at_status_line(exchange: Exchange) -> None:
    exchange.trickle(b"HTTP/1.1 200 " + b"O" * 500)


def at_headers(exchange: Exchange) -> None:
    exchange.send(HEAD)
    exchange.trickle(b"X-Slow: " + b"x" * 500)


def at_body(exchange: Exchange) -> None:
    exchange.send(HEAD + b"Content-Length: 5000\r\n\r\n")
    exchange.trickle(exchange.body() + b" " * 5000)


def at_chunks(exchange: Exchange) -> None:
    exchange.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    exchange.trickle(b"1\r\n{\r\n" * 500)


def at_chunk_size(exchange: Exchange) -> None:
    exchange.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    exchange.trickle(b"0" * 500)


def at_body_of_a_connection_to_be_closed(exchange: Exchange) -> None:
    """http.client closes its own end before it reads such a body."""
    exchange.send(HEAD + b"Connection: close\r\nContent-Length: 5000\r\n\r\n")
    exchange.trickle(exchange.body() + b" " * 5000)


def at_body_of_http_1_0(exchange: Exchange) -> None:
    exchange.send(HEAD.replace(b"1.1", b"1.0") + b"\r\n")
    exchange.trickle(exchange.body() + b" " * 5000)


def at_trailers(exchange: Exchange) -> None:
    exchange.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
    exchange.trickle(b"X: y\r\n" * 500)


def at_gzip(exchange: Exchange) -> None:
    exchange.send(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5000\r\n\r\n")
    exchange.trickle(gzip.compress(b"x" * 90000) * 100)


def silent(exchange: Exchange) -> None:
    exchange.server.over.wait(300)


def continuing(exchange: Exchange) -> None:
    while not exchange.server.over.wait(0.01):
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")


def label(value: object) -> str:
    """A name for a case's part."""
    return str(getattr(value, "__name__", value))


SLOW = [at_status_line, at_headers, at_body, at_body_of_a_connection_to_be_closed, at_body_of_http_1_0, at_chunks, at_chunk_size,
        at_trailers, at_gzip, silent, continuing]
SLOW_CASES = [(stage, how, before) for stage in STAGES for how in SLOW for before in (False, True)]


@pytest.mark.parametrize(("stage", "how", "before"), some(SLOW_CASES, 9), ids=label)
def test_trickle(stage: str, how: Callable[[Exchange], None], before: bool) -> None:
    """Every call ends in ``api_timeout``, whatever trickles where, before or after the server did what it was asked."""
    def attack(exchange: Exchange) -> Any:
        if not re.fullmatch(STAGES[stage], exchange.what) or stage == "status" and ":101:" in exchange.path:
            return None
        if not before:
            exchange.take()
        how(exchange)
        return True

    with Hostile(attack=attack) as server:
        found = run(server, password=stage == "login", api_timeout="1s", guest_commands=COMMANDS)
        survived(server, found)
        if stage not in OF_ALL:
            assert found.status(101) == "created", found.text[:500]


@pytest.mark.parametrize("how", ["nothing", "a byte now and then", "no TLS"])
def test_tls(how: str) -> None:
    with Hostile() as server:
        def before(plain: socket.socket) -> bool:
            if how == "no TLS":
                plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return True
            while not server.over.wait(0.3):
                if how != "nothing":
                    plain.sendall(b"\x16")
            return True

        server.before_tls = before
        found = run(server, api_timeout="1s")
        survived(server, found)
        assert found.error is not None


def test_one_guest_that_trickles_does_not_keep_the_others_waiting() -> None:
    def attack(exchange: Exchange) -> Any:
        if "/n1/" in exchange.path:
            at_headers(exchange)
            return True
        return None

    with Hostile(Cluster(guests=12), attack) as server:
        found = run(server, api_timeout="1s")
        survived(server, found)
        assert [found.status(vmid) for vmid in range(101, 112, 2)] == ["created"] * 6
        assert [found.status(vmid) for vmid in range(100, 112, 2)] == ["unreachable"] * 6


class Proxy:
    """An http proxy that knows CONNECT alone, and may trickle its own answer."""

    def __init__(self, slow: bool) -> None:
        self.slow = slow
        self.asked: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return "http://127.0.0.1:{0}".format(self.listener.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            line = client.recv(65536).decode().split("\r\n")[0]
            self.asked.append(line)
            host, port = line.split()[1].rsplit(":", 1)
            if self.slow:
                for byte in b"HTTP/1.1 200 " + b"O" * 1000:
                    client.sendall(bytes([byte]))
                    time.sleep(0.3)
            upstream = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=self._pump, args=(upstream, client), daemon=True).start()
            self._pump(client, upstream)
        except OSError:
            client.close()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(65536):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            # A reset is handed on as one.
            with contextlib.suppress(OSError):
                target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                target.shutdown(socket.SHUT_RDWR)
                target.close()


@pytest.mark.parametrize("slow", ["nothing", "the proxy", "the server behind it"])
def test_an_http_proxy_goes_on_working_and_is_cut_too(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy(slow == "the proxy")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy.url)

    def attack(exchange: Exchange) -> Any:
        if slow == "the server behind it" and "/n1/" in exchange.path:
            at_body(exchange)
            return True
        return None

    with Hostile(attack=attack) as server:
        found = run(server, api_timeout="1s")
        survived(server, found)
        assert proxy.asked
        assert found.status(101) == ("" if slow == "the proxy" else "created")
    proxy.listener.close()


def test_a_write_that_broke_behind_a_proxy_is_looked_for_before_it_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib3 calls that a failure of the proxy."""
    proxy = Proxy(slow=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy.url)

    def attack(exchange: Exchange) -> None:
        if exchange.method == "POST":
            exchange.take()
            exchange.reset()

    with Hostile(attack=attack) as server:
        found = run(server)
        survived(server, found)
        assert [found.status(vmid) for vmid in (100, 101)] == ["created", "created"]
        assert sum(what.startswith("POST") for _when, what in server.seen) == 2
    proxy.listener.close()


CODES = (301, 302, 303, 307, 308)
REDIRECTS = [(stage, code, scheme) for stage in STAGES for code in CODES for scheme in ("http", "https", "same", "none")]


@pytest.mark.parametrize(("stage", "code", "scheme"), some(REDIRECTS, 9))
def test_redirect(stage: str, code: int, scheme: str) -> None:
    """None is followed: no password goes elsewhere, no foreign answer is believed."""
    def attack(exchange: Exchange) -> None:
        if re.fullmatch(STAGES[stage], exchange.what):
            exchange.taken = True
            exchange.status, exchange.reason, exchange.raw = code, "Moved", b""
            target = exchange.server.elsewhere if scheme != "same" else exchange.server.hosts[0]
            if scheme != "none":
                exchange.headers["Location"] = "{0}://{1}{2}".format(
                    scheme.replace("same", "https"), target, "/api2/json" + exchange.path)

    with Hostile(attack=attack) as server:
        found = run(server, password=stage == "login", guest_commands=COMMANDS)
        survived(server, found)
        asked = any(re.fullmatch(STAGES[stage], what) for _when, what in server.seen)
        assert asked == ("redirect" in found.text)
        if stage in OF_ALL:
            assert found.error is not None and "name the API itself as api_host" in found.error.message
        else:
            assert found.status(101) == "created"


def big(exchange: Exchange) -> None:
    size = transport.ANSWER_MAX + 10
    exchange.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    block = b"x" * 1_000_000
    for _number in range(size // len(block) + 1):
        exchange.send(b"%x\r\n" % len(block) + block + b"\r\n")
    exchange.server.over.wait(300)


def announced(exchange: Exchange) -> None:
    exchange.send(HEAD + b"Content-Length: 99999999999\r\n\r\n" + b"x" * 10000)
    exchange.reset()


def bomb(exchange: Exchange) -> None:
    body = gzip.compress(b"\0" * (transport.ANSWER_MAX + 10), 9)
    exchange.send(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def other_encoding(exchange: Exchange) -> None:
    body = gzip.compress(gzip.compress(b"{}"))
    exchange.send(HEAD + b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def not_compressed(exchange: Exchange) -> None:
    exchange.send(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")


def cut_gzip(exchange: Exchange) -> None:
    body = gzip.compress(exchange.body())[:-9]
    exchange.send(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def headers_without_end(exchange: Exchange) -> None:
    exchange.send(HEAD + b"X: y\r\n" * 50_000)
    exchange.server.over.wait(300)


def long_header(exchange: Exchange) -> None:
    exchange.send(HEAD + b"X: " + b"y" * 5_000_000)
    exchange.server.over.wait(300)


def negative_length(exchange: Exchange) -> None:
    exchange.send(HEAD + b"Content-Length: -5\r\n\r\n{}")
    exchange.reset()


def garbage(exchange: Exchange) -> None:
    exchange.send(b"\x00\xff\x13garbage" * 100)
    exchange.reset()


def truncated(exchange: Exchange) -> None:
    message = exchange.message()
    exchange.send(message[:len(message) - 5])
    exchange.reset()


def reset(exchange: Exchange) -> None:
    exchange.reset()


def closed(exchange: Exchange) -> None:
    raise ConnectionResetError


def surrogate(exchange: Exchange) -> None:
    exchange.raw = json.dumps({"data": exchange.data}).encode().replace(b'"data"', b'"data", "x": "\\ud800"', 1)
    exchange.raw = b'{"data": "\\ud800"}'
    exchange.send(exchange.message())


def not_utf8(exchange: Exchange) -> None:
    exchange.raw = b'{"data": "\xff\xfe"}'
    exchange.send(exchange.message())


BODIES = [big, announced, bomb, other_encoding, not_compressed, cut_gzip, headers_without_end, long_header, negative_length,
          garbage, truncated, reset, closed, surrogate, not_utf8]
BODY_CASES = [(stage, how, before) for how in BODIES for stage in STAGES for before in (False, True)]


@pytest.mark.parametrize(("stage", "how", "before"), some(BODY_CASES, 13), ids=label)
def test_body(stage: str, how: Callable[[Exchange], None], before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # A slow machine does not read 64 MB within api_timeout.
    monkeypatch.setattr(transport, "ANSWER_MAX", 2 * transport.MB)

    def attack(exchange: Exchange) -> Any:
        if not re.fullmatch(STAGES[stage], exchange.what):
            return None
        if not before:
            exchange.take()
        how(exchange)
        return True

    with Hostile(attack=attack) as server:
        found = run(server, password=stage == "login", guest_commands=COMMANDS)
        survived(server, found)
        if how in (big, bomb) and stage in ("login", "resources", "config", "list"):
            assert re.search("more than 2 MB", found.text)
        if stage not in OF_ALL:
            assert found.status(101) == "created", found.text[:500]


def test_a_write_that_was_taken_and_whose_answer_broke_is_not_sent_again() -> None:
    def attack(exchange: Exchange) -> Any:
        if exchange.method in ("POST", "DELETE"):
            exchange.take()
            exchange.reset()

    with Hostile(attack=attack) as server:
        found = run(server)
        survived(server, found)
        assert [found.status(vmid) for vmid in (100, 101)] == ["created", "created"]
        assert len(server.cluster.writes) == 6


def test_a_log_without_end_is_a_sentence() -> None:
    def attack(exchange: Exchange) -> None:
        if exchange.path.endswith("/log"):
            exchange.data = [{"n": number, "t": "x"} for number in range(tasks.LOG_MAX + 100)]
            exchange.taken = True

    with Hostile(attack=attack) as server:
        found = run(server)
        survived(server, found)
        assert "more than 5000 lines" in found.text and found.status(100) == "created"


@pytest.mark.parametrize(("retry_after", "seconds"), [("1", 1.0), ("2", 2.0), ("soon", 0.0), ("", 0.0), ("-1", 0.0)])
@pytest.mark.parametrize("what", ["GET {0}/config".format(G100), "POST {0}/snapshot".format(G100)])
def test_429_is_honoured(what: str, retry_after: str, seconds: float) -> None:
    asked: list[float] = []

    def attack(exchange: Exchange) -> None:
        if exchange.what == what:
            asked.append(time.monotonic())
            if len(asked) == 1:
                exchange.taken, exchange.status, exchange.reason = True, 429, "Too Many Requests"
                exchange.headers["Retry-After"] = retry_after

    with Hostile(attack=attack) as server:
        found = run(server)
        survived(server, found)
        assert found.status(100) == "created" and asked[1] - asked[0] >= seconds


@pytest.mark.parametrize("retry_after", ["3600", "30"])
def test_429_that_asks_for_too_much_is_the_guest_s_failure_or_ends_with_the_run(retry_after: str) -> None:
    def attack(exchange: Exchange) -> None:
        if exchange.what == "GET {0}/config".format(G100):
            exchange.taken, exchange.status, exchange.reason = True, 429, "Too Many Requests"
            exchange.headers["Retry-After"] = retry_after

    with Hostile(attack=attack) as server:
        found = run(server, **({"run_timeout": "3s"} if retry_after == "30" else {}))
        survived(server, found)
        assert found.seconds < 30
        assert found.status(101) == "created" if retry_after == "3600" else "run_timeout has passed" in found.text


@pytest.mark.parametrize("again", ["429", "lost", "595"])
def test_law_5_is_looked_at_again_before_a_delete_is_sent_again(again: str) -> None:
    """Meanwhile somebody put a snapshot of his own under the planned name."""
    first: list[str] = []

    def attack(exchange: Exchange) -> None:
        if exchange.method == "DELETE" and not first:
            first.append(exchange.path.rsplit("/", 1)[1])
            exchange.server.cluster.guests[100].snapshots[first[0]] = {"snaptime": int(time.time()), "description": "mine"}
            exchange.taken, exchange.reason = True, "odd"
            exchange.status = 595 if again == "595" else 429
            exchange.headers["Retry-After"] = "1"
            if again == "lost":
                exchange.reset()

    with Hostile(Cluster(guests=1, old=4), attack) as server:
        found = run(server, "clean")
        survived(server, found)
        assert server.cluster.guests[100].snapshots[first[0]]["description"] == "mine"
        assert found.status(100) == "pruned" and first[0] not in found.report.result["guests"][0]["pruned"]  # type: ignore[union-attr]


@pytest.mark.parametrize("hooked", [False, True])
def test_a_snapshot_that_stays_in_the_list_is_not_deleted_again_and_again(hooked: bool, tmp_path: pathlib.Path) -> None:
    """Its task ends well, and the list goes on showing it: the others go, and it is named."""
    kept: dict[str, Any] = {}

    def attack(exchange: Exchange) -> None:
        if exchange.method == "DELETE" and not kept:
            name = exchange.path.rsplit("/", 1)[1]
            kept[name] = dict(exchange.server.cluster.guests[100].snapshots[name])
        if exchange.what == "GET {0}/snapshot".format(G100):
            exchange.take()
            exchange.data += [{"name": name, **values} for name, values in kept.items()]

    with Hostile(Cluster(guests=1, old=5), attack) as server:
        found = run(server, "clean", hook=hook(tmp_path, "exit 0\n") if hooked else None)
        survived(server, found)
        assert len(server.cluster.writes) == 3 and found.status(100) == "pruned"
        assert "still in the list" in found.text


@pytest.mark.parametrize("location", ["http://[", "/\xff", "https://x/" + SECRET, "\x00"])
def test_a_redirect_to_nowhere_loses_no_write(location: str) -> None:
    def attack(exchange: Exchange) -> None:
        if exchange.method == "POST":
            exchange.take()
            exchange.status, exchange.headers["Location"] = 307, location

    with Hostile(Cluster(guests=1), attack) as server:
        found = run(server)
        survived(server, found)
        assert found.status(100) == "created" and len(server.cluster.writes) == 3


def test_429_for_a_task_that_is_awaited_is_honoured_too() -> None:
    asked: list[float] = []

    def attack(exchange: Exchange) -> None:
        if re.fullmatch(r"GET /nodes/n1/tasks(/[^/]+/status)?", exchange.what):
            asked.append(time.monotonic())
            if len(asked) < 3:
                exchange.taken, exchange.status, exchange.headers["Retry-After"] = True, 429, "2"

    with Hostile(Cluster(guests=1), attack) as server:
        found = run(server)
        survived(server, found)
        assert found.status(100) == "created"
        assert all(later - before >= 2 for before, later in zip(asked[:2], asked[1:3]))


def test_an_entry_that_cannot_be_read_in_mid_run_is_not_called_gone() -> None:
    def attack(exchange: Exchange) -> None:
        if exchange.path == "/cluster/resources":
            exchange.take()
            if sum(path == "/cluster/resources" for _method, path in exchange.server.cluster.log) > 1:
                for item in exchange.data:
                    item["type"] = 7 if item.get("vmid") == 100 else item["type"]

    cluster = Cluster(guests=1)
    cluster.guests[100].lock = "backup"
    with Hostile(cluster, attack) as server:
        found = run(server)
        assert found.status(100) == "failed" and "gone" not in found.text and "cannot be told" in found.text


def test_many_addresses_have_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them answers a connection: the queue of the listener is full."""
    full = socket.create_server(("127.0.0.9", 0), backlog=0)
    waiting = [socket.socket() for _number in range(4)]
    for plain in waiting:
        plain.setblocking(False)
        plain.connect_ex(full.getsockname())
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", full.getsockname())]
    tried: list[int] = []
    original = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        tried.append(1)
        original(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: found * 12)
    monkeypatch.setattr(socket.socket, "connect", connect)
    one = session.Session(["pve.example"], full.getsockname()[1], session.Credentials(
        "a@pve", token_id="t", token_secret="x" * 36), timeout=2.0)
    with pytest.raises(errors.HostUnreachable):
        one.read_once("version")
    assert len(tried) <= 3
    for plain in (*waiting, full):
        plain.close()


@pytest.mark.parametrize("status", [500, 404, 429, 595])
def test_law_15_a_failover_target_that_refuses_to_tell_its_nodes_stops_the_run(status: int) -> None:
    def attack(exchange: Exchange) -> None:
        if exchange.connection.getsockname()[1] == int(exchange.server.hosts[0].split(":")[1]):
            if exchange.path != "/cluster/resources":
                raise ConnectionResetError
        elif exchange.path == "/nodes":
            exchange.taken, exchange.status, exchange.reason = True, status, "odd"

    with Hostile(Cluster(guests=20), attack, listeners=2) as server:
        found = run(server)
        survived(server, found)
        assert server.hosts[0] in found.text and server.hosts[1] in found.text and "failover" in found.text
        assert len(server.seen) < 150 and not server.cluster.writes


ODD_NODES: list[Any] = [None, [], {}, 7, [None], ["n1"], [{"node": None}], [{"node": ["n1"]}], [{}], "n1 n2", [{"node": "n9"}]]


@pytest.mark.parametrize("nodes", ODD_NODES, ids=label)
def test_law_15_a_failover_target_with_odd_nodes_stops_the_run_and_names_both(nodes: Any) -> None:
    def attack(exchange: Exchange) -> None:
        if exchange.connection.getsockname()[1] == int(exchange.server.hosts[0].split(":")[1]):
            if exchange.path != "/cluster/resources":
                raise ConnectionResetError
        elif exchange.path == "/nodes":
            exchange.taken, exchange.data = True, nodes

    with Hostile(Cluster(guests=20), attack, listeners=2) as server:
        found = run(server)
        survived(server, found)
        text = found.text
        assert server.hosts[0] in text and server.hosts[1] in text and "failover" in text
        assert len(server.seen) < 100 and not server.cluster.writes
