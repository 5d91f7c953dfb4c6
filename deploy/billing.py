"""An installation's billing, as the operator's commands use it: its database, and its card provider
if it has one."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from deploy.local import payments
from deploy.local.services import ROOT
from deploy.local.state import Ports, Secrets, load
from deploy.operator import installation
from libs.eventlog.connection import create_pool
from libs.settings import PREFIX, decode_settings
from services.billing.payments import Billing
from services.billing.pricing import read_prices
from services.billing.settings import Settings, connect_provider


@asynccontextmanager
async def billing_of(
    environ: Mapping[str, str], data: Path, *, now: datetime
) -> AsyncIterator[Billing]:
    """`StackError` where there is no installation. The relay finds what is appended by itself."""
    target = installation(environ, data)
    settings = decode_settings(Settings, _environment(environ, data) | _fixed(target.dsn))
    prices = read_prices(settings.prices)
    provider = connect_provider(settings, prices.currency)
    try:
        async with create_pool(target.dsn, size=1) as pool:
            yield Billing(
                pool=pool,
                prices=prices,
                now=lambda: now,
                new_id=uuid4,
                committed=lambda: None,
                provider=provider,
            )
    finally:
        if provider is not None:
            await provider.close()


def _fixed(dsn: str) -> dict[str, str]:
    return {f"{PREFIX}DATABASE_URL": dsn, f"{PREFIX}NATS_URL": ""}


def _environment(environ: Mapping[str, str], data: Path) -> dict[str, str]:
    """As the installation's billing has it: of a container, or of the local stack."""
    known = {f"{PREFIX}PRICES": str(ROOT / "prices.toml")} | dict(environ)
    if f"{PREFIX}DATABASE_URL" in environ or payments.own_stripe(environ):
        return known
    secrets, ports = load(data / "secrets.json", Secrets), load(data / "ports.json", Ports)
    if secrets is None or ports is None:
        return known
    return known | payments.billing_environment(secrets, {}, port=ports.sandbox, gateway_url="")
