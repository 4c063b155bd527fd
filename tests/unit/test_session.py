# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The session's own decisions: what is repeated, what is lost, and what it says."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests
import urllib3
from ansible_collections.pve.autosnap.plugins.module_utils.pve import errors, transport
from ansible_collections.pve.autosnap.plugins.module_utils.pve import session as session_module
from ansible_collections.pve.autosnap.plugins.module_utils.pve import ticket as ticket_module
from ansible_collections.pve.autosnap.plugins.module_utils.pve.credentials import Credentials, Secrets
from ansible_collections.pve.autosnap.plugins.module_utils.pve.session import Session
from support import respond, scripted

PASSWORD = Credentials("u@pve", password="hunter2-secret")
RESET = requests.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.", http.client.RemoteDisconnected("gone")))
REFUSED = requests.ConnectionError(urllib3.exceptions.MaxRetryError(
    None, "/x", urllib3.exceptions.NewConnectionError(None, "refused")))  # type: ignore[arg-type]


class Script:
    """Answers in order; the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []

    def __call__(self, request: requests.PreparedRequest) -> Any:
        self.asked.append((str(request.method), str(request.url)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(request) if callable(answer) else answer


OK = {"data": "fine"}


@pytest.mark.parametrize("failure", [RESET, REFUSED, requests.ReadTimeout("slow"), requests.ConnectTimeout("slow")])
def test_a_read_is_repeated(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(failure, failure, respond(200, OK))
    assert scripted(script, monkeypatch).read("version").data == "fine"
    assert len(script.asked) == 3


def test_a_read_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(RESET)
    with pytest.raises(errors.HostUnreachable, match="RemoteDisconnected: gone"):
        scripted(script, monkeypatch).read("version")
    assert len(script.asked) == session_module.ATTEMPTS


def test_a_node_that_does_not_resolve_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(respond(500, {"data": None, "message": "hostname lookup 'n9' failed - x\n"}, "hostname lookup"))
    with pytest.raises(errors.NodeUnreachable):
        scripted(script, monkeypatch).read("nodes", "n9", "qemu")
    assert len(script.asked) == 1


def on_nodes(node: Any, *hosts: tuple[str, Any]) -> Any:
    """What a node behind the API hosts answers, and what each host answers itself."""
    def handler(request: requests.PreparedRequest) -> Any:
        url = str(request.url)
        answer = next(answer for host, answer in hosts if "//{0}:".format(host) in url)
        return node if "/nodes/" in url and not isinstance(answer, Exception) else answer
    return Script(handler)


@pytest.mark.parametrize("failure", [requests.ReadTimeout("slow"), respond(504, text="", reason="Gateway Timeout")])
def test_a_node_that_hangs_is_not_taken_for_the_api_host(failure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 9: the guests of the other nodes are not to suffer."""
    script = on_nodes(failure, ("a", respond(200, OK)), ("b", respond(200, OK)))
    session = scripted(script, monkeypatch, ("a", "b"))
    with pytest.raises(errors.NodeSlow) as raised:
        session.read("nodes", "n", "qemu")
    assert not errors.is_fatal(raised.value)
    assert session.host == "a:8006"
    assert sum("/nodes/" in url for _method, url in script.asked) == session_module.SLOW_ATTEMPTS
    with pytest.raises(errors.NodeSlow):
        session.read("nodes", "n", "lxc")
    assert sum("/nodes/" in url for _method, url in script.asked) == session_module.SLOW_ATTEMPTS + 1


def test_a_write_that_a_hanging_node_may_have_taken_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    script = on_nodes(requests.ReadTimeout("slow"), ("a", respond(200, OK)), ("b", respond(200, OK)))
    session = scripted(script, monkeypatch, ("a", "b"))
    with pytest.raises(errors.LostWrite):
        session.write("post", "nodes", "n", "qemu", 100, "snapshot")
    assert session.host == "a:8006"
    assert sum("/nodes/" in url for _method, url in script.asked) == 1


