"""What the document promises and schemathesis does not check by itself."""

import re
from typing import Any
from uuid import uuid4

import msgspec
import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import EnsureResourceAvailability, RejectedPositiveData

from services.gateway.http.errors import ErrorEnvelope
from tests.fuzz.running import Target

OF_HTTP = frozenset({"content-type", "content-length", "date", "connection", "transfer-encoding"})
"""Headers of the protocol itself; every other one is to stand in the document."""

ALWAYS = "X-Request-Id"

decode_error = msgspec.json.Decoder(ErrorEnvelope).decode
REPLAYED = "idempotency-replayed"
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_targets: list[Target] = []
_replayed: set[str] = set()


def prepare(target: Target) -> None:
    """Name what is fuzzed: neither a check nor a hook is told of it."""
    _targets[:] = [target]


def _promised(case: Case[Any], status: int) -> Any:
    """The response object of the document; None for a method or a status that it lacks."""
    item = _targets[0].document["paths"].get(case.operation.path, {})
    operation = item.get(case.method.lower())
    return operation and operation["responses"].get(str(status))


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: Any) -> None:
    """The fuzzer must not delete the key that it sends."""
    for name, value in (case.path_parameters or {}).items():
        if value == _targets[0].key_id:
            case.path_parameters[name] = str(uuid4())


STATE = (
    r"^cursor: pass the next_cursor",
    r"^expires_at: name a moment to come",
    r"^(success_|cancel_)?url: ",
    r"name the one model to work on",
    r"^Send .* or ",
    r"^(hyperparams\.\w+|dataset_id|validation_dataset_id|start_from(\.step)?|method): ",
    r"^(at least )?\d+ lines? (is|are) not valid",
    r"^the data set has no rows",
    r"must be true to submit a run",
    r"is not available here",
    r"extend them nearer to it",
    r"Expected `int.*`, got `float`$",
)
"""What a request may be refused for although the document allows it: no schema can say that a
cursor is ours, that a moment is to come, that an address is public or one at all, that one of two
fields is there, that rows are good, that hyperparameters make sense together.
And 1.0 is an integer to JSON Schema, while to us it is a slip."""

QUOTED = re.compile(r'^\s*"[!#-~]+"\s*$')


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    """Note what was created earlier and only told again: it may have been deleted since."""
    if REPLAYED in response.headers:
        _replayed.update(ID.findall((response.content or b"").decode()))


@schemathesis.hook
def filter_failure(context: HookContext, failure: Any, case: Case[Any], response: Response) -> bool:
    """Whether it is one; what schemathesis can't know is none."""
    if isinstance(failure, RejectedPositiveData) and response.status_code == 422:
        message = decode_error(response.content or b"").error.message
        return not any(re.search(rule, message) for rule in STATE)
    if isinstance(failure, EnsureResourceAvailability):
        return _replayed.isdisjoint((case.path_parameters or {}).values())
    if isinstance(failure, AcceptedNegativeData):
        # A chain's next request that schemathesis meant to break and, by its own word, did not.
        if "Invalid component: positive test case" in failure.message:
            return False
        # A form has no types: true sent as a name is the name "true".
        if case.media_type == "multipart/form-data" and "(was string, became" in failure.message:
            return False
        # The contract takes the key bare or quoted; the document tells of the bare one.
        if QUOTED.match(str(response.request.headers.get("Idempotency-Key"))):
            return "Idempotency-Key" not in failure.message
    return True


@schemathesis.check
def documented_error_code(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """An error is our envelope, with a code that its operation lists for this status."""
    promised = _promised(case, response.status_code)
    if response.status_code < 400 or promised is None:
        return
    error = decode_error(response.content or b"").error
    codes = promised["x-error-codes"]
    assert error.code in codes, f"{response.status_code} {error.code}; documented are {codes}"
    assert error.message
    assert response.headers[ALWAYS.lower()] == [error.request_id]


@schemathesis.check
def documented_headers(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Every header of an answer is documented."""
    promised = _promised(case, response.status_code)
    if promised is None:
        return
    listed = {name.lower() for name in promised.get("headers", {})} | OF_HTTP
    unlisted = sorted(name for name in response.headers if name.lower() not in listed)
    assert not unlisted, f"{unlisted} of {response.status_code} are not in the document"
    assert ALWAYS.lower() in response.headers, f"{ALWAYS} is missing"
