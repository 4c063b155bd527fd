# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""One session with a Proxmox VE cluster: proxmoxer over requests, its weaknesses made good.

What is added here: several hosts with failover, retries of reads, a blocking connection pool that
does not reuse what idled too long, ticket renewal under a lock, typed errors with the server's own
message, answers that are not JSON, and a count of the calls.
"""

from __future__ import annotations

import email.utils
import json
import random
import re
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple
from urllib.parse import quote

from . import errors

try:
    import requests
    import urllib3

    REQUESTS_ERROR: Optional[str] = None
except ImportError:
    REQUESTS_ERROR = traceback.format_exc()

try:
    # The https backend of proxmoxer ends the process on import where requests is missing.
    if REQUESTS_ERROR is not None:
        raise ImportError("requests")
    from proxmoxer.backends.https import ProxmoxHTTPApiTokenAuth, ProxmoxHttpSession
    from proxmoxer.core import ProxmoxResource, ResourceException

    PROXMOXER_ERROR: Optional[str] = None
except ImportError:
    PROXMOXER_ERROR = traceback.format_exc()

POOL_SIZE = 64  # connections are opened as they are needed; who finds none free waits
IDLE_MAX = 3.0  # seconds; Proxmox VE closes after 5 (api-facts 6)
CONNECT_TIMEOUT = 5.0
ATTEMPTS = 7
SLOW_ATTEMPTS = 3  # in a row, each of which took api_timeout while the node answered nobody
ALIVE_MEMORY = 5.0  # seconds that an API host which answered is taken for alive
RETRY_FIRST = 0.25
RETRY_MAX = 5.0
TICKET_RENEW_AGE = 3600.0  # half of a ticket's life (api-facts 1.1)
NODE_STATUS = frozenset((595, 596, 597, 598, 599))
NODE_MEMORY = 60.0  # seconds that a node which did not answer is asked once instead of ATTEMPTS times
GATEWAY_STATUS = frozenset((502, 503, 504))
NOT_SENT_STATUS = 595  # api-facts 5.2: the connection to the target was never made
NO_WORKER = "got no worker upid"  # api-facts 4.1: the fork failed, nothing runs
TASK_LIST_LOCK = re.compile(r"/tasks/\.active\.lock' - got timeout")  # api-facts 4.1: the task may run
LOOKUP_FAILED = re.compile(r"^(?:hostname lookup '.*' failed|address lookup for '.*' did not find)")  # recordings 495, 498


@dataclass(frozen=True)
class Credentials:
    """Either a token or a user with a password; secrets never show in the repr."""

    user: str
    password: Optional[str] = field(default=None, repr=False)
    otp: Optional[str] = field(default=None, repr=False)
    token_id: Optional[str] = None
    token_secret: Optional[str] = field(default=None, repr=False)


@dataclass(frozen=True)
class Answer:
    """The ``data`` of an answer, and ``total`` where the list is paged."""

    data: Any
    total: Optional[int] = None


class _Serializer:
    """What proxmoxer asks to decode bodies; keeps ``message``, ``total`` and the server's clock."""

    def __init__(self, clock: _ServerClock) -> None:
        self._clock = clock

    def get_accept_types(self) -> str:
        """The Accept header."""
        return "application/json"

    def loads(self, response: Any) -> Answer:
        """An Answer; NotProxmox for a body that is not the API's (a proxy's page, a login form)."""
        self._clock.read(response.headers.get("Date"))
        try:
            body = json.loads(response.content.decode("utf-8"))
            return Answer(body["data"], body.get("total"))
        except (ValueError, KeyError, TypeError):
            raise errors.NotProxmox(
                "{0} did not answer as a Proxmox VE API does; do api_host and api_port name one?".format(
                    _origin(response.url)),
                response.status_code,
            ) from None

    def loads_errors(self, response: Any) -> Dict[str, Any]:
        """``errors`` and ``message`` of a refusal; {} where the body is empty or not JSON (api-facts 1.3)."""
        self._clock.read(response.headers.get("Date"))
        try:
            body = json.loads(response.content.decode("utf-8"))
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}


def _origin(url: str) -> str:
    return "/".join(url.split("/")[:3])


class _ServerClock:
    """The API host's own clock, from the Date header of its last answer."""

    def __init__(self) -> None:
        self._offset: Optional[float] = None

    def read(self, date: Optional[str]) -> None:
        """Take the time of an answer."""
        if not date:
            return
        try:
            parsed = email.utils.parsedate_to_datetime(date)
        except (TypeError, ValueError):
            return
        self._offset = parsed.timestamp() - time.monotonic()

    def now(self) -> int:
        """Unix seconds; this machine's clock where no answer told the time."""
        return int(time.time() if self._offset is None else self._offset + time.monotonic())


