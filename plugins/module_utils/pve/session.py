# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""One session with a Proxmox VE cluster: what is repeated, who is asked next, and every failure as a typed error.

What proxmoxer and requests lack is added here and in transport.py: several hosts with failover, retries of reads, the
server's own message, answers that are not the API's, and a count of the calls.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import random
import re
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple
from urllib.parse import quote

from . import errors, transport
from .credentials import Credentials, Secrets
from .quorum import Quorum
from .ticket import TicketAuth
from .ticket import origin as _origin
from .transport import OWED, PROXMOXER_ERROR, READ, REQUESTS_ERROR, WRITE

try:
    if PROXMOXER_ERROR is not None:
        raise ImportError("proxmoxer")
    import requests
    from proxmoxer.backends.https import ProxmoxHTTPApiTokenAuth
    from proxmoxer.core import ProxmoxResource, ResourceException
except ImportError:
    _MISSING = traceback.format_exc()

CONNECT_TIMEOUT = 5.0
ATTEMPTS = 7
CHECK_ATTEMPTS = 3  # to read the nodes of a host met in mid-run
SLOW_ATTEMPTS = 3  # in a row, each of which took api_timeout while the node answered nobody
ALIVE_MEMORY = 5.0  # seconds that an API host which answered is taken for alive
RETRY_FIRST = 0.25
RETRY_MAX = 5.0
NAP = 0.5  # seconds between two looks at whether the run ends, during a pause
RETRY_AFTER_MAX = 60.0  # seconds that a server may ask us to wait; where it wants more, the call fails
OWED_MAX = 60.0  # seconds, or twice api_timeout, that what is owed after the end of a run may take with all its tries
NODE_STATUS = frozenset((595, 596, 597, 598, 599))
NODE_MEMORY = 60.0  # seconds that a node which did not answer is asked once instead of ATTEMPTS times
GATEWAY_STATUS = frozenset((502, 503, 504))
NOT_SENT_STATUS = 595  # api-facts 5.2: the connection to the target was never made
NO_WORKER = "got no worker upid"  # api-facts 4.1: the fork failed, nothing runs
TASK_LIST_LOCK = re.compile(r"/tasks/\.active\.lock' - got timeout")  # api-facts 4.1: the task may run
LOOKUP_FAILED = re.compile(r"^(?:hostname lookup '[^']*' failed|address lookup for '[^']*' did not find)")  # recordings 495, 498
DATES = (946684800, 32503680000)  # Unix seconds, 2000 to 3000: a Date header outside of it tells no time


@dataclass(frozen=True)
class Answer:
    """The ``data`` of an answer, and ``total`` where the list is paged."""

    data: Any
    total: Optional[int] = None


class _Serializer:
    """What proxmoxer asks to decode bodies; keeps ``message``, ``total`` and the server's clock."""

    def __init__(self, clock: _ServerClock, secrets: Secrets) -> None:
        self._clock = clock
        self._secrets = secrets

    def get_accept_types(self) -> str:
        """The Accept header."""
        return "application/json"

    def loads(self, response: Any) -> Answer:
        """An Answer; NotProxmox for a body that is not the API's (a proxy's page, a login form)."""
        self._clock.read(response.headers.get("Date"))
        try:
            body = self._decoded(response)
            total = body.get("total")
            return Answer(body["data"], total if isinstance(total, int) else None)
        except Exception:
            raise errors.NotProxmox(
                "{0} did not answer as a Proxmox VE API does; do api_host and api_port name one?".format(
                    _origin(response.url)),
                response.status_code,
            ) from None

    def loads_errors(self, response: Any) -> Dict[str, Any]:
        """``body`` of a refusal, {} where it is empty or not JSON (api-facts 1.3), and its ``retry_after``."""
        self._clock.read(response.headers.get("Date"))
        try:
            body = self._decoded(response)
        except Exception:
            body = {}
        return {"body": body if isinstance(body, dict) else {}, "retry_after": response.headers.get("Retry-After")}

    def _decoded(self, response: Any) -> Any:
        body = json.loads(response.content.decode("utf-8"))
        return self._secrets.hidden_in(body) if b"\\" in response.content else body


class _ServerClock:
    """The API host's own clock, from the Date header of its last answer."""

    def __init__(self) -> None:
        self._offset: Optional[float] = None

    def read(self, date: Optional[str]) -> None:
        """Take the time of an answer."""
        if not date:
            return
        try:
            parsed = email.utils.parsedate_to_datetime(date).timestamp()
        except Exception:
            return
        if DATES[0] <= parsed <= DATES[1]:
            self._offset = parsed - time.monotonic()

    def now(self) -> int:
        """Unix seconds; this machine's clock where no answer told the time."""
        return int(time.time() if self._offset is None else self._offset + time.monotonic())


