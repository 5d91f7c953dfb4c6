"""What Stripe's answers and errors mean to billing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import stripe

from services.billing.provider import (
    ActionRequired,
    ApiKeyRefused,
    Card,
    Charged,
    Declined,
    ProviderKeyTaken,
    ProviderRefused,
    ProviderUnavailable,
    ReturnAddressRefused,
)

FINAL_DECLINES = frozenset(
    {
        *{"lost_card", "stolen_card", "pickup_card", "restricted_card", "expired_card"},
        *{"fraudulent", "merchant_blacklist", "security_violation", "revocation_of_authorization"},
        *{"revocation_of_all_authorizations", "stop_payment_order", "invalid_account"},
        *{"incorrect_number", "invalid_number", "new_account_information_available"},
        *{"no_action_taken", "card_not_supported", "currency_not_supported"},
    }
)
"""Reasons for which this card will never pay; asking again is what banks hold against a shop."""

OWNER_NEEDED = "authentication_required"


@contextmanager
def answered(*passing: type[stripe.StripeError]) -> Iterator[None]:
    """Turn the SDK's errors into billing's, but for those ``passing``, which the caller handles."""
    try:
        yield
    except passing:
        raise
    except (stripe.APIConnectionError, stripe.RateLimitError) as error:
        raise ProviderUnavailable(_told(error)) from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise ApiKeyRefused(_told(error)) from error
    except stripe.IdempotencyError as error:
        raise ProviderKeyTaken(_told(error)) from error
    except stripe.InvalidRequestError as error:
        if error.code in ("lock_timeout", "idempotency_key_in_use"):
            raise ProviderUnavailable(_told(error)) from error
        if error.code == "url_invalid" and error.param in ("success_url", "cancel_url"):
            raise ReturnAddressRefused(error.param, _told(error)) from error
        raise ProviderRefused(_told(error)) from error
    except stripe.APIError as error:
        # 5xx, 409 for a key that is being worked on, and an answer that is no JSON of Stripe's.
        raise ProviderUnavailable(_told(error)) from error
    except stripe.StripeError as error:
        raise ProviderRefused(_told(error)) from error


def _told(error: stripe.StripeError) -> str:
    """Stripe's words, with its id of the request, which finds it in the operator's dashboard.
    Stripe masks the key that an authentication error is about."""
    return f"{type(error).__name__} {error.code or error.http_status or ''}: {error}"


def outcome(intent: stripe.PaymentIntent) -> Charged | Declined | ActionRequired:
    """How a payment stands. Raises ProviderUnavailable while it is still being decided."""
    match intent.status:
        case "succeeded":
            return Charged(payment_id=intent.id)
        case "requires_action":
            return ActionRequired(payment_id=intent.id, url=_approval_page(intent))
        case "requires_payment_method" if (error := intent.last_payment_error) is not None:
            return _declined(error, intent.id)
        case "canceled":
            return Declined(
                payment_id=intent.id,
                code="canceled",
                message="The payment was withdrawn.",
                final=False,
            )
        case status:
            raise ProviderUnavailable(f"payment {intent.id} is {status}")


def refusal(error: stripe.CardError) -> Declined:
    """What a charge says that the bank refused."""
    said = error.error
    if said is None:
        raise ProviderUnavailable("a declined charge without a reason") from error
    intent = _field(said, "payment_intent")
    return _declined(said, None if intent is None else intent.id)


def _declined(said: Any, payment_id: str | None) -> Declined:
    """``decline_code`` is the bank's word, ``code`` Stripe's, which is there always."""
    code = _field(said, "decline_code") or _field(said, "code") or "card_declined"
    return Declined(
        payment_id=payment_id,
        code=code,
        message=_field(said, "message") or "The card was declined.",
        final=code in FINAL_DECLINES,
    )


def _approval_page(intent: stripe.PaymentIntent) -> str | None:
    action = intent.next_action
    redirect = None if action is None else _field(action, "redirect_to_url")
    url: str | None = None if redirect is None else redirect.url
    return url


def default_card(customer: stripe.Customer) -> Any:
    """The payment method that a customer pays with, unfolded; None without one."""
    if _field(customer, "deleted"):
        return None
    settings = _field(customer, "invoice_settings")
    return None if settings is None else settings.default_payment_method


def as_card(method: Any) -> Card | None:
    """None for what is no card (a wallet's card is one)."""
    if method is None or _field(method, "card") is None:
        return None
    return Card(
        payment_method_id=method.id,
        brand=method.card.brand,
        last4=method.card.last4,
        exp_month=method.card.exp_month,
        exp_year=method.card.exp_year,
    )


def plans_of(subscription: stripe.Subscription) -> set[str]:
    """What is subscribed to: the price says, which a person may have changed on Stripe's page."""
    items: Any = subscription["items"].data
    named = {_metadata(item.price).get("plan") for item in items}
    return {str(plan) for plan in named if plan} or {_metadata(subscription).get("plan", "")}


def _metadata(of: Any) -> dict[str, str]:
    found = _field(of, "metadata")
    return {} if found is None else dict(found.to_dict())


def _field(of: Any, name: str) -> Any:
    """Stripe leaves some fields out instead of sending null."""
    return getattr(of, name, None)
