"""`scripts/bench --node` runs and says what it says in the shape that docs and scripts rely on; no figure is judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.flood import MAX_PAYLOAD, SIZES, frames, initiations, junk
from bench.report import Mark, gathered, mark_rows
from tests.netns.raw import checksum
from tests.netns.stranger import draw_device
from tests.reference.datagram import parse_initiation

ROOT = Path(__file__).resolve().parents[2]
MAC = bytes.fromhex("020000000002")


def payloads(made: list[bytes]) -> list[bytes]:
    return [one[14 + 20 + 8 :] for one in made]


def test_initiations_of_the_flood_have_a_valid_mac1() -> None:
    device = draw_device()
    for payload in payloads(frames(MAC, initiations(device.key), 20)):
        found = parse_initiation(payload)
        assert found is not None
        assert found.has_mac1(device.key)


def test_junk_is_of_all_lengths_and_types_and_its_headers_are_right() -> None:
    made = frames(MAC, junk, 2000)
    assert all(one[:6] == MAC and checksum(one[14:34]) == 0 for one in made)
    assert all(int.from_bytes(one[16:18], "big") == len(one) - 14 for one in made)
    sizes = [len(payload) for payload in payloads(made)]
    assert min(sizes) < 60 < 1400 < max(sizes) <= MAX_PAYLOAD
    assert {payload[0] for payload in payloads(made) if payload} >= {4, *SIZES}
    assert len({one[26:30] for one in made}) > 1900


@pytest.mark.parametrize(("value", "verdict"), [(-0.1, "yes"), (1.0, "yes"), (1.1, "NO")])
def test_a_figure_stands_beside_what_it_is_to_be(value: float, verdict: str) -> None:
    mark = Mark("loss", "lost", "%", 1.0, 1, at_most=1.0)
    rows = mark_rows(gathered([{"loss": value, "other": 3.0}]), [mark])
    assert rows[1:] == [["lost", f"{value:.1f} %", f"{value:.1f} … {value:.1f} % of 1", "≤ 1.0 %", verdict]]


@pytest.mark.slow
def test_quick_parts_run(tmp_path: Path) -> None:
    argv = ["-m", "bench", "--node", "--quick", "--only", "first-ping,handshakes10k", "--json", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "node.json").read_text())
    assert {"command", "date", "kernel", "cpu", "cores"} <= set(told["where"])
    assert not told["failed"]
    assert told["medians"].keys() >= {"first_ping_s", "handshakes10k_loss", "handshakes10k_session_s"}
    assert (tmp_path / "node.md").read_text().startswith("|  | median |")
