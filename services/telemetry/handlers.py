"""What telemetry does with a message: decode it, and wait until its rows are durable."""

import msgspec

from libs.contracts.training import LogBatch, MetricBatch
from services.telemetry.ingest import Ingest
from services.telemetry.model import log_batches, metric_batches

decode_metrics = msgspec.json.Decoder(MetricBatch).decode
decode_logs = msgspec.json.Decoder(LogBatch).decode


async def store_metrics(ingest: Ingest, payload: bytes) -> None:
    await ingest.write(metric_batches(decode_metrics(payload)))


async def store_logs(ingest: Ingest, payload: bytes) -> None:
    await ingest.write(log_batches(decode_logs(payload)))
