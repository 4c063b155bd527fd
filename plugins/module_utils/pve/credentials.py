# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Who we are to the cluster, and what must never be shown."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator, Optional, Tuple
from urllib.parse import quote

HIDDEN = "********"
HIDE_FROM = 16  # characters: a shorter text may stand in any answer, and to hide it there would spoil the answer


@dataclass(frozen=True)
class Credentials:
    """Either a token or a user with a password; secrets never show in the repr."""

    user: str
    password: Optional[str] = field(default=None, repr=False)
    otp: Optional[str] = field(default=None, repr=False)
    token_id: Optional[str] = None
    token_secret: Optional[str] = field(default=None, repr=False)

    @property
    def secrets(self) -> Tuple[str, ...]:
        """Those of the user's secrets that are set."""
        return tuple(text for text in (self.password, self.otp, self.token_secret) if text)


class Secrets:
    """The user's secrets, and those that the server handed out since (law 12). Safe to share between threads."""

    def __init__(self, given: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._all: Tuple[str, ...] = tuple(given)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def add(self, *texts: str) -> None:
        """From now on these are secrets too."""
        with self._lock:
            self._all += tuple(text for text in texts if text and text not in self._all)

    def hidden(self, text: str, shortest: int = HIDE_FROM) -> str:
        """The text without the secrets of at least so many characters, as they are and as in an address."""
        for secret in self._all:
            if len(secret) >= shortest:
                text = text.replace(secret, HIDDEN).replace(quote(secret, safe=""), HIDDEN)
        return text

    def hidden_bytes(self, body: bytes) -> bytes:
        """The same for a body before it is read: a server may echo what it was sent."""
        for secret in self._all:
            if len(secret) >= HIDE_FROM:
                for form in (secret, quote(secret, safe="")):
                    body = body.replace(form.encode(), HIDDEN.encode())
        return body

    def hidden_in(self, value: Any) -> Any:
        """The same for decoded JSON, whose texts may have been written with escapes."""
        if isinstance(value, str):
            return self.hidden(value)
        if isinstance(value, list):
            return [self.hidden_in(item) for item in value]
        if isinstance(value, dict):
            return {key: self.hidden_in(item) for key, item in value.items()}
        return value
