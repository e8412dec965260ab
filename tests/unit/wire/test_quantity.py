import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.errors import DurationUnreadable, RateUnreadable
from f2ftun.wire.quantity import (
    MAX_DURATION_S,
    MAX_RATE_BPS,
    RATE_UNITS_BPS,
    parse_duration,
    parse_rate,
    write_duration,
    write_rate,
)


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [
        ("10KiB/s", 81920),
        ("8kbit/s", 8000),
        ("1Mbit/s", 10**6),
        ("1.5Gbit/s", 1_500_000_000),
        ("0bit/s", 0),
        ("1 MB/s", 8 * 10**6),
        ("0.125kB/s", 1000),
        ("10000Gbit/s", MAX_RATE_BPS),
    ],
)
def test_rates(text: str, rate_bps: int) -> None:
    assert parse_rate(text) == rate_bps


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "kbit/s",
        "-1kbit/s",
        "1,5Mbit/s",
        "1e3bit/s",
        "1.bit/s",
        "0.1bit/s",
        "10001Gbit/s",
        "1Mbit/s\n",
        " 1Mbit/s",
        "٣kbit/s",
        "1Mbit",
        "1 parsec",
        "infbit/s",
        "nanbit/s",
        "9" * 10**6 + "bit/s",
        "1\x00bit/s",
    ],
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(RateUnreadable):
        parse_rate(text)


@pytest.mark.parametrize(("text", "near"), [("1mbit/s", "Mbit/s"), ("1Kib/s", "KiB/s"), ("1Gbits", "Gbit/s")])
def test_a_mistyped_unit_is_told_the_nearest(text: str, near: str) -> None:
    with pytest.raises(RateUnreadable, match=f"did you mean {near}"):
        parse_rate(text)


@given(st.integers(0, MAX_RATE_BPS))
def test_a_written_rate_reads_back(rate_bps: int) -> None:
    assert parse_rate(write_rate(rate_bps)) == rate_bps


@given(st.integers(0, 10**6), st.sampled_from(list(RATE_UNITS_BPS)))
def test_a_read_rate_writes_back_to_the_same_value(count: int, unit: str) -> None:
    if count * RATE_UNITS_BPS[unit] <= MAX_RATE_BPS:
        assert parse_rate(write_rate(parse_rate(f"{count}{unit}"))) == count * RATE_UNITS_BPS[unit]


@pytest.mark.parametrize(
    ("rate_bps", "text"),
    [(0, "0bit/s"), (81920, "81.92kbit/s"), (10**6, "1Mbit/s"), (1_500_000_000, "1.5Gbit/s"), (999, "999bit/s")],
)
def test_a_rate_is_written_for_people(rate_bps: int, text: str) -> None:
    assert write_rate(rate_bps) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h30m", 9000), ("3d", 259200), ("1d1h1m1s", 90061)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0s", "90", "1.5h", "-1s", "30m2h", "1h 30m", "1w", "1s\n", "٣s", "4000d", "9" * 10**6 + "s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(DurationUnreadable):
        parse_duration(text)


@given(st.integers(1, MAX_DURATION_S))
def test_a_written_duration_reads_back(seconds: int) -> None:
    assert parse_duration(write_duration(seconds)) == seconds


@given(st.text())
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    for parse, error in ((parse_rate, RateUnreadable), (parse_duration, DurationUnreadable)):
        try:
            assert parse(text) >= 0
        except error:
            continue