@pytest.mark.parametrize("failure", [requests.ReadTimeout("slow"), respond(503, text="", reason="Service Unavailable")])
@pytest.mark.parametrize("path", [("nodes", "n", "qemu"), ("version",)])
def test_an_api_host_that_hangs_gives_way_to_the_next(
    failure: Any, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(request: requests.PreparedRequest) -> Any:
        return failure if "//a:" in str(request.url) else respond(200, OK)

    session = scripted(handler, monkeypatch, ("a", "b"))
    assert session.read(*path).data == "fine"
    assert session.host == "b:8006"


@pytest.mark.parametrize("failure", [RESET, requests.ReadTimeout("slow"), requests.exceptions.ChunkedEncodingError("x")])
def test_a_write_whose_answer_is_lost_is_not_repeated(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8."""
    script = Script(failure)
    with pytest.raises(errors.LostWrite):
        scripted(script, monkeypatch).write("post", "nodes", "n", "qemu", 100, "snapshot", snapname="x")
    assert [method for method, _url in script.asked].count("POST") == 1


@pytest.mark.parametrize("failure", [REFUSED, requests.ConnectTimeout("slow")])
def test_a_write_that_was_never_sent_is_repeated(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(failure, respond(200, OK))
    assert scripted(script, monkeypatch).write("post", "x") == "fine"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (respond(596, text="", reason="Connection timed out"), errors.LostWrite),
        (respond(599, text="", reason="Too many redirections"), errors.LostWrite),
        (respond(504, text="<html>", reason="Gateway Timeout"), errors.LostWrite),
        (respond(500, text="", reason=""), errors.LostWrite),
        (respond(500, {"data": None, "message": "can't lock file '/var/log/pve/tasks/.active.lock' - got timeout\n"}, "x"),
         errors.LostWrite),
        (respond(595, text="", reason="No route to host"), errors.NodeUnreachable),
        (respond(403, {"data": None, "message": "Permission check failed (/vms/100, VM.Snapshot)\n"}, "x"),
         errors.PermissionDenied),
    ],
)
def test_what_a_write_s_refusal_means(answer: Any, expected: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(expected):
        scripted(Script(answer), monkeypatch).write("post", "x")


def test_a_text_that_is_only_in_the_reason_phrase_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before http-server 5.2.0 there is no message in the body (api-facts 6)."""
    script = Script(respond(500, {"data": None}, "VM is locked (backup)"))
    with pytest.raises(errors.PveError, match=r"VM is locked \(backup\)") as raised:
        scripted(script, monkeypatch).read("x")
    assert raised.value.kind == errors.BUSY


@pytest.mark.parametrize("text", ["<html>login</html>", "[]", '{"nodata": 1}', "\udcff", "null"])
def test_an_answer_that_is_not_the_api_s(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = respond(200)
    answer._content = text.encode("utf-8", "surrogateescape")
    with pytest.raises(errors.NotProxmox):
        scripted(Script(answer), monkeypatch).read("x")


def test_a_redirect_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.NotProxmox):
        scripted(Script(respond(304, text="")), monkeypatch).read("x")


def test_the_server_s_clock_comes_from_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(respond(200, OK, Date="Sun, 22 Nov 2026 02:15:00 GMT"))
    session = scripted(script, monkeypatch)
    session.read("x")
    assert abs(session.clock.now() - 1795313700) <= 1
    session.clock.read("no date")
    session.clock.read(None)
    assert abs(session.clock.now() - 1795313700) <= 1


def test_path_parts_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(respond(200, OK))
    scripted(script, monkeypatch).read("nodes", "n", "tasks", "UPID:n:1:u@pve!t:", "a/b")
    assert script.asked[0][1].endswith("/tasks/UPID%3An%3A1%3Au%40pve%21t%3A/a%2Fb")


def test_failover_goes_round_and_checks_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(request: requests.PreparedRequest) -> Any:
        url = str(request.url)
        if "//a:" in url:
            return REFUSED
        return respond(200, {"data": [{"node": "n1"}]}) if url.endswith("/nodes") else respond(200, OK)

    session = scripted(handler, monkeypatch, ("a", "b"))
    assert session.read("version").data == "fine"
    assert session.host == "b:8006"
    session.expect_nodes(["n1", "n2"])
    session._verified.clear()
    with pytest.raises(errors.ClusterChanged, match="n1, n2"):
        session.read("version")


class Logins:
    """A server's side of POST /access/ticket; ``others`` answers everything else."""

    def __init__(self, *answers: Any, others: Any = None) -> None:
        self.answers = list(answers)
        self.others = others or Script(respond(200, OK))
        self.passwords: list[str] = []

    def __call__(self, request: requests.PreparedRequest) -> Any:
        if not str(request.url).endswith("/access/ticket"):
            return self.others(request)
        self.passwords.append(parse_qs(str(request.body))["password"][0])
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


T1, T2, T3 = ("PVE:u@pve:{0}::".format(number) + "x" * 20 for number in (1, 2, 3))


def ticket(text: str) -> Any:
    return respond(200, {"data": {"ticket": text, "CSRFPreventionToken": "c" + text}})


def test_one_login_for_a_run_and_a_renewal_with_the_old_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    logins = Logins(ticket(T1), ticket(T2))
    session = scripted(logins, monkeypatch, credentials=PASSWORD)
    session.read("x")
    session.read("x")
    assert logins.passwords == ["hunter2-secret"]
    monkeypatch.setattr(ticket_module, "TICKET_RENEW_AGE", -1.0)
    session.read("x")
    assert logins.passwords == ["hunter2-secret", T1]


def test_a_renewal_that_is_refused_falls_back_to_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    logins = Logins(ticket(T1), respond(401, {"data": None}, "authentication failure"), ticket(T3))
    session = scripted(logins, monkeypatch, credentials=PASSWORD)
    session.read("x")
    monkeypatch.setattr(ticket_module, "TICKET_RENEW_AGE", -1.0)
    session.read("x")
    assert logins.passwords == ["hunter2-secret", T1, "hunter2-secret"]


def test_a_refused_ticket_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = respond(401, text="", reason="Authentication failed!")
    logins = Logins(ticket(T1), ticket(T2), others=Script(refused, respond(200, OK)))
    assert scripted(logins, monkeypatch, credentials=PASSWORD).read("x").data == "fine"
    session = scripted(Logins(ticket(T1), ticket(T2), others=Script(refused)), monkeypatch, credentials=PASSWORD)
    with pytest.raises(errors.AuthenticationFailed):
        session.read("x")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (respond(401, {"data": None}, "authentication failure"), errors.AuthenticationFailed),
        (respond(200, {"data": {"ticket": "T", "NeedTFA": 1, "CSRFPreventionToken": "x"}}), errors.AuthenticationFailed),
        (respond(200, text="<html>"), errors.NotProxmox),
        (respond(200, {"data": {}}), errors.NotProxmox),
        (respond(595, text="", reason="No route to host"), errors.HostUnreachable),
        (respond(501, text="", reason="no"), errors.PveError),
        (REFUSED, errors.HostUnreachable),
    ],
)
def test_a_login_that_fails(answer: Any, expected: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(expected) as raised:
        scripted(Logins(answer), monkeypatch, credentials=PASSWORD).read("x")
    assert "hunter2-secret" not in str(raised.value)


def test_a_login_while_replacing_a_ticket_that_finds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    logins = Logins(ticket(T1), REFUSED, others=Script(respond(401, text="", reason="x")))
    session = scripted(logins, monkeypatch, credentials=PASSWORD)
    with pytest.raises(errors.HostUnreachable):
        session.read("x")


@pytest.mark.parametrize(("variable", "library"), [("REQUESTS_ERROR", "requests"), ("PROXMOXER_ERROR", "proxmoxer")])
def test_a_missing_library_is_named(variable: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, variable, "ImportError")
    with pytest.raises(errors.DependencyMissing, match="pip install " + library):
        Session(["a"], 8006, PASSWORD)


def test_a_connection_that_idled_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """api-facts 6: the server closes after 5 s; the race is lost by whoever sends then."""
    pool = session_module._adapter(transport.Calls(5.0), Secrets()).poolmanager.connection_from_host("127.0.0.1", 1, "https")
    closed: list[int] = []
    monkeypatch.setattr("urllib3.connectionpool.is_connection_dropped", lambda connection: False)
    connection = pool._get_conn()
    monkeypatch.setattr(connection, "close", lambda: closed.append(1))
    pool._put_conn(connection)
    assert pool._get_conn() is connection and not closed
    pool._put_conn(connection)
    monkeypatch.setattr(transport, "IDLE_MAX", -1.0)
    assert pool._get_conn() is connection and closed == [1]


def test_a_failure_has_a_structure() -> None:
    failure = errors.BadParameter("no", 400, {"snapname": "bad"}).failure()
    assert failure == {
        "code": "parameter", "kind": "other", "message": "no", "status": 400, "errors": {"snapname": "bad"}, "upid": None}


def test_only_https_is_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    http = transport.http_session("x", transport.adapter(transport.Calls(5.0), Secrets()))
    http.auth = transport.NoAuth(True, 5.0)
    assert list(http.adapters) == ["https://"]
    with pytest.raises(requests.exceptions.InvalidSchema):
        http.request("GET", "http://127.0.0.1:1/")


@pytest.mark.parametrize("part", ["..", ".", "", "...."])
def test_a_part_that_would_make_another_path_is_not_sent(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(respond(200, OK))
    with pytest.raises(errors.PveError, match="no API path"):
        scripted(script, monkeypatch).write("delete", "nodes", "n", "qemu", 100, "snapshot", part)
    assert not script.asked


def test_a_connection_that_breaks_for_one_node_is_that_node_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 9: the API host answers all others."""
    script = on_nodes(RESET, ("a", respond(200, OK)), ("b", respond(200, OK)))
    session = scripted(script, monkeypatch, ("a", "b"))
    with pytest.raises(errors.NodeBroken) as raised:
        session.read("nodes", "n", "qemu")
    assert not errors.is_fatal(raised.value) and session.host == "a:8006"


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", 0.0), ("1e9", 0.0), ("-3", 0.0), (None, 0.0), ("9" * 400, 0.0)])
def test_what_a_server_asks_to_wait(header: str | None, seconds: float) -> None:
    assert errors.RateLimited("x", header).retry_after == seconds


def test_a_call_whose_time_is_up_is_cut_and_one_that_is_owed_is_not_cut_by_the_end_of_a_run() -> None:
    class Handle(transport.Handle):
        def __init__(self) -> None:
            self.cuts = 0

        def cut(self) -> None:
            self.cuts += 1

    calls = transport.Calls(0.0)
    handle = Handle()
    with calls.call(transport.OWED) as call:
        calls.begin(handle)
        calls.look()
        assert "no whole answer" in call.cut and handle.cuts == 1
    calls = transport.Calls(60.0)
    calls.stopped = lambda: "SIGTERM"
    for kind, cuts in ((transport.READ, 1), (transport.WRITE, 0), (transport.OWED, 0)):
        handle = Handle()
        with calls.call(kind) as call:
            calls.begin(handle)
            calls.look()
            assert handle.cuts == cuts and bool(call.cut) == bool(cuts)
            calls.give_back()
            calls.look()
            assert handle.cuts == cuts


def test_texts_of_a_server_are_bounded_before_they_are_searched() -> None:
    for text in ("can't lock file '" * 100_000, "cfs-lock '" * 100_000, "Configuration file '" * 100_000):
        assert errors.classify(text) == errors.OTHER
        assert len(errors.PveError(text, errors={text: text}).message) < 1100


@pytest.mark.parametrize("odd", [{"ticket": ""}, {"CSRFPreventionToken": None}, {"ticket": "a b" * 20}, {"ticket": "x;y=" * 9}])
def test_a_ticket_that_no_header_may_hold_is_refused(odd: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answer = respond(200, {"data": {"ticket": T1, "CSRFPreventionToken": T2, **odd}})
    with pytest.raises(errors.NotProxmox):
        scripted(Logins(answer), monkeypatch, credentials=PASSWORD).read("x")


def test_a_ticket_that_would_mask_half_of_the_result_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = respond(200, {"data": {"ticket": "1", "CSRFPreventionToken": T2}})
    session = scripted(Logins(answer), monkeypatch, credentials=PASSWORD)
    session.read("x")
    assert set(session._secrets) == {"hunter2-secret", T2}


def test_an_echo_in_another_writing_is_hidden_too() -> None:
    secrets = Secrets(["PVE:u@pve:6A1B2C3D::dGhpcy/pcyBh+dGlja2V0=", "short"])
    assert secrets.hidden("a PVE:u@pve:6A1B2C3D::dGhpcy/pcyBh+dGlja2V0= b") == "a ******** b"
    assert secrets.hidden("a PVE%3Au%40pve%3A6A1B2C3D%3A%3AdGhpcy%2FpcyBh%2BdGlja2V0%3D b") == "a ******** b"
    assert secrets.hidden_in([{"x": "PVE:u@pve:6A1B2C3D::dGhpcy/pcyBh+dGlja2V0="}, 7]) == [{"x": "********"}, 7]
    assert secrets.hidden("a short one") == "a short one"


def test_one_429_of_a_failover_target_is_not_another_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Script(respond(429, {"data": None}, "slow down"), respond(200, {"data": [{"node": "n1"}]}))

    def handler(request: requests.PreparedRequest) -> Any:
        if "//a:" in str(request.url):
            return REFUSED
        return told(request) if str(request.url).endswith("/nodes") else respond(200, OK)

    session = scripted(handler, monkeypatch, ("a", "b"))
    session.expect_nodes(["n1"])
    assert session.read("version").data == "fine"


def test_looks_before_a_resent_delete_do_not_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(respond(429, {"data": None}, "slow down"))
    session = scripted(script, monkeypatch)
    with pytest.raises(errors.RateLimited):
        session.write_while(lambda: bool(session.read("y")), "delete", "x")
    assert len(script.asked) == 1 + session_module.ATTEMPTS


def test_a_delete_is_not_sent_again_when_it_is_not_wanted_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 5."""
    script = Script(respond(429, {"data": None}, "slow down"))
    with pytest.raises(errors.NoLongerWanted):
        scripted(script, monkeypatch).write_while(lambda: False, "delete", "x")
    assert len(script.asked) == 1


def test_a_refusal_that_came_from_the_host_before_blames_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread comes late: another one has left that host already."""
    def handler(request: requests.PreparedRequest) -> Any:
        if request.method == "POST" and "//a:" in str(request.url):
            session._go_to(1)
            return respond(500, {"data": None}, "cluster not ready - no quorum?")
        return respond(200, {"data": [{"type": "cluster", "quorate": 0}]})

    session = scripted(handler, monkeypatch, ("a", "b"))
    with pytest.raises(errors.PveError, match="no quorum") as caught:
        session.write_once("post", "nodes", "n1", "qemu", 100, "snapshot")
    assert caught.value.elsewhere and session.quorum.lost is None and session.quorum.warnings == []


def test_a_run_that_is_ended_while_it_asks_for_quorum_keeps_the_guest_s_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    def handler(request: requests.PreparedRequest) -> Any:
        if request.method == "POST":
            stopped.append("SIGTERM")
            return respond(500, {"data": None}, "cluster not ready - no quorum?")
        return respond(429, {"data": None}, "slow down")

    session = scripted(handler, monkeypatch)
    session.obey(lambda: stopped[0] if stopped else None)
    with pytest.raises(errors.PveError, match="no quorum"):
        session.write_once("post", "nodes", "n1", "qemu", 100, "snapshot")


def test_what_is_owed_is_sent_though_quorum_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in a guest needs none."""
    session = scripted(lambda request: respond(200, {"data": {"pid": 1}}), monkeypatch)
    session.quorum.lost = errors.NoQuorum("no quorum")
    with pytest.raises(errors.NoQuorum):
        session.write("post", "nodes", "n1", "qemu", 100, "snapshot")
    assert session.write_regardless("post", "nodes", "n1", "qemu", 100, "agent", "exec") == {"pid": 1}
