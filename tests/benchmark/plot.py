# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The results as a picture: time against guests, each tool a line, and what can at best be reached."""

from __future__ import annotations

import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter

COLOURS = {
    "pve.autosnap": "#1f6fb4", "community.proxmox 50 forks": "#d95f02", "community.proxmox loop": "#a6761d",
    "sequential script": "#7570b3"}


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Left: all tools on four nodes. Right: ours on 1, 4 and 16 nodes beside the lower bound."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 7), constrained_layout=True)
    for tool, colour in COLOURS.items():
        for limits, style in (("default", "-"), ("open", ":")):
            shown = _chosen(rows, tool, 4, limits)
            if shown:
                left.plot(
                    [r["guests"] for r in shown], [r["wall_s"] for r in shown], style if tool == "pve.autosnap" else "-",
                    marker="o", color=colour, label=_label(tool, limits))
    left.set_title("One snapshot made and one pruned per guest, 4 nodes")
    for nodes, colour in ((1, "#1b9e77"), (4, "#1f6fb4"), (16, "#e7298a")):
        shown = _chosen(rows, "pve.autosnap", nodes, "default")
        guests = [r["guests"] for r in shown]
        name = "{0} node{1}".format(nodes, "" if nodes == 1 else "s")
        right.plot(guests, [r["wall_s"] - r["startup_s"] for r in shown], marker="o", color=colour, label=name)
        right.plot(guests, [r["lower_bound_s"] for r in shown], "--", color=colour, alpha=0.6, label=name + ", lower bound")
    right.set_title("pve.autosnap, shipped limits, without start-up")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("guests")
        axes.set_ylabel("seconds")
        axes.grid(True, which="both", alpha=0.25)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ScalarFormatter())
        axes.legend(fontsize=9, ncols=1 if axes is left else 2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.savefig(path, dpi=110)


def _label(tool: str, limits: str) -> str:
    if tool == "pve.autosnap":
        return "{0}, {1}".format(tool, "shipped limits" if limits == "default" else "50 per node")
    return tool + (" (does not wait for deletes)" if tool.startswith("community") else "")


def _chosen(rows: list[dict[str, Any]], tool: str, nodes: int, limits: str) -> list[dict[str, Any]]:
    return sorted(
        (row for row in rows if (row["tool"], row["nodes"], row["limits"]) == (tool, nodes, limits)),
        key=lambda row: int(row["guests"]))
