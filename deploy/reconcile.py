"""The ledger of an installation beside the books of its card provider."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from deploy.billing import billing_of
from deploy.local.program import StackError
from services.billing.provider import ProviderRefused, ProviderUnavailable
from services.billing.reconcile import reconcile


async def differences(
    environ: Mapping[str, str], data: Path, *, days: int, now: datetime
) -> list[str]:
    """One line for each difference of the last days. `StackError` without a card provider, or when
    it does not answer."""
    async with billing_of(environ, data, now=now) as billing:
        if billing.provider is None:
            raise StackError("No card provider is connected: set TUNEYARD_STRIPE_API_KEY.")
        try:
            return await reconcile(billing, billing.provider, now - timedelta(days=days))
        except (ProviderUnavailable, ProviderRefused) as error:
            raise StackError(f"The card provider gave no answer: {error}") from error
