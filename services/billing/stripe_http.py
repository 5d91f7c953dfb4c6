"""How Stripe's SDK sends its requests: as it does by itself, each within a span."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import stripe
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS
from opentelemetry.trace import SpanKind

from libs.observability.spans import span


class StripeHTTP(stripe.HTTPXClient):
    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        parts = urlsplit(url)
        # The collection alone: behind it come ids of customers and payments.
        collection = "/".join(parts.path.split("/")[:3])
        attributes = {HTTP_REQUEST_METHOD: method.upper(), SERVER_ADDRESS: parts.hostname or ""}
        with span(f"{method.upper()} {collection}", SpanKind.CLIENT, attributes) as asking:
            body, status, told = await super().request_async(method, url, headers, post_data)
            asking.describe({HTTP_RESPONSE_STATUS_CODE: status})
            if status >= 400:  # of a client's span the conventions call these failures too
                asking.fail(str(status))
            return body, status, told
