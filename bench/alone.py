"""The command `scripts/bench --node`: what one node takes and bears, by itself.

Each part runs in namespaces of its own, through the real command line and daemon. Figures are medians over the repeats
of one run, beside what they are to be.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import crowd, life, report, siege
from bench.lab import BenchError, Yard, yard
from bench.life import Effort
from bench.measure import Sample
from bench.report import Mark

FULL = Effort(repeats=5, idle_s=20.0, settle_s=60.0, stream_s=4, crowd=4000, tries=8)
QUICK = Effort(repeats=1, idle_s=2.0, settle_s=1.0, stream_s=1, crowd=200, tries=1)
RATES = (10_000.0,)

MB, MS, PERCENT = 1e6, 1e-3, 1e-2
LIFE_MARKS = (
    Mark("up_s", "`up` until the TUN answers", "s", 1, 2, at_most=1.5),
    Mark("down_s", "`down`", "s", 1, 2, at_most=1.0),
    Mark("first_ping_s", "first ping, no session before", "ms", MS, 1, at_most=0.050),
    Mark("recovery_s", "friend killed: from its `up` to the first answer", "s", 1, 2, at_most=3.0),
    Mark("outage_s", "friend killed: whole silence, its `up` included", "s", 1, 2),
    Mark("lost_recovery_s", "the same when it lost our address: from its `up`", "s", 1, 2, at_most=3.0),
    Mark("lost_outage_s", "the same when it lost our address: whole silence", "s", 1, 2),
    Mark("idle_rss_bytes", "1 friend: RSS idle", "MB", MB, 0, at_most=80e6),
    Mark("busy_rss_bytes", "1 friend: RSS after TCP both ways", "MB", MB, 0, at_most=80e6),
    Mark("idle_cpu", "1 friend: idle CPU", "%", PERCENT, 2, at_most=0.003),
)


def crowd_marks(kind: str, who: str) -> tuple[Mark, ...]:
    """Say what is wanted of a node with thousands of friends."""
    return (
        Mark(f"{kind}_up_s", f"{who}: `up`", "s", 1, 2, at_most=5.0),
        Mark(f"{kind}_down_s", f"{who}: `down`", "s", 1, 2, at_most=1.0),
        Mark(f"{kind}_rss_bytes", f"{who}: RSS idle", "MB", MB, 0, at_most=250e6),
        Mark(f"{kind}_busy_rss_bytes", f"{who}: RSS after TCP", "MB", MB, 0, at_most=250e6),
        Mark(f"{kind}_reach_s", f"{who}: from `up` to the first answer of one", "s", 1, 2),
        Mark(f"{kind}_idle_cpu", f"{who}: idle CPU", "%", PERCENT, 2, at_most=0.03),
        Mark(f"{kind}_tcp_bps", f"{who}: TCP to one of them", "Gbit/s", 1e9, 2),
        Mark(f"{kind}_tcp_ratio", f"{who}: TCP, of that with 1 friend", "", 1, 3, at_least=0.95),
        Mark(f"{kind}_early_tcp_ratio", f"{who}: the same just after `up`", "", 1, 3),
    )


def flood_marks(name: str, who: str, loss: float, out: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """Say what is wanted of a node under a flood."""
    return (
        Mark(f"{name}_flood_pps", f"{who}: datagrams", "/s", 1, 0),
        Mark(f"{name}_loss", f"{who}: goodput lost of 200 Mbit/s", "%", PERCENT, 2, at_most=loss),
        Mark(f"{name}_calm_loss", f"{who}: lost with no flood", "%", PERCENT, 2),
        *out,
        Mark(f"{name}_rss_growth_bytes", f"{who}: RSS growth", "MB", MB, 1),
        Mark(f"{name}_cpu", f"{who}: daemon's CPU", "%", PERCENT, 0),
        Mark(f"{name}_socket_overflows", f"{who}: datagrams that found the socket full", "", 1, 0),
        Mark(f"{name}_sink_overflows", f"{who}: packets that found the program's socket full", "", 1, 0),
        Mark(f"{name}_session_s", f"{who}: a new friend's first answer", "s", 1, 2, at_most=6.0),
    )


def marks(rates: Sequence[float], crowd_size: int) -> list[Mark]:
    """List all figures in the order of the table."""
    many = (("crowd", f"{crowd_size:,} friends"), ("nowhere", f"{crowd_size:,} without endpoint"))
    found = [*LIFE_MARKS, *(mark for kind, who in many for mark in crowd_marks(kind, who))]
    alone = [
        Mark("lone_reach_s", "1 friend: from `up` to its first answer", "s", 1, 2),
        Mark("lone_tcp_bps", "1 friend: TCP", "Gbit/s", 1e9, 2),
    ]
    found[len(LIFE_MARKS) : len(LIFE_MARKS)] = alone
    silence = (Mark("junk_out_bytes", "junk: bytes sent back", "B", 1, 0, at_most=0.0),)
    found += flood_marks("junk", "junk", 0.01, silence)
    for rate in rates:
        name, who = f"handshakes{rate / 1e3:g}k", f"{rate / 1e3:g}k handshakes"
        ratio = (Mark(f"{name}_out_per_in", f"{who}: bytes out per byte in", "", 1, 3, at_most=0.5),)
        found += flood_marks(name, who, 0.02, ratio)
    return found


Part = Callable[[Yard, Effort], list[Sample]]


def parts(rates: Sequence[float]) -> dict[str, Part]:
    """List the parts by the names that `--only` knows."""
    floods: dict[str, Part] = {
        f"handshakes{rate / 1e3:g}k": partial(siege.measure_handshakes, rate=rate) for rate in rates
    }
    return {
        "up": life.measure_up,
        "first-ping": life.measure_first_ping,
        "recovery": life.measure_recovery,
        "idle": life.measure_idle,
        "crowd": crowd.measure_crowd,
        "junk": siege.measure_junk,
        **floods,
    }


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench --node", description="Measure one f2ftun node by itself.")
    parser.add_argument("--only", metavar="PARTS", help=f"comma-separated, of: {', '.join(parts(RATES))}")
    parser.add_argument("--rates", default="10000", help="handshakes a second, comma-separated (default 10000)")
    parser.add_argument("--repeats", type=int, default=FULL.repeats, help=f"of each part (default {FULL.repeats})")
    parser.add_argument("--quick", action="store_true", help="all once, in seconds, with 200 friends instead of 4,000")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write node.json and node.md there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Measure; return 1 when a part failed, whatever the figures are."""
    options = parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if os.geteuid() != 0:
        print("scripts/bench makes network namespaces: run it as root.", file=sys.stderr)
        return 1
    try:
        rates = [float(rate) for rate in options.rates.split(",")]
        known = parts(rates)
        wanted = {name: known[name] for name in (options.only.split(",") if options.only else known)}
    except (KeyError, ValueError) as error:
        print(f"{error}: the parts are {', '.join(parts(RATES))}, and rates are numbers.", file=sys.stderr)
        return 2
    return _measure(wanted, rates, options, argv)