def base_url(host: str, default_port: int) -> str:
    """The API's address of ``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or a bare IPv6 address."""
    if host.count(":") > 1 and not host.startswith("["):
        host = "[{0}]".format(host)
    match = re.match(r"\A(\[[^\]]+\]|[^:/\s]+)(?::([0-9]+))?\Z", host)
    if not match:
        raise ValueError(host)
    return "https://{0}:{1}/api2/json".format(match.group(1), match.group(2) or default_port)


class _Kind(NamedTuple):
    """What a call is to the thread that cuts calls, and when its time is up at the latest (monotonic seconds)."""

    name: str
    until: float

    @property
    def reading(self) -> _Kind:
        """The kind of the reads and logins that go with it."""
        return _Kind(READ, self.until) if self.name == WRITE else self


# What a failover target's failure to tell its nodes may mean beside "no host of this cluster".
STAY_AS_THEY_ARE = (
    errors.HostUnreachable, errors.AuthenticationFailed, errors.UntrustedCertificate, errors.Interrupted, errors.NoThread)


class Session:
    """Calls to one cluster. Safe to share between threads.

    ``hosts`` are tried in order. ``verify`` is True, False or the path of a CA file. ``timeout`` is
    the time in seconds that an answer may take.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        port: int,
        credentials: Credentials,
        verify: Any = True,
        timeout: float = 30.0,
        user_agent: str = "pve.autosnap",
        sleep: Callable[[float], None] = time.sleep,
        secrets: Optional[Secrets] = None,
    ) -> None:
        for missing, library in ((REQUESTS_ERROR, "requests"), (PROXMOXER_ERROR, "proxmoxer")):
            if missing is not None:
                raise errors.DependencyMissing(
                    "the Python library '{0}' is missing; install it for the interpreter that runs this module "
                    "(pip install {0})".format(library))
        self.clock = _ServerClock()
        self._sleep = sleep
        self._lock = threading.Lock()
        self._calls = 0
        self._current = 0
        self._expected: Optional[frozenset[str]] = None
        self._first_host = ""
        self._verified: Set[int] = set()
        self._silent: Dict[str, float] = {}
        self._alive_at: Dict[int, float] = {}
        self._answered_at: Dict[str, float] = {}
        self._quorum_lock = threading.Lock()
        self._stopped: Callable[[], Optional[str]] = lambda: None
        self._bases = [base_url(host, port) for host in hosts]
        self.quorum = Quorum(
            self.hosts, lambda index, *path: self._steadily(index, _Kind(READ, float("inf")), *path).data)
        self._secrets = secrets or Secrets(credentials.secrets)
        self._wire = transport.Calls(timeout)
        waits = (min(CONNECT_TIMEOUT, timeout), timeout)
        http = transport.http_session(user_agent, _adapter(self._wire, self._secrets))
        self._ticket_auth: Optional[TicketAuth] = None
        if credentials.token_id is None:
            http.auth = self._ticket_auth = TicketAuth(credentials, self._secrets, http, verify, waits)
        else:
            http.auth = ProxmoxHTTPApiTokenAuth(
                credentials.user, credentials.token_id, credentials.token_secret, verify_ssl=verify, timeout=waits)
        serializer = _Serializer(self.clock, self._secrets)
        self._resources = [
            ProxmoxResource(base_url=base, session=http, serializer=serializer) for base in self._bases
        ]

    @property
    def calls(self) -> int:
        """API calls sent so far, retries and logins' own calls not counted apart."""
        return self._calls

    @property
    def host(self) -> str:
        """``host:port`` of the API host in use."""
        return _place(self._bases[self._current])

    @property
    def hosts(self) -> List[str]:
        """``host:port`` of every API host."""
        return [_place(base) for base in self._bases]

    def expect_nodes(self, names: Sequence[str]) -> None:
        """From now on a host that does not know exactly these nodes is refused (law 15)."""
        self._expected = frozenset(names)
        self._verified = {self._current}
        self._first_host = self.host

    def prefer_quorum(self) -> bool:
        """Go over to an API host whose cluster has quorum, where that in use has none. For the start of a run, where many nodes
        are shown as offline. True when another one is used from now on."""
        return self._go_to(self.quorum.better_than(self._current))

    def doubt_quorum(self, node: str, text: str, asked: Optional[int] = None) -> bool:
        """After a write that a node refused for lack of quorum: leave the API host, where it has none either, for the next one.

        True when that was done, also by another thread since ``asked`` was the host in use.
        """
        with self._quorum_lock, contextlib.suppress(errors.Interrupted):
            if asked is not None and asked != self._current:
                return True
            return self._go_to(self.quorum.after_refusal(self._current, node, text))
        return False

    def _go_to(self, index: Optional[int]) -> bool:
        if index is not None:
            with self._lock:
                self._current = index
        return index is not None

    def obey(self, stopped: Callable[[], Optional[str]]) -> None:
        """From now on no call is sent while ``stopped`` gives a reason, and those under way are cut: Interrupted."""
        self._stopped = self._wire.stopped = stopped

    def read_once(self, *path: object, **params: Any) -> Answer:
        """GET that is not repeated, for what is asked again anyway; errors as read()."""
        return self._call("get", path, params)

    def read(self, *path: object, **params: Any) -> Answer:
        """GET; retried on lost connections, 595, 596, 599 and gateway errors, on the next host if there is one.

        Raises a PveError: HostUnreachable when no host answers, NodeUnreachable when the target node
        does not.
        """
        return self._repeated(path, lambda: self._call("get", path, params), _read_may_repeat)

    def write(self, method: str, *path: object, **params: Any) -> Any:
        """POST or DELETE; returns the data (a UPID).

        Sent again only where it is certain that nothing ran: no connection, 595, ``got no worker
        upid`` (api-facts 4.1). LostWrite when it may have run.
        """
        return self._repeated(path, lambda: self._call(method, path, params), _write_may_repeat).data

    def write_regardless(self, method: str, *path: object, **params: Any) -> Any:
        """As write(), sent also when the run has to end: for what must be put back in order. Up to owed_seconds long."""
        until = time.monotonic() + self.owed_seconds
        return self._repeated(path, lambda: self._call(method, path, params, until), _write_may_repeat, until).data

    def read_regardless(self, *path: object, **params: Any) -> Answer:
        """As read(), for what is owed when the run has to end. Up to owed_seconds long."""
        until = time.monotonic() + self.owed_seconds
        return self._repeated(path, lambda: self._call("get", path, params, until), _read_may_repeat, until)

    @property
    def owed_seconds(self) -> float:
        """How long write_regardless() may take."""
        return max(OWED_MAX, 2 * self._wire.timeout) + CONNECT_TIMEOUT

    def write_while(self, still: Callable[[], bool], method: str, *path: object, **params: Any) -> Any:
        """As write(); before it is sent again ``still`` must say that it is still wanted, else NoLongerWanted (law 5)."""
        def look() -> None:
            if not still():
                raise errors.NoLongerWanted("it is not as it was any more")

        return self._repeated(path, lambda: self._call(method, path, params), _write_may_repeat, before_again=look).data

    def write_once(self, method: str, *path: object, **params: Any) -> Any:
        """As write(), never sent again, for what must be looked at anew before (law 6)."""
        return self._call(method, path, params).data

    def _repeated(
        self, path: Tuple[object, ...], call: Callable[[], Answer], may_repeat: Callable[[errors.PveError], bool],
        until: float = float("inf"), before_again: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Repeat a call with a growing pause while its failure allows it, ATTEMPTS times at the most.

        A node that stayed silent through that is asked only once for a while: its other guests must not
        hold up those of the living nodes. With ``until`` (monotonic seconds) the end of the run does not matter.
        What ``before_again`` raises is not repeated: it has repeats of its own.
        """
        node = _node_of(path)
        attempt = hanging = slow = 0
        while True:
            began = time.monotonic()
            try:
                answer = call()
                self._silent.pop(node, None)
                self._answered_at[node] = time.monotonic()
                return answer
            except errors.PveError as error:
                attempt += 1
                away = isinstance(error, errors.NodeUnreachable)
                silent = away and time.monotonic() - self._silent.get(node, -NODE_MEMORY) < NODE_MEMORY
                hangs = isinstance(error, errors.NodeSlow) and self._answered_at.get(node, began - 1) < began
                hanging = hanging + 1 if hangs else 0
                slow += isinstance(error, errors.NodeSlow)
                pause = _pause_after(error, attempt)
                late = time.monotonic() + pause > until
                if attempt == ATTEMPTS or slow == SLOW_ATTEMPTS or silent or late or not may_repeat(error):
                    # A node that answered others meanwhile is not silent: it is this guest that it hangs on.
                    if away and (slow < SLOW_ATTEMPTS or hanging == SLOW_ATTEMPTS):
                        self._silent[node] = time.monotonic()
                    raise
            self._rest(pause, owed=until != float("inf"))
            before_again()

    def _rest(self, seconds: float, owed: bool) -> None:
        """Sleep, but not through the end of the run."""
        while seconds > 0:
            reason = None if owed else self._stopped()
            if reason is not None:
                raise errors.Interrupted(reason)
            self._sleep(min(seconds, NAP))
            seconds -= NAP

    def _call(
        self, method: str, path: Tuple[object, ...], params: Dict[str, Any], until: Optional[float] = None
    ) -> Answer:
        """One call, what it means for the choice of hosts, and no secret in its failure; owed where it has ``until``."""
        reason = None if until is not None else self._stopped()
        if reason is not None:
            raise errors.Interrupted(reason)
        # What is owed is sent all the same: a command in a guest needs no quorum.
        if method != "get" and until is None and self.quorum.lost is not None:
            raise self.quorum.lost
        kind = _Kind(OWED if until is not None else READ if method == "get" else WRITE, until or float("inf"))
        index, node = self._current, _node_of(path)
        try:
            self._check_cluster(index, kind.reading)
            return self._send(index, method, path, params, kind)
        except (errors.HostUnreachable, errors.LostWrite) as error:
            error.hide(self._secrets.hidden)
            if error.status is not None and error.status not in GATEWAY_STATUS:
                if node not in error.message:
                    error.say("node {0} may have carried it out, and did not answer: {1}".format(node, error.message))
                raise
            if not error.refused and node and self._alive(index, kind.reading):
                if isinstance(error, errors.HostUnreachable):
                    slow = error.slow or error.status is not None
                    raise (errors.NodeSlow if slow else errors.NodeBroken)(
                        "node {0} does not answer: {1}".format(node, error.message), error.status) from error
                raise
            self._fail_over(index)
            raise
        except errors.PveError as error:
            error.hide(self._secrets.hidden)
            if isinstance(error, errors.NodeUnreachable) and node not in error.message:
                error.say("node {0} does not answer: {1}".format(node, error.message))
            if error.kind == errors.QUORUM and not error.uncertain and until is None:
                error.elsewhere = self.doubt_quorum(node, error.message, index)
            raise

    def _alive(self, index: int, kind: _Kind) -> bool:
        """True when the API host itself answers: then it is the node behind it that does not (law 9)."""
        if time.monotonic() - self._alive_at.get(index, -ALIVE_MEMORY) < ALIVE_MEMORY:
            return True
        try:
            self._send(index, "get", ("version",), {}, kind)
        except errors.Interrupted:
            return True
        except (errors.HostUnreachable, errors.NotProxmox):
            return False
        except errors.PveError:
            pass  # a refusal is an answer
        self._alive_at[index] = time.monotonic()
        return True

    def _fail_over(self, index: int) -> None:
        """Go to the next host, but to none without quorum."""
        with self._lock:
            others = [(index + step) % len(self._bases) for step in range(1, len(self._bases))]
            good = [other for other in others if not self.quorum.known_without(other)]
            if self._current == index and good:
                self._current = good[0]

    def _check_cluster(self, index: int, kind: _Kind) -> None:
        """Law 15: a host met in mid-run must know the nodes seen at the start."""
        if self._expected is None or index in self._verified:
            return
        try:
            answer = self._steadily(index, kind, "nodes")
            names = errors.understood("its nodes", lambda: frozenset(str(node["node"]) for node in answer.data))
        except errors.PveError as error:
            if isinstance(error, STAY_AS_THEY_ARE):
                raise
            raise errors.ClusterChanged(
                "after a failover from {0} to {1} it cannot be told whether they are of one cluster: {2}; api_host must list "
                "hosts of one cluster only".format(self._first_host, _place(self._bases[index]), error.message)) from error
        if names != self._expected:
            raise errors.ClusterChanged(
                "after a failover {1} shows the nodes {2}, but the run began on {0} with {3}; api_host must list hosts of "
                "one cluster only".format(
                    self._first_host, _place(self._bases[index]), ", ".join(sorted(names)), ", ".join(sorted(self._expected))))
        self._verified.add(index)

    def _steadily(self, index: int, kind: _Kind, *path: str) -> Answer:
        """What one host says; what may pass, such as 429 or a node behind it that is away, is tried again."""
        attempt = 0
        while True:
            try:
                return self._send(index, "get", path, {}, kind)
            except errors.PveError as error:
                attempt += 1
                passing = isinstance(error, (errors.RateLimited, errors.NodeUnreachable)) or error.status == 500
                pause = _pause_after(error, attempt)
                if not passing or attempt == CHECK_ATTEMPTS or pause > RETRY_AFTER_MAX or time.monotonic() + pause > kind.until:
                    raise
            self._rest(pause, owed=kind.name == OWED)

    def _send(self, index: int, method: str, path: Tuple[object, ...], params: Dict[str, Any], kind: _Kind) -> Answer:
        """One request to one host, its failure as a typed error; a refused ticket is renewed once."""
        auth = self._ticket_auth
        if auth is None:
            return self._request(index, method, path, params, kind)
        ticket = self._login(index, auth.ensure, kind)
        try:
            return self._request(index, method, path, params, kind)
        except errors.AuthenticationFailed:
            if not self._login(index, lambda base: auth.refused(base, ticket), kind):
                raise
            return self._request(index, method, path, params, kind)

    def _login(self, index: int, log_in: Callable[[str], Any], kind: _Kind) -> Any:
        """What the ticket's keeper says; it sends nothing but logins, which may be cut as reads are."""
        try:
            with self._wire.call(*kind.reading):
                return log_in(self._bases[index])
        except transport.RequestFailed as error:
            raise self._not_sent(index, error, kind) from error

    def _request(self, index: int, method: str, path: Tuple[object, ...], params: Dict[str, Any], kind: _Kind) -> Answer:
        parts = [quote(str(part), safe="") for part in path]
        if not all(part.strip(".") for part in parts):
            # A path that a name from the server would turn into another one, such as the guest itself.
            raise errors.PveError("the path {0} holds a part that no API path has".format("/".join(parts)))
        resource = self._resources[index](parts)
        values = {key: int(value) if isinstance(value, bool) else value for key, value in params.items()}
        place = _origin(self._bases[index])
        with self._lock:
            self._calls += 1
        sent: Optional[transport.Call] = None
        try:
            with self._wire.call(*kind) as sent:
                answer = getattr(resource, method)(**values)
        except ResourceException as error:
            raise _typed(error, method, self._secrets) from None
        except transport.RequestFailed as error:
            failed = self._not_sent(index, error, kind)
            refused = _never_sent(error) and not (sent and sent.requested)
            if method != "get" and not refused:
                failed = errors.LostWrite("the answer of {0} was lost: {1}".format(place, _cause(error)))
            failed.slow = isinstance(error, requests.exceptions.ReadTimeout)
            failed.refused = refused
            raise failed from error
        except errors.NotProxmox as error:
            if method != "get":
                raise errors.LostWrite(error.message, error.status) from error
            raise
        except errors.PveError:
            raise
        except Exception as error:
            # http.client names the whole header that it refuses, which may be the secret (law 12): no text of it is shown.
            if isinstance(error, ValueError) and not (sent and sent.handle):
                raise errors.PveError("the request could not be made: a header holds a character that is not allowed") from None
            odd = errors.LostWrite if method != "get" else errors.NotProxmox
            raise odd("the answer of {0} was not understood: {1}".format(place, type(error).__name__)) from None
        if not isinstance(answer, Answer):
            odd = errors.LostWrite if method != "get" else errors.NotProxmox
            raise odd("{0} did not answer as a Proxmox VE API does".format(place))
        return answer

    def _not_sent(self, index: int, error: Exception, kind: _Kind) -> errors.PveError:
        """A failure of the connection, by what it means for the run."""
        origin = _origin(self._bases[index])
        reason = None if kind.name == OWED else self._stopped()
        if reason is not None:
            return errors.Interrupted(reason)
        if isinstance(error, (requests.exceptions.TooManyRedirects, requests.exceptions.ContentDecodingError)):
            return errors.NotProxmox("{0}: {1}".format(origin, error.args[0] if error.args else "no answer of the API"))
        text = _cause(error)
        if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text:
            return errors.UntrustedCertificate(
                "the certificate of {0} is not trusted ({1}); ca_path must hold the CA that signed it (for "
                "Proxmox VE's own certificates a copy of /etc/pve/pve-root-ca.pem of a node of this cluster); validate_certs: "
                "false goes without".format(origin, text))
        return errors.HostUnreachable("{0} does not answer: {1}".format(origin, text))


def _adapter(calls: transport.Calls, secrets: Secrets) -> Any:
    """In one place, so that tests can put another transport here."""
    return transport.adapter(calls, secrets)


def _node_of(path: Sequence[object]) -> str:
    """The node that a path is about; an empty text where it is about none."""
    return str(path[1]) if path[0] == "nodes" and len(path) > 1 else ""


def _place(base: str) -> str:
    """``host:port`` of an API address."""
    return _origin(base)[len("https://"):]


def _pause_after(error: errors.PveError, attempt: int) -> float:
    """Seconds until the next try; a server may say how long."""
    if isinstance(error, errors.RateLimited) and error.retry_after:
        return error.retry_after
    backed_off: float = min(RETRY_MAX, RETRY_FIRST * 2 ** (attempt - 1)) * random.uniform(0.7, 1.3)
    return backed_off


def _cause(error: BaseException) -> str:
    """The innermost sentence of a chain of connection errors, which hold no request data."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _cause(reason)
    if error.args and isinstance(error.args[0], BaseException):
        return _cause(error.args[0])
    if len(error.args) > 1 and isinstance(error.args[1], BaseException):
        return _cause(error.args[1])
    return "{0}: {1}".format(type(error).__name__, error)


def _never_sent(error: BaseException) -> bool:
    """True when no byte of the request can have reached the server."""
    if isinstance(error, (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError)):
        return True
    names = {type(part).__name__ for part in _chain(error)}
    return bool(names & {"NewConnectionError", "ConnectTimeoutError", "NameResolutionError", "SSLCertVerificationError"})


def _chain(error: BaseException) -> List[BaseException]:
    found: List[BaseException] = []
    todo: List[Any] = [error]
    while todo:
        part = todo.pop()
        if isinstance(part, BaseException) and part not in found:
            found.append(part)
            todo += [getattr(part, "reason", None), *part.args]
    return found


def _read_may_repeat(error: errors.PveError) -> bool:
    """A node name that does not resolve will not do so in the next seconds."""
    if isinstance(error, errors.RateLimited):
        return error.retry_after <= RETRY_AFTER_MAX
    if isinstance(error, errors.NodeUnreachable):
        return error.status is not None or isinstance(error, (errors.NodeSlow, errors.NodeBroken))
    return isinstance(error, errors.HostUnreachable) or error.elsewhere


def _write_may_repeat(error: errors.PveError) -> bool:
    return _read_may_repeat(error) or NO_WORKER in error.message


def _typed(error: Any, method: str, secrets: Secrets) -> errors.PveError:
    """A ResourceException as one of our errors; the body's message is preferred to the reason phrase."""
    told = error.errors if isinstance(error.errors, dict) else {}
    body: Dict[str, Any] = told.get("body") or {}
    status = error.status_code
    reason = errors.bounded(secrets.hidden(str(error.content or "")))
    message = errors.bounded(str(body.get("message") or reason)).strip() or "HTTP status {0}".format(status)
    given = body.get("errors")
    fields = {str(k): str(v).strip() for k, v in given.items()} if isinstance(given, dict) else {}
    if fields:
        message = "{0} {1}".format(message, "; ".join("{0}: {1}".format(k, v) for k, v in sorted(fields.items())))
    writing = method != "get"
    if status == 401:
        return errors.AuthenticationFailed(
            "the API refused the credentials ({0}); check the token or user, and whether it is expired or disabled"
            .format(message), status)
    if status == 403:
        return errors.PermissionDenied(message, status, fields)
    if status == 429:
        return errors.RateLimited("the API answers with 429 {0}".format(message), told.get("retry_after"))
    if status == 400:
        return errors.BadParameter(message, status, fields)
    if LOOKUP_FAILED.search(message):
        return errors.NodeUnreachable(message)
    if status in NODE_STATUS:
        if writing and status != NOT_SENT_STATUS:
            return errors.LostWrite("{0} {1}".format(status, message), status)
        return errors.NodeUnreachable("{0} {1}".format(status, message), status)
    if status in GATEWAY_STATUS:
        lost = errors.LostWrite if writing else errors.HostUnreachable
        return lost("{0} {1}".format(status, message), status)
    if writing and status == 500 and (TASK_LIST_LOCK.search(message) or not body and not reason):
        return errors.LostWrite("{0} {1}".format(status, message), status)
    return errors.PveError(message, status, fields)
