"""The TrainJobs of one namespace, over the API of Kubernetes: as much of it as a launcher needs.

Credentials are a folder as Kubernetes mounts it: ``token``, ``namespace``, ``ca.crt`` for https.
The kubelet replaces the token before it expires, so it is read for each request.
"""

import ssl
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

API = "apis/trainer.kubeflow.org/v1alpha1"
TIMEOUT = aiohttp.ClientTimeout(total=10, connect=3)  # seconds; the API answers in milliseconds
# Too early, too many, not now; and 401, whose reason may be a token that was replaced just then.
TRANSIENT = {401, 408, 425, 429, 500, 502, 503, 504}
# Deleted when its pods are gone, which are told to end and have their grace for it.
DELETE = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}


class Condition(Struct, frozen=True):
    type: str
    status: str
    message: str = ""
    reason: str = ""

    @property
    def holds(self) -> bool:
        return self.status == "True"


class ChildJobs(Struct, frozen=True):
    active: int = 0


class State(Struct, frozen=True, rename="camel"):
    conditions: tuple[Condition, ...] = ()
    jobs_status: tuple[ChildJobs, ...] = ()


class Metadata(Struct, frozen=True, rename="camel"):
    name: str


class Spec(Struct, frozen=True):
    suspend: bool = False


class TrainJob(Struct, frozen=True):
    """What is read of one."""

    metadata: Metadata
    spec: Spec = Spec()
    status: State = State()

    def condition(self, kind: str) -> Condition | None:
        """The one of this type, if it holds."""
        return next((one for one in self.status.conditions if one.type == kind and one.holds), None)

    @property
    def suspended(self) -> Condition | None:
        """As it is, and as it is meant to be: the condition still holds for a moment after Kueue
        has let a TrainJob go."""
        return self.condition("Suspended") if self.spec.suspend else None

    @property
    def runs(self) -> bool:
        return any(jobs.active for jobs in self.status.jobs_status)


class TrainJobs(Struct, frozen=True):
    items: tuple[TrainJob, ...]


class _Status(Struct, frozen=True):
    message: str = ""


class ApiAway(Exception):
    """The API could not be asked, or not now. Ask again."""


class ApiRefused(Exception):
    """The API will not; the text is its reason."""


T = TypeVar("T", bound=Struct)


class TrainJobApi:
    """Every method raises ApiAway or ApiRefused."""

    def __init__(self, http: aiohttp.ClientSession, url: str, credentials: Path) -> None:
        self._http = http
        self._credentials = credentials
        namespace = (credentials / "namespace").read_text().strip()
        self._url = f"{url}/{API}/namespaces/{namespace}/trainjobs"
        self._tls: ssl.SSLContext | bool = True
        if url.startswith("https:"):
            self._tls = ssl.create_default_context(cafile=credentials / "ca.crt")

    async def create(self, manifest: dict[str, Any]) -> None:
        """Done also when it is there already: its name is nobody else's, so an answer was lost."""
        status, body = await self._ask("POST", "", manifest)
        if status != 409:
            _expect(status, body, TrainJob)

    async def get(self, name: str) -> TrainJob | None:
        status, body = await self._ask("GET", f"/{name}")
        return None if status == 404 else _expect(status, body, TrainJob)

    async def delete(self, name: str) -> None:
        """Begins to; whoever wants to know when it is gone looks."""
        status, body = await self._ask("DELETE", f"/{name}", DELETE)
        if status != 404:
            _expect(status, body, Struct)

    async def with_label(self, label: str, value: str) -> list[str]:
        """Their names."""
        status, body = await self._ask("GET", f"?labelSelector={label}%3D{value}")
        return [one.metadata.name for one in _expect(status, body, TrainJobs).items]

    async def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        try:
            token = (self._credentials / "token").read_text().strip()
            async with self._http.request(
                method,
                f"{self._url}{path}",
                data=None if body is None else msgspec.json.encode(body),
                headers={
                    "Authorization": f"Bearer {token}",
                    "Content-Type": "application/json",
                    "Accept": "application/json",
                },
                ssl=self._tls,
                timeout=TIMEOUT,
                allow_redirects=False,
            ) as response:
                answer = await response.read()
                status = response.status
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            raise ApiAway(repr(error)) from error
        if status in TRANSIENT:
            raise ApiAway(f"{status}: {_message(answer)}")
        return status, answer


def _expect(status: int, body: bytes, kind: type[T]) -> T:
    if status >= 300:
        raise ApiRefused(f"{status}: {_message(body)}")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise ApiRefused(f"an answer that is none: {error}") from error


def _message(body: bytes) -> str:
    """Of a `Status`, which Kubernetes answers with instead of an object."""
    try:
        return msgspec.json.decode(body, type=_Status).message
    except msgspec.MsgspecError:
        return body[:200].decode(errors="replace")
