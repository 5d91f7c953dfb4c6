"""What services ask each other, overheard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats

from tests.integration.gateway_app import Gateway


class Wiretap:
    """Every question between services, as it was asked."""

    def __init__(self, client: Any, gateway: Gateway) -> None:
        self._client = client
        self._gateway = gateway
        self._heard: list[tuple[str, str]] = []

    async def hear(self, message: Any) -> None:
        self._heard.append((message.subject, message.data.decode()))

    async def heard(self) -> list[tuple[str, str]]:
        """Subject and text of what was asked since the last call."""
        await self._gateway.parts.broker.ping(timeout=30)  # whatever it has sent is with the server
        await self._client.flush()
        heard, self._heard = self._heard, []
        return heard


@asynccontextmanager
async def tapped(url: str, gateway: Gateway) -> AsyncIterator[Wiretap]:
    client = await nats.connect(url)
    tap = Wiretap(client, gateway)
    await client.subscribe("rpc.>", cb=tap.hear)
    try:
        yield tap
    finally:
        await client.close()
