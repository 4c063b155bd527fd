# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Log in with a password: the ticket, its renewal, and the second factor."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any, Dict, Tuple

from . import errors, transport
from .credentials import HIDE_FROM, Credentials, Secrets

TICKET_RENEW_AGE = 3600.0  # half of a ticket's life (api-facts 1.1)
AWAY = frozenset((500, 502, 503, 504, 595, 596, 597, 598, 599))  # the host, or what is behind it, is not there
_HEADER = re.compile(r"\A[\x21-\x3a\x3c-\x7e]{1,8192}\Z")  # what a cookie may hold without being split


class TicketAuth(transport.NoAuth):
    """Adds the ticket to requests; renews it under a lock, so that threads do it once."""

    def __init__(self, credentials: Credentials, secrets: Secrets, http: Any, verify: Any, timeout: Any) -> None:
        super().__init__(verify, timeout)
        self._credentials = credentials
        self._secrets = secrets
        self._http = http
        self._lock = threading.Lock()
        self._ticket = ""
        self._csrf = ""
        self._born = 0.0

    def __call__(self, request: Any) -> Any:
        request.headers["Cookie"] = "PVEAuthCookie=" + self._ticket
        if request.method != "GET":
            request.headers["CSRFPreventionToken"] = self._csrf
        return request

    def ensure(self, base_url: str) -> str:
        """Log in or renew where needed; returns the ticket in force. A PveError, or what requests raises."""
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
            self._take(base_url, self._post(base_url, password=self._ticket))
        except errors.AuthenticationFailed:
            self._login(base_url)

    def _login(self, base_url: str) -> None:
        answer = self._post(base_url, password=self._credentials.password)
        if answer.get("NeedTFA"):
            if not self._credentials.otp:
                raise errors.AuthenticationFailed(
                    "user '{0}' needs a second factor; use an API token (api_token_id and api_token_secret), or "
                    "give the code as api_otp".format(self._credentials.user), 401)
            challenge = self._understood(base_url, answer, "ticket")[0]
            try:
                answer = self._post(base_url, **{"password": "totp:" + self._credentials.otp, "tfa-challenge": challenge})
            except errors.AuthenticationFailed as error:
                error.say(
                    "{0} took the password of '{1}' and refused the one-time code; check api_otp: each code is good once, for "
                    "half a minute".format(origin(base_url), self._credentials.user))
                raise
        self._take(base_url, answer)

    def _take(self, base_url: str, answer: Dict[str, Any]) -> None:
        ticket, csrf = self._understood(base_url, answer, "ticket", "CSRFPreventionToken")
        self._ticket, self._csrf, self._born = ticket, csrf, time.monotonic()

    def _understood(self, base_url: str, answer: Dict[str, Any], *names: str) -> Tuple[str, ...]:
        """Texts of a login's answer that may go into a header, secrets from now on."""
        found = tuple(str(answer.get(name) or "") for name in names)
        if not all(_HEADER.match(text) for text in found):
            raise errors.NotProxmox("{0} did not answer a login as a Proxmox VE API does".format(origin(base_url)), 200)
        # A short one, which no Proxmox VE sends, would be a mask that hides half of every result.
        self._secrets.add(*(text for text in found if len(text) >= HIDE_FROM))
        return found

    def _post(self, base_url: str, **data: Any) -> Dict[str, Any]:
        response = self._http.request(
            "POST", base_url + "/access/ticket", data={**data, "username": self._credentials.user},
            auth=transport.NoAuth(self.verify_ssl, self.timeout))
        status = response.status_code
        if status == 200:
            try:
                return dict(json.loads(response.content)["data"])
            except Exception:
                raise errors.NotProxmox(
                    "{0} did not answer a login as a Proxmox VE API does".format(origin(base_url)), 200) from None
        if status in (400, 401):
            raise errors.AuthenticationFailed(
                "{0} refused the login of '{1}'; check api_user (with its realm, such as @pve or @pam) and "
                "api_password".format(origin(base_url), self._credentials.user), status)
        text = "{0} answered a login with {1} {2}".format(
            origin(base_url), status, errors.bounded(self._secrets.hidden(str(response.reason))))
        if status == 429:
            raise errors.RateLimited(text, retry_after=response.headers.get("Retry-After"))
        if status in AWAY:
            raise errors.HostUnreachable(text)
        raise errors.PveError(text, status)


def origin(url: str) -> str:
    """``https://host:port`` of an address."""
    return "/".join(url.split("/")[:3])
