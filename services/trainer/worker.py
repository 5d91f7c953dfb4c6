"""Ask for work, do it, ask again: one attempt at a time, until told to leave."""

import asyncio
import contextlib
import shutil
from uuid import UUID

import structlog
from msgspec.structs import replace

from libs.bus.rpc import Unanswered
from libs.contracts.scheduler_rpc import LEASE, LeaseGranted, LeaseRequest
from libs.observability.spans import span
from libs.observability.trace import continued
from services.trainer.attempt import Attempt
from services.trainer.launch import Launcher
from services.trainer.link import Link
from services.trainer.reports import Reports
from services.trainer.site import Site

UNANSWERED_PAUSE = 1.0  # seconds; the question itself has waited for some before

logger = structlog.get_logger()


class Worker:
    """``instance_id`` is new in every process: by it the scheduler sees that the last one died."""

    def __init__(
        self, *, link: Link, launcher: Launcher, site: Site, instance_id: UUID, memory_bytes: int
    ) -> None:
        self._link = link
        self._launcher = launcher
        self._site = site
        self._request = LeaseRequest(
            trainer_id=site.trainer_id, instance_id=instance_id, memory_bytes=memory_bytes
        )
        self._attempt: Attempt | None = None
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Returns after `leave`, when the attempt under way has ended."""
        while await self._ready():
            try:
                answer = await self._link.ask(LEASE, self._request)
            except Unanswered as error:
                logger.warning("no answer to a request for work", error=str(error))
                await self._pause(UNANSWERED_PAUSE)
                continue
            if not isinstance(answer, LeaseGranted):
                await self._pause(answer.retry_after_seconds)
            elif self._leaving.is_set():
                await self._hand_back(answer)
            else:
                await self._do(answer)
                self._request = replace(
                    self._request, last_job_id=answer.job_id, last_epoch=answer.epoch
                )

    def leave(self) -> None:
        logger.info("told to leave", with_a_job=self._attempt is not None)
        self._leaving.set()
        if self._attempt is not None:
            self._attempt.leave()

    async def _ready(self) -> bool:
        """Whether the launcher has what a job needs, before it is time to leave."""
        ready = asyncio.ensure_future(self._launcher.ready())
        leaving = asyncio.ensure_future(self._leaving.wait())
        await asyncio.wait({ready, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if self._leaving.is_set():
            ready.cancel()
            return False
        ready.result()
        return True

    async def _hand_back(self, lease: LeaseGranted) -> None:
        """What was granted while it was time to leave; or its lease would have to lapse."""
        done = lease.checkpoint.tokens_processed if lease.checkpoint else 0
        reports = Reports(lease, self._site.trainer_id, self._site.new_id)
        await self._link.report(reports.stopped(done))

    async def _do(self, lease: LeaseGranted) -> None:
        folder = self._site.work_dir / "attempts" / str(lease.job_id) / str(lease.epoch)
        with (
            continued(lease.traceparent, job_id=str(lease.job_id), epoch=str(lease.epoch)),
            span("attempt") as attempting,
        ):
            attempting.set(job_type=lease.job_type, trainer_id=self._site.trainer_id)
            logger.info("lease granted", job_type=lease.job_type, model=lease.model.slug)
            try:
                await asyncio.to_thread(self._sweep)
                folder.mkdir(parents=True)
                if self._leaving.is_set():  # `leave` has found no attempt that it could end
                    return await self._hand_back(lease)
                self._attempt = Attempt(
                    lease,
                    link=self._link,
                    launcher=self._launcher,
                    site=self._site,
                    folder=folder,
                )
                await self._attempt.run()
            except Exception as error:
                # The lease lapses, and the job is tried again.
                attempting.fail(error)
                logger.exception("attempt abandoned")
            finally:
                self._attempt = None
                await asyncio.to_thread(self._sweep)

    def _sweep(self) -> None:
        """Remove what an attempt, or a process that was killed, left on the disk."""
        shutil.rmtree(self._site.work_dir / "attempts", ignore_errors=True)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leaving.wait()
