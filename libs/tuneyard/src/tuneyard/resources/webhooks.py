"""Webhooks: addresses that are told of what happens to jobs."""

from collections.abc import Mapping
from datetime import timedelta

from tuneyard import webhooks
from tuneyard._method import M, R, Raw, Resource
from tuneyard.types import WebhookEvent


class Webhooks(Resource[M, R]):
    @property
    def with_raw_response(self) -> "Webhooks[M, Raw]":
        return Webhooks(self._options, self._driver, raw=True)

    def unwrap(
        self,
        body: bytes | str,
        headers: Mapping[str, str],
        secret: str,
        *,
        tolerance: timedelta = webhooks.TOLERANCE,
    ) -> WebhookEvent:
        """The event that a request to your address brings, if this secret signed it lately. As
        ``tuneyard.webhooks.unwrap``, which needs no client. Raises WebhookVerificationError."""
        now = self._options.seams.now()
        return webhooks.unwrap(body, headers, secret, tolerance=tolerance, now=now)
