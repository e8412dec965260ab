"""The command `scripts/bench`: who takes part, how often, how long, and where the figures go."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import alone, report
from bench.lab import BenchError, wire
from bench.measure import Effort, Sample, measure
from bench.rivals import CONTENDERS, Contender, named

QUICK = Effort(seconds=1, udp_seconds=0.5, steps=5)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Compare f2ftun with other VPNs, side by side.")
    parser.add_argument("--node", action="store_true", help="measure one node by itself instead; has its own --help")
    names = ", ".join(contender.name for contender in CONTENDERS)
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated, of: {names}")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender (default 3)")
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement (default 3)")
    parser.add_argument("--quick", action="store_true", help="one round of one-second measurements")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write bench.json, bench.md and bench.svg there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the comparison, or with `--node` first the other part; return 1 when nobody could be measured."""
    if "--node" in argv:
        return alone.main([word for word in argv if word != "--node"])
    options = parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if os.geteuid() != 0:
        print("scripts/bench makes network namespaces: run it as root.", file=sys.stderr)
        return 1
    try:
        wanted = [named(name) for name in options.only.split(",")] if options.only else list(CONTENDERS)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    return _compare(wanted, options, argv)


def _compare(wanted: Sequence[Contender], options: argparse.Namespace, argv: Sequence[str]) -> int:
    missing = {contender.name: contender.install for contender in wanted if contender.program() is None}
    for name, install in missing.items():
        print(f"{name} is not installed; to include it: {install}", file=sys.stderr)
    present = [contender for contender in wanted if contender.name not in missing]
    effort = QUICK if options.quick else Effort(options.seconds, max(0.5, options.seconds / 3), 7)
    results = _rounds(present, 1 if options.quick else options.rounds, effort)
    _publish(results, missing, options, argv)
    return 0 if any(results.values()) else 1


def _rounds(present: Sequence[Contender], rounds: int, effort: Effort) -> dict[str, list[Sample]]:
    results: dict[str, list[Sample]] = {contender.name: [] for contender in present}
    for number in range(1, rounds + 1):
        for contender in present:
            print(f"round {number}/{rounds}: {contender.name} … ", end="", file=sys.stderr, flush=True)
            try:
                sample = _turn(contender, effort)
            except BenchError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            results[contender.name].append(sample)
            print(f"TCP {sample['tcp1_out_bps'] / 1e9:.2f} Gbit/s, {sample['turn_s']:.0f} s", file=sys.stderr)
    return results


def _turn(contender: Contender, effort: Effort) -> Sample:
    with tempfile.TemporaryDirectory(prefix="f2fbench") as folder, wire(Path(folder)) as ends:
        return measure(ends, contender.join(ends), effort)


def _publish(
    results: dict[str, list[Sample]], missing: dict[str, str], options: argparse.Namespace, argv: Sequence[str]
) -> None:
    where = report.circumstances(argv)
    middle = report.medians(results)
    whole = report.json_report(results, where, missing)
    print(whole if options.json else report.text_table(middle))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bench.json").write_text(whole + "\n")
        (options.out / "bench.md").write_text(report.markdown_table(middle) + "\n")
        (options.out / "bench.svg").write_text(report.svg(middle, where))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
