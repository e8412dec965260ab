import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.errors import F2ftunError, InviteDamaged, InviteNewer, InviteRefused, InviteUnreadable, KeyRefused
from f2ftun.wire.invite import (
    MAX_ENDPOINTS,
    MAX_EXPIRY,
    MAX_INVITE_BYTES,
    PREFIX,
    Invite,
    fitting_endpoints,
    parse,
    write,
)
from f2ftun.wire.key import base32_decode, base32_encode
from tests.unit.shared import endpoints, identity, keys, secrets

ALICE = identity(1).node_key
INVITE = Invite(ALICE, bytes(range(32)), 1_900_000_000, ("192.0.2.7:4242", "[2001:db8::7]:1", "host.example:65535"))
LINE = write(INVITE)


def line_of(body: bytes) -> str:
    """Write any body with a good check."""
    return PREFIX + base32_encode(body + hashlib.sha256(body).digest()[:4])


def body_of(line: str) -> bytes:
    return base32_decode(line.removeprefix(PREFIX))[:-4]


@given(keys, secrets, st.integers(0, MAX_EXPIRY), st.lists(endpoints, max_size=20))
def test_an_invitation_reads_back(inviter: bytes, secret: bytes, expires_at: int, wanted: list[str]) -> None:
    invite = Invite(inviter, secret, expires_at, fitting_endpoints(tuple(wanted)))
    line = write(invite)
    assert parse(line) == invite
    assert line.isascii()
    assert len(base32_decode(line.removeprefix(PREFIX))) <= MAX_INVITE_BYTES


def test_white_space_from_a_mail_does_no_harm() -> None:
    assert parse("  " + LINE[:60] + "\r\n  " + LINE[60:] + "\n") == INVITE


@given(st.integers(0, len(body_of(LINE)) * 8 + 31))
def test_one_bit_changed_shows(bit: int) -> None:
    data = base32_decode(LINE.removeprefix(PREFIX))
    flipped = (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")
    with pytest.raises(InviteDamaged):
        parse(PREFIX + base32_encode(flipped))


@pytest.mark.parametrize("cut", range(len(LINE)))
def test_a_part_is_refused(cut: int) -> None:
    with pytest.raises(InviteRefused):
        parse(LINE[:cut])


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    for line in (text, PREFIX + text):
        with pytest.raises(InviteRefused):
            parse(line)


@given(st.binary(max_size=MAX_INVITE_BYTES + 10))
def test_any_body_with_a_good_check_is_an_invitation_or_refused(tail: bytes) -> None:
    for body in (tail, b"\1" + tail, b"\1" + ALICE + tail, body_of(LINE)[:73] + tail):
        try:
            invite = parse(line_of(body))
        except (InviteRefused, KeyRefused):
            continue
        assert write(invite) == line_of(body)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("", InviteUnreadable),
        ("f2f2:" + LINE[5:], InviteUnreadable),
        (LINE.upper(), InviteUnreadable),
        (LINE + "0", InviteDamaged),
        (LINE * 2, InviteDamaged),
        (PREFIX + "0" * 10**6, InviteUnreadable),
        (PREFIX + "a" * 100, InviteDamaged),
        (line_of(b"\2" + body_of(LINE)[1:]), InviteNewer),
        (line_of(b"\1" + bytes(32) + body_of(LINE)[33:]), KeyRefused),
        (line_of(body_of(LINE) + b"\0"), InviteUnreadable),
        (line_of(body_of(LINE)[:65] + b"\xff" * 8 + b"\0"), InviteUnreadable),
        (line_of(body_of(LINE)[:73] + b"\1\x05abcd"), InviteUnreadable),
        (line_of(body_of(LINE)[:73] + b"\1\x06" + b"\xfc" + bytes(15) + b"\0\1"), InviteUnreadable),
        (line_of(body_of(LINE)[:73] + b"\1\x04" + b"\1\2\3\4" + b"\0\0"), InviteUnreadable),
        (line_of(body_of(LINE)[:73] + b"\1\0\x09alice.f2f\0\1"), InviteUnreadable),
        (line_of(body_of(LINE)[:73] + b"\1\0\x03a;b\0\1"), InviteUnreadable),
        (line_of(body_of(LINE)[:73] + bytes([17]) + b"\x04\1\2\3\4\0\1" * 17), InviteUnreadable),
        (line_of(body_of(LINE)[:73] + bytes(500)), InviteUnreadable),
    ],
)
def test_what_is_no_invitation(line: str, error: type[F2ftunError]) -> None:
    with pytest.raises(error) as refused:
        parse(line)
    assert len(str(refused.value)) < 300


def test_the_secrets_are_those_of_the_protocol() -> None:
    def derived(info: bytes) -> bytes:
        return HKDF(SHA256(), 32, None, info).derive(INVITE.secret)

    private_key = derived(b"f2ftun v1 invite key")
    assert INVITE.invite_private_key == private_key
    assert INVITE.invite_key == X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()
    assert INVITE.invite_psk == derived(b"f2ftun v1 invite psk")
    assert INVITE.friend_psk == derived(b"f2ftun v1 friend psk")


def test_the_layout_is_that_of_the_protocol() -> None:
    expected = b"\1" + ALICE + bytes(range(32)) + (1_900_000_000).to_bytes(8, "big") + b"\3"
    expected += b"\4\xc0\0\2\7\x10\x92" + b"\6\x20\1\x0d\xb8" + bytes(11) + b"\7\0\1" + b"\0\x0chost.example\xff\xff"
    assert body_of(LINE) == expected
    assert line_of(expected) == LINE


def test_an_invitation_does_not_show_its_secret() -> None:
    assert INVITE.secret.hex() not in repr(INVITE)
    assert repr(INVITE.secret) not in repr(INVITE)


def test_an_invitation_expires() -> None:
    assert not INVITE.expired(1_899_999_999)
    assert INVITE.expired(1_900_000_000)


@pytest.mark.parametrize(
    "values",
    [
        (b"short", bytes(32), 1, ()),
        (ALICE, b"short", 1, ()),
        (ALICE, bytes(32), -1, ()),
        (ALICE, bytes(32), MAX_EXPIRY + 1, ()),
        (ALICE, bytes(32), 1, ("Host.example:1",)),
        (ALICE, bytes(32), 1, tuple(f"192.0.2.{n}:1" for n in range(MAX_ENDPOINTS + 1))),
        (ALICE, bytes(32), 1, tuple(f"{'a' * 60}.{n}.example:1" for n in range(8))),
    ],
)
def test_what_an_invitation_cannot_say(values: tuple[bytes, bytes, int, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match=r"invitation|endpoint"):
        Invite(*values)


def test_as_many_endpoints_as_fit_are_kept_in_their_order() -> None:
    wanted = (*tuple(f"{'a' * 60}.x{n}.example:1" for n in range(8)), "192.0.2.1:1", "192.0.2.1:1")
    assert fitting_endpoints(wanted) == (*wanted[:5], "192.0.2.1:1")