class _TicketAuth:
    """Log in with a password; renew the ticket under a lock, so that threads do it once."""

    def __init__(self, credentials: Credentials, verify: Any, timeout: Any) -> None:
        self.verify_ssl = verify
        self.timeout = timeout
        self._credentials = credentials
        self._lock = threading.Lock()
        self._ticket = ""
        self._csrf = ""
        self._born = 0.0

    def get_cookies(self) -> Any:
        """The cookies of a request, as proxmoxer's session asks for them."""
        jar: Any = requests.cookies
        return jar.cookiejar_from_dict({"PVEAuthCookie": self._ticket})

    def __call__(self, request: Any) -> Any:
        if request.method != "GET":
            request.headers["CSRFPreventionToken"] = self._csrf
        return request

    def ensure(self, base_url: str) -> str:
        """Log in or renew where needed; returns the ticket in force."""
        with self._lock:
            if not self._ticket:
                self._login(base_url)
            elif time.monotonic() - self._born > TICKET_RENEW_AGE:
                self._renew(base_url)
            return self._ticket

    def refused(self, base_url: str, ticket: str) -> bool:
        """A ticket got 401: log in again unless another thread did. False when that cannot help."""
        with self._lock:
            if self._ticket == ticket:
                self._login(base_url)
            return self._ticket != ticket

    def _renew(self, base_url: str) -> None:
        """The old ticket is a password for the next hour (api-facts 1.1); the password is the way back."""
        try:
            self._take(self._post(base_url, password=self._ticket))
        except errors.AuthenticationFailed:
            self._login(base_url)

    def _login(self, base_url: str) -> None:
        answer = self._post(base_url, password=self._credentials.password)
        if answer.get("NeedTFA"):
            if not self._credentials.otp:
                raise errors.AuthenticationFailed(
                    "user '{0}' needs a second factor; use an API token (api_token_id and api_token_secret), or "
                    "give the code as api_otp".format(self._credentials.user), 401)
            answer = self._post(
                base_url, password="totp:" + self._credentials.otp, **{"tfa-challenge": answer["ticket"]})
        self._take(answer)

    def _take(self, answer: Dict[str, Any]) -> None:
        self._ticket = answer["ticket"]
        self._csrf = answer["CSRFPreventionToken"]
        self._born = time.monotonic()

    def _post(self, base_url: str, **data: Any) -> Dict[str, Any]:
        response = requests.post(
            base_url + "/access/ticket",
            data=dict(data, username=self._credentials.user),
            verify=self.verify_ssl,
            timeout=self.timeout,
        )
        if response.status_code == 200:
            try:
                answer = response.json()["data"]
                if "ticket" in answer:
                    return dict(answer)
            except (ValueError, KeyError, TypeError):
                pass
            raise errors.NotProxmox("{0} did not answer a login as a Proxmox VE API does".format(_origin(base_url)), 200)
        if response.status_code in (400, 401):
            raise errors.AuthenticationFailed(
                "{0} refused the login of '{1}'; check api_user (with its realm, such as @pve or @pam) and "
                "api_password".format(_origin(base_url), self._credentials.user), response.status_code)
        if response.status_code in NODE_STATUS | GATEWAY_STATUS | {500}:
            raise requests.exceptions.ConnectionError(
                "login answered {0} {1}".format(response.status_code, response.reason))
        raise errors.PveError(
            "login answered {0} {1}".format(response.status_code, response.reason), response.status_code)


