"""The figures as a table for a terminal, for Markdown, as JSON and as a picture."""

from __future__ import annotations

import json
import math
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from bench.measure import Sample

Results = Mapping[str, Sequence[Sample]]
"""The samples of each contender, one per round."""


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of the table: its name in a sample, its heading, and how many of its unit make one shown."""

    figure: str
    heading: str
    scale: float
    digits: int


COLUMNS = (
    Column("tcp1_out_bps", "TCP 1 → Gbit/s", 1e9, 2),
    Column("tcp1_in_bps", "TCP 1 ← Gbit/s", 1e9, 2),
    Column("tcp4_out_bps", "TCP 4 → Gbit/s", 1e9, 2),
    Column("tcp4_in_bps", "TCP 4 ← Gbit/s", 1e9, 2),
    Column("udp_flood_pps", "UDP 64 B flood kpkt/s", 1e3, 0),
    Column("udp_clean_pps", "UDP 64 B < 1 % loss kpkt/s", 1e3, 0),
    Column("rtt_idle_p50_s", "RTT idle p50 µs", 1e-6, 0),
    Column("rtt_idle_p99_s", "RTT idle p99 µs", 1e-6, 0),
    Column("rtt_loaded_p50_s", "RTT loaded p50 ms", 1e-3, 2),
    Column("rtt_loaded_p99_s", "RTT loaded p99 ms", 1e-3, 2),
    Column("cpu_send_s_per_gb", "CPU send s/GB", 1, 2),
    Column("cpu_receive_s_per_gb", "CPU receive s/GB", 1, 2),
    Column("rss_bytes", "RSS MB", 1e6, 0),
)


@dataclass(frozen=True, slots=True)
class Bars:
    """One panel of the picture."""

    figure: str
    title: str
    scale: float
    digits: int


PANELS = (
    Bars("tcp1_out_bps", "TCP, one stream (Gbit/s, more is better)", 1e9, 1),
    Bars("udp_clean_pps", "64-byte UDP under 1 % loss (kpkt/s, more is better)", 1e3, 0),
    Bars("rtt_loaded_p99_s", "RTT p99 under load (ms, less is better)", 1e-3, 1),
    Bars("cpu_send_s_per_gb", "CPU seconds per GB sent (less is better)", 1, 1),
)


def medians(results: Results) -> dict[str, Sample]:
    """Reduce each contender's rounds to the median of every figure."""
    return {
        name: {figure: statistics.median(s[figure] for s in samples) for figure in samples[0]}
        for name, samples in results.items()
        if samples
    }


def circumstances(argv: Sequence[str]) -> dict[str, str | int]:
    """Say where, when and how the figures were taken."""
    return {
        "command": "scripts/bench " + " ".join(argv),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cores": len([line for line in _cpuinfo() if line.startswith("processor")]),
        "python": sys.version.split()[0],
    }


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()


def _cpu_model() -> str:
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _cells(sample: Sample) -> list[str]:
    return [_cell(sample[c.figure] / c.scale, c) if c.figure in sample else "–" for c in COLUMNS]


def _cell(value: float, column: Column) -> str:
    daemonless = column.figure.startswith(("cpu_", "rss_")) and value == 0
    return "–" if daemonless else f"{value:.{column.digits}f}"


def text_table(middle: Mapping[str, Sample]) -> str:
    """Write the table for a terminal: one line per figure, one column per contender."""
    rows = [["", *middle]]
    cells = [_cells(sample) for sample in middle.values()]
    rows += [[column.heading, *(c[i] for c in cells)] for i, column in enumerate(COLUMNS)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)])
        for row in rows
    )


def markdown_table(middle: Mapping[str, Sample]) -> str:
    """Write the same table in Markdown."""
    lines = ["| | " + " | ".join(middle) + " |", "|---|" + "---:|" * len(middle)]
    cells = [_cells(sample) for sample in middle.values()]
    lines += [f"| {column.heading} | " + " | ".join(c[i] for c in cells) + " |" for i, column in enumerate(COLUMNS)]
    return "\n".join(lines)


def json_report(results: Results, where: Mapping[str, str | int], missing: Mapping[str, str]) -> str:
    """Write everything, each round included."""
    report = {"where": where, "medians": medians(results), "rounds": results, "missing": missing}
    return json.dumps(report, indent=1)


WIDTH, BAR, GAP, LEFT, HEAD = 920, 20, 7, 110, 34
"""Pixels: the picture, a bar, between bars, the names, and a panel's title."""

