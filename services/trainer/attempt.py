"""One attempt at a job: from the granted lease to the last report.

The heart beats from beginning to end; its answers cancel the attempt or end it. When nobody
answers, training goes on: what a lost attempt reports is refused by its epoch, and a scheduler
that was merely away finds the job further on.
"""

import asyncio
import contextlib
from pathlib import Path

import structlog

from libs.contracts.scheduler_rpc import HEARTBEAT, Heartbeat, LeaseGranted
from libs.contracts.trainer import AnyReport, Stopped
from libs.contracts.training import TrainSpec
from libs.observability.spans import current_span, span
from libs.observability.trace import current_traceparent, trace_id, unrecorded
from services.trainer.archive import ARCHIVE, pack_result, result_files, role_of, stored_name
from services.trainer.base_model import ModelUnavailable
from services.trainer.checkpoint_upload import CheckpointKeeper
from services.trainer.inputs import fetch
from services.trainer.launch import Launcher, Training
from services.trainer.link import Link
from services.trainer.meter import Meter
from services.trainer.reports import Reports, was_told_to_end
from services.trainer.run_folder import RunFolder
from services.trainer.site import Site
from services.trainer.telemetry import Telemetry
from services.trainer.transfer import TROUBLE, LeaseGone, upload

BEAT_SECONDS = 1.0  # a cancellation is to reach training within 5 s
FLUSH_SECONDS = 0.15
STOP_GRACE_SECONDS = 10.0  # for the step under way and a checkpoint
LAST_CHECKPOINT_SECONDS = 3.0  # of the 4 in which the service leaves
HAND_BACK_SECONDS = 3.5  # of the same: then the job is handed back, wherever it is

logger = structlog.get_logger()


