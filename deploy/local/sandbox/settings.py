"""What the sandbox reads from its environment (``TUNEYARD_…``)."""

from pathlib import Path

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True):
    """Without ``webhook_url`` events are kept and listed, and sent nowhere; without
    ``control_token`` there is no control surface. ``public_url`` is where people reach the pages,
    if not at the address it listens at. ``api_key`` may name several, with commas between them: the
    one that was rolled at Stripe with an overlap, and the next."""

    listen: str
    api_key: str
    webhook_secret: str
    state_file: Path
    webhook_url: str | None = None
    control_token: str | None = None
    public_url: str | None = None

    @property
    def api_keys(self) -> list[str]:
        # An empty one would let everybody in.
        return [one for part in self.api_key.split(",") if (one := part.strip())]

    @property
    def base_url(self) -> str:
        return (self.public_url or f"http://{self.listen}").rstrip("/")
