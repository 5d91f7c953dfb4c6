"""The balance, what was spent, and what can be bought."""

from typing import Literal

from tuneyard._call import Call
from tuneyard._method import M, R, Raw, Resource, endpoint, listing
from tuneyard.types import Balance, BillingSummary, CardPage, LedgerEntry, Page


class Billing(Resource[M, R]):
    @property
    def with_raw_response(self) -> "Billing[M, Raw]":
        return Billing(self._options, self._driver, raw=True)

    @endpoint("GET", "/api/v1/balance")
    def balance(self) -> Call[Balance]:
        """What can be spent; what is reserved for jobs has been taken off."""
        return Call()

    @endpoint("GET", "/v1/billing/summary")
    def summary(self) -> Call[BillingSummary]:
        """What was spent, on what, and what is left."""
        return Call()

    @listing("GET", "/v1/billing/ledger")
    def ledger(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> Call[Page[LedgerEntry]]:
        """Every movement of money, newest first. ``limit``: in one page."""
        return Call(query={"limit": limit, "cursor": cursor})

    @endpoint("POST", "/v1/jobs/setup-card", key="header")
    def set_up_card(
        self,
        *,
        success_url: str | None = None,
        cancel_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Call[CardPage]:
        """A page that saves a card. The addresses are where it leads back to."""
        return Call(
            body={"success_url": success_url, "cancel_url": cancel_url}, key=idempotency_key
        )

    @endpoint("POST", "/v1/billing/top-up", key="header")
    def top_up(
        self,
        *,
        amount_cents: int,
        success_url: str | None = None,
        cancel_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Call[CardPage]:
        """A page that takes a payment; the balance grows once it is paid."""
        return Call(
            body={
                "amount_cents": amount_cents,
                "success_url": success_url,
                "cancel_url": cancel_url,
            },
            key=idempotency_key,
        )

    @endpoint("POST", "/v1/billing/subscription", key="header")
    def subscribe(
        self,
        *,
        plan: Literal["plus", "pro"],
        success_url: str | None = None,
        cancel_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Call[CardPage]:
        """A page that takes a subscription; both plans include priority processing."""
        return Call(
            body={"plan": plan, "success_url": success_url, "cancel_url": cancel_url},
            key=idempotency_key,
        )
