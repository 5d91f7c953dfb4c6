"""No way in: where a webhook may go, judged by its URL and again by the address that is dialled.

A URL's owner is a stranger who would like this service to speak to what only it can reach. The
check of the URL is for the owner, who learns at once what is wrong. The one that protects is made
on the very address of each new connection, so it holds whatever DNS says, and whenever it says
something else. Redirects are not followed (`services.webhooks.outbound`).
"""

import errno
import re
import socket
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from yarl import URL

IpAddress = IPv4Address | IPv6Address

# The IANA special-purpose registries (RFC 6890 and its successors). Not ``is_global``: on Python
# 3.11 it lets NAT64, 6to4, multicast and others through.
CLOSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, and a cloud's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's platform services, at a public address
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments, and a cloud's metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
OPEN_V6 = IPv6Network("2000::/3")
"""Global unicast, all that IANA has ever given out. What embeds an IPv4 address lies outside
(mapped, compatible, translated, NAT64 in both its prefixes) or is closed below."""

CLOSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
LOOPBACK_V6 = IPv6Address("::1")
ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""The upper half of an interface identifier whose lower half is an IPv4 address (RFC 5214)."""

# What no browser connects to either (WHATWG Fetch, port blocking): a request sent to these would
# be read as mail, say, by something that is not a web server.
# fmt: off
CLOSED_PORTS = frozenset((
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102,
    103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465,
    512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993,
    995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668,
    6669, 6679, 6697, 10080,
))
# fmt: on
CLOSED_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "onion")
"""Names, and what is below them, that never lead to the public internet."""

HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
"""One label; the underscore is no host name's, and yet in use."""

NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
VISIBLE = re.compile(r"[!-~]+", re.ASCII)

NOT_PUBLIC = (
    "This address is private, local or reserved; give one that is reachable from the internet."
)
REMEMBERED = 10_000  # URLs; a judgement costs as much as a signature


def address_allowed(address: IpAddress) -> bool:
    """Whether it is a single public machine of the internet, as far as an address can tell."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in CLOSED_V4)
    if address.scope_id is not None or address not in OPEN_V6:
        return False
    if (int(address) >> 32) & 0xFFFF_FFFF in ISATAP:
        return False
    return not any(address in network for network in CLOSED_V6)


def is_loopback(address: IpAddress) -> bool:
    """Itself: not what is mapped to it, and not one that names an interface."""
    if isinstance(address, IPv4Address):
        return address.is_loopback
    return address == LOOPBACK_V6 and address.scope_id is None


@lru_cache(maxsize=REMEMBERED)
def refusal(url: str, *, allow_loopback: bool) -> str | None:
    """Why nothing can be sent to ``url``, as a sentence for its owner; None when it can.

    Asks no DNS. ``allow_loopback`` is for development: this machine, and plain HTTP.
    """
    if not VISIBLE.fullmatch(url) or "\\" in url:
        return (
            "Spaces, control and other non-ASCII characters must be percent-encoded (xn-- names)."
        )
    try:
        parsed = URL(url)
        port, host = parsed.port, (parsed.raw_host or "").rstrip(".").lower()
    except ValueError:
        return "This is not a URL; it should read like https://example.com/webhooks."
    if parsed.scheme != "https" and not (allow_loopback and parsed.scheme == "http"):
        return "The URL must begin with https://."
    if parsed.raw_user is not None or parsed.raw_password is not None:
        return "A URL with a user or password in it is not taken; check the signature instead."
    if parsed.raw_fragment:
        return "A fragment (#…) is never sent; leave it away."
    if port is None or port < 1 or port in CLOSED_PORTS:
        return "This port belongs to another protocol; 443 is usual, those above 1023 are fine."
    return _host_refusal(host, allow_loopback=allow_loopback)


def _host_refusal(host: str, *, allow_loopback: bool) -> str | None:
    if ":" in host or NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            address = ip_address(host)
        except ValueError:
            return "Write an IP address in its usual form, or better a name."
        allowed = address_allowed(address) or (allow_loopback and is_loopback(address))
        return None if allowed else NOT_PUBLIC
    if allow_loopback and host == "localhost":
        return None
    if any(host == name or host.endswith(f".{name}") for name in CLOSED_NAMES):
        return NOT_PUBLIC
    labels = host.split(".")
    if len(host) > 253 or not all(map(HOST_NAME.fullmatch, labels)):
        return "The host is not a name that DNS knows; it should read like example.com."
    if len(labels) == 1:
        return "The host must be a full name with its domain, such as hooks.example.com."
    return None


class AddressRefused(PermissionError):
    """A connection was about to be made to an address that nobody outside should reach."""


class Gate:
    """Makes the sockets of all outgoing connections, those of them that are allowed.

    ``opened`` and ``refused`` count, so that tests can tell a refused address from a closed port.
    """

    def __init__(
        self,
        *,
        allow_loopback: bool,
        allowed: Callable[[IpAddress], bool] = address_allowed,
    ) -> None:
        self.allow_loopback = allow_loopback
        self.opened = 0
        self.refused = 0
        self._allowed = allowed

    def make_socket(
        self,
        target: tuple[
            socket.AddressFamily | int,
            socket.SocketKind | int,
            int,
            str,
            tuple[object, ...],
        ],
    ) -> socket.socket:
        """For aiohttp's connector, which dials exactly this address. Raises AddressRefused."""
        family, kind, protocol, _, dialled = target
        address = ip_address(str(dialled[0]))
        zone = len(dialled) == 4 and dialled[3] != 0
        local = self.allow_loopback and is_loopback(address)
        if zone or not (self._allowed(address) or local):
            self.refused += 1
            raise AddressRefused(errno.EACCES, NOT_PUBLIC)
        self.opened += 1
        return socket.socket(family, kind, protocol)