def _measure(
    wanted: Mapping[str, Part], rates: Sequence[float], options: argparse.Namespace, argv: Sequence[str]
) -> int:
    effort = QUICK if options.quick else replace(FULL, repeats=options.repeats)
    where = report.circumstances(["--node", *argv]) | {"load_before": os.getloadavg()[0]}
    samples: list[Sample] = []
    failed: dict[str, str] = {}
    for name, part in wanted.items():
        print(f"{name} … ", end="", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            samples += _taken(part, effort)
        except (BenchError, subprocess.SubprocessError, OSError, ValueError) as error:
            failed[name] = str(error)
            print(f"failed: {error}", file=sys.stderr)
        else:
            print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    _publish(report.gathered(samples), marks(rates, effort.crowd), where, failed, options)
    return 1 if failed else 0


def _taken(part: Part, effort: Effort) -> list[Sample]:
    with tempfile.TemporaryDirectory(prefix="f2fbench") as folder, yard(Path(folder)) as ends:
        return part(ends, effort)


def _publish(
    found: Mapping[str, Sequence[float]],
    order: Sequence[Mark],
    where: Mapping[str, str | int | float],
    failed: Mapping[str, str],
    options: argparse.Namespace,
) -> None:
    rows = report.mark_rows(found, order)
    middle = {figure: statistics.median(values) for figure, values in found.items()}
    whole = json.dumps({"where": where, "medians": middle, "values": found, "failed": failed}, indent=1)
    print(whole if options.json else report.text_rows(rows))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "node.json").write_text(whole + "\n")
        (options.out / "node.md").write_text(report.markdown_rows(rows) + "\n")
