"""What the services behind the gateway answer in the tenant matrix."""

from datetime import UTC, datetime

from libs.contracts import artifact_rpc, scheduler_rpc, telemetry_rpc, trainer_rpc
from libs.contracts.training import LogLine
from tests.integration.gateway_app import Gateway


def script(gateway: Gateway) -> None:
    """Let the scripted services answer about any job, naming it."""

    def logs(asked: telemetry_rpc.GetLogs) -> telemetry_rpc.LogPage:
        line = LogLine(seq=1, ts=datetime.now(UTC), stream="stdout", text=f"of {asked.job_id}")
        return telemetry_rpc.LogPage(job_id=asked.job_id, latest_seq=1, lines=[line])

    def metrics(asked: telemetry_rpc.GetMetrics) -> telemetry_rpc.MetricPage:
        return telemetry_rpc.MetricPage(job_id=asked.job_id, count=0, latest_step=0, points=[])

    def downloads(asked: artifact_rpc.GetDownloads) -> artifact_rpc.Downloads:
        link = artifact_rpc.DownloadLink(
            name="artifacts.tar.gz",
            role="archive",
            url=f"http://127.0.0.1/{asked.job_id}",
            size_bytes=1,
            sha256="0" * 64,
            expires_in=60,
        )
        return artifact_rpc.Downloads(links=(link,))

    def checkpoints(asked: artifact_rpc.GetCheckpoints) -> artifact_rpc.Checkpoints:
        link = artifact_rpc.CheckpointLink(
            step=5,
            tokens_processed=1,
            size_bytes=1,
            sha256="0" * 64,
            created_at=datetime.now(UTC),
            url=f"http://127.0.0.1/{asked.job_id}",
            expires_in=60,
        )
        return artifact_rpc.Checkpoints(links=(link,))

    def preview(asked: trainer_rpc.GetPreview) -> trainer_rpc.Preview:
        row = trainer_rpc.PreviewRow(
            line=asked.line,
            answer=None,
            text="two",
            tokens=(trainer_rpc.PreviewToken(id=1, text="two", trained=True),),
            token_count=1,
            trained_count=1,
            truncated_tokens=0,
            problem=None,
        )
        return trainer_rpc.Preview(rows=(row,), following=None)

    gateway.answers |= {
        "preview": preview,
        "checkpoints": checkpoints,
        "logs": logs,
        "metrics": metrics,
        "downloads": downloads,
        "cancel": scheduler_rpc.Cancelling(status="queued"),
    }
