from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.errors import EndpointUnreadable
from f2ftun.wire.endpoint import Endpoint, parse_endpoint, parse_listen
from tests.unit.shared import endpoints


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.0.2.7:4242", Endpoint(IPv4Address("192.0.2.7"), 4242)),
        ("[2001:DB8:0::7]:1", Endpoint(IPv6Address("2001:db8::7"), 1)),
        ("[::ffff:192.0.2.7]:65535", Endpoint(IPv4Address("192.0.2.7"), 65535)),
        ("Host.Example:4242", Endpoint("host.example", 4242)),
        ("xn--bcher-kva.example:1", Endpoint("xn--bcher-kva.example", 1)),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert endpoint.literal == (not isinstance(endpoint.host, str))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "a",
        "a:",
        "a:0",
        "a:65536",
        "a:99999",
        "a:1 ",
        "a:1\n",
        "a b:1",
        "2001:db8::1:4242",
        "[192.0.2.1]",
        "[::1]",
        "[fc00::1]:1",
        "[fcff::1]:1",
        "0.0.0.0:1",
        "[::]:1",
        "224.0.0.1:1",
        "[ff02::1]:1",
        "255.255.255.255:1",
        "[fe80::1]:1",
        "[fe80::1%eth0]:1",
        "169.254.1.1:1",
        "alice.f2f:1",
        "1.2.3:1",
        "1.2.3.4.5:1",
        "-a:1",
        "a-:1",
        "a..b:1",
        "a_b:1",
        "bücher.example:1",
        "a\x00:1",
        "a" * 64 + ":1",
        "a." * 200 + "a:1",
        "a:٣",
        "[a]:1",
        "a:1;reboot",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(EndpointUnreadable):
        parse_endpoint(text)


@given(endpoints)
def test_a_written_endpoint_reads_back(text: str) -> None:
    assert str(parse_endpoint(text)) == text


@given(st.text() | st.from_regex(r"\[?[0-9a-f:.]{1,40}\]?:[0-9]{1,6}", fullmatch=True))
def test_any_text_is_an_endpoint_in_one_form_or_refused(text: str) -> None:
    for parse in (parse_endpoint, parse_listen):
        try:
            endpoint = parse(text)
        except EndpointUnreadable:
            continue
        assert parse(str(endpoint)) == endpoint


@pytest.mark.parametrize("text", ["[::]:4242", "0.0.0.0:0", "192.0.2.1:4242", "[::1]:1"])
def test_one_listens_on_addresses(text: str) -> None:
    assert str(parse_listen(text)) == text


@pytest.mark.parametrize("text", ["localhost:1", "[fc00::1]:1", "[ff02::1]:1", "4242", "[::]", "*:1"])
def test_one_does_not_listen_on(text: str) -> None:
    with pytest.raises(EndpointUnreadable):
        parse_listen(text)
