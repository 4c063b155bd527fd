# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A run as Prometheus metrics, for the textfile collector of node_exporter."""

from __future__ import annotations

import pathlib
from typing import Any, Dict, Mapping, Sequence

from ansible.errors import AnsibleFilterError
from ansible_collections.pve.autosnap.plugins.filter.digest import LEVELS, held
from ansible_collections.pve.autosnap.plugins.module_utils.files import regular_file
from ansible_collections.pve.autosnap.plugins.module_utils.text import cleaned

try:
    import prometheus_client
    import prometheus_client.parser
except ImportError:
    prometheus_client = None

LAST_SUCCESS = "pve_autosnap_last_success_timestamp_seconds"
COMMON = ("cluster", "job_name")


def metrics(result: Mapping[str, Any], digest: Mapping[str, Any], path: str) -> str:
    """The metrics of one job. The file that C(path) names is the one of its last run: it tells the last success.

    Times are Unix seconds of the control node, those of snapshots are C(snaptime)s; there are no ages, which would grow old in
    the file.
    """
    if prometheus_client is None:
        raise AnsibleFilterError(
            "'autosnap_metrics_file' needs the Python library 'prometheus_client' on the control node; install it beside "
            "ansible-core (pip install prometheus_client)")
    result, digest = cleaned(result), cleaned(digest)
    registry = _Registry(digest["cluster"], digest["job_name"])
    add = registry.add
    add("last_run_timestamp_seconds", "When the last run ended.", digest["time"])
    add("max_run_age_seconds", "How old the last run may be.", digest["max_run_age"])
    add("last_run_success", "Whether the last run was green.", int(not digest["failed"]))
    success = digest["time"] if not digest["failed"] else _last_success(path)
    if success is not None:
        add("last_success_timestamp_seconds", "When the last green run ended.", success)
    add("last_run_duration_seconds", "How long the last run took.", digest["duration"])
    add("last_run_api_calls", "API calls of the last run.", digest["api_calls"])
    add("status", "0 all is well, 1 something needs a look, 2 somebody must act.", LEVELS.index(digest["status"]))
    add("guests_matched", "Guests that the last run was about.", digest["summary"].get("matched", 0))
    add("guests_red", "Guests that are not as they should be.", digest["red"])
    for status, count in digest["summary"].items():
        if status not in ("snapshots", "matched"):
            add("guests", "Guests by what the last run came to.", count, status=status)
    for health, count in digest["health"].items():
        add("guests_by_health", "Guests by health, where something is expected of them.", count, health=health)
    add("broken_snapshots", "Snapshots that were left half made or half deleted.", len(result.get("broken") or []))
    for guest in result.get("guests") or []:
        _guest(registry, guest)
    for storage in result.get("storages") or []:
        labels = {"storage": storage["storage"], "node": "" if storage["shared"] else storage["node"]}
        if storage["percent"] is not None:
            add("storage_used_ratio", "How full a storage is.", storage["percent"] / 100, **labels)
        add("storage_ok", "Whether a storage is within the limits for snapshots.", int(storage["ok"]), **labels)
    return registry.text()


def _guest(registry: _Registry, guest: Mapping[str, Any]) -> None:
    who = {"vmid": str(guest["vmid"]), "guest": guest["name"]}
    if guest.get("health") is not None:
        registry.add("guest_ok", "Whether a guest has what is expected of it.", int(guest["health"] == "ok"), **who,
                     health=guest["health"])
    for of_label in held(guest):
        registry.add("guest_snapshots", "Whole snapshots of a guest and label.", of_label["count"], **who,
                     label=of_label["label"])
        registry.add("guest_newest_snapshot_timestamp_seconds", "When the newest whole snapshot of a guest and label was made.",
                     of_label["newest"], **who, label=of_label["label"])


class _Registry:
    """Gauges that are made when the first value comes."""

    def __init__(self, cluster: str, job_name: str) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._gauges: Dict[str, Any] = {}
        self._common = dict(zip(COMMON, (cluster, job_name)))

    def add(self, name: str, text: str, value: float, **labels: str) -> None:
        """A value; every one of a name has the same labels."""
        if name not in self._gauges:
            self._gauges[name] = prometheus_client.Gauge(
                "pve_autosnap_" + name, text, [*COMMON, *labels], registry=self._registry)
        self._gauges[name].labels(**self._common, **labels).set(value)

    def text(self) -> str:
        """The text format of Prometheus."""
        return str(prometheus_client.generate_latest(self._registry).decode())


def _last_success(path: str) -> float | None:
    """What the file of the last run says; None where there is none, or one that cannot be read."""
    try:
        text = regular_file(str(pathlib.Path(path).expanduser())).decode()
        families: Sequence[Any] = list(prometheus_client.parser.text_string_to_metric_families(text))
    except (OSError, ValueError):
        return None
    return next((sample.value for family in families for sample in family.samples if sample.name == LAST_SUCCESS), None)


class FilterModule:
    """The filter of this file."""

    def filters(self) -> Dict[str, Any]:
        """Name and function."""
        return {"metrics": metrics}
