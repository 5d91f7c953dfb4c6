"""Questions that telemetry answers: pages of metrics, of log lines, and of an account's stream."""

from typing import Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from libs.contracts.base import Count
from libs.contracts.rpc import Rpc
from libs.contracts.training import LogLine, MetricPoint


class GetMetrics(Struct, frozen=True, kw_only=True):
    """Points strictly newer than ``since_step``, oldest first, at most ``limit``."""

    job_id: UUID
    since_step: int
    limit: int


class GetLogs(Struct, frozen=True, kw_only=True):
    """Lines strictly newer than ``since``: the most recent ``limit``, oldest first."""

    job_id: UUID
    since: int
    limit: int


class MetricPage(Struct, frozen=True, kw_only=True):
    """``count`` points, oldest first. ``latest_step`` is the newest one's, or what was asked
    for."""

    job_id: UUID
    count: int
    latest_step: int
    points: list[MetricPoint]


class LogPage(Struct, frozen=True, kw_only=True):
    """The most recent lines, oldest first. ``latest_seq`` is the newest one's, or what was asked
    for."""

    job_id: UUID
    latest_seq: int
    lines: list[LogLine]


MessageKind = Literal["state", "metrics", "log", "done"]


class StreamMessage(Struct, frozen=True, kw_only=True):
    """``place`` is its number in the account's one sequence, from 1 and without holes. ``payload``
    is the JSON that clients are sent."""

    place: Count
    job_id: UUID
    kind: MessageKind
    payload: msgspec.Raw


class NewMessages(Struct, frozen=True, kw_only=True):
    """What was just added to an account's sequence, as it travels on NATS: only a hint, which may
    lack some (they would not fit), come twice, or never. ``last`` is the highest place now."""

    messages: tuple[StreamMessage, ...]
    last: Count


class OpenStream(Struct, frozen=True, kw_only=True):
    """Where the account's sequence ends, and the job's part of it, if a job is named."""

    account_id: UUID
    job_id: UUID | None


class StreamEnds(Struct, frozen=True, kw_only=True):
    """``last`` is the account's highest place, ``done`` that of the job's last message; None for
    a job that goes on."""

    last: Count
    done: Count | None


class GetMessages(Struct, frozen=True, kw_only=True):
    """Messages behind the place ``after``, of one job if one is named, and of these kinds."""

    account_id: UUID
    job_id: UUID | None
    kinds: tuple[MessageKind, ...]
    after: Count


class MessagePage(Struct, frozen=True, kw_only=True):
    """In order; at least one, if there are any. All that were asked for up to ``last`` are here or
    in the pages before, so that it is the next page's ``after``."""

    messages: tuple[StreamMessage, ...]
    last: Count


METRICS: Rpc[GetMetrics, MetricPage] = Rpc("telemetry", "metrics", GetMetrics, MetricPage)
LOGS: Rpc[GetLogs, LogPage] = Rpc("telemetry", "logs", GetLogs, LogPage)
OPEN_STREAM: Rpc[OpenStream, StreamEnds] = Rpc("telemetry", "open_stream", OpenStream, StreamEnds)
MESSAGES: Rpc[GetMessages, MessagePage] = Rpc("telemetry", "messages", GetMessages, MessagePage)
