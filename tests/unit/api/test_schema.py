"""Requests: what is well formed is read with every argument in place, what is not is refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.api import schema
from f2ftun.errors import (
    ArgumentWrong,
    F2ftunError,
    FriendUnknown,
    NameRefused,
    RequestMalformed,
    TooMuchTyped,
    VerbUnknown,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_EXAMPLES = {schema.Kind.TEXT: "a", schema.Kind.NUMBER: 1, schema.Kind.TEXTS: ["a"]}


def line(verb: object, args: object) -> bytes:
    return json.dumps({"verb": verb, "args": args}).encode()


@pytest.mark.parametrize("verb", schema.VERBS.values(), ids=lambda verb: verb.name)
def test_every_verb_reads_back_what_was_written(verb: schema.Verb) -> None:
    args: dict[str, object] = {argument.name: _EXAMPLES[argument.kind] for argument in verb.arguments}
    request = schema.parse_request(schema.write_request(verb.name, args))
    assert request == schema.Request(verb, args)


@pytest.mark.parametrize("verb", schema.VERBS.values(), ids=lambda verb: verb.name)
def test_every_verb_is_a_method_of_control_with_these_arguments(verb: schema.Verb) -> None:
    import inspect

    from f2ftun.daemon.control import Control

    parameters = inspect.signature(getattr(Control, verb.name)).parameters
    takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD} - {"self"}
    asked = {argument.name for argument in verb.arguments}
    assert named <= asked if takes_more else named == asked


def test_defaults_are_filled_in() -> None:
    assert schema.parse_request(line("ping", {"target": "bob"})).args == {"target": "bob", "count": 1, "first": 1}


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b"", RequestMalformed),
        (b"{", RequestMalformed),
        (b"[]", RequestMalformed),
        (b"\xff\xfe", RequestMalformed),
        (b'{"verb": 1}', RequestMalformed),
        (b"[" * 60_000, RequestMalformed),
        (b'{"verb": "key", "args": []}', RequestMalformed),
        (b" " * (schema.REQUEST_BYTES + 1), RequestMalformed),
        (b'{"verb": "shutdown"}', VerbUnknown),
        (line("key", {"x": 1}), ArgumentWrong),
        (line("friend_show", {}), ArgumentWrong),
        (line("friend_show", {"name": 7}), ArgumentWrong),
        (line("friend_show", {"name": "a\nb"}), ArgumentWrong),
        (line("friend_show", {"name": "a\u202eb"}), ArgumentWrong),
        (line("friend_show", {"name": "a" * 9000}), ArgumentWrong),
        (line("friend_set", {"name": "a", "values": "floor=1"}), ArgumentWrong),
        (line("friend_set", {"name": "a", "values": ["x"] * 300}), ArgumentWrong),
        (line("friend_set", {"name": "a", "values": [1]}), ArgumentWrong),
        (line("ping", {"target": "a", "count": 101}), ArgumentWrong),
        (line("ping", {"target": "a", "count": True}), ArgumentWrong),
        (b'{"verb": "ping", "args": {"target": "a", "count": NaN}}', ArgumentWrong),
        (b'{"verb": "ping", "args": {"target": "a", "count": 1e999}}', ArgumentWrong),
        (line("friend_show", {"name": None}), ArgumentWrong),
    ],
)
def test_what_is_wrong_is_said(request_line: bytes, error: type[F2ftunError]) -> None:
    with pytest.raises(error) as caught:
        schema.parse_request(request_line)
    assert caught.value.exit_status == 2


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(request_line: bytes) -> None:
    with pytest.raises(F2ftunError):
        schema.parse_request(request_line)


@given(st.sampled_from(sorted(schema.VERBS)), JSON | st.dictionaries(st.text(), JSON))
def test_no_arguments_do_harm(verb: str, args: Any) -> None:
    try:
        request = schema.parse_request(line(verb, args))
    except F2ftunError:
        return
    assert set(request.args) == {argument.name for argument in schema.VERBS[verb].arguments}


def test_too_much_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TooMuchTyped, match="bytes"):
        schema.write_request("friend_set", {"name": "a", "values": ["x" * 8000] * 10})


def test_replies() -> None:
    assert json.loads(schema.write_ok({"a": 1})) == {"ok": {"a": 1}}
    wrong = json.loads(schema.write_error(NameRefused(name="A", reason="it has capital letters")))["error"]
    assert (wrong["code"], wrong["exit"]) == ("name_refused", 2)
    assert json.loads(schema.write_error(FriendUnknown(name="x", hint="")))["error"]["exit"] == 1


def test_what_changes_something_is_marked_so() -> None:
    reads = {name for name, verb in schema.VERBS.items() if not verb.writes}
    assert reads == {
        "key",
        "address",
        "status",
        "doctor",
        "friend_list",
        "friend_show",
        "rules",
        "ping",
        "invite_list",
        "join_list",
    }
