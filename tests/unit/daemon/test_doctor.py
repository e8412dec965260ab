"""What the doctor says of the node itself; what he says of the host is tested with the host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from f2ftun.daemon import doctor
from f2ftun.daemon.control import Control
from f2ftun.linux.checks import Finding, Host, Severity
from f2ftun.wire.key import write_key
from tests.unit.daemon.fakes import Wire, ask, new_home, play, running
from tests.unit.shared import identity


class FakeNetlink:
    def __enter__(self) -> FakeNetlink:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    """Stand in for the host: one note, one error, and what was asked about."""
    hosts: list[Host] = []

    async def examine(_: object, host: Host) -> list[Finding]:
        hosts.append(host)
        return [Finding(Severity.NOTE, "n", "", ""), Finding(Severity.ERROR, "e", "", "")]

    monkeypatch.setattr(doctor, "Netlink", FakeNetlink)
    monkeypatch.setattr(doctor, "examine", examine)
    return hosts


def words(findings: list[dict[str, Any]]) -> list[str]:
    return [finding["what"] for finding in findings]


def test_the_worst_comes_first_and_a_node_that_does_not_run_is_said_to(tmp_path: Path, seen: list[Host]) -> None:
    async def story() -> None:
        home = new_home(tmp_path, "alice")
        found = await ask(Control(home), "doctor")
        assert [finding["severity"] for finding in found] == ["error", "note", "note"]
        assert words(found)[-1] == "The node is not running."
        assert (seen[0].interface, seen[0].state, seen[0].running) == ("f2f0", home.config.state, False)
        home.close()

    play(story)


def test_a_running_node_is_asked_for_friends_and_where_they_are(tmp_path: Path) -> None:
    async def story() -> None:
        home = new_home(tmp_path, "alice")
        async with running(home, Wire()) as node:
            assert "There are no friends yet." in words(await node.ask("doctor"))
            await node.ask("friend_add", name="bob", key=write_key(identity(7).node_key))
            assert "Nobody knows where bob is." in words(await node.ask("doctor"))
            await node.ask("friend_set", name="bob", values=["endpoint=192.0.2.1:1"])
            assert words(await node.ask("doctor")) == ["e", "n", "Nothing comes back from bob."]
        home.close()

    play(story)


def test_a_join_that_waits_is_no_lack_of_friends(tmp_path: Path) -> None:
    async def story() -> None:
        alice, bob = new_home(tmp_path, "alice"), new_home(tmp_path, "bob")
        alice.config = replace(alice.config, endpoints=("192.0.2.1:4242",))
        line = (await ask(Control(alice), "invite"))["invite"]
        async with running(bob, Wire()) as node:
            await node.ask("join", invite=line, name="al", wait_s=0)
            assert words(await node.ask("doctor")) == ["e", "n", "A join waits for al."]
        alice.close()
        bob.close()

    play(story)


def test_a_host_without_a_node_can_be_examined(tmp_path: Path, seen: list[Host]) -> None:
    async def story() -> None:
        found = await doctor.doctor_before(tmp_path / "config.yaml")
        assert words(found)[-1].startswith("There is no node yet")
        assert seen[0].listen == "[::]:4242"

    play(story)
