"""The Python SDK of Tuneyard, a fine-tuning platform that anyone can run.

from tuneyard import Tuneyard

client = Tuneyard()  # TUNEYARD_API_KEY, TUNEYARD_BASE_URL
job = client.jobs.create(type="finetune", base_model_id="tiny-llama", dataset_id=...)
"""

from tuneyard import types
from tuneyard._client import AsyncTuneyard, Tuneyard
from tuneyard._method import RawResponse
from tuneyard._pages import AsyncPages, Pages
from tuneyard._version import VERSION as __version__
from tuneyard.errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    DownloadError,
    IdempotencyConflictError,
    InsufficientBalanceError,
    ModelNotAvailableError,
    NotFoundError,
    PayloadTooLargeError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitError,
    ResponseError,
    ServerError,
    ServiceUnavailableError,
    TuneyardError,
    ValidationError,
    WaitTimeoutError,
    WebhookVerificationError,
)

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AsyncPages",
    "AsyncTuneyard",
    "AuthenticationError",
    "BadRequestError",
    "ConflictError",
    "DownloadError",
    "IdempotencyConflictError",
    "InsufficientBalanceError",
    "ModelNotAvailableError",
    "NotFoundError",
    "Pages",
    "PayloadTooLargeError",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "RateLimitError",
    "RawResponse",
    "ResponseError",
    "ServerError",
    "ServiceUnavailableError",
    "Tuneyard",
    "TuneyardError",
    "ValidationError",
    "WaitTimeoutError",
    "WebhookVerificationError",
    "__version__",
    "types",
]
