"""What requests and answers hold.

Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost.
"""

from tuneyard.types.account import AccountLimits, ApiKey, CreatedKey, Me, Preferences
from tuneyard.types.billing import (
    Balance,
    BillingSummary,
    CardPage,
    LedgerEntry,
    LedgerPosting,
    StorageExtension,
)
from tuneyard.types.datasets import Dataset, DatasetPreview, Deleted, PreviewRow, PreviewToken
from tuneyard.types.jobs import (
    CheckpointLink,
    DownloadLink,
    Estimate,
    Job,
    JobDownload,
    JobHyperparams,
    ModelName,
    Moment,
    StartedFrom,
)
from tuneyard.types.models import BaseModel, Model
from tuneyard.types.page import Page
from tuneyard.types.platform import Health
from tuneyard.types.requests import (
    ContractHyperparams,
    FinetuneHyperparams,
    PreferencesPatch,
    StartFrom,
    TrainHyperparams,
)
from tuneyard.types.results import (
    ForgettingReport,
    GrowthReport,
    ParityReport,
    PreferenceReport,
    Result,
    Sample,
)
from tuneyard.types.runs import (
    ArtifactLink,
    Artifacts,
    Failure,
    RunCreated,
    RunDetail,
    RunEnvelope,
    RunItem,
    RunModel,
    RunModels,
)
from tuneyard.types.telemetry import LogLine, LogPage, MetricPage, MetricPoint
from tuneyard.types.training import (
    Evidence,
    FinetuneRecommendation,
    FinetuneSettings,
    FinetuneWindows,
    RateWindow,
    TrainRecommendation,
    TrainSettings,
    TrainWindows,
    Window,
)

__all__ = [
    "AccountLimits",
    "ApiKey",
    "ArtifactLink",
    "Artifacts",
    "Balance",
    "BaseModel",
    "BillingSummary",
    "CardPage",
    "CheckpointLink",
    "ContractHyperparams",
    "CreatedKey",
    "Dataset",
    "DatasetPreview",
    "Deleted",
    "DownloadLink",
    "Estimate",
    "Evidence",
    "Failure",
    "FinetuneHyperparams",
    "FinetuneRecommendation",
    "FinetuneSettings",
    "FinetuneWindows",
    "ForgettingReport",
    "GrowthReport",
    "Health",
    "Job",
    "JobDownload",
    "JobHyperparams",
    "LedgerEntry",
    "LedgerPosting",
    "LogLine",
    "LogPage",
    "Me",
    "MetricPage",
    "MetricPoint",
    "Model",
    "ModelName",
    "Moment",
    "Page",
    "ParityReport",
    "PreferenceReport",
    "Preferences",
    "PreferencesPatch",
    "PreviewRow",
    "PreviewToken",
    "RateWindow",
    "Result",
    "RunCreated",
    "RunDetail",
    "RunEnvelope",
    "RunItem",
    "RunModel",
    "RunModels",
    "Sample",
    "StartFrom",
    "StartedFrom",
    "StorageExtension",
    "TrainHyperparams",
    "TrainRecommendation",
    "TrainSettings",
    "TrainWindows",
    "Window",
]
