"""Whether the service in this container is ready: ``python -m deploy.health``, exit 0 or 1.

For the health checks of images, every few seconds: it imports nothing but the standard library.
"""

import http.client
import os
import sys
from collections.abc import Mapping

PATIENCE = 2.0  # seconds; a process that turns answers in milliseconds


def healthy(environ: Mapping[str, str]) -> bool:
    """Asks the probe's address, or the gateway's own, on this machine."""
    probe, gateway = environ.get("TUNEYARD_PROBE_LISTEN"), environ.get("TUNEYARD_LISTEN")
    listen, path = (probe, "/ready") if probe else (gateway or "", "/v1/healthz")
    _, _, port = listen.rpartition(":")
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=PATIENCE)
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(0 if healthy(os.environ) else 1)
