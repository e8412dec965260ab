"""Key logs and the datagrams they open."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from f2ftun.wire.keylog import open_data, parse_key_log

VECTORS = Path(__file__).parents[2] / "vectors"


def test_known_datagrams_are_opened() -> None:
    for case in json.loads((VECTORS / "data.json").read_text()):
        key, datagram = bytes.fromhex(case["key"]), bytes.fromhex(case["datagram"])
        assert open_data(key, datagram) == (case["counter"], bytes.fromhex(case["frame"]))
        assert open_data(bytes(32), datagram) is None
        assert open_data(key, datagram[:-1] + bytes([datagram[-1] ^ 1])) is None


def test_lines_give_both_directions_and_others_are_passed_over() -> None:
    line = f"SESSION 0000000a deadbeef {'11' * 32} {'22' * 32}"
    text = f"# comment\n{line}\nSESSION 1 2 3 4\n{line[:-1]}"
    assert parse_key_log(text) == {10: b"\x11" * 32, 0xDEADBEEF: b"\x22" * 32}


@given(st.text(), st.binary(max_size=60))
def test_anything_is_read(text: str, datagram: bytes) -> None:
    assert parse_key_log(text) == {} or text.startswith("SESSION")
    assert open_data(bytes(32), datagram) is None
