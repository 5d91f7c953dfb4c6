"""A job's events as its owner may see them. Pure.

Every event says itself what is shown: object keys, addresses and request hashes stay inside, and
an event that is forgotten here fails the type check.
"""

from datetime import datetime
from typing import Any, assert_never

from msgspec import Struct

from libs.contracts.artifact import ArtifactDeleted, ArtifactPublished, ArtifactRejected
from libs.contracts.base import ArtifactFile
from libs.contracts.billing import (
    PaymentActionRequired,
    PaymentBilled,
    PaymentCaptured,
    PaymentCharged,
    PaymentChargeStarted,
    PaymentDeclined,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentExtensionCharged,
    PaymentPledged,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRefundStarted,
    PaymentReserved,
    PaymentVoided,
    PaymentWaived,
    PaymentWrittenOff,
)
from libs.contracts.events import AnyEvent, decode_event
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler import (
    JobCancelled,
    JobCancelRequested,
    JobCheckpointed,
    JobCompleted,
    JobFailed,
    JobLeased,
    JobReclaimed,
    JobRetentionExtended,
    JobStarted,
    JobTrained,
)
from libs.eventlog.read import TimelineEntry
from libs.jobstate.hyperparams import hyperparams_view
from libs.jobstate.view import started_from


class Moment(Struct, frozen=True, kw_only=True):
    """``kind`` is the event's type without its version, e.g. ``job.submitted``."""

    ts: datetime
    kind: str
    payload: dict[str, Any]


def moment(entry: TimelineEntry) -> Moment:
    return Moment(
        ts=entry.meta.occurred_at,
        kind=entry.type.rsplit(".", 1)[0],
        payload=payload_of(decode_event(entry.data)),
    )


def payload_of(event: AnyEvent) -> dict[str, Any]:
    match event:
        case JobSubmitted():
            return _submitted(event)
        case JobLeased():
            return {"attempt": event.epoch}
        case JobStarted():
            return {
                "attempt": event.epoch,
                "device": event.device,
                "steps_total": event.steps_total,
                "resumed_from_step": event.resumed_from_step,
            }
        case JobCheckpointed():
            return {
                "attempt": event.epoch,
                "step": event.checkpoint.step,
                "size_bytes": event.checkpoint.size_bytes,
                "tokens_processed": event.checkpoint.tokens_processed,
            }
        case JobReclaimed():
            return {
                "attempt": event.epoch,
                "reason": event.reason,
                "handed_back": event.handed_back,
                # Of an event that tells no more, both are the same.
                "retries": event.retries if event.interruptions is None else event.interruptions,
            }
        case JobCancelRequested():
            return {"attempt": event.epoch}
        case JobTrained():
            return {"attempt": event.epoch, "result": event.result, "files": _files(event.files)}
        case JobCompleted():
            return {
                "tokens_processed": event.tokens_processed,
                "artifacts_expires_at": event.artifacts_expires_at,
                "charge_cents": event.charge_cents,
            }
        case JobFailed():
            return {"code": event.code, "message": event.message}
        case JobCancelled():
            return {
                "tokens_processed": event.tokens_processed,
                "charge_cents": event.charge_cents,
            }
        case JobRetentionExtended():
            return {
                "extension_id": event.extension_id,
                "artifacts_expires_at": event.artifacts_expires_at,
            }
        case ArtifactPublished():
            return {"files": _files(event.files), "expires_at": event.expires_at}
        case ArtifactRejected():
            return {"reason": event.reason}
        case ArtifactDeleted():
            return {
                "reason": event.reason,
                "files": event.files,
                "size_bytes": event.size_bytes,
            }
        case _:
            return _paid(event)


def _paid(event: PaymentEvent) -> dict[str, Any]:
    """What the card provider calls things stays inside, too."""
    match event:
        case PaymentReserved() | PaymentPledged():
            return {"amount_cents": event.amount_cents, "currency": event.currency}
        case PaymentCaptured():
            return {"amount_cents": event.amount_cents, "released_cents": event.released_cents}
        case PaymentVoided() | PaymentWaived() | PaymentDisputed() | PaymentWrittenOff():
            return {"amount_cents": event.amount_cents, "reason": event.reason}
        case PaymentExtensionCharged():
            return {
                "extension_id": event.extension_id,
                "amount_cents": event.amount_cents,
                "currency": event.currency,
                "days": event.days,
            }
        case PaymentBilled():
            return {"amount_cents": event.amount_cents}
        case PaymentChargeStarted() | PaymentCharged():
            return {"attempt": event.attempt, "amount_cents": event.amount_cents}
        case PaymentDeclined():
            return {
                "attempt": event.attempt,
                "amount_cents": event.amount_cents,
                "code": event.code,
                "message": event.message,
                "retry_at": event.retry_at,
            }
        case PaymentActionRequired():
            return {
                "attempt": event.attempt,
                "amount_cents": event.amount_cents,
                "url": event.url,
            }
        case PaymentRefundStarted() | PaymentRefunded():
            return {
                "refund_id": event.refund_id,
                "amount_cents": event.amount_cents,
                "reason": event.reason,
            }
        case PaymentRefundFailed():
            return {"refund_id": event.refund_id, "amount_cents": event.amount_cents}
        case PaymentDisputeClosed():
            return {"amount_cents": event.amount_cents, "won": event.won}
        case _:
            assert_never(event)


def _submitted(event: JobSubmitted) -> dict[str, Any]:
    return {
        "type": event.job_type,
        "surface": event.surface,
        "base_model": {"id": event.model.id, "slug": event.model.slug},
        "dataset_id": event.dataset.id if event.dataset else None,
        "validation_dataset_id": event.validation.id if event.validation else None,
        "start_from": started_from(event.start_from),
        "hyperparams": hyperparams_view(event.hyperparams),
        "recommended": list(event.recommended),
        "output_name": event.output_name,
        "label": event.label,
        "priority_processing": event.priority,
        "price_cents": event.price_cents,
        "currency": event.currency,
        "plan_name": event.plan_name,
        "paid_by": event.paid_by,
        "tokens_planned": event.tokens_planned,
    }


def _files(files: tuple[ArtifactFile, ...]) -> list[dict[str, Any]]:
    return [
        {"name": f.name, "role": f.role, "size_bytes": f.size_bytes, "sha256": f.sha256}
        for f in files
    ]
