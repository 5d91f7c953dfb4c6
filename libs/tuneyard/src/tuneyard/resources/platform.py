"""Whether the platform is there, and what it promises."""

from typing import Any

from tuneyard._call import Call
from tuneyard._method import M, R, Raw, Resource, endpoint
from tuneyard.types import Health


class Platform(Resource[M, R]):
    @property
    def with_raw_response(self) -> "Platform[M, Raw]":
        return Platform(self._options, self._driver, raw=True)

    @endpoint("GET", "/v1/healthz")
    def health(self) -> Call[Health]:
        """The gateway lives."""
        return Call()

    @endpoint("GET", "/v1/readyz")
    def readiness(self) -> Call[Health]:
        """Every part answers. Raises ServiceUnavailableError when one doesn't."""
        return Call()

    @endpoint("GET", "/openapi.json")
    def openapi(self) -> Call[dict[str, Any]]:
        """The contract, in OpenAPI 3.1."""
        return Call()