PANEL_WIDTH = WIDTH // 2
STYLE = """
 text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600}.v{fill:#57606a;font-size:12px}
 .f{font-size:11px;fill:#57606a}.bar{fill:#b6c2cf}.own{fill:#0f7b6c}.wire{fill:#dfe5ea}.bg{fill:#fff}
 @media(prefers-color-scheme:dark){text{fill:#e6edf3}.v,.f{fill:#9aa7b4}.bg{fill:#0d1117}.bar{fill:#57636f}
 .own{fill:#2fb8a3}.wire{fill:#30383f}}
"""


def svg(middle: Mapping[str, Sample], where: Mapping[str, str | int]) -> str:
    """Draw four panels of bars, f2ftun's own in colour."""
    panel_height = HEAD + len(middle) * (BAR + GAP) + 20
    height = panel_height * ((len(PANELS) + 1) // 2) + 40
    body = [_panel(bars, middle, (i % 2) * PANEL_WIDTH, 16 + (i // 2) * panel_height) for i, bars in enumerate(PANELS)]
    foot = (
        f"{where['date']} · {where['cpu']}, {where['cores']} cores · Linux {where['kernel']} · both ends on one machine"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n'
        f"<title>f2ftun beside other VPNs</title><style>{STYLE}</style>\n"
        f'<rect class="bg" width="{WIDTH}" height="{height}" rx="8"/>\n'
        + "\n".join(body)
        + f'\n<text class="f" x="20" y="{height - 14}">{escape(foot)}</text>\n</svg>\n'
    )


def _panel(bars: Bars, middle: Mapping[str, Sample], x: int, y: int) -> str:
    lines = [f'<g transform="translate({x},{y})"><text class="t" x="20" y="18">{escape(bars.title)}</text>']
    tunnels = [sample[bars.figure] for name, sample in middle.items() if name != "veth" and bars.figure in sample]
    full = max(tunnels, default=1.0) * 1.15 or 1.0
    shown = [(name, s[bars.figure]) for name, s in middle.items() if bars.figure in s and s[bars.figure] > 0]
    for row, (name, value) in enumerate(shown):
        lines.append(_bar(name, value, full, f"{value / bars.scale:.{bars.digits}f}", HEAD + row * (BAR + GAP)))
    return "\n".join([*lines, "</g>"])


def _bar(name: str, value: float, full: float, label: str, y: int) -> str:
    room = PANEL_WIDTH - LEFT - 80
    length = max(2.0, min(1.0, value / full) * room)
    kind = {"f2ftun": "own", "veth": "wire"}.get(name, "bar")
    cut = f'<path class="bg" d="M{LEFT + length - 26:.1f},{y + BAR} l8,-{BAR} h6 l-8,{BAR} z"/>' if value > full else ""
    return (
        f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="3"/>{cut}'
        f'<text class="v" x="{LEFT + length + 6:.1f}" y="{y + 15}">{label}</text>'
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """One figure of a node by itself: its name, how it is shown, and the most or least it is to be, if that is said."""

    figure: str
    heading: str
    unit: str
    scale: float
    digits: int
    at_most: float | None = None
    at_least: float | None = None

    def shown(self, value: float) -> str:
        """Write a value in its unit."""
        return f"{value / self.scale:.{self.digits}f} {self.unit}".rstrip()

    def wanted(self) -> str:
        """Write what the value is to be."""
        if self.at_most is not None:
            return f"≤ {self.shown(self.at_most)}"
        return f"≥ {self.shown(self.at_least)}" if self.at_least is not None else ""

    def verdict(self, value: float) -> str:
        """Say whether a value is as it is to be."""
        if self.at_most is None and self.at_least is None:
            return ""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return "yes" if low <= value <= high else "NO"


def gathered(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Collect all values of each figure."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        for figure, value in sample.items():
            found.setdefault(figure, []).append(value)
    return found


def mark_rows(found: Mapping[str, Sequence[float]], marks: Sequence[Mark]) -> list[list[str]]:
    """Write one row per figure that was taken: median, range, what it is to be, whether it is."""
    rows = [["", "median", "range", "wanted", "reached"]]
    for mark in (mark for mark in marks if mark.figure in found):
        values, middle = found[mark.figure], statistics.median(found[mark.figure])
        spread = f"{min(values) / mark.scale:.{mark.digits}f} … {mark.shown(max(values))} of {len(values)}"
        rows.append([mark.heading, mark.shown(middle), spread, mark.wanted(), mark.verdict(middle)])
    return rows


def text_rows(rows: Sequence[Sequence[str]]) -> str:
    """Write rows for a terminal."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """Write rows in Markdown, the first as the heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---|" * (len(rows[0]) - 1), *lines[1:]])