class Attempt:
    """``folder`` is empty and this attempt's alone; its owner deletes it."""

    def __init__(
        self, lease: LeaseGranted, *, link: Link, launcher: Launcher, site: Site, folder: Path
    ) -> None:
        self._lease = lease
        self._link = link
        self._launcher = launcher
        self._site = site
        self._folder = folder
        self._output = folder / "output.txt"
        self._run = RunFolder(folder / "out")
        self._telemetry = Telemetry(
            link, lease, out_dir=self._run.path, output=self._output, now=site.now
        )
        self._reports = reports = Reports(lease, site.trainer_id, site.new_id)
        self._keeper = CheckpointKeeper(
            link,
            lease,
            run=self._run,
            reports=reports,
            folder=folder,
            flush=self._telemetry.flush,
        )
        self._work: asyncio.Task[AnyReport] | None = None
        self._training: Training | None = None
        self._started = asyncio.Event()
        self._meter = Meter(lease)
        self._settling = False
        self._cancelled = self._leaving = False
        self._out_of_time = asyncio.Event()
        self._lost = False

    async def run(self) -> None:
        """Train and report the outcome; returns when JetStream holds the report."""
        self._work = work = asyncio.create_task(self._train())
        with unrecorded():  # a beat a second, for hours
            heart = asyncio.create_task(self._beat())
        out_of_time = asyncio.create_task(self._out_of_time.wait())
        try:
            with self._meter:
                await asyncio.wait({work, out_of_time}, return_when=asyncio.FIRST_COMPLETED)
            if report := self._outcome(work):
                current_span().set(report=type(report).__name__.lower())
                await self._link.report(report)
                logger.info("attempt reported", report=type(report).__name__)
        finally:
            heart.cancel()
            out_of_time.cancel()
            work.cancel()
            await asyncio.wait({work})  # it ends the training process
            self._tokens_processed()

    def leave(self) -> None:
        """The service is ending: let training write a checkpoint, and hand the job back; also where
        training needs longer than there is, as for a long step or pods that have their grace."""
        self._leaving = True
        asyncio.get_running_loop().call_later(HAND_BACK_SECONDS, self._out_of_time.set)
        self._stop()

    def _outcome(self, work: "asyncio.Task[AnyReport]") -> AnyReport | None:
        """What to report of the finished work; nothing when the job is another's."""
        if self._lost:
            return None
        if not work.done() or work.cancelled():
            return self._stopped()
        match work.exception():
            case None:
                return work.result()
            case LeaseGone():
                return None
            case ModelUnavailable() as error:
                return self._reports.failed("model_load_failed", str(error), retryable=False)
            case error:
                logger.error("attempt failed", exc_info=error)
                current_span().fail(error)
                return self._reports.failed("internal_error", f"the trainer failed: {error!r}")

    async def _beat(self) -> None:
        interval = min(BEAT_SECONDS, self._lease.lease_seconds / 4)
        while True:
            try:
                state = self._run.state()
                answer = await self._link.ask(
                    HEARTBEAT,
                    Heartbeat(
                        trainer_id=self._site.trainer_id,
                        job_id=self._lease.job_id,
                        epoch=self._lease.epoch,
                        step=state.step if state else 0,
                        tokens_processed=self._tokens_processed(),
                    ),
                )
                if answer.verdict == "lost":
                    self._lose()
                elif answer.verdict == "cancel" and not self._cancelled:
                    logger.info("cancelled by its owner")
                    self._cancelled = True
                    self._stop()
            except Exception as error:  # whatever it is, the heart must not stop
                logger.warning("heartbeat failed", error=repr(error))
            await asyncio.sleep(interval)

    def _stop(self) -> None:
        """Let training end by itself, for a while; anything before or after it ends at once."""
        assert self._work is not None
        if self._training is None or (self._settling and self._cancelled):
            self._work.cancel()
        elif not self._settling:
            self._training.ask_to_stop()
            asyncio.get_running_loop().call_later(STOP_GRACE_SECONDS, self._training.kill)

    def _lose(self) -> None:
        assert self._work is not None
        if self._work.done():
            return  # the scheduler has our report already, and with it the lease ended
        logger.warning("the lease is lost; nothing more is reported")
        self._lost = True
        self._work.cancel()

    async def _train(self) -> AnyReport:
        lease, site = self._lease, self._site
        with span("fetch inputs"):
            inputs = await fetch(
                self._link,
                lease,
                self._folder,
                models_dir=site.models_dir,
                cache=site.work_dir / "models",
            )
        traceparent = current_traceparent()
        spec = TrainSpec(
            job_id=lease.job_id,
            job_type=lease.job_type,
            model_path=str(inputs.model),
            dataset_path=_text(inputs.dataset),
            out_dir=str(self._run.path),
            params=lease.params,
            train_params=lease.train_params,
            contract_params=lease.contract_params,
            resume_from=_text(inputs.checkpoint),
            threads=site.threads,
            trace_id=trace_id(traceparent) if traceparent else None,
            model_name=lease.model.slug,
            adapter_path=_text(inputs.adapter),
            start_from=_text(inputs.start_from),
            validation_path=_text(inputs.validation),
            epoch=lease.epoch,
        )
        self._run.path.mkdir()
        logger.info("inputs are here", resumed=spec.resume_from is not None)
        with span("train") as spanning:
            self._training = training = await self._launcher.launch(spec, self._output)
            logger.info("training process started")
            try:
                exit_status = await self._follow(training)
            finally:
                training.kill()
                await training.ended()
            self._describe(spanning, exit_status)
        return await self._settle(exit_status)

    def _describe(self, training: span, exit_status: int) -> None:
        status = self._run.status()
        outcome = status.outcome if status else "killed"
        training.set(
            outcome=outcome, exit_status=exit_status, tokens_processed=self._tokens_processed()
        )
        if state := self._run.state():
            training.set(step=state.step)
        if outcome not in ("finished", "stopped"):
            training.fail(outcome)

    async def _follow(self, training: Training) -> int:
        """Publish what training writes until it has ended, and everything has been published."""
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            checkpoints = group.create_task(self._keep_checkpoints())
            group.create_task(self._publish(ended))
            exit_status = await training.ended()
            self._settling = True
            checkpoints.cancel()
            ended.set()
        return exit_status

    async def _publish(self, ended: asyncio.Event) -> None:
        while True:
            last = ended.is_set()
            if not self._started.is_set() and (state := self._run.state()):
                await self._link.report(self._reports.started(state))
                self._started.set()
            await self._telemetry.flush()
            if last:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await ended.wait()

    async def _keep_checkpoints(self) -> None:
        await self._started.wait()
        try:
            await self._keeper.keep_all()
        except LeaseGone:
            self._lose()

    async def _settle(self, exit_status: int) -> AnyReport:
        """The report of a run that has ended, when what belongs to it has been stored."""
        status = self._run.status()
        outcome = status.outcome if status else "killed"
        logger.info("training ended", outcome=outcome, exit_status=exit_status)
        if self._cancelled:
            return self._stopped()
        if outcome == "finished":
            return await self._finish()
        if self._leaving or was_told_to_end(status, exit_status):
            with contextlib.suppress(*TROUBLE):  # a timeout is an OSError
                async with asyncio.timeout(LAST_CHECKPOINT_SECONDS if self._leaving else None):
                    await self._keeper.keep_newest()
            return self._stopped()
        output = await asyncio.to_thread(self._read_output)
        return self._reports.ended_badly(status, exit_status, output)

    async def _finish(self) -> AnyReport:
        """Store the archive and each file of the result, then say so."""
        result = self._run.result()
        if result is None:
            return self._reports.failed("internal_error", "training finished without a result.json")
        archive = self._folder / ARCHIVE
        await asyncio.to_thread(pack_result, self._run.path, archive)
        stored = [await upload(self._link, self._lease, archive, name=ARCHIVE, role="archive")]
        for path in result_files(self._run.path):
            name = stored_name(path)
            stored.append(
                await upload(self._link, self._lease, path, name=name, role=role_of(name))
            )
        return self._reports.finished(result, tuple(stored))

    def _read_output(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def _stopped(self) -> Stopped:
        return self._reports.stopped(self._tokens_processed())

    def _tokens_processed(self) -> int:
        """Over all attempts, as far as is known."""
        known = self._run.status() or self._run.state()
        return self._meter.processed(known.tokens_processed if known else 0)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
