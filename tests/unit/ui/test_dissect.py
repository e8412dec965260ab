"""`f2ftun dissect` on captures of two reference nodes, on damaged ones, and on an interface."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from f2ftun.ui.cli import run
from f2ftun.ui.dissect import dissect_file
from f2ftun.wire.dissection import dissect_payload, split_segments
from f2ftun.wire.keylog import DataKey
from tests.reference.datagram import seal_data
from tests.reference.event import Transmit
from tests.reference.frame import Control, Nothing, Probe
from tests.reference.session import Session
from tests.reference.test_node import Pair
from tests.unit.wire.test_capture import pcap

KEY = bytes(range(32))


def captured(pair: Pair) -> list[bytes]:
    return [over_ipv4(transmit, source[0]) for transmit, source in pair.network.sent]


def over_ipv4(transmit: Transmit, source: str) -> bytes:
    def packed(address: str) -> bytes:
        return bytes(map(int, address.split(".")))

    datagram, (destination, port) = transmit.datagram, transmit.destination
    size = 28 + len(datagram)
    head = struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0, 64, 17, 0) + packed(source) + packed(destination)
    return head + struct.pack(">HHHH", 4242, port, size - 20, 0) + datagram


@pytest.fixture
def capture(tmp_path: Path) -> tuple[Path, Path]:
    """Capture a handshake, packets of many kinds and a forgery; with it Alice's key log."""
    pair = Pair()
    pair.send(b"x" * 1400)
    pair.alice.send_frame(pair.bob.key, Control(b"words").write(), 0.0)
    pair.alice.send_frame(pair.bob.key, Nothing().write(), 0.0)
    pair.network.deliver()
    last, source = pair.network.sent[-1]
    pair.network.sent.append((Transmit(last.datagram[:-1] + b"\0", last.destination), source))
    (tmp_path / "link.pcap").write_bytes(pcap(captured(pair), link=101))
    (tmp_path / "keys").write_text("".join(session.key_log_line() + "\n" for session in pair.alice.log))
    return tmp_path / "link.pcap", tmp_path / "keys"


def rows(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert run(arguments) == 0
    printed: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return printed


def test_without_keys_headers_are_shown(capture: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    shown = rows(["--json", "dissect", str(capture[0])], capsys)
    assert [row["type"] for row in shown[:3]] == ["initiation", "response", "data"]
    assert shown[0]["source"] == "192.0.2.1:4242"
    assert shown[0]["fields"]["sender_index"] == shown[1]["fields"]["receiver_index"]
    assert not any("frame" in row for row in shown)


def test_with_keys_frames_are_shown(capture: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    shown = rows(["dissect", "--json", str(capture[0]), "--keylog", str(capture[1])], capsys)
    kinds = {row["frame"]["kind"] for row in shown if "frame" in row}
    assert kinds == {"probe", "probe reply", "fragment", "control", "nothing"}
    assert [bytes.fromhex(row["frame"]["body"]) for row in shown if row.get("frame", {}).get("kind") == "control"] == [
        b"words"
    ]
    assert [row.get("forged") for row in shown][-1] is True


def test_people_get_lines(capture: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert dissect_file(capture[0], capture[1], json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("00:00:07.000005 192.0.2.1:4242 > 192.0.2.2:4242   153 initiation sender_index=")
    assert any("FORGED" in line for line in lines)
    assert any("kind=fragment" in line for line in lines)


def test_every_cut_of_a_capture_is_shown_as_far_as_it_goes(
    capture: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = capture[0].read_bytes()
    for size in range(4, len(whole), 97):
        capture[0].write_bytes(whole[:size])
        rows(["--json", "dissect", str(capture[0]), "--keylog", str(capture[1])], capsys)


@pytest.mark.parametrize(
    "arguments", [["{}/none"], ["{}"], ["{}/text"], [], ["-i", "no-such-if"], ["{}/pcap", "-i", "lo"]]
)
def test_what_cannot_be_dissected_is_a_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "pcap").write_bytes(pcap([]))
    assert run(["--json", "dissect", *(argument.format(tmp_path) for argument in arguments)]) in (1, 2)
    assert set(json.loads(capsys.readouterr().out)["error"]) == {"code", "message"}


def test_missing_key_log_is_a_sentence(capture: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dissect", str(capture[0]), "--keylog", str(capture[1]) + "x"]) == 1
    assert capsys.readouterr().err.startswith("f2ftun: The key log ")


def test_missing_scapy_is_a_sentence(
    capture: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(["dissect", str(capture[0])]) == 1
    assert "pip install" in capsys.readouterr().err


def test_segments_captured_in_one_are_cut() -> None:
    session = Session(1, 2, KEY, KEY, True, 0.0)
    train = [session.seal(Probe(bytes(8), 1200).write()) for _ in range(40)] + [session.seal(b"")]
    assert split_segments(b"".join(train)) == train
    assert [row["counter"] for row in dissect_payload(b"".join(train), {2: DataKey(KEY, False)})] == list(range(41))


@given(st.binary(max_size=200), st.binary(max_size=48))
def test_any_payload_and_any_frame_are_dissected(payload: bytes, frame: bytes) -> None:
    dissect_payload(payload, {})
    padded = frame + bytes(-len(frame) % 16)
    [row] = dissect_payload(seal_data(KEY, 7, 3, padded).write(), {7: DataKey(KEY, False)})
    assert row["counter"] == 3
    assert "kind" in row["frame"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=120), max_size=4), st.sampled_from([0, 1, 101, 113]))
def test_any_capture_is_one_json_value(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, packets: list[bytes], link: int
) -> None:
    (tmp_path / "any.pcap").write_bytes(pcap(packets, link=link))
    rows(["--json", "dissect", str(tmp_path / "any.pcap")], capsys)
