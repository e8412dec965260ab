"""The script as a function of what is wanted; whether it does what it says is tested in tests/netns."""

from ipaddress import IPv6Address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.linux import firewall
from f2ftun.linux.firewall import Rule
from f2ftun.linux.interface import InterfaceNameRefused

ADDRESS = IPv6Address("fc00::1")
PORTS = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)
SOURCES = st.sampled_from([None, IPv6Address("fc00::2"), IPv6Address("fc00::3")])


def rule(source: IPv6Address | None, ports: list[int]) -> Rule:
    return Rule(source, "tcp", *ports)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 16,
        "lo",
        "all",
        "default",
        "-f",
        ".",
        "..",
        "a/b",
        "f2f0\n",
        'f2f0" accept; flush ruleset #',
        "f2f*",
        "%d",
        "a b",
        "f2f0\x00",
        "ünder",
        "a:1",
    ],
)
def test_names_that_would_be_misread_are_refused(name: str) -> None:
    with pytest.raises(InterfaceNameRefused) as refused:
        firewall.plan(name, ADDRESS, [])
    assert refused.value.exit_status == 2
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["f2f0", "a", "a" * 15, "f2f-0.1_x"])
def test_names_that_are_fine(name: str) -> None:
    assert f'iifname != "{name}" ip6 daddr fc00::/8 counter drop' in firewall.plan(name, ADDRESS, [])


def test_it_replaces_in_one_transaction_whatever_is_there() -> None:
    assert firewall.plan("f2f0", ADDRESS, []).startswith("add table inet f2ftun\ndelete table inet f2ftun\ntable inet")


def test_rules_become_elements_and_no_lines() -> None:
    empty = firewall.plan("f2f0", ADDRESS, [])
    many = firewall.plan("f2f0", ADDRESS, [Rule(IPv6Address(2**120 * 0xFC + n), "udp", 1, 9) for n in range(4000)])
    assert many.count("\n") == empty.count("\n")
    assert "fc00::f9f . 1-9" in many


@given(st.lists(st.builds(rule, SOURCES, PORTS)))
def test_the_ranges_are_disjoint_and_the_same_ports(rules: list[Rule]) -> None:
    script = firewall.plan("f2f0", ADDRESS, rules)
    everyone = ranges_of(script, "tcp_all")
    assert all(before[1] < after[0] for before, after in pairwise(everyone))
    wanted = [range(rule.first_port, rule.last_port + 1) for rule in rules if rule.source is None]
    for port in {
        edge for rule in rules for edge in (rule.first_port - 1, rule.first_port, rule.last_port, rule.last_port + 1)
    }:
        assert any(port in ports for ports in wanted) == any(first <= port <= last for first, last in everyone)


def ranges_of(script: str, name: str) -> list[tuple[int, int]]:
    line = next(line for line in script.splitlines() if f"set {name} " in line)
    if "elements" not in line:
        return []
    listed = line.split("elements = { ")[1].split(" }")[0]
    return [(int(first), int(last)) for first, _, last in (part.partition("-") for part in listed.split(", "))]
