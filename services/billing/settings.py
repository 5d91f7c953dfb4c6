"""What billing reads from its environment."""

from pathlib import Path

from msgspec import Struct

from libs.settings import SettingsError
from services.billing.stripe_pages import read_plans
from services.billing.stripe_provider import API_BASE, StripeProvider


class Settings(Struct, frozen=True, kw_only=True):
    """Cards are taken where there are a key of Stripe's and the secret that it signs events with,
    or, while that one is changed, several with commas between them.
    ``public_url`` is where people reach the gateway; pages of Stripe's lead back there."""

    database_url: str
    nats_url: str
    prices: Path
    nats_ca: Path | None = None
    log_level: str = "info"
    probe_listen: str | None = None
    stripe_api_key: str | None = None
    stripe_webhook_secret: str | None = None
    stripe_api_base: str = API_BASE
    public_url: str = "http://127.0.0.1:8080"


def connect_provider(settings: Settings, currency: str) -> StripeProvider | None:
    """None where the operator has connected none. SettingsError for half a connection."""
    if settings.stripe_api_key is None:
        return None
    if not (settings.stripe_webhook_secret or "").strip(", "):
        raise SettingsError(
            "There is a key of Stripe's, but not the secret that it signs events with: set"
            " TUNEYARD_STRIPE_WEBHOOK_SECRET, which the page of the webhook endpoint shows."
        )
    return StripeProvider(
        api_key=settings.stripe_api_key,
        webhook_secret=settings.stripe_webhook_secret or "",
        api_base=settings.stripe_api_base,
        currency=currency,
        plans=read_plans(settings.prices),
        return_url=settings.public_url.rstrip("/") + "/billing/returned",
    )
