"""What the telemetry service needs from its environment."""

from pathlib import Path

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True):
    database_url: str
    nats_url: str
    nats_ca: Path | None = None
    log_level: str = "info"
    probe_listen: str | None = None
