"""Send one webhook and say what came of it: ``python -m tests.support.one_webhook URL``.

A process of its own, because OpenSSL is told in its environment whom it trusts.
"""

import asyncio
import sys
from datetime import UTC, datetime

import msgspec

from services.webhooks.guard import Gate
from services.webhooks.outbound import outbound, post
from services.webhooks.resolver import Resolver


def now() -> datetime:
    return datetime.now(UTC)


async def send(url: str) -> None:
    async with outbound(Gate(allow_loopback=True), Resolver(), now) as client:
        reply = await post(client, url, b"{}", {"webhook-id": "one"})
    sys.stdout.buffer.write(msgspec.json.encode(reply))


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1]))
