"""The gateway's own process refuses what is not HTTP in the envelope, too."""

import socket
from urllib.parse import urlsplit

import msgspec

from tests.support.local_stack import LocalStack


def test_what_is_not_http_is_refused_in_json(stack: LocalStack) -> None:
    at = urlsplit(stack.base_url)
    with socket.create_connection((at.hostname, at.port), timeout=60) as connection:
        connection.sendall(b"hello\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in head
    assert msgspec.json.decode(body)["error"]["code"] == "malformed_request"