def base_url(host: str, default_port: int) -> str:
    """The API's address of ``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or a bare IPv6 address."""
    if host.count(":") > 1 and not host.startswith("["):
        host = "[{0}]".format(host)
    match = re.match(r"\A(\[[^\]]+\]|[^:/\s]+)(?::(\d+))?\Z", host)
    if not match:
        raise ValueError(host)
    return "https://{0}:{1}/api2/json".format(match.group(1), match.group(2) or default_port)


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
        self._verified: Set[int] = set()
        self._silent: Dict[str, float] = {}
        self._alive_at: Dict[int, float] = {}
        self._answered_at: Dict[str, float] = {}
        self._stopped: Callable[[], Optional[str]] = lambda: None
        self._bases = [base_url(host, port) for host in hosts]
        self._auth = self._authenticator(credentials, verify, (min(CONNECT_TIMEOUT, timeout), timeout))
        self._ticket_auth = self._auth if isinstance(self._auth, _TicketAuth) else None
        http = ProxmoxHttpSession()
        http.auth = self._auth
        http.headers.update({"User-Agent": user_agent, "Accept": "application/json"})
        http.mount("https://", _adapter())
        serializer = _Serializer(self.clock)
        self._resources = [
            ProxmoxResource(base_url=base, session=http, serializer=serializer) for base in self._bases
        ]

    @staticmethod
    def _authenticator(credentials: Credentials, verify: Any, timeout: Any) -> Any:
        if credentials.token_id is None:
            return _TicketAuth(credentials, verify, timeout)
        return ProxmoxHTTPApiTokenAuth(
            credentials.user, credentials.token_id, credentials.token_secret, verify_ssl=verify, timeout=timeout)

    @property
    def calls(self) -> int:
        """API calls sent so far, retries and logins' own calls not counted apart."""
        return self._calls

    @property
    def host(self) -> str:
        """``host:port`` of the API host in use."""
        return _origin(self._bases[self._current])[len("https://"):]

    @property
    def hosts(self) -> List[str]:
        """``host:port`` of every API host."""
        return [_origin(base)[len("https://"):] for base in self._bases]

    def expect_nodes(self, names: Sequence[str]) -> None:
        """From now on a host that does not know exactly these nodes is refused (law 15)."""
        self._expected = frozenset(names)
        self._verified = {self._current}

    def obey(self, stopped: Callable[[], Optional[str]]) -> None:
        """From now on no call is sent while ``stopped`` gives a reason: Interrupted instead."""
        self._stopped = stopped

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
        """As write(), sent also when the run has to end: for what must be put back in order."""
        return self._repeated(path, lambda: self._call(method, path, params, regardless=True), _write_may_repeat).data

    def write_once(self, method: str, *path: object, **params: Any) -> Any:
        """As write(), never sent again, for what must be looked at anew before (law 6)."""
        return self._call(method, path, params).data

    def _repeated(
        self, path: Tuple[object, ...], call: Callable[[], Answer], may_repeat: Callable[[errors.PveError], bool]
    ) -> Answer:
        """Repeat a call with a growing pause while its failure allows it, ATTEMPTS times at the most.

        A node that stayed silent through that is asked only once for a while: its other guests must not
        hold up those of the living nodes.
        """
        node = str(path[1]) if path[0] == "nodes" and len(path) > 1 else ""
        attempt = hanging = 0
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
                if attempt == ATTEMPTS or hanging == SLOW_ATTEMPTS or silent or not may_repeat(error):
                    if away:
                        self._silent[node] = time.monotonic()
                    raise
            self._back_off(attempt)

    def _back_off(self, attempt: int) -> None:
        self._sleep(min(RETRY_MAX, RETRY_FIRST * 2 ** (attempt - 1)) * random.uniform(0.7, 1.3))

    def _call(self, method: str, path: Tuple[object, ...], params: Dict[str, Any], regardless: bool = False) -> Answer:
        reason = None if regardless else self._stopped()
        if reason is not None:
            raise errors.Interrupted(reason)
        index = self._current
        try:
            self._check_cluster(index)
            return self._send(index, method, path, params)
        except (errors.HostUnreachable, errors.LostWrite) as error:
            if error.status is not None and error.status not in GATEWAY_STATUS:
                raise
            slow = error.slow or error.status is not None
            if slow and path[0] == "nodes" and len(path) > 1 and self._alive(index):
                if isinstance(error, errors.HostUnreachable):
                    raise errors.NodeSlow(
                        "node {0} does not answer: {1}".format(path[1], error.message), error.status) from error
                raise
            self._fail_over(index)
            raise

    def _alive(self, index: int) -> bool:
        """True when the API host itself answers: then it is the node behind it that does not (law 9)."""
        if time.monotonic() - self._alive_at.get(index, -ALIVE_MEMORY) < ALIVE_MEMORY:
            return True
        try:
            self._send(index, "get", ("version",), {})
        except (errors.HostUnreachable, errors.NotProxmox):
            return False
        except errors.PveError:
            pass  # a refusal is an answer
        self._alive_at[index] = time.monotonic()
        return True

    def _fail_over(self, index: int) -> None:
        with self._lock:
            if self._current == index:
                self._current = (index + 1) % len(self._bases)

    def _check_cluster(self, index: int) -> None:
        """Law 15: a host met in mid-run must know the nodes seen at the start."""
        if self._expected is None or index in self._verified:
            return
        names = frozenset(str(node["node"]) for node in self._send(index, "get", ("nodes",), {}).data)
        if names != self._expected:
            raise errors.ClusterChanged(
                "after a failover {0} shows the nodes {1}, but the run began with {2}; api_host must list hosts of "
                "one cluster only".format(
                    _origin(self._bases[index]), ", ".join(sorted(names)), ", ".join(sorted(self._expected))))
        self._verified.add(index)

    def _send(self, index: int, method: str, path: Tuple[object, ...], params: Dict[str, Any]) -> Answer:
        """One request to one host, its failure as a typed error; a refused ticket is renewed once."""
        ticket = self._ensure_ticket(index)
        try:
            return self._request(index, method, path, params)
        except errors.AuthenticationFailed:
            if self._ticket_auth is None or not self._renewed(self._ticket_auth, index, ticket):
                raise
            return self._request(index, method, path, params)

    def _ensure_ticket(self, index: int) -> str:
        if self._ticket_auth is None:
            return ""
        try:
            return self._ticket_auth.ensure(self._bases[index])
        except requests.exceptions.RequestException as error:
            raise self._not_sent(index, error) from error

    def _renewed(self, auth: _TicketAuth, index: int, ticket: str) -> bool:
        try:
            return auth.refused(self._bases[index], ticket)
        except requests.exceptions.RequestException as error:
            raise self._not_sent(index, error) from error

    def _request(self, index: int, method: str, path: Tuple[object, ...], params: Dict[str, Any]) -> Answer:
        with self._lock:
            self._calls += 1
        resource = self._resources[index]([quote(str(part), safe="") for part in path])
        values = {key: int(value) if isinstance(value, bool) else value for key, value in params.items()}
        try:
            answer = getattr(resource, method)(**values)
        except ResourceException as error:
            raise _typed(error, method) from None
        except requests.exceptions.RequestException as error:
            failed = self._not_sent(index, error)
            if method != "get" and not _never_sent(error):
                failed = errors.LostWrite("the answer of {0} was lost: {1}".format(_origin(self._bases[index]), _cause(error)))
            failed.slow = isinstance(error, requests.exceptions.ReadTimeout)
            raise failed from error
        except ValueError:
            # http.client names the whole header that it refuses, which may be the secret (law 12).
            raise errors.PveError("the request could not be made: a header holds a character that is not allowed") from None
        except errors.NotProxmox as error:
            if method != "get":
                raise errors.LostWrite(error.message, error.status) from error
            raise
        if not isinstance(answer, Answer):
            raise errors.NotProxmox("{0} answered with a redirect".format(_origin(self._bases[index])))
        return answer

    def _not_sent(self, index: int, error: Exception) -> errors.PveError:
        origin = _origin(self._bases[index])
        text = _cause(error)
        if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text:
            return errors.UntrustedCertificate(
                "the certificate of {0} is not trusted ({1}); ca_path must hold the CA that signed it (for "
                "Proxmox VE's own certificates a copy of /etc/pve/pve-root-ca.pem of a node of this cluster); validate_certs: "
                "false goes without".format(origin, text))
        return errors.HostUnreachable("{0} does not answer: {1}".format(origin, text))


