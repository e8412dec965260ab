"""Screens: units people read, columns that line up, colours only for terminals."""

from __future__ import annotations

import click
import pytest

from f2ftun.ui import render
from tests.unit.ui.test_cli import DETAIL, FRIEND, STATUS


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123456, "123 kB"), (1_500_000, "1.5 MB"), (2e15, "2000 TB")],
)
def test_sizes(count: float, text: str) -> None:
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.4, "0 s"), (59, "59 s"), (61, "1 m 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (86400 * 3, "3 d")],
)
def test_ages(seconds: float | None, text: str) -> None:
    assert render.age(seconds) == text


@pytest.mark.parametrize(
    ("bps", "text"), [(None, "-"), (999, "999 bit/s"), (10_000_000, "10 Mbit/s"), (1_500_000_000, "1.5 Gbit/s")]
)
def test_rates(bps: float | None, text: str) -> None:
    assert render.rate(bps) == text


def test_status_lines_up_and_shows_who_answers_first() -> None:
    down = FRIEND | {"name": "a-friend-with-a-long-name", "state": "down", "via": None, "rtt_ms": None}
    text = click.unstyle(render.status(STATUS | {"friends": [down, FRIEND]}, drops=True))
    lines = [line for line in text.splitlines() if line.startswith(("FRIEND", "bob", "a-friend"))]
    assert [line.split()[0] for line in lines] == ["FRIEND", "bob", "a-friend-with-a-long-name"]
    assert len({line.index(word) for line, word in zip(lines, ("STATE", "up", "down"), strict=True)}) == 1
    assert "4" in text
    assert "rx_replayed" in text
    assert "rx_bad_source" not in text


def test_status_says_what_is_not_there() -> None:
    text = render.status(STATUS | {"friends": [], "drops": {"rx_bad_source": 0}}, drops=True)
    assert "No friends yet" in text
    assert "No packet was dropped." in text


def test_states_are_coloured_and_lines_stay_whole() -> None:
    styled = render.status(STATUS, drops=False)
    assert click.style("up", fg="green") in styled


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("endpoints", [[], ["192.0.2.1:4242"]])
def test_an_invitation_can_be_copied(running: bool, endpoints: list[str]) -> None:
    value = {"invite": "f2f1:abc", "name": None, "expires_at": 0, "endpoints": endpoints, "running": running}
    text = render.invite(value, qr=True)
    assert "f2ftun join f2f1:abc\n" in text
    assert ("f2ftun up" in text) is not running
    assert ("no address" in text) is not bool(endpoints)
    assert "▄" in text or "▀" in text or "█" in text


def test_every_end_of_a_join_is_said() -> None:
    value = {"state": "pending", "name": None, "address": "fc00::1", "running": False}
    texts = {
        render.join(value),
        render.join(value | {"running": True}),
        render.join(value | {"state": "friends", "name": "bob", "running": True}),
    }
    assert len(texts) == 3


def test_down_and_reload_say_what_happened() -> None:
    assert render.down({"stopped": True, "removed": []}) == "The node is stopped."
    assert "a route" in render.down({"stopped": False, "removed": ["a route"]})
    assert render.down({"stopped": False, "removed": []}) == "The node was not running."
    assert render.reload({"applied": [], "restart": []}) == "Nothing in the config has changed."
    assert "down and up" in render.reload({"applied": ["name"], "restart": ["listen"]})


def test_a_friend_is_shown_whole_even_when_the_node_does_not_run() -> None:
    text = click.unstyle(render.friend(DETAIL | {"state": None, "last_handshake_s": None}))
    assert "the node is not running" in text
    assert "fc00::1" in text


def test_a_finding_says_what_why_and_what_to_do() -> None:
    assert render.doctor([]) == "Everything looks well."
    text = click.unstyle(render.doctor([{"severity": "error", "what": "W.", "why": "Y.", "cure": "C."}]))
    assert text == "error: W.\n    Y.\n    C."


def test_ping() -> None:
    replies = [{"seq": 1, "rtt_ms": 0.5, "via": "direct"}, {"seq": 2, "rtt_ms": 0.3, "via": "direct"}]
    assert "no answer from bob" in render.ping_reply("bob", 1, [])
    assert "0.50 ms  direct" in render.ping_reply("bob", 1, replies)
    assert render.ping({"sent": 2, "received": 2, "replies": replies}).startswith("2 sent, 2 received, RTT least 0.30")
    assert render.ping({"sent": 2, "received": 0, "replies": []}) == "2 sent, 0 received"
