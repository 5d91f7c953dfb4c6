"""Follow a job until it has ended."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from tuneyard.cli import exits
from tuneyard.cli.context import Context
from tuneyard.cli.exits import CliError
from tuneyard.cli.options import Commands, add_job, command
from tuneyard.cli.results import result_of
from tuneyard.cli.screen import Screen, away
from tuneyard.cli.story import Story
from tuneyard.cli.text import money
from tuneyard.errors import APIConnectionError, TuneyardError
from tuneyard.types import Job, LogEvent, StateEvent, StreamEvent

if TYPE_CHECKING:
    from tuneyard import Tuneyard

OUTCOMES = {
    "completed": exits.OK,
    "failed": exits.JOB_FAILED,
    "cancelled": exits.JOB_CANCELLED,
}


def add(commands: Commands) -> None:
    add_job(command(commands, "watch", watch, "follow a job live until it has ended"))


def watch(context: Context, *, job_id: str) -> int:
    return follow(context, job_id)


def follow(context: Context, job_id: str) -> int:
    """The exit code of the job's outcome; of Ctrl-C, which only ends the watching."""
    try:
        if context.json:
            job = _as_json(context, job_id)
        elif context.world.stdout.isatty():
            job = _on_screen(context, job_id)
        else:
            job = _as_lines(context, job_id)
    except KeyboardInterrupt:
        context.note(f"\nThe job goes on. To come back: tuneyard watch {job_id}")
        return exits.INTERRUPTED
    except APIConnectionError as error:
        raise CliError(
            error.message,
            hint=f"the job goes on, if it runs; to come back: tuneyard watch {job_id}",
            code="unreachable",
            status=exits.UNREACHABLE,
        ) from error
    return OUTCOMES.get(job.status, exits.REFUSED)


def _as_json(context: Context, job_id: str) -> Job:
    story = Story()
    with context.client() as client, events_of(client, job_id) as events:
        for event in events:
            story.take(event)
            context.write(line_of(event))
    return _told(story)


def line_of(event: StreamEvent) -> bytes:
    return msgspec.json.encode({"event": event.event, "id": event.id, "data": event.data})


def _as_lines(context: Context, job_id: str) -> Job:
    """For a file or a pipe: what changes, and what the job writes."""
    story = Story()
    sleep = telling(context)
    with context.client(sleep=sleep) as client, events_of(client, job_id) as events:
        for event in events:
            story.take(event)
            if isinstance(event, StateEvent):
                context.show(f"{event.data.timestamp:%H:%M:%S} {event.data.data.status}")
            elif isinstance(event, LogEvent):
                for line in event.data.lines:
                    context.show(f"{line.ts:%H:%M:%S} {line.text}")
            context.world.stdout.flush()
        _ending(context, client, _told(story))
    return _told(story)


def telling(context: Context) -> Callable[[float], None]:
    """Sleeps, and says why."""

    def sleep(seconds: float) -> None:
        context.note(away(seconds))
        context.world.sleep(seconds)

    return sleep


def _on_screen(context: Context, job_id: str) -> Job:
    import httpx

    screen = Screen(context.out, context.world.now, job_id)

    def sleep(seconds: float) -> None:
        screen.away(seconds)
        context.world.sleep(seconds)

    def answered(_: httpx.Response) -> None:
        screen.back()

    with (
        httpx.Client(event_hooks={"response": [answered]}) as http,
        context.client(http_client=http, sleep=sleep) as client,
    ):
        client.jobs.get(job_id=job_id)  # before a screen is made for a job that isn't there
        with screen.live(), events_of(client, job_id) as events:
            for event in events:
                screen.take(event)
        job = _told(screen.story)
        _ending(context, client, job)
    return job


@contextmanager
def events_of(client: "Tuneyard", job_id: str) -> Iterator[Iterator[StreamEvent]]:
    """The connection is closed however it ends."""
    events: Any = client.jobs.stream(job_id=job_id)
    with closing(events):
        yield events


def _told(story: Story) -> Job:
    if story.job is None:
        raise TuneyardError("the stream ended without a word about the job")
    return story.job


def _ending(context: Context, client: "Tuneyard", job: Job) -> None:
    charge = "" if job.charge_cents is None else f" for {money(job.charge_cents, job.currency)}"
    context.show(f"job {job.id} {job.status}{charge}")
    if job.error is not None:
        context.show(f"{job.error.code}: {job.error.message}")
    if job.status == "completed":
        context.show(result_of(client.jobs.result(job_id=job.id)))
        context.show(f"fetch it: tuneyard download {job.id}")
