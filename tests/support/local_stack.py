"""``tuneyard-server up`` as a user runs it: a process of its own, on a folder of its own."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import httpx
import psutil

from deploy.local.account import REQUESTS_PER_MINUTE
from deploy.local.observation import SPANS_FILE
from deploy.local.program import free_port
from deploy.local.services import ROOT, TINY_LLAMA
from deploy.local.state import Credentials, load
from tests.support.release import HERE, Release

PROCESSES = (
    *("postgres", "nats", "s3", "gateway", "billing", "scheduler", "trainer-0"),
    *("artifact", "webhooks", "telemetry", "relay", "issuer", "sandbox"),
)
START_SECONDS = 180.0  # a cold machine compiles every service's bytecode first
STOP_SECONDS = 90.0
RECOVER_SECONDS = 180.0  # PostgreSQL replays its journal; the trainer imports torch
COMMAND_SECONDS = 180.0  # two, on a machine of one's own
MODEL_SECONDS = 300.0
POLL = 0.05
SPANS_EVERY_MS = "200"  # instead of 5,000, for a test that waits for them

T = TypeVar("T")


def eventually(read: Callable[[], T], holds: Callable[[T], object], seconds: float, what: str) -> T:
    """The first value that holds. Fails naming ``what`` was waited for, and the last value."""
    end = time.monotonic() + seconds
    while not holds(value := read()):
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s; last: {value}"
        time.sleep(POLL)
    return value


def base_model() -> Path:
    """The development base model, made once and kept for every later stack and session."""
    sources = [ROOT / "services/trainer/tiny_llama.py"]
    sources += sorted((ROOT / "services/trainer/samples").glob("*"))
    digest = hashlib.sha256(b"".join(s.read_bytes() for s in sources if s.is_file())).hexdigest()
    kept = Path(tempfile.gettempdir()) / f"tuneyard-tests-{os.getuid()}" / digest[:16] / TINY_LLAMA
    if not kept.exists():
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = kept.with_name(f"{TINY_LLAMA}-{os.getpid()}")
        command = [sys.executable, "-m", "services.trainer.tiny_llama", str(made)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=MODEL_SECONDS)
        with suppress(OSError):  # another session was faster: its model is the same
            made.rename(kept)
        shutil.rmtree(made, ignore_errors=True)
    return kept


class LocalStack:
    """One installation in ``folder``. `start`, then `credentials` name its account and key."""

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 1,
        trainers: int = 1,
        environment: Mapping[str, str] | None = None,
        release: Release = HERE,
    ) -> None:
        self.folder = folder
        self._release = release
        self._environment = environment or {}
        self.port = free_port()
        self._many = ("--trainers", str(trainers))
        if replicas > 1:  # a release that is older has no such option
            self._many += ("--replicas", str(replicas))
        self._output = folder.with_name(f"{folder.name}.output")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> Credentials:
        found = load(self.folder / "credentials.json", Credentials)
        assert found is not None
        return found

    def start(self) -> float:
        """Returns when the line ``ready URL`` was printed; the seconds that took."""
        began = time.monotonic()
        model = self.folder / "models" / TINY_LLAMA
        if not model.exists():
            shutil.copytree(base_model(), model)
        command = [self._release.python, "-m", "deploy.server", "up", "--data", str(self.folder)]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port), *self._many],
                cwd=self._release.tree,
                env=os.environ | self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = self._process
        ready = f"ready {self.base_url}\n"
        eventually(
            lambda: self._output.read_text(),
            lambda text: ready in text or process.poll() is not None,
            START_SECONDS,
            "a start",
        )
        assert process.poll() is None, self._output.read_text()
        return time.monotonic() - began

    @property
    def gateway_urls(self) -> list[str]:
        """Of every replica, once it has started; the first is ``base_url``."""
        lines = self._output.read_text().splitlines()
        further = [line.split()[1] for line in lines if line.startswith("gateway-")]
        return [self.base_url, *(url for url in further if url.startswith("http"))]

    @property
    def spans(self) -> Path:
        """Where each service writes its spans, when they are wanted."""
        return Path(self._environment[SPANS_FILE])

    def stop(self, *, within_seconds: float = STOP_SECONDS) -> None:
        """Ctrl-C: everything has ended by then, with no complaint."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its programs are on a leash and follow
            process.wait()
            raise
        assert process.returncode == 0, self._output.read_text()
        assert not list((self.folder / "run").iterdir())

    def lose(self) -> None:
        """As if the plug were pulled: every process is killed at once, and gone."""
        process = self._process
        assert process is not None
        supervisor = psutil.Process(process.pid)
        # PostgreSQL's own processes outlive it for a moment, in which they still write.
        everybody = [supervisor, *supervisor.children(recursive=True)]
        for one in everybody:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        _, left = psutil.wait_procs(everybody, timeout=STOP_SECONDS)
        assert not left, left

    def pid(self, name: str) -> int | None:
        """None while the supervisor waits to start it again."""
        try:
            return int((self.folder / "run" / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def kill(self, name: str, by: signal.Signals = signal.SIGKILL) -> None:
        """``kill -9``, or another signal; returns when the supervisor has started it again."""
        former = self.pid(name)
        assert former is not None, f"{name} does not run"
        os.kill(former, by)
        eventually(
            lambda: self.pid(name),
            lambda pid: pid not in (None, former),
            RECOVER_SECONDS,
            f"another {name}",
        )

    def answers(self) -> bool:
        """Whether the gateway says that every part answers."""
        try:
            return httpx.get(f"{self.base_url}/v1/readyz", timeout=30).status_code == 200
        except httpx.HTTPError:
            return False

    def recovered(self) -> None:
        eventually(self.answers, bool, RECOVER_SECONDS, "every part's answer")

    def run(self, *arguments: str) -> str:
        """What one of the operator's commands prints; it must succeed."""
        command = [self._release.python, "-m", "deploy.server", *arguments]
        done = subprocess.run(
            [*command, "--data", str(self.folder)],
            cwd=self._release.tree,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def assert_the_log_holds(self) -> None:
        """``rebuild`` changes no row, and ``log verify`` passes."""
        lines = self.run("rebuild").splitlines()
        assert lines
        changed = [line for line in lines if not line.endswith(", 0 changed")]
        assert not changed, changed
        self.run("log", "verify")

    def new_account(self, cents: int) -> tuple[UUID, str]:
        """An account with a balance; its id and a key."""
        generous = ("--requests-per-minute", str(REQUESTS_PER_MINUTE))
        account_id = self.run("account", "create", "test", *generous).strip()
        key = self.run("key", "create", account_id).strip()
        if cents:
            self.run("grant", account_id, str(cents))
        return UUID(account_id), key


def recording_spans(parent: Path) -> dict[str, str]:
    folder = parent / "spans"
    folder.mkdir()
    return {SPANS_FILE: str(folder), "OTEL_BSP_SCHEDULE_DELAY": SPANS_EVERY_MS}


@contextmanager
def local_stack(
    *, replicas: int = 1, trainers: int = 1, spans: bool = False
) -> Iterator[LocalStack]:
    """A stack in a temporary folder, gone afterwards; its logs stay if it could not be stopped."""
    parent = Path(tempfile.mkdtemp(prefix="tuneyard-stack-"))
    parent.chmod(0o755)  # PostgreSQL runs as another user when this one is root
    stack = LocalStack(
        parent / "data",
        replicas=replicas,
        trainers=trainers,
        environment=recording_spans(parent) if spans else None,
    )
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(parent)
