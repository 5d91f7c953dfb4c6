"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from datetime import datetime

from msgspec import Struct


class MetricPoint(Struct, frozen=True, kw_only=True):
    """One optimizer step (or one evaluation). `throughput`: tokens/s; `vram_gb` is 0 on CPU."""

    ts: datetime
    step: int
    cycle: int
    phase: str
    loss: float
    lr: float
    throughput: float
    vram_gb: float
    grad_norm: float


class MetricPage(Struct, frozen=True, kw_only=True):
    """`count` points, oldest first. `latest_step` is the newest one's, or what was asked for."""

    job_id: str
    count: int
    latest_step: int
    points: list[MetricPoint] = []


class LogLine(Struct, frozen=True, kw_only=True):
    """One curated console line; `seq` grows over all attempts of the job."""

    seq: int
    ts: datetime
    stream: str
    text: str


class LogPage(Struct, frozen=True, kw_only=True):
    """The most recent lines, oldest first. `latest_seq` is the newest one's, or what was asked
    for.
    """

    job_id: str
    latest_seq: int
    lines: list[LogLine] = []
