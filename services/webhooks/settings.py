"""What the webhooks service needs from its environment."""

from pathlib import Path

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True):
    """``allow_loopback``: endpoints may be on this machine, over http; for development only."""

    database_url: str
    nats_url: str
    nats_ca: Path | None = None
    log_level: str = "info"
    probe_listen: str | None = None
    allow_loopback: bool = False
