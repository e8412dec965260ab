"""Key logs and the datagrams they open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.wire.keylog import DataKey, open_data, parse_key_log

VECTORS = Path(__file__).parents[2] / "vectors"


@pytest.mark.parametrize(("file", "aes"), [("data.json", False), ("data_aes.json", True)])
def test_known_datagrams_are_opened(file: str, aes: bool) -> None:
    for case in json.loads((VECTORS / file).read_text()):
        key, datagram = DataKey(bytes.fromhex(case["key"]), aes), bytes.fromhex(case["datagram"])
        assert open_data(key, datagram) == (case["counter"], bytes.fromhex(case["frame"]))
        assert open_data(DataKey(bytes(32), aes), datagram) is None
        assert open_data(DataKey(key.key, not aes), datagram) is None
        assert open_data(key, datagram[:-1] + bytes([datagram[-1] ^ 1])) is None


def test_lines_give_both_directions_and_others_are_passed_over() -> None:
    line = f"SESSION 0000000a deadbeef {'11' * 32} {'22' * 32} aes-256-gcm"
    text = f"# comment\n{line}\nSESSION 1 2 3 4\n{line[:-1]}"
    assert parse_key_log(text) == {10: DataKey(b"\x11" * 32, True), 0xDEADBEEF: DataKey(b"\x22" * 32, True)}


@given(st.text(), st.binary(max_size=60))
def test_anything_is_read(text: str, datagram: bytes) -> None:
    assert parse_key_log(text) == {} or text.startswith("SESSION")
    assert open_data(DataKey(bytes(32), False), datagram) is None
