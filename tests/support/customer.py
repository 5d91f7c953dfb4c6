"""Somebody who pays: a browser on the payment pages, an account, and the provider's books."""

from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import httpx

from deploy.local import payments
from deploy.local.services import TINY_LLAMA
from deploy.local.state import Ports, Secrets, load
from tests.support.journey import Json, User
from tests.support.local_stack import LocalStack, eventually

WORKS = "4242424242424242"
WORKS_TOO = "5555555555554444"
DECLINED_AT_CHARGE = "4000000000000341"
DECLINED_ALWAYS = "4000000000000002"

SETTLE_SECONDS = 90.0  # from a payment on a page to what follows from it, on a busy machine
LEDGER_PAGE = 3  # small, so that a short ledger has several pages


class Form(HTMLParser):
    """The one form of a page: where it is sent to, and what it can say."""

    def __init__(self, page: httpx.Response) -> None:
        super().__init__()
        self.action = ""
        self.choices: dict[str, list[str]] = {}
        self.feed(page.text)
        assert self.action, f"{page.url} has no form: {page.text}"
        self.url = urljoin(str(page.url), self.action)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            assert given["method"] == "post"
            self.action = given["action"]
        elif tag in ("input", "button"):
            self.choices.setdefault(given["name"], []).append(given["value"])


class Customer:
    """A new account without a cent, and what its owner does with it."""

    def __init__(self, stack: LocalStack) -> None:
        account_id, key = stack.new_account(0)
        self.account_id = str(account_id)
        self.stack = stack
        self.user = User(stack, key)
        self._browser = httpx.Client(timeout=60, follow_redirects=True)

    def close(self) -> None:
        self.control("POST", "events")  # once, as they come
        self._browser.close()
        self.user.api.close()

    def _ask_for_page(self, path: str, **body: Any) -> str:
        answer = self.user.api.post(path, json=body)
        assert answer.status_code == 200, answer.text
        url: str = answer.json()["checkout_url"]
        return url

    def top_up_page(self, cents: int) -> str:
        return self._ask_for_page("/v1/billing/top-up", amount_cents=cents)

    def card_page(self) -> str:
        return self._ask_for_page("/v1/jobs/setup-card")

    def subscription_page(self, plan: str) -> str:
        return self._ask_for_page("/v1/billing/subscription", plan=plan)

    def fill_in(self, url: str, card: str) -> httpx.Response:
        """What a browser shows after the page's form was sent with this card."""
        form = Form(self._browser.get(url).raise_for_status())
        assert card in form.choices["card"]
        assert "pay" in form.choices["do"]
        return self._browser.post(form.url, data={"card": card, "do": "pay"})

    def use_card(self, url: str, card: str) -> None:
        """Use a page with a card that it takes, which leads back to the platform."""
        after = self.fill_in(url, card)
        assert after.status_code == 200, after.text
        assert str(after.url).startswith(f"{self.stack.base_url}/billing/returned"), after.url

    def send_job(self, dataset_id: str, *, steps: int, priority: bool = False) -> httpx.Response:
        """``priority`` makes even a tiny job dear enough for a card."""
        return self.user.api.post(
            "/v1/jobs",
            json={
                "type": "finetune",
                "idempotency_key": str(uuid4()),
                "base_model_id": TINY_LLAMA,
                "dataset_id": dataset_id,
                "hyperparams": {"steps": steps},
                "priority_processing": priority,
            },
        )

    def me(self) -> Json:
        found: Json = self.user.get("/v1/me")
        return found

    def summary(self) -> Json:
        found: Json = self.user.get("/v1/billing/summary")
        return found

    def until_balance(self, cents: int) -> None:
        eventually(self.user.balance, lambda b: b == cents, SETTLE_SECONDS, f"{cents} cents")

    def until_me(self, what: str, **wanted: object) -> Json:
        """The account once it has all of these values."""
        return eventually(
            self.me, lambda me: wanted.items() <= me.items(), SETTLE_SECONDS, f"an account {what}"
        )

    def until_kind(self, job_id: str, kind: str) -> None:
        """Wait for an event in a job's timeline."""
        eventually(
            lambda: self.user.kinds(job_id), lambda kinds: kind in kinds, SETTLE_SECONDS, kind
        )

    def ledger(self) -> list[Json]:
        """Every entry, oldest first, read page by page."""
        entries: list[Json] = []
        query: dict[str, Any] = {"limit": LEDGER_PAGE}
        while True:
            answer = self.user.api.get("/v1/billing/ledger", params=query)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            entries += page["data"]
            assert page["has_more"] is (page["next_cursor"] is not None)
            if not page["has_more"]:
                return entries[::-1]
            query["cursor"] = page["next_cursor"]

    def moved_at_provider(self) -> list[Json]:
        """All money that the provider moved for this account, oldest first."""
        moved: list[Json] = self.control("GET", "movements")
        return [each for each in moved if each["metadata"].get("account_id") == self.account_id]

    @contextmanager
    def late_events(self) -> Iterator[None]:
        """What happens at the provider meanwhile is told afterwards, and from then on twice."""
        self.control("POST", "events", paused=True, copies=2)
        try:
            yield
        finally:
            self.control("POST", "events", copies=2)

    def control(self, method: str, path: str, **body: Any) -> Any:
        """Of the payments sandbox."""
        ports = load(self.stack.folder / "ports.json", Ports)
        known = load(self.stack.folder / "secrets.json", Secrets)
        assert ports is not None
        assert known is not None
        answer = httpx.request(
            method,
            f"{payments.url(ports.sandbox)}/control/{path}",
            json=body,
            headers={"Authorization": f"Bearer {known.sandbox_control_token}"},
            timeout=60,
        )
        return answer.raise_for_status().json()
