# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages about a run: what is said, and the request that each service wants. C(ansible.builtin.uri) sends them."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Mapping

from ansible_collections.pve.autosnap.plugins.module_utils.text import cleaned, one_line

WORDS = {"ok": "is well", "warning": "needs a look", "critical": "is critical"}
PRIORITIES = {"ok": 2, "warning": 4, "critical": 5}
LINES = 12
TEXT_MAX = 1500
COUNTS_MAX = 300
BREAK = "\u200b"  # nobody sees it, and what it stands in is no mention and no link any more
_LIVE = re.compile(r"(?<=[@&])|(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)
_MARKUP = re.compile(r"([\\`*_\[\]()<>#|~!]|\A[-+])")


def message_due(digest: Mapping[str, Any], notify: Mapping[str, Any]) -> bool:
    """Whether somebody is to be told of a run: always, of warnings and failures, or of failures."""
    least = {"always": ("ok", "warning", "critical"), "warning": ("warning", "critical")}
    return digest["status"] in least.get(notify.get("when") or "", ("critical",))


def message_subject(digest: Mapping[str, Any]) -> str:
    """One line for people."""
    words = "FAILED" if digest.get("failed") else WORDS[digest["status"]]
    return one_line("pve.autosnap: {0} of {1} {2}".format(digest["job_name"], digest["cluster"], words))


def message_text(digest: Mapping[str, Any], link: str = "") -> str:
    """A text short enough for a phone: problems first, then numbers and the link, which are never cut off."""
    return "\n".join([*_said(digest, len(link)), *([link] if link else [])])


def _said(digest: Mapping[str, Any], reserved: int = 0) -> List[str]:
    """The lines of a text, all but the link, which takes C(reserved) characters."""
    problems = ["{0}: {1}".format(_who(problem), _short("{0} ({1})".format(problem["status"], problem["reason"])))
                for problem in digest["problems"]]
    numbers = {**digest["summary"], **digest["health"]}
    counts = ", ".join("{0} {1}".format(count, name) for name, count in numbers.items() if count)
    end = [_short(counts or digest["message"], COUNTS_MAX), "took {0:.0f} s".format(digest["duration"])]
    room = TEXT_MAX - sum(len(line) + 1 for line in end) - reserved
    shown: List[str] = []
    while len(shown) < min(LINES, len(problems)) and room > len(problems[len(shown)]) + 20:
        room -= len(problems[len(shown)]) + 1
        shown.append(problems[len(shown)])
    if len(shown) < len(problems):
        shown.append("and {0} more".format(len(problems) - len(shown)))
    return [*shown, *end]


def _who(problem: Mapping[str, Any]) -> str:
    node = "on " + _short(problem["node"], 64) if problem["node"] else ""
    parts = [_short(str(problem["vmid"] or ""), 20), _short(problem["name"], 40), node]
    return " ".join(part for part in parts if part) or "the run"


def _short(text: str, most: int = 120) -> str:
    text = " ".join(one_line(text).split())
    return text if len(text) <= most else text[:most - 3] + "..."


def message_requests(digest: Mapping[str, Any], notify: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The requests for every service in C(notify): C(name), C(url), C(headers) and a C(body) for JSON."""
    link = str(notify.get("link") or "")
    made = []
    for name, build in _SERVICES.items():
        settings = notify.get(name)
        if settings and settings.get("url"):
            made.append({"name": name, "headers": {}, **build(settings, digest, link)})
    return made


def _webhook(settings: Mapping[str, Any], digest: Mapping[str, Any], link: str) -> Dict[str, Any]:
    return {"url": settings["url"], "headers": dict(settings.get("headers") or {}),
            "body": {"title": message_subject(digest), "text": message_text(digest, link), **cleaned(digest)}}


def _ntfy(settings: Mapping[str, Any], digest: Mapping[str, Any], link: str) -> Dict[str, Any]:
    """The body of its JSON interface names the topic; the address is that of the server."""
    server, _slash, topic = str(settings["url"]).rstrip("/").rpartition("/")
    return {
        "url": server, "headers": _bearer(settings.get("token")),
        "body": {"topic": topic, "title": message_subject(digest), "message": message_text(digest, link),
                 "priority": PRIORITIES[digest["status"]]}}


def _gotify(settings: Mapping[str, Any], digest: Mapping[str, Any], link: str) -> Dict[str, Any]:
    return {
        "url": str(settings["url"]).rstrip("/") + "/message", "headers": {"X-Gotify-Key": str(settings.get("token") or "")},
        "body": {"title": message_subject(digest), "message": message_text(digest, link),
                 "priority": PRIORITIES[digest["status"]]}}


def _slack(settings: Mapping[str, Any], digest: Mapping[str, Any], link: str) -> Dict[str, Any]:
    """Three characters mean something to Slack."""
    plain = "{0}\n{1}".format(message_subject(digest), message_text(digest, link))
    return {"url": settings["url"], "body": {"text": plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}}


def _mattermost(settings: Mapping[str, Any], digest: Mapping[str, Any], link: str) -> Dict[str, Any]:
    """Markdown; the link alone is one."""
    said = [message_subject(digest), *_said(digest, len(link))]
    return {"url": settings["url"], "body": {"text": "\n".join([*map(unmarked, said), *([link] if link else [])])}}


def _teams(settings: Mapping[str, Any], digest: Mapping[str, Any], link: str) -> Dict[str, Any]:
    """An adaptive card, as the workflows of Teams take it; its texts are Markdown, and the link alone is one."""
    blocks = [{"type": "TextBlock", "text": unmarked(message_subject(digest)), "weight": "Bolder", "wrap": True},
              *({"type": "TextBlock", "text": line, "wrap": True, "spacing": "None"}
                for line in [*map(unmarked, _said(digest, len(link))), *([link] if link else [])])]
    card = {"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
            "body": blocks}
    return {"url": settings["url"], "body": {
        "type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}]}}


def unmarked(line: str) -> str:
    """A line of Markdown for a chat that shows the text as it is: nobody is called, nothing leads or loads."""
    return _MARKUP.sub(r"\\\1", _LIVE.sub(BREAK, line))


def _bearer(token: Any) -> Dict[str, str]:
    return {"Authorization": "Bearer {0}".format(token)} if token else {}


_SERVICES: Dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], str], Dict[str, Any]]] = {
    "webhook": _webhook, "ntfy": _ntfy, "gotify": _gotify, "slack": _slack, "mattermost": _mattermost, "teams": _teams}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        """Name and function of each."""
        return {
            "message_due": message_due, "message_subject": message_subject, "message_text": message_text,
            "message_requests": message_requests}
