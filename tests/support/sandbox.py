"""The payments sandbox in a test's hand: a process of its own, what it sends, and its controls."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import stripe
from aiohttp import web

from deploy.local.program import clean_environment, free_port

API_KEY = "sk_test_sandbox"
WEBHOOK_SECRET = "whsec_sandbox"
CONTROL_TOKEN = "control-sandbox"
START_SECONDS = 90.0
QUIET_SECONDS = 90.0
ASK_SECONDS = 60.0
POLL_SECONDS = 0.02


class Endpoint:
    """Where events are sent: verified as they come; the next ``refusals`` are answered 500."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.events: list[stripe.Event] = []
        self.refusals = 0

    async def receive(self, request: web.Request) -> web.Response:
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=500)
        payload, signature = await request.read(), request.headers["Stripe-Signature"]
        self.events.append(stripe.Webhook.construct_event(payload, signature, WEBHOOK_SECRET))
        return web.Response()

    def types(self) -> list[str]:
        return [event.type for event in self.events]


@asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    port = free_port()
    hook = Endpoint(f"http://127.0.0.1:{port}/events")
    app = web.Application()
    app.router.add_post("/events", hook.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield hook
    finally:
        await runner.cleanup()


class Sandbox:
    """One installation: its address, its state, and its process while it runs."""

    def __init__(self, folder: Path, *, webhook_url: str | None = None) -> None:
        self.api_key = API_KEY  # or several, with commas, as the next start will read it
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state_file = folder / "sandbox.sqlite"
        self.webhook_url = webhook_url
        self.process: asyncio.subprocess.Process | None = None
        self._http = httpx.AsyncClient(
            base_url=self.url, timeout=ASK_SECONDS, trust_env=False, follow_redirects=False
        )

    def environment(self) -> dict[str, str]:
        settings = {
            "listen": f"127.0.0.1:{self.port}",
            "api_key": self.api_key,
            "webhook_secret": WEBHOOK_SECRET,
            "state_file": str(self.state_file),
            "control_token": CONTROL_TOKEN,
        }
        if self.webhook_url is not None:
            settings["webhook_url"] = self.webhook_url
        return {f"TUNEYARD_{name.upper()}": value for name, value in settings.items()}

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "deploy.local.sandbox",
            env=clean_environment() | self.environment(),
        )
        async with asyncio.timeout(START_SECONDS):
            while not await self._answers():
                assert self.process.returncode is None, "the sandbox did not start"
                await asyncio.sleep(POLL_SECONDS)

    async def kill(self) -> None:
        """As a power cut does to a process."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()

    async def close(self) -> None:
        await self._http.aclose()

    async def _answers(self) -> bool:
        try:
            return (await self._http.get("/")).status_code == 200
        except httpx.TransportError:
            return False

    def stripe(self, *, api_key: str = API_KEY, retries: int = 0) -> stripe.StripeClient:
        """Stripe's own client, asynchronous, that believes this to be Stripe."""
        return stripe.StripeClient(
            api_key,
            base_addresses={"api": self.url},
            max_network_retries=retries,
            http_client=stripe.HTTPXClient(timeout=ASK_SECONDS),
        )

    async def page(self, url: str) -> httpx.Response:
        return await self._http.get(url)

    async def press(self, url: str, **form: str) -> httpx.Response:
        """Send the form of a page."""
        return await self._http.post(url, data=form)

    async def control(self, method: str, path: str, /, **body: Any) -> Any:
        answer = await self._http.request(
            method,
            f"/control/{path}",
            json=body,
            headers={"Authorization": f"Bearer {CONTROL_TOKEN}"},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def fail(self, kind: str, **how: Any) -> None:
        """The next ``calls`` (1) calls go wrong; see `deploy.local.sandbox.faults.CallFault`."""
        await self.control("POST", "calls", kind=kind, **how)

    async def heal(self) -> None:
        """Calls go right again."""
        await self.control("DELETE", "calls")

    async def send_events(self, **how: Any) -> None:
        """See `deploy.local.sandbox.faults.EventsMode`; nothing named: as they come, once."""
        await self.control("POST", "events", **how)

    async def verdict(self, payment_method: str, verdict: str | None) -> None:
        """What this card's bank says from now on: works, asks, or a decline's reason."""
        await self.control("POST", f"cards/{payment_method}", verdict=verdict)

    async def dispute(self, payment_intent: str, **how: Any) -> dict[str, Any]:
        opened: dict[str, Any] = await self.control(
            "POST", "disputes", payment_intent=payment_intent, **how
        )
        return opened

    async def close_dispute(self, dispute: str, *, won: bool) -> None:
        await self.control("POST", f"close-dispute/{dispute}", won=won)

    async def renew(self, subscription: str) -> dict[str, Any]:
        renewed: dict[str, Any] = await self.control("POST", f"renew/{subscription}")
        return renewed

    async def advance(self, seconds: float) -> None:
        await self.control("POST", "clock", seconds=seconds)

    async def movements(self, kind: str | None = None) -> list[dict[str, Any]]:
        """All money that moved, oldest first; of one kind: charge, refund, dispute,
        dispute_reversal."""
        found = await self.control("GET", "movements")
        return [moved for moved in found if kind in (None, moved["kind"])]

    async def charges_by(self, metadata_key: str) -> dict[str, int]:
        """How often money was taken, by a metadata value (``job_id``): 2 is a double charge."""
        counts: dict[str, int] = {}
        for moved in await self.movements("charge"):
            value = moved["metadata"].get(metadata_key, "")
            counts[value] = counts.get(value, 0) + 1
        return counts

    async def quiet(self) -> None:
        """Wait until every event has been delivered."""
        async with asyncio.timeout(QUIET_SECONDS):
            while (await self.control("GET", "undelivered"))["count"]:  # noqa: ASYNC110 (so, too)
                await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def running_sandbox(
    folder: Path, *, webhook_url: str | None = None
) -> AsyncIterator[Sandbox]:
    """A sandbox with its state in ``folder``, in a process of its own as in the local stack."""
    sandbox = Sandbox(folder, webhook_url=webhook_url)
    await sandbox.start()
    try:
        yield sandbox
        if sandbox.process is not None and sandbox.process.returncode is None:
            assert await sandbox.stop() == 0
    finally:
        await sandbox.kill()
        await sandbox.close()


async def customer_with(api: Any, token: str = "pm_card_visa") -> tuple[str, str]:
    """A customer's id, and that of the card saved with them."""
    customer = await api.customers.create_async({"name": "Alice", "email": "alice@example.org"})
    card = await api.payment_methods.attach_async(token, {"customer": customer.id})
    return customer.id, card.id


def off_session(customer: str, card: str, amount: int = 1_234, **more: Any) -> dict[str, Any]:
    """What a charge of a saved card asks for."""
    return {
        "amount": amount,
        "currency": "usd",
        "customer": customer,
        "payment_method": card,
        "payment_method_types": ["card"],
        "off_session": True,
        "confirm": True,
        **more,
    }
