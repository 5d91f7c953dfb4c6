"""Where a webhook may go: every way to write what is inside, and what is not."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.webhooks.guard import AddressRefused, Gate, address_allowed, refusal
from tests.support.ways_in import ADDRESSES, URLS

PUBLIC = (
    "https://example.com/hook",
    "https://hooks.example.co.uk:8443/a?b=c%20d",
    "https://8.8.8.8",
)


@pytest.mark.parametrize("url", URLS)
def test_no_way_to_write_what_is_inside_is_accepted(url: str) -> None:
    reason = refusal(url, allow_loopback=False)
    assert reason is not None
    assert reason.endswith(".")  # a sentence


@pytest.mark.parametrize(
    "url",
    [
        *PUBLIC,
        "https://[2606:4700:4700::1111]/hook",
        "https://xn--bcher-kva.example/hook",
        "https://my_host.example.com./hook",
        "https://1.example.com:1024/",
    ],
)
def test_what_the_internet_reaches_is_accepted(url: str) -> None:
    assert refusal(url, allow_loopback=False) is None


@pytest.mark.parametrize(
    ("url", "about"),
    [
        ("http://example.com/hook", "https"),
        ("ftp://example.com/hook", "https"),
        ("file:///etc/passwd", "https"),
        ("https://user:secret@example.com/", "user"),
        ("https://user@example.com/", "user"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com:25/", "port"),
        ("https://example.com:22/", "port"),
        ("https://example.com:0/", "port"),
        ("https://example.com:70000/", "URL"),
        ("https://example.com:x/", "URL"),
        ("https://example.com\r\nX-Injected: 1/", "characters"),
        ("https://example.com/\r\nHost: internal", "characters"),
        ("https://example.com/ok\x00", "characters"),
        ("https://example.com\\@127.0.0.1/", "characters"),
        ("https://bücher.example/", "characters"),
        ("https://exam%70le.com/", "name"),
        ("https://intra/hook", "full name"),
        ("https:///hook", "name"),
        ("https://-a.example.com/", "name"),
        ("https://a..example.com/", "name"),
        ("example.com/hook", "https"),
    ],
)
def test_what_can_be_no_endpoint_is_refused_with_what_would_be_accepted(
    url: str, about: str
) -> None:
    reason = refusal(url, allow_loopback=False)
    assert reason is not None
    assert about in reason


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/", "http://localhost:8000/", "http://[::1]:8000/", *PUBLIC]
)
def test_development_may_speak_to_this_machine(url: str) -> None:
    assert refusal(url, allow_loopback=True) is None


@pytest.mark.parametrize("address", [a for a in ADDRESSES if a != "::1" and a[:4] != "127."])
def test_development_opens_no_other_address(address: str) -> None:
    url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
    assert refusal(url, allow_loopback=True) is not None


@pytest.mark.parametrize("url", ["http://127.1/", "http://2130706433/", "http://[::1%25lo]/"])
def test_development_reads_addresses_no_other_way(url: str) -> None:
    assert refusal(url, allow_loopback=True) is not None


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_address_inside_is_dialled(address: str) -> None:
    gate = Gate(allow_loopback=False)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    assert not address_allowed(ip_address(address))
    with pytest.raises(AddressRefused):
        gate.make_socket((family, socket.SOCK_STREAM, 6, "", (address, 443)))
    assert (gate.opened, gate.refused) == (0, 1)


def test_an_address_with_a_zone_is_not_dialled_whatever_it_is() -> None:
    gate = Gate(allow_loopback=True)
    for dialled in (("2606:4700:4700::1111", 443, 0, 2), ("::1", 443, 0, 1)):
        with pytest.raises(AddressRefused):
            gate.make_socket((socket.AF_INET6, socket.SOCK_STREAM, 6, "", dialled))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "100.128.0.1", "172.32.0.1"])
def test_neighbours_of_closed_networks_are_open(address: str) -> None:
    assert address_allowed(ip_address(address))


@given(st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address))
def test_nothing_is_dialled_that_python_knows_to_be_closed(
    address: IPv4Address | IPv6Address,
) -> None:
    if address_allowed(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@given(st.integers(0, 2**128 - 1).map(lambda n: IPv6Address(n % 2**125 + (1 << 125))))
def test_no_global_address_that_is_dialled_carries_an_inner_one(address: IPv6Address) -> None:
    if address_allowed(address):
        assert address.ipv4_mapped is None
        assert address.sixtofour is None
        assert address.teredo is None
        assert (int(address) >> 32) & 0xFDFF_FFFF != 0x5EFE
