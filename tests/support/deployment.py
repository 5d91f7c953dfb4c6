"""What each part of the platform must be told, and whom it may talk to, wherever it runs."""

from typing import Any

from libs.bus import relay
from services.artifact.settings import Settings as Artifact
from services.billing.settings import Settings as Billing
from services.gateway.settings import Settings as Gateway
from services.scheduler.settings import Settings as Scheduler
from services.telemetry.settings import Settings as Telemetry
from services.trainer.settings import Settings as Trainer
from services.webhooks.settings import Settings as Webhooks

SETTINGS: dict[str, Any] = {
    "gateway": Gateway,
    "billing": Billing,
    "scheduler": Scheduler,
    "artifact": Artifact,
    "webhooks": Webhooks,
    "telemetry": Telemetry,
    "relay": relay.Settings,
    "trainer": Trainer,
}

ARROWS = {
    "gateway": {"postgres", "nats", "objects", "outside"},  # outside: issuers' keys, the model hub
    "billing": {"postgres", "nats", "outside"},  # outside: Stripe
    "scheduler": {"postgres", "nats"},
    "artifact": {"postgres", "nats", "objects"},
    "webhooks": {"postgres", "nats", "outside"},  # outside: customers' endpoints
    "telemetry": {"postgres", "nats"},
    "relay": {"postgres", "nats"},
    "trainer": {"nats", "objects", "outside"},  # no database; outside: the model hub
    "migrate": {"postgres"},
}
"""Section 1 of the design: who begins a conversation with whom."""

HUB_VARIABLES = {"HF_ENDPOINT", "HF_TOKEN"}
"""Read under the hub's own names by those who talk to it; no others are outside the settings."""


def known_variables(service: str) -> set[str]:
    fields = SETTINGS[service].__struct_fields__
    hub = HUB_VARIABLES if service in ("gateway", "trainer") else set()
    return {f"TUNEYARD_{field.upper()}" for field in fields} | hub
