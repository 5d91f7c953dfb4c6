"""Several of everything, any of them killed or frozen at any moment: the jobs, the faults, and the
question whether all is well afterwards.

Most jobs are trained by stand-ins (`tests.support.stand_in_trainer`: the trainer service as it is,
around a training that computes nothing), since two hundred real ones would take an hour on a busy
machine. The stack's own trainers take their share.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import cycle
from uuid import uuid4

import httpx
import psutil

from deploy.local.program import clean_environment
from deploy.local.services import (
    MODULES,
    ROOT,
    TINY_LLAMA,
    Stack,
    replica_name,
    trainer_environment,
)
from deploy.local.state import Ports, Secrets, load
from tests.support.journey import ENDED, Json, User, sample_rows
from tests.support.local_stack import LocalStack, T, eventually

SERVERS = ("postgres", "nats", "s3")
ROWS = 20
STEPS = 2
AT_ONCE = 16  # clients that submit
SUBMIT_SECONDS = 120.0  # for one submission, repeated until it is answered
TRY_SECONDS = 10.0
PAUSE = 0.2
CENTS = 100_000
SHORTEST_FREEZE = 0.3  # seconds


def about(stack: LocalStack, *, trainers: int = 1) -> Stack:
    """What a running stack was started with."""
    secrets = load(stack.folder / "secrets.json", Secrets)
    ports = load(stack.folder / "ports.json", Ports)
    assert secrets is not None
    assert ports is not None
    return Stack(
        folder=stack.folder,
        secrets=secrets,
        ports=ports,
        gateway_port=stack.port,
        trainers=trainers,
    )


class StandIns:
    """Trainers that compute nothing, each started again at once when it is killed."""

    def __init__(self, stack: LocalStack, count: int) -> None:
        self._about = about(stack, trainers=count)
        self.names = [f"stand-in-{number}" for number in range(count)]
        self._running = {name: self._start(name) for name in self.names}

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, name: str) -> None:
        former = self._running[name]
        assert former.poll() is None, f"{name} has ended by itself"
        former.kill()
        former.wait()
        self._running[name] = self._start(name)

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        with (self._about.folder / "logs" / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.stand_in_trainer"],
                cwd=ROOT,
                env=clean_environment() | trainer_environment(self._about, name),
                stdout=log,
                stderr=subprocess.STDOUT,
            )


class Storm:
    """Jobs of a new account, and kills that ``seed`` chooses."""

    def __init__(self, stack: LocalStack, stand_ins: StandIns, *, seed: int) -> None:
        print(f"the seed of this storm is {seed}")
        self.stack = stack
        self.user = User(stack, stack.new_account(CENTS)[1])
        self.balance = self.user.balance()
        self.killed: list[str] = []
        self.frozen: list[str] = []
        self._timers: list[threading.Timer] = []
        self._chance = random.Random(seed)
        self._stand_ins = stand_ins
        self._gateways = [
            httpx.Client(base_url=url, headers=self.user.headers, timeout=TRY_SECONDS)
            for url in stack.gateway_urls
        ]
        self._dataset_id = self.user.upload(sample_rows(ROWS))

    def submit(self, count: int, *, over: float = 0.0) -> list[str]:
        """So many jobs at once, or evenly over some seconds, through every gateway; their ids."""

        def later(number: int) -> str:
            time.sleep(over * AT_ONCE / count)
            return self._submit(number)

        with ThreadPoolExecutor(AT_ONCE) as clients:
            return list(clients.map(later, range(count)))

    def _submit(self, number: int) -> str:
        """Repeated under its key, by another gateway, until one has answered."""
        body = {
            "type": "finetune",
            "idempotency_key": str(uuid4()),
            "base_model_id": TINY_LLAMA,
            "dataset_id": self._dataset_id,
            "hyperparams": {"steps": STEPS},
        }
        end = time.monotonic() + SUBMIT_SECONDS
        seen = ""
        first = number % len(self._gateways)
        for gateway in cycle([*self._gateways[first:], *self._gateways[:first]]):
            assert time.monotonic() < end, f"a submission was not answered: {seen}"
            try:
                answer = gateway.post("/v1/jobs", json=body)
            except httpx.TransportError as error:
                seen = repr(error)
            else:
                if answer.status_code in (200, 201):
                    break
                seen = answer.text
                assert answer.status_code == 503, seen
            time.sleep(PAUSE)
        job_id: str = answer.json()["id"]
        return job_id

    def victims(self) -> list[str]:
        """Every replica of every service and every trainer, and as one among them each server."""
        services = [
            replica_name(service, replica)
            for service in MODULES
            if service != "trainer"
            for replica in range(len(self._gateways))
        ]
        return [*services, *self._stand_ins.names, *SERVERS]

    def rage(self, kills: int, *, every: float, victims: Sequence[str]) -> None:
        """``kill -9`` a process, any of them, every so many seconds."""
        for _ in range(kills):
            time.sleep(every)
            self.kill(self._chance.choice([name for name in victims if self._runs(name)]))

    def kill(self, name: str) -> None:
        self.killed.append(name)
        print(f"kill -9 {name}")
        if name in self._stand_ins.names:
            self._stand_ins.kill(name)
        elif (pid := self.stack.pid(name)) is not None:
            os.kill(pid, signal.SIGKILL)

    def freeze_some(
        self,
        faults: int,
        *,
        every: float,
        longest: float,
        victims: Sequence[str],
        kills: float = 0.0,
    ) -> None:
        """Freeze a process, any of them, every so many seconds, for a moment or for much longer;
        half of the times with all that it has started, as when a machine is. Long ones overlap. A
        share of ``kills`` is killed instead."""
        for _ in range(faults):
            time.sleep(every)
            name = self._chance.choice([one for one in victims if self._runs(one)])
            # As many of 0.3 to 3 s as of 3 to 30.
            seconds = SHORTEST_FREEZE * (longest / SHORTEST_FREEZE) ** self._chance.random()
            whole = self._chance.random() < 0.5
            if self._chance.random() < kills:
                self.kill(name)
            else:
                self.freeze(name, seconds, whole=whole)

    def shuffled(self, faults: list[T]) -> list[T]:
        self._chance.shuffle(faults)
        return faults

    def freeze(self, name: str, seconds: float, *, whole: bool = False) -> None:
        """SIGSTOP, and SIGCONT when the time is up, or at `thaw`."""
        pid = self._pid(name)
        if pid is None:
            return
        print(f"{time.strftime('%X')} freeze {name} for {seconds:.1f} s{', whole' * whole}")
        self.frozen.append(name)
        first = psutil.Process(pid)
        first.suspend()
        below = first.children(recursive=True) if whole else []
        for one in below:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        timer = threading.Timer(seconds, _resume, [[*below, first]])
        self._timers.append(timer)
        timer.start()

    def thaw(self) -> None:
        """Whatever is frozen goes on at once."""
        for timer in self._timers:
            if timer.is_alive():
                timer.cancel()
                timer.function(*timer.args)

    def _pid(self, name: str) -> int | None:
        is_stand_in = name in self._stand_ins.names
        return self._stand_ins.pid(name) if is_stand_in else self.stack.pid(name)

    def _runs(self, name: str) -> bool:
        """Not while its supervisor waits to start it again."""
        return self._pid(name) is not None

    def until_ended(self, jobs: Sequence[str], seconds: float) -> list[Json]:
        """The jobs, all of which have ended."""
        ended: dict[str, Json] = {}

        def look() -> int:
            for job_id in jobs:
                if job_id not in ended:
                    job = self.user.job(job_id)
                    if job["status"] in ENDED:
                        ended[job_id] = job
            return len(ended)

        eventually(look, lambda count: count == len(jobs), seconds, f"the end of {len(jobs)} jobs")
        return [ended[job_id] for job_id in jobs]


@contextmanager
def storm_over(stack: LocalStack, *, stand_ins: int, seed: int) -> Iterator[Storm]:
    """A storm, and so many stand-ins, which end with it; and nothing stays frozen."""
    trainers = StandIns(stack, stand_ins)
    try:
        storm = Storm(stack, trainers, seed=seed)
        try:
            yield storm
        finally:
            storm.thaw()
    finally:
        trainers.stop()


def _resume(processes: Sequence[psutil.Process]) -> None:
    for one in processes:
        with suppress(psutil.NoSuchProcess):  # psutil knows one from a later one with its number
            one.resume()
