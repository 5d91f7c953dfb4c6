"""No way in: nothing listens to a webhook that is not on the public internet.

Counted where it matters: connections that listeners on this machine accept, and sockets that the
gate lets out.
"""

import socket
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from services.webhooks.guard import Gate, refusal
from tests.support.receiver import Receiver, always
from tests.support.stack import Database
from tests.support.ways_in import ADDRESSES, URLS
from tests.support.webhook_room import Room, webhook_room


@pytest.fixture
async def room(fresh_database: Database) -> AsyncIterator[Room]:
    async with webhook_room(fresh_database) as room:
        room.gate = Gate(allow_loopback=False)
        yield room


def answers(*of: str) -> Callable[[str], list[tuple[Any, ...]]]:
    """A name server, for every name: each question gets the next answer, then the last again."""
    left = list(of)

    def ask(_: str) -> list[tuple[Any, ...]]:
        address = left.pop(0) if len(left) > 1 else left[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sockaddr = (address, 0, 0, 0) if ":" in address else (address, 0)
        return [(family, socket.SOCK_STREAM, 6, "", sockaddr)]

    return ask


async def errors(room: Room) -> list[str]:
    rows = await room.sql.fetch(
        "SELECT a.error FROM webhooks.attempt a JOIN webhooks.delivery d ON d.id = a.delivery_id"
        " WHERE d.event_type != 'ping'"
    )
    return [row["error"] for row in rows]


async def test_no_url_that_leads_inside_makes_a_connection(room: Room) -> None:
    port = room.receiver.port
    for n, url in enumerate(URLS):
        where = url.replace("/hook", f":{port}/hook") if url.endswith("/hook") else url
        await room.endpoint(f"/{n}", always(), url=where)
    await room.happen()
    async with room.sender():
        await room.settled()
    assert len(await errors(room)) == len(URLS)
    assert (room.receiver.connections, room.gate.opened) == (0, 0)


async def test_no_name_that_leads_inside_makes_a_connection(room: Room) -> None:
    port = room.receiver.port
    names = {f"n{n}.example.com": address for n, address in enumerate(ADDRESSES)}
    for name in names:
        url = f"https://{name}:{port}/"
        assert refusal(url, allow_loopback=False) is None
        await room.endpoint(name, always(), url=url)
    room.look_up = lambda name: answers(names[name])(name)
    await room.happen()
    async with room.sender():
        await room.settled()
    said = await errors(room)
    assert len(said) == len(names)
    assert all("private, local or reserved" in sentence for sentence in said)
    assert (room.receiver.connections, room.gate.opened) == (0, 0)
    assert room.gate.refused == len(names)


def only_outside() -> Gate:
    """127.0.0.2 stands for an address of the internet."""
    return Gate(allow_loopback=False, allowed=lambda address: address == ip_address("127.0.0.2"))


async def test_an_endpoint_from_before_the_rules_is_judged_before_each_attempt(room: Room) -> None:
    room.gate = only_outside()
    room.look_up = answers("127.0.0.2")
    outside = Receiver()
    async with outside.serving("127.0.0.2"):
        await room.endpoint("/", always(), url=f"http://a.example.com:{outside.port}/")
        await room.happen()
        async with room.sender():
            await room.settled()
    assert await errors(room) == ["The URL must begin with https://."]
    assert (outside.connections, room.gate.opened) == (0, 0)


async def test_a_name_with_addresses_inside_and_outside_is_dialled_outside_alone(
    room: Room,
) -> None:
    room.gate, room.timeout = only_outside(), 5.0  # the receiver waits for more than a ClientHello
    several = ("127.0.0.1", "::1", "127.0.0.2", "10.0.0.1")
    room.look_up = lambda name: [row for one in several for row in answers(one)(name)]
    outside, inside = Receiver(), Receiver()
    async with (
        outside.serving("127.0.0.2"),
        inside.serving("127.0.0.1", port=outside.port),
        inside.serving("::1", port=outside.port),
    ):
        await room.endpoint("/", always(), url=f"https://a.example.com:{outside.port}/")
        await room.happen()
        async with room.sender():
            await room.settled()
    assert (outside.connections, inside.connections, room.gate.opened) == (1, 0, 1)


async def test_a_name_that_is_bound_anew_inside_is_not_followed(room: Room) -> None:
    outside, inside = Receiver(), Receiver()
    room.gate = only_outside()
    room.look_up = answers("127.0.0.2", "127.0.0.1")
    async with (
        outside.serving("127.0.0.2"),
        inside.serving("127.0.0.1", port=outside.port),
    ):
        await room.endpoint("/", always(), url=f"https://a.example.com:{outside.port}/hook")
        await room.happen()
        async with room.sender():
            await room.until(lambda: outside.connections > 0)
            outside.break_off()  # it would wait for more than a ClientHello
            await room.settled()
        assert (outside.connections, room.gate.opened, room.gate.refused) == (1, 1, 0)
        room.clock.now += timedelta(seconds=5)
        async with room.sender():  # which has no memory of what DNS said
            await room.settled()
    assert (outside.connections, inside.connections) == (1, 0)
    assert (room.gate.opened, room.gate.refused) == (1, 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(room: Room, status: int) -> None:
    room.gate = Gate(allow_loopback=True)
    inside = Receiver()
    async with inside.serving():
        there = {"Location": inside.url("/admin"), "Refresh": f"0; url={inside.url('/admin')}"}
        id_, endpoint = await room.endpoint("/moved", always(status, headers=there))
        await room.happen()
        async with room.sender():
            await room.settled()
    assert (endpoint.count, inside.connections) == (1, 0)
    assert [row["status_code"] for row in await room.attempts(id_)] == [status]


async def test_neither_proxies_nor_cookies_nor_passwords_of_this_machine_are_used(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.gate = Gate(allow_loopback=True)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login root password secret\n")
    proxy = Receiver()
    async with proxy.serving():
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(""))
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        cookies = always(200, headers={"Set-Cookie": "session=1; Path=/"})
        _, endpoint = await room.endpoint("/cookies", cookies)
        await room.happen()
        await room.happen()
        async with room.sender():
            await room.settled()
    assert (endpoint.count, proxy.connections) == (2, 0)
    for request in endpoint.requests:
        assert not {"cookie", "authorization"} & set(request.headers)
