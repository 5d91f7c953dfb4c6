"""A run as a TrainJob of Kubeflow Trainer, which Kueue lets in when there is room for it.

The run's folder lies on a volume that the trainer and the runtime's pods mount at one path. A
TrainJob is named after the job and its lease's epoch, so there is one for each attempt; it ends by
being deleted, at which its pods get SIGTERM and write a checkpoint. (Not by `spec.suspend`: that
is Kueue's, who would start it again.)
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from msgspec import Struct

from libs.contracts.training import TrainSpec
from services.trainer.kubernetes import ApiAway, ApiRefused, TrainJob, TrainJobApi
from services.trainer.launch_torchrun import ONE_PROCESS, write_spec
from services.trainer.once import has_begun, was_to_begin_again

POLL_SECONDS = 2.0  # a run takes minutes at least, and the API has others to serve
TRAINER = "tuneyard.dev/trainer"
QUEUE = "kueue.x-k8s.io/queue-name"
DISRUPTED = "FailJobSetFailurePolicyAction"
"""Why a JobSet says it failed, and its TrainJob with it, when a rule of its own has failed it. The
only one of our runtime is about pods that Kubernetes has ended: a node is drained or gone, a more
important pod needs the room. What a run does to itself fails it for another reason."""

T = TypeVar("T")
logger = structlog.get_logger()


class Where(Struct, frozen=True, kw_only=True):
    """``trainer_id`` is the name of the trainer's pod, ``pod_uid`` its uid. ``processes`` on each
    of ``nodes``; None: one."""

    trainer_id: str
    pod_uid: str
    queue: str
    runtime: str
    nodes: int
    processes: int | None


def trainjob(spec: TrainSpec, file: Path, output: Path, where: Where) -> dict[str, Any]:
    """What is created. A pod of the runtime that begins a second time would begin anew, and
    overwrite what the first has kept: it may only begin once."""
    alone = spec.job_type in ONE_PROCESS
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            # Of its 63 characters a pod's name needs 16 more.
            "name": f"job-{spec.job_id.hex}-{spec.epoch}",
            "labels": {QUEUE: where.queue, TRAINER: where.trainer_id},
            # With the pod, what it has begun is deleted, whoever comes after it.
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": where.trainer_id,
                    "uid": where.pod_uid,
                }
            ],
        },
        "spec": {
            "runtimeRef": {"name": where.runtime, "kind": "TrainingRuntime"},
            "trainer": {
                "numNodes": 1 if alone else where.nodes,
                "numProcPerNode": 1 if alone else where.processes or 1,
                "command": ["python", "-m", "services.trainer.group"],
                "args": [str(file), "--output", str(output), "--once", str(once_of(output))],
            },
        },
    }


def once_of(output: Path) -> Path:
    """What a run's pods tell each other and its trainer by: see `once`."""
    return output.with_name("begun")


class TrainJobTraining:
    def __init__(self, api: TrainJobApi, name: str, output: Path, poll_seconds: float) -> None:
        self._api = api
        self._name = name
        self._output = output
        self._once = once_of(output)
        self._poll_seconds = poll_seconds
        self._ending = asyncio.Event()
        self._following = asyncio.create_task(self._follow())

    def ask_to_stop(self) -> None:
        self._ending.set()

    def kill(self) -> None:
        """As `ask_to_stop`: the kubelet kills whoever outstays the grace of the runtime's pods."""
        self._ending.set()

    async def ended(self) -> int:
        """When the TrainJob is gone, and with it its pods."""
        return await asyncio.shield(self._following)

    async def _follow(self) -> int:
        try:
            status = await self._outcome_of_the_run()
        except (ApiRefused, OSError):
            await self._remove()  # or its pods would keep their GPUs
            raise
        await self._remove()
        return -signal.SIGTERM if status is None else status

    async def _remove(self) -> None:
        try:
            await remove(self._api, self._name, self._poll_seconds)
        except ApiRefused as error:  # `ready` tries again, before this trainer's next job
            logger.warning("a TrainJob is left", name=self._name, error=str(error))

    async def _outcome_of_the_run(self) -> int | None:
        """None: it is to end."""
        status, ran = None, False
        while status is None and not self._ending.is_set():
            job = await answered(lambda: self._api.get(self._name), self._poll_seconds)
            status = self._outcome(job, ran)
            ran = ran or (job is not None and job.runs)
            if status is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await self._ending.wait()
        return status

    def _outcome(self, job: TrainJob | None, ran: bool) -> int | None:
        """The exit status of a run that has ended."""
        if job is None:
            self._say("was deleted by somebody else")
            return -signal.SIGTERM
        if job.condition("Complete"):
            return 0
        if failed := job.condition("Failed"):
            self._say(f"failed: {failed.message}")
            # The runtime starts no pod again. Kueue does, with the TrainJob that it suspended.
            handed_on = failed.reason == DISRUPTED or was_to_begin_again(self._once)
            return -signal.SIGTERM if handed_on else 1
        if (suspended := job.suspended) and (ran or has_begun(self._once)):
            self._say(f"had to make room for another: {suspended.message}")
            return -signal.SIGTERM
        return None

    def _say(self, text: str) -> None:
        with self._output.open("a") as output:
            output.write(f"the TrainJob {self._name} {text}\n")


class TrainJobLauncher:
    def __init__(
        self, api: TrainJobApi, where: Where, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._api = api
        self._where = where
        self._poll_seconds = poll_seconds
        self._clean = False

    async def warm_up(self) -> None:
        """There is nothing to warm: the pods are started elsewhere."""

    async def ready(self) -> None:
        """When no TrainJob of this trainer is left, as after one that died in the middle."""
        if self._clean:
            return
        label = self._where.trainer_id
        found = await answered(lambda: self._api.with_label(TRAINER, label), self._poll_seconds)
        for name in found:
            logger.info("removing a TrainJob that was left", name=name)
            await remove(self._api, name, self._poll_seconds)
        self._clean = True

    async def launch(self, spec: TrainSpec, output: Path) -> TrainJobTraining:
        self._clean = False
        file = write_spec(spec, output.with_name("spec.json"), self._where.processes)
        manifest = trainjob(spec, file, output, self._where)
        await answered(lambda: self._api.create(manifest), self._poll_seconds)
        name = manifest["metadata"]["name"]
        logger.info("TrainJob created", name=name, queue=self._where.queue)
        return TrainJobTraining(self._api, name, output, self._poll_seconds)


async def remove(api: TrainJobApi, name: str, poll_seconds: float) -> None:
    """Returns when it is gone."""
    await answered(lambda: api.delete(name), poll_seconds)
    while await answered(lambda: api.get(name), poll_seconds) is not None:  # noqa: ASYNC110
        await asyncio.sleep(poll_seconds)


async def answered(ask: Callable[[], Awaitable[T]], pause: float) -> T:
    """The API's answer, however long it is away: a run goes on without it. Raises ApiRefused."""
    while True:
        try:
            return await ask()
        except ApiAway as error:
            logger.warning("Kubernetes does not answer; asking again", error=str(error))
            await asyncio.sleep(pause)
