"""The plots: drawn from the results as JSON has them, so that an earlier run can be drawn again."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Colours that people with any kind of colour vision tell apart (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY, SKY, PINK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7F7F7F", "#56B4E9", "#CC79A7"
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "ixy_vfio",
    "savefig.bbox": "tight",
    "savefig.facecolor": "white",
}
MARKS = {"forward": (BLUE, "o"), "gcc -O3": (RED, "s"), "gcc -O3 LTO": (ORANGE, "^"), "gcc -O2": (PINK, "v")}


def draw(results: dict[str, Any], directory: Path) -> list[str]:
    """SVG and PNG of every plot that the results have the numbers for; returns their names."""
    drawn = []
    with plt.rc_context(STYLE):
        plots: dict[str, Callable[[dict[str, Any]], Any]] = {
            "performance-throughput": throughput,
            "performance-latency": latency,
            "performance-cost": cost,
        }
        for name, plot in plots.items():
            figure = plot(results)
            if figure is None:
                continue
            drawing = directory / f"{name}.svg"
            figure.savefig(drawing, metadata={"Date": None})
            drawing.write_text(small(drawing.read_text(encoding="utf-8")), encoding="utf-8")
            figure.savefig(directory / f"{name}.png", dpi=110)
            plt.close(figure)
            drawn.append(name)
    return drawn


def small(text: str) -> str:
    """The same SVG with two decimals in its paths and a line an element."""

    def path(found: re.Match[str]) -> str:
        words = " ".join(found[1].split())
        return 'd="' + re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", words) + '"'

    return re.sub(r">\s+<", ">\n<", re.sub(r'\bd="([^"]*)"', path, re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)))


def _rows(results: dict[str, Any], experiment: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row["experiment"] == experiment]


def _speeds(rows: list[dict[str, Any]], side: str) -> tuple[list[int], list[float], list[float], list[float]]:
    mine = [row for row in rows if row["side"] == side]
    low, median, high = ([1000 / row["ns"][which] for row in mine] for which in ("high", "median", "low"))
    return [row["batch"] for row in mine], low, median, high


def throughput(results: dict[str, Any]) -> Any:
    """Packets a second over the batch size, measured; beside it what others have published."""
    rows = _rows(results, "batch")
    if not rows:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(2, 1), layout="constrained")
    for side in dict.fromkeys(row["side"] for row in rows):
        colour, mark = MARKS.get(side, (GREY, "d"))
        batches, low, median, high = _speeds(rows, side)
        label = "ixy_vfio forward (Python)" if side == "forward" else f"ixy's way in C ({side})"
        left.plot(batches, median, mark + "-", color=colour, label=label, linewidth=2 if side == "forward" else 1.4)
        left.fill_between(batches, low, high, color=colour, alpha=0.15, linewidth=0)
    batches = sorted({row["batch"] for row in rows})
    left.set_xscale("log", base=2)
    left.set_xticks(batches, [str(batch) for batch in batches])
    left.minorticks_off()
    left.set(
        xlabel="batch size", ylabel="packets [Mpps]", title="Measured: driver's part alone, model NIC", ylim=(0, None)
    )
    left.legend(loc="best")
    published = results["published"]["mpps"]
    names = sorted(published, key=lambda name: float(published[name]))
    values = [published[name] for name in names]
    right.barh(names, values, color=GREY, alpha=0.65)
    for name, value in zip(names, values, strict=True):
        inside = value > 15
        place = {"x": value - 0.5 if inside else value + 0.5, "ha": "right" if inside else "left"}
        right.text(y=name, s=f"{value:g}", va="center", fontsize=9, color="white" if inside else "black", **place)
    right.axvline(29.76, color=RED, linewidth=1, linestyle="--")
    right.text(30.2, 0, "line rate", color=RED, fontsize=9, rotation=90, ha="left", va="bottom")
    right.grid(axis="y", visible=False)
    right.set(xlim=(0, 34), xlabel="packets [Mpps]", title="Published: 82599, batch 32")
    figure.supxlabel(results["published"]["source"], fontsize=8, color=GREY, ha="right", x=0.99)
    return figure


def latency(results: dict[str, Any]) -> Any:
    """The share of packets that took longer, at each load."""
    runs = results["latency"].get("runs", [])
    if not runs:
        return None
    loads = sorted({run["load"] for run in runs})
    figure, axes = plt.subplots(1, len(loads), figsize=(11, 4.2), sharey=True, sharex=True, layout="constrained")
    for axis, load in zip(axes, loads, strict=True):
        for run in (run for run in runs if run["load"] == load):
            colour, _ = MARKS.get(run["side"], (GREY, "d"))
            points = [(x, y) for x, y in run["ccdf"] if y > 0]
            label = "ixy_vfio forward" if run["side"] == "forward" else f"C ({run['side']})"
            axis.step(*zip(*points, strict=True), where="post", color=colour, label=f"{label}, {run['mpps']:.0f} Mpps")
        axis.set(xscale="log", yscale="log", xlabel="latency [ns]", title=f"{load:.0%} load", ylim=(5e-7, 1.2))
        axis.legend(loc="best", fontsize=9)
    axes[0].set_ylabel("share of packets that took longer")
    axes[0].set_yticks([10.0**-i for i in range(7)], ["1", "10%", "1%", "0.1%", "0.01%", "0.001%", "0.0001%"])
    return figure


def cost(results: dict[str, Any]) -> Any:
    """What kernels cost, and what safety costs, at batch 32."""
    parts = [
        ("Kernels, batch 32", [row for row in _rows(results, "kernel") if row["batch"] == 32], GREEN),
        (
            "Safety, batch 32",
            [row for row in _rows(results, "safety") + _rows(results, "sealing") if row["batch"] == 32],
            BLUE,
        ),
        ("Ways to forward, batch 32", _ways(results), ORANGE),
    ]
    parts = [part for part in parts if part[1]]
    if not parts:
        return None
    figure, axes = plt.subplots(1, len(parts), figsize=(3.9 * len(parts), 3.4), layout="constrained", squeeze=False)
    for axis, (title, rows, colour) in zip(axes[0], parts, strict=True):
        names = [_wrapped(row["side"]) for row in rows][::-1]
        values = [row["ns"]["median"] for row in rows][::-1]
        bars = axis.barh(names, values, color=colour, alpha=0.85)
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=9)
        if max(values) > 30 * min(values):
            axis.set_xscale("log")
        axis.margins(x=0.18)
        axis.grid(axis="y", visible=False)
        axis.set(title=title, xlabel="ns a packet")
    return figure


def _ways(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in _rows(results, "python") if row["batch"] == 32]


def _wrapped(name: str) -> str:
    """On two lines where it is long."""
    words = name.split(" ")
    half = (len(words) + 1) // 2
    return name if len(name) < 15 else " ".join(words[:half]) + "\n" + " ".join(words[half:])
