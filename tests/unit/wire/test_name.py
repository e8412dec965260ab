import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.errors import NameRefused
from f2ftun.wire.name import MAX_NAME_CHARACTERS, choose_name, is_name, parse_name
from tests.unit.shared import names


@pytest.mark.parametrize(
    ("text", "name"), [("alice", "alice"), ("alice.f2f", "alice"), ("laptop.alice", "laptop.alice")]
)
def test_names(text: str, name: str) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".f2f",
        "Alice",
        "all",
        "f2f",
        "localhost",
        "x.k",
        "alice.f2f.f2f",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a.",
        "a b",
        "a_b",
        "a/b",
        "../a",
        "..",
        ".",
        "a\x00b",
        "a\r\nb",
        "a\n",
        "$(id)",
        "a;b",
        "`a`",
        "bücher",
        "\u202egpj",
        "a\u200bb",
        "\ud800",
        "a" * 64,
        "a" * 10**7,
        "--json",
        "a=b",
        "a*",
        "~",
        "ａlice",
        "ﬀ",
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(NameRefused) as refused:
        parse_name(text)
    assert str(refused.value).isprintable()
    assert not is_name(text)


@given(names)
def test_a_name_reads_back_with_and_without_its_domain(name: str) -> None:
    assert parse_name(name) == parse_name(f"{name}.f2f") == name


@given(st.text())
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        assert is_name(parse_name(text))
    except NameRefused:
        assert not is_name(text)


@given(names, st.sets(names, max_size=20))
def test_a_chosen_name_is_a_name_and_free(wanted: str, taken: set[str]) -> None:
    for _ in range(3):
        chosen = choose_name(wanted, frozenset(taken))
        assert is_name(chosen)
        assert chosen not in taken
        taken |= {chosen}


def test_a_long_name_is_shortened_for_its_number() -> None:
    wanted = "a" * MAX_NAME_CHARACTERS
    assert choose_name(wanted, frozenset({wanted})) == "a" * (MAX_NAME_CHARACTERS - 2) + "-2"
