from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.core.rule import ALL, Protocol, Rule, closed, opened, parse_rule
from f2ftun.errors import F2ftunError, NameRefused, RuleOpenToAll, RuleUnreadable

ports = st.integers(1, 12)
few = st.builds(
    lambda who, protocol, a, b: Rule(who, protocol, min(a, b), max(a, b)),
    st.sampled_from([ALL, "bob", "carol"]),
    st.sampled_from(Protocol),
    ports,
    ports,
)


def open_ports(rules: tuple[Rule, ...]) -> set[tuple[str, Protocol, int]]:
    """List every friend and port that rules open, one by one."""
    return {(rule.who, rule.protocol, port) for rule in rules for port in range(rule.first, rule.last + 1)}


@given(st.builds(lambda a, b: Rule("bob", Protocol.UDP, min(a, b), max(a, b)), *[st.integers(1, 65535)] * 2))
def test_a_rule_reads_back(rule: Rule) -> None:
    assert parse_rule("bob", rule.ports) == rule


def test_rules() -> None:
    assert parse_rule("bob.f2f", "tcp/80") == Rule("bob", Protocol.TCP, 80, 80)
    assert parse_rule(ALL, "udp/5000-5100") == Rule(ALL, Protocol.UDP, 5000, 5100)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        "tcp",
        "tcp/",
        "/80",
        "tcp/0",
        "tcp/65536",
        "tcp/99999999",
        "tcp/90-80",
        "TCP/80",
        "icmp/1",
        "sctp/80",
        "tcp/80,81",
        "tcp/80 ",
        "tcp/80\n",
        "tcp/-80",
        "tcp/80-",
        "tcp/٣",
        "tcp/80;drop",
        "tcp/0x50",
        "any/80",
    ],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(RuleUnreadable):
        parse_rule("bob", text)


@given(st.text(), st.text())
def test_any_text_is_a_rule_or_refused(who: str, text: str) -> None:
    try:
        parse_rule(who, text)
    except F2ftunError:
        return


def test_a_rule_is_for_a_name() -> None:
    with pytest.raises(NameRefused):
        parse_rule("bob; drop", "tcp/80")


@given(st.lists(few, max_size=12), few)
def test_opening_opens_exactly_the_ports_and_joins_what_touches(before: list[Rule], rule: Rule) -> None:
    rules: tuple[Rule, ...] = reduce(opened, before, ())
    after = opened(rules, rule)
    assert open_ports(after) == open_ports(rules) | open_ports((rule,))
    assert len(open_ports(after)) == sum(rule.last - rule.first + 1 for rule in after)


@given(st.lists(few, max_size=12), few)
def test_closing_closes_exactly_the_ports(before: list[Rule], rule: Rule) -> None:
    rules: tuple[Rule, ...] = reduce(opened, before, ())
    try:
        after = closed(rules, rule)
    except RuleOpenToAll:
        everybody = {(protocol, port) for who, protocol, port in open_ports(rules) if who == ALL}
        assert rule.who != ALL
        assert everybody & {(protocol, port) for _, protocol, port in open_ports((rule,))}
        return
    gone = {entry for entry in open_ports(rules) if (rule.who, *entry[1:]) in open_ports((rule,))}
    assert open_ports(after) == open_ports(rules) - {entry for entry in gone if rule.who in (ALL, entry[0])}
