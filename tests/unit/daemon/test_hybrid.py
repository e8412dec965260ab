"""The post-quantum exchange: both ends come to the same psk, lost messages are repeated, and nobody else gets a say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from f2ftun.daemon import hybrid
from f2ftun.daemon.control import Control
from f2ftun.daemon.home import Home
from f2ftun.wire.control import KemAnswer, KemOffer, parse, write
from f2ftun.wire.key import write_key
from tests.unit.daemon.fakes import Running, Wire, ask, new_home, play, running, settle


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid, "CHECK_DELAY", 0.001)
    monkeypatch.setattr(hybrid, "REPEAT_INTERVAL", 0.01)


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[list[Home]]:
    """Give two nodes that are friends, the one who offers first."""
    made = sorted((new_home(tmp_path, name) for name in ("one", "two")), key=lambda home: home.identity.node_key)
    for home, other in (made, made[::-1]):
        key = write_key(other.identity.node_key)
        play(
            lambda home=home, key=key, name=other.config.name: ask(  # type: ignore[misc]
                Control(home), "friend_add", name=name, key=key, endpoints=["192.0.2.9:1"]
            )
        )
    yield made
    for home in made:
        home.close()


def pair(homes: list[Home], story: Callable[[Wire, Running, Running], Awaitable[None]]) -> None:
    async def run() -> None:
        wire = Wire()
        async with running(homes[0], wire) as lower, running(homes[1], wire) as higher:
            await story(wire, lower, higher)

    play(run)


def psks(one: Running, other: Running) -> tuple[bytes | None, bytes | None]:
    keys = one.node.home.identity.node_key, other.node.home.identity.node_key
    return one.device.table[keys[1]].hybrid_psk, other.device.table[keys[0]].hybrid_psk


def offers(node: Running) -> list[KemOffer]:
    messages = [parse(payload) for _, payload in node.device.sent]
    return [message for message in messages if isinstance(message, KemOffer)]


def test_both_come_to_the_same_psk(homes: list[Home]) -> None:
    async def story(wire: Wire, lower: Running, higher: Running) -> None:
        await settle(wire, lambda: None not in psks(lower, higher))
        assert psks(lower, higher)[0] == psks(lower, higher)[1] != bytes(32)
        assert len(offers(lower)) >= 1
        assert offers(higher) == []

    pair(homes, story)


def test_a_lost_answer_is_given_again_the_same(homes: list[Home]) -> None:
    async def story(wire: Wire, lower: Running, higher: Running) -> None:
        await settle(wire, lambda: any(isinstance(parse(payload), KemAnswer) for _, payload in higher.device.sent))
        accepted = psks(lower, higher)[1]
        lower.device._events.clear()
        await settle(wire, lambda: None not in psks(lower, higher))
        assert psks(lower, higher) == (accepted, accepted)

    pair(homes, story)


def test_an_offer_without_answer_is_given_up(homes: list[Home]) -> None:
    async def story(wire: Wire, lower: Running, higher: Running) -> None:
        await settle(wire, lambda: len(offers(lower)) == hybrid.MAX_OFFERS)
        await asyncio.sleep(0.05)
        assert len(offers(lower)) == hybrid.MAX_OFFERS
        assert psks(lower, higher) == (None, None)

    homes[1].config = replace(homes[1].config, hybrid=False)
    pair(homes, story)


def test_who_switched_it_off_does_not_offer(homes: list[Home]) -> None:
    async def story(wire: Wire, lower: Running, higher: Running) -> None:
        await settle(wire, lambda: higher.device.table[homes[0].identity.node_key].session is not None)
        await asyncio.sleep(0.02)
        assert offers(lower) == []

    homes[0].config = replace(homes[0].config, hybrid=False)
    pair(homes, story)


def test_what_nobody_asked_for_changes_nothing(homes: list[Home]) -> None:
    async def story(wire: Wire, lower: Running, higher: Running) -> None:
        await settle(wire, lambda: None not in psks(lower, higher))
        before = psks(lower, higher)
        for payload in (KemAnswer(7, bytes(1088)), KemOffer(7, b"\xff" * 1184), KemOffer(8, bytes(1184))):
            higher.device.send_control(homes[0].identity.node_key, write(payload))
        lower.device.send_control(homes[1].identity.node_key, write(KemOffer(9, b"\xff" * 1184)))
        await settle(wire, lambda: not lower.device._events and not higher.device._events)
        assert psks(lower, higher) == before

    pair(homes, story)
