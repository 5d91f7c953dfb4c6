"""The two clients."""

import os
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from tuneyard._call import Options, checked_header, checked_url
from tuneyard._method import Async, Plain, Sync
from tuneyard._seams import Seams
from tuneyard.errors import TuneyardError
from tuneyard.resources.account import ApiKeys, MyAccount
from tuneyard.resources.billing import Billing
from tuneyard.resources.datasets import Datasets
from tuneyard.resources.jobs import Jobs
from tuneyard.resources.models import Models
from tuneyard.resources.platform import Platform
from tuneyard.resources.runs import Runs
from tuneyard.resources.training import Training
from tuneyard.resources.webhooks import Webhooks

if TYPE_CHECKING:
    import httpx

TIMEOUT = 60.0  # seconds without a byte; the slowest answer, a preview, takes 20
MAX_RETRIES = 2
KEY_VARIABLE, URL_VARIABLE = "TUNEYARD_API_KEY", "TUNEYARD_BASE_URL"


def _options(
    api_key: str | None,
    base_url: str | None,
    timeout: float | None,
    max_retries: int,
    seams: Seams | None,
) -> Options:
    key = api_key or os.environ.get(KEY_VARIABLE)
    if not key:
        raise TuneyardError(f"No API key: pass api_key=..., or set {KEY_VARIABLE}.")
    url = base_url or os.environ.get(URL_VARIABLE)
    if not url:
        raise TuneyardError(
            f"No address: pass base_url=..., or set {URL_VARIABLE};"
            " a platform on this machine is at http://127.0.0.1:8080"
        )
    return Options(
        base_url=checked_url(url),
        api_key=checked_header("api_key", key),
        timeout=timeout,
        max_retries=max_retries,
        seams=seams or Seams(),
    )


def _changed(
    options: Options, timeout: float | UnsetType | None, max_retries: int | UnsetType
) -> Options:
    if not isinstance(timeout, UnsetType):
        options = replace(options, timeout=timeout)
    if not isinstance(max_retries, UnsetType):
        options = replace(options, max_retries=max_retries)
    return options


class Tuneyard:
    """The platform, called from blocking code; may be shared among threads.

    ``api_key`` and ``base_url`` are taken from TUNEYARD_API_KEY and TUNEYARD_BASE_URL when left
    out. ``timeout`` is in seconds and for each wait on the network; None: for ever. A request that
    fails on the way, or is refused for the moment, is repeated ``max_retries`` times; under one
    idempotency key, so nothing is done twice. ``http_client``: your own, with proxies or
    certificates; you close it. Raises TuneyardError without a key or an address.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = TIMEOUT,
        max_retries: int = MAX_RETRIES,
        http_client: "httpx.Client | None" = None,
        seams: Seams | None = None,
    ) -> None:
        options = _options(api_key, base_url, timeout, max_retries, seams)
        # Most of the time that importing everything takes is httpx's; whoever only wants a type or
        # the help of the command line need not wait for it.
        from tuneyard import _sync

        self._http = http_client or _sync.new_client()
        self._ours = http_client is None
        self._use(options, _sync.Driver(self._http, options.seams.sleep))

    def _use(self, options: Options, driver: Any) -> None:
        self._options = options
        self._driver = driver
        self.api_keys: ApiKeys[Sync, Plain] = ApiKeys(options, driver)
        self.billing: Billing[Sync, Plain] = Billing(options, driver)
        self.datasets: Datasets[Sync, Plain] = Datasets(options, driver)
        self.jobs: Jobs[Sync, Plain] = Jobs(options, driver)
        self.me: MyAccount[Sync, Plain] = MyAccount(options, driver)
        self.models: Models[Sync, Plain] = Models(options, driver)
        self.platform: Platform[Sync, Plain] = Platform(options, driver)
        self.runs: Runs[Sync, Plain] = Runs(options, driver)
        self.training: Training[Sync, Plain] = Training(options, driver)
        self.webhooks: Webhooks[Sync, Plain] = Webhooks(options, driver)

    @property
    def base_url(self) -> str:
        return self._options.base_url

    def with_options(
        self, *, timeout: float | UnsetType | None = UNSET, max_retries: int | UnsetType = UNSET
    ) -> "Tuneyard":
        """This client with another ``timeout`` or ``max_retries``, on the same connections."""
        other = object.__new__(Tuneyard)
        other._http, other._ours = self._http, False
        other._use(_changed(self._options, timeout, max_retries), self._driver)
        return other

    def close(self) -> None:
        if self._ours:
            self._http.close()

    def __enter__(self) -> "Tuneyard":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Tuneyard(base_url={self.base_url!r})"


class AsyncTuneyard:
    """The platform, called from asynchronous code. Its settings are those of `Tuneyard`."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = TIMEOUT,
        max_retries: int = MAX_RETRIES,
        http_client: "httpx.AsyncClient | None" = None,
        seams: Seams | None = None,
    ) -> None:
        options = _options(api_key, base_url, timeout, max_retries, seams)
        # Most of the time that importing everything takes is httpx's; whoever only wants a type or
        # the help of the command line need not wait for it.
        from tuneyard import _async

        self._http = http_client or _async.new_client()
        self._ours = http_client is None
        self._use(options, _async.Driver(self._http, options.seams.sleep))

    def _use(self, options: Options, driver: Any) -> None:
        self._options = options
        self._driver = driver
        self.api_keys: ApiKeys[Async, Plain] = ApiKeys(options, driver)
        self.billing: Billing[Async, Plain] = Billing(options, driver)
        self.datasets: Datasets[Async, Plain] = Datasets(options, driver)
        self.jobs: Jobs[Async, Plain] = Jobs(options, driver)
        self.me: MyAccount[Async, Plain] = MyAccount(options, driver)
        self.models: Models[Async, Plain] = Models(options, driver)
        self.platform: Platform[Async, Plain] = Platform(options, driver)
        self.runs: Runs[Async, Plain] = Runs(options, driver)
        self.training: Training[Async, Plain] = Training(options, driver)
        self.webhooks: Webhooks[Async, Plain] = Webhooks(options, driver)

    @property
    def base_url(self) -> str:
        return self._options.base_url

    def with_options(
        self, *, timeout: float | UnsetType | None = UNSET, max_retries: int | UnsetType = UNSET
    ) -> "AsyncTuneyard":
        """This client with another ``timeout`` or ``max_retries``, on the same connections."""
        other = object.__new__(AsyncTuneyard)
        other._http, other._ours = self._http, False
        other._use(_changed(self._options, timeout, max_retries), self._driver)
        return other

    async def close(self) -> None:
        if self._ours:
            await self._http.aclose()

    async def __aenter__(self) -> "AsyncTuneyard":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncTuneyard(base_url={self.base_url!r})"
