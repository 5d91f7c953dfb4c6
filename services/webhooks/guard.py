"""Which URLs may be asked for at all, as far as the text alone tells. Pure; no DNS here."""

import ipaddress
from urllib.parse import urlsplit


def refusal(url: str, *, allow_loopback: bool) -> str | None:
    """A sentence for the owner; None: the URL is fine. ``allow_loopback`` is for development."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "This is not a URL; send one such as https://example.com/hooks."
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return "This is not a web address; send one such as https://example.com/hooks."
    if parts.username is not None or parts.password is not None:
        return "A URL with a user or password is not taken; check the signature instead."
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if allow_loopback and (host == "localhost" or (address is not None and address.is_loopback)):
        return None
    if host == "localhost" or (address is not None and not address.is_global):
        return "This address is not on the public internet; send one that is."
    if parts.scheme != "https":
        return "Events are sent over https only; send an https URL."
    return None
