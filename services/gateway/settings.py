"""What the gateway must be told: addresses, secrets and the two folders of models."""

from pathlib import Path

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True):
    """``key_pepper`` is hex; without it, keys in a stolen database can't be tried. While it is
    changed, ``key_pepper_previous`` has the other one. ``oidc`` names the issuers whose ID tokens
    are taken; without it, only keys are."""

    database_url: str
    nats_url: str
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    s3_bucket: str
    key_pepper: str
    catalog: Path
    models_dir: Path
    limits: Path
    key_pepper_previous: str | None = None
    oidc: Path | None = None
    listen: str = "127.0.0.1:8080"
    nats_ca: Path | None = None
    log_level: str = "info"