def _adapter() -> Any:
    class FreshPool(urllib3.HTTPSConnectionPool):
        """A connection that idled too long is closed before it is used again."""

        def _get_conn(self, timeout: Optional[float] = None) -> Any:
            connection = super()._get_conn(timeout=timeout)
            idle_since = getattr(connection, "autosnap_idle_since", None)
            if idle_since is not None and time.monotonic() - idle_since > IDLE_MAX:
                connection.close()
            return connection

        def _put_conn(self, connection: Any) -> None:
            if connection is not None:
                connection.autosnap_idle_since = time.monotonic()
            super()._put_conn(connection)

    adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=POOL_SIZE, pool_block=True)
    adapter.poolmanager.pool_classes_by_scheme = {"http": urllib3.HTTPConnectionPool, "https": FreshPool}
    return adapter


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
    if isinstance(error, errors.NodeUnreachable):
        return error.status is not None or isinstance(error, errors.NodeSlow)
    return isinstance(error, errors.HostUnreachable)


def _write_may_repeat(error: errors.PveError) -> bool:
    return _read_may_repeat(error) or NO_WORKER in error.message


def _typed(error: Any, method: str) -> errors.PveError:
    """A ResourceException as one of our errors; the body's message is preferred to the reason phrase."""
    body = error.errors if isinstance(error.errors, dict) else {}
    status = error.status_code
    reason = str(error.content or "")
    message = str(body.get("message") or reason).strip() or "HTTP status {0}".format(status)
    fields = {str(k): str(v).strip() for k, v in (body.get("errors") or {}).items()}
    if fields:
        message = "{0} {1}".format(message, "; ".join("{0}: {1}".format(k, v) for k, v in sorted(fields.items())))
    writing = method != "get"
    if status == 401:
        return errors.AuthenticationFailed(
            "the API refused the credentials ({0}); check the token or user, and whether it is expired or disabled"
            .format(message), status)
    if status == 403:
        return errors.PermissionDenied(message, status, fields)
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
