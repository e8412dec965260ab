import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.core.friend import Friend, Transit, Trust, Visibility, changed
from f2ftun.errors import (
    EndpointUnreadable,
    F2ftunError,
    NameRefused,
    RateUnreadable,
    SettingIncomplete,
    SettingRefused,
    SettingTwice,
    SettingUnknown,
)
from tests.unit.shared import identity

BOB = Friend("bob", identity(1).node_key, endpoints=("192.0.2.1:1",), floor_bps=5)


def test_settings_replace() -> None:
    wanted = ["endpoint=192.0.2.2:2", "endpoint=Host.example:3", "floor=10Mbit/s", "trust=close", "transit=never"]
    friend = changed(BOB, [*wanted, "visibility=nobody"])
    assert friend.endpoints == ("192.0.2.2:2", "host.example:3")
    assert friend.floor_bps == 10**7
    assert (friend.trust, friend.transit, friend.visibility) == (Trust.CLOSE, Transit.NEVER, Visibility.NOBODY)
    assert (friend.name, friend.key) == (BOB.name, BOB.key)


@pytest.mark.parametrize("floor", ["floor=", "floor=none", "floor=0bit/s"])
def test_settings_can_be_emptied(floor: str) -> None:
    friend = changed(BOB, ["endpoint=", floor])
    assert friend.endpoints == ()
    assert friend.floor_bps is None


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("trsut=close", SettingUnknown),
        ("name=eve", SettingUnknown),
        ("psk=00", SettingUnknown),
        ("", SettingUnknown),
        ("trust=all", SettingRefused),
        ("trust=Close", SettingRefused),
        ("floor=fast", RateUnreadable),
        ("endpoint=[fc00::1]:1", EndpointUnreadable),
    ],
)
def test_what_is_no_setting(setting: str, error: type[F2ftunError]) -> None:
    with pytest.raises(error):
        changed(BOB, [setting])


@pytest.mark.parametrize("setting", ["endpoint", "floor", "trust"])
def test_a_setting_without_a_value_clears_nothing(setting: str) -> None:
    with pytest.raises(SettingIncomplete, match=f"{setting}=VALUE"):
        changed(BOB, [setting])


def test_of_two_values_neither_is_taken() -> None:
    with pytest.raises(SettingTwice):
        changed(BOB, ["floor=1Gbit/s", "floor=2Gbit/s"])


def test_the_nearest_setting_is_named() -> None:
    with pytest.raises(SettingUnknown, match=r"Did you mean trust\?"):
        changed(BOB, ["trsut=close"])


@given(
    st.lists(st.text(max_size=30) | st.sampled_from(["floor=", "trust="]).flatmap(lambda s: st.text().map(s.__add__)))
)
def test_any_text_is_a_setting_or_refused(settings: list[str]) -> None:
    try:
        changed(BOB, settings)
    except F2ftunError:
        return


def test_a_friend_does_not_show_the_psk() -> None:
    assert "psk" not in repr(Friend("bob", BOB.key, psk=b"\x99" * 32))


def test_what_no_friend_is() -> None:
    with pytest.raises(NameRefused):
        Friend("../etc", BOB.key)
    with pytest.raises(ValueError, match="32 bytes"):
        Friend("bob", b"short")
    with pytest.raises(ValueError, match="at most 16"):
        Friend("bob", BOB.key, endpoints=("192.0.2.1:1",) * 17)


def test_the_address_is_that_of_the_key() -> None:
    assert BOB.address == identity(1).address
