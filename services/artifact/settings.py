"""What the artifact service needs from its environment."""

from pathlib import Path

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True):
    """With the gateway the only holder of the object store's keys."""

    database_url: str
    nats_url: str
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    s3_bucket: str
    nats_ca: Path | None = None
    log_level: str = "info"
    probe_listen: str | None = None
