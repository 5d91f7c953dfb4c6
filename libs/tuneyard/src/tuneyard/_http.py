"""What both clients have of httpx in common."""

import httpx

from tuneyard._effects import Request
from tuneyard.errors import APIConnectionError, APITimeoutError, TuneyardError

# Seconds: a server that is there answers a handshake long before.
CONNECT_TIMEOUT = 10.0
# As many as httpx takes by itself; kept open for as long as a poll's pause.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=30.0)

UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


def failure_of(error: httpx.HTTPError, request: Request) -> TuneyardError:
    """What a flow is told; it names the host only, since a link may hold a signature."""
    if isinstance(error, httpx.UnsupportedProtocol | httpx.TooManyRedirects):
        return TuneyardError(str(error))
    host = httpx.URL(request.url).host
    sent = not isinstance(error, UNSENT)
    if isinstance(error, httpx.TimeoutException):
        return APITimeoutError(f"{host} did not answer in time", sent=sent)
    why = str(error) or type(error).__name__
    what = "the connection broke off" if sent else "it can't be reached"
    return APIConnectionError(f"{host}: {what} ({why})", sent=sent)


def timeout_of(request: Request) -> httpx.Timeout:
    if request.timeout is None:
        return httpx.Timeout(None, connect=CONNECT_TIMEOUT)
    return httpx.Timeout(request.timeout, connect=min(request.timeout, CONNECT_TIMEOUT))


def headers_of(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
