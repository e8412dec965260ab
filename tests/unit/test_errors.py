import inspect
import string

import pytest

from f2ftun import errors
from f2ftun.errors import Answered, F2ftunError, KeyTooLong, NameRefused, UsageError

ALL = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, F2ftunError)]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_docstring_is_a_sentence_that_its_values_fill(error: type[F2ftunError]) -> None:
    fields = {name for _, name, _, _ in string.Formatter().parse(error.__doc__ or "") if name}
    if error is Answered:
        assert str(Answered(code="x", message="No.")) == "No."
        return
    sentence = str(error(**dict.fromkeys(fields, "value")))
    assert "\n" not in sentence
    assert "  " not in sentence
    assert sentence == "value" or sentence[-1] in ".?`)" or sentence.endswith("value")


def test_the_code_is_the_name_in_snake_case_and_unique() -> None:
    assert KeyTooLong.code == "key_too_long"
    assert len({error.code for error in ALL}) == len(ALL)


def test_wrong_usage_exits_with_2_everything_else_with_1() -> None:
    assert UsageError.exit_status == NameRefused.exit_status == 2
    assert KeyTooLong.exit_status == 2


@pytest.mark.parametrize("hostile", ["a\r\nb", "\x1b[2J", "\u202egpj.exe", "a\0b", "\ud800", "\x9b31m", "{x}", "%s"])
def test_a_value_cannot_write_to_a_terminal_or_forge_a_line(hostile: str) -> None:
    sentence = str(NameRefused(name=hostile, reason="why"))
    assert sentence.isprintable()
    sentence.encode()


def test_a_huge_value_is_cut() -> None:
    assert len(str(KeyTooLong(key="x" * 10**7, length=10**7))) < 300


def test_an_answer_keeps_the_code_and_escapes_the_message() -> None:
    answered = Answered(code="friend_unknown", message="No\x1b[1m friend.", exit_status=2)
    assert answered.code == "friend_unknown"
    assert str(answered) == "No\\x1b[1m friend."
