# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages about a run: what is said, and the request that each service wants. C(ansible.builtin.uri) sends them."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping

WORDS = {"ok": "is well", "warning": "needs a look", "critical": "is critical"}
PRIORITIES = {"ok": 2, "warning": 4, "critical": 5}
LINES = 12
TEXT_MAX = 1500


def message_due(digest: Mapping[str, Any], notify: Mapping[str, Any]) -> bool:
    """Whether somebody is to be told of a run: always, of warnings and failures, or of failures."""
    least = {"always": ("ok", "warning", "critical"), "warning": ("warning", "critical")}
    return digest["status"] in least.get(notify.get("when") or "", ("critical",))


def message_subject(digest: Mapping[str, Any]) -> str:
    """One line for people."""
    words = "FAILED" if digest.get("failed") else WORDS[digest["status"]]
    return "pve.autosnap: {0} of {1} {2}".format(digest["job_name"], digest["cluster"], words)


def message_text(digest: Mapping[str, Any], link: str = "") -> str:
    """A text short enough for a phone: problems first, then numbers and the link, which are never cut off."""
    problems = ["{0}: {1}".format(_who(problem), _short("{0} ({1})".format(problem["status"], problem["reason"])))
                for problem in digest["problems"]]
    numbers = {**digest["summary"], **digest["health"]}
    counts = ", ".join("{0} {1}".format(count, name) for name, count in numbers.items() if count)
    end = [counts or digest["message"], "took {0:.0f} s".format(digest["duration"]), *([link] if link else [])]
    room = TEXT_MAX - sum(len(line) + 1 for line in end)
    shown: List[str] = []
    while len(shown) < min(LINES, len(problems)) and room > len(problems[len(shown)]) + 20:
        room -= len(problems[len(shown)]) + 1
        shown.append(problems[len(shown)])
    if len(shown) < len(problems):
        shown.append("and {0} more".format(len(problems) - len(shown)))
    return "\n".join([*shown, *end])


def _who(problem: Mapping[str, Any]) -> str:
    parts = [str(problem["vmid"] or ""), _short(problem["name"], 40), "on " + problem["node"] if problem["node"] else ""]
    return " ".join(part for part in parts if part) or "the run"


def _short(text: str, most: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most - 3] + "..."


def message_requests(digest: Mapping[str, Any], notify: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The requests for every service in C(notify): C(name), C(url), C(headers) and a C(body) for JSON."""
    subject, text = message_subject(digest), message_text(digest, str(notify.get("link") or ""))
    made = []
    for name, build in _SERVICES.items():
        settings = notify.get(name)
        if settings and settings.get("url"):
            made.append({"name": name, "headers": {}, **build(settings, subject, text, digest)})
    return made


def _webhook(settings: Mapping[str, Any], subject: str, text: str, digest: Mapping[str, Any]) -> Dict[str, Any]:
    return {"url": settings["url"], "headers": dict(settings.get("headers") or {}),
            "body": {"title": subject, "text": text, **digest}}


def _ntfy(settings: Mapping[str, Any], subject: str, text: str, digest: Mapping[str, Any]) -> Dict[str, Any]:
    """The body of its JSON interface names the topic; the address is that of the server."""
    server, _slash, topic = str(settings["url"]).rstrip("/").rpartition("/")
    return {
        "url": server, "headers": _bearer(settings.get("token")),
        "body": {"topic": topic, "title": subject, "message": text, "priority": PRIORITIES[digest["status"]]}}


def _gotify(settings: Mapping[str, Any], subject: str, text: str, digest: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "url": str(settings["url"]).rstrip("/") + "/message", "headers": {"X-Gotify-Key": str(settings.get("token") or "")},
        "body": {"title": subject, "message": text, "priority": PRIORITIES[digest["status"]]}}


def _slack(settings: Mapping[str, Any], subject: str, text: str, _digest: Mapping[str, Any]) -> Dict[str, Any]:
    """Three characters mean something to Slack and Mattermost alike."""
    plain = "{0}\n{1}".format(subject, text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"url": settings["url"], "body": {"text": plain}}


def _teams(settings: Mapping[str, Any], subject: str, text: str, _digest: Mapping[str, Any]) -> Dict[str, Any]:
    """An adaptive card, as the workflows of Teams take it."""
    blocks = [{"type": "TextBlock", "text": subject, "weight": "Bolder", "wrap": True},
              *({"type": "TextBlock", "text": line, "wrap": True, "spacing": "None"} for line in text.split("\n"))]
    card = {"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
            "body": blocks}
    return {"url": settings["url"], "body": {
        "type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}]}}


def _bearer(token: Any) -> Dict[str, str]:
    return {"Authorization": "Bearer {0}".format(token)} if token else {}


_SERVICES: Dict[str, Callable[[Mapping[str, Any], str, str, Mapping[str, Any]], Dict[str, Any]]] = {
    "webhook": _webhook, "ntfy": _ntfy, "gotify": _gotify, "slack": _slack, "mattermost": _slack, "teams": _teams}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        """Name and function of each."""
        return {
            "message_due": message_due, "message_subject": message_subject, "message_text": message_text,
            "message_requests": message_requests}
