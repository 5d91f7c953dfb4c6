"""What a job wrote and measured, and what happened to it."""

import msgspec

from tuneyard.cli import exits
from tuneyard.cli.context import Context
from tuneyard.cli.options import Commands, add_job, add_page, command
from tuneyard.cli.text import table
from tuneyard.cli.watch import events_of
from tuneyard.types import LogEvent, LogLine, LogPage, MetricPage, Moment, Page

# What a result or a list of files says fills screens; the rest of a timeline fits into this.
PAYLOAD_COLUMNS = 160


def add(commands: Commands) -> None:
    one = command(commands, "logs", logs, "show what a job wrote")
    add_job(one)
    one.add_argument("-f", "--follow", action="store_true", help="go on until it has ended")
    one.add_argument("--since", type=int, metavar="SEQ", help="only newer lines than this one")
    one = command(commands, "metrics", metrics, "show what a job measured")
    add_job(one)
    one.add_argument("--since-step", type=int, metavar="N", help="only newer points than this one")
    one = command(commands, "events", events, "show what happened to a job")
    add_job(one)
    add_page(one)


def logs(context: Context, *, job_id: str, follow: bool, since: int | None) -> int:
    if follow:
        return _follow(context, job_id, since or 0)
    with context.client() as client:
        context.reply(client.jobs.with_raw_response.logs(job_id=job_id, since=since), _lines)
    return exits.OK


def _lines(page: LogPage) -> str:
    return "\n".join(map(_line, page.lines))


def _line(line: LogLine) -> str:
    return f"{line.ts.astimezone():%H:%M:%S} {line.text}"


def _follow(context: Context, job_id: str, since: int) -> int:
    """From the beginning: the stream knows all, where the page holds the last lines alone."""
    try:
        with context.client() as client, events_of(client, job_id) as told:
            for event in told:
                if not isinstance(event, LogEvent):
                    continue
                for line in event.data.lines:
                    if line.seq <= since:
                        continue
                    if context.json:
                        context.write(msgspec.json.encode(line))
                    else:
                        context.show(_line(line))
                context.world.stdout.flush()
    except KeyboardInterrupt:
        context.note(f"\nThe job goes on. To come back: tuneyard logs -f {job_id}")
        return exits.INTERRUPTED
    return exits.OK


def metrics(context: Context, *, job_id: str, since_step: int | None) -> int:
    with context.client() as client:
        raw = client.jobs.with_raw_response.metrics(job_id=job_id, since_step=since_step)
    context.reply(raw, _points)
    return exits.OK


def _points(page: MetricPage) -> object:
    return table(
        ("step", "phase", "loss", "rate", "tokens/s", "gradient", "memory GB"),
        [
            (
                each.step,
                each.phase,
                f"{each.loss:.4g}",
                f"{each.lr:.2g}",
                f"{each.throughput:,.0f}",
                f"{each.grad_norm:.3g}",
                f"{each.vram_gb:.1f}",
            )
            for each in page.points
        ],
        right="step loss rate tokens/s gradient",
    )


def events(context: Context, *, job_id: str, limit: int | None, cursor: str | None) -> int:
    with context.client() as client:
        raw = client.jobs.with_raw_response.events(job_id=job_id, limit=limit, cursor=cursor)
    context.page(raw, _events)
    return exits.OK


def _shortened(payload: str) -> str:
    if len(payload) <= PAYLOAD_COLUMNS:
        return payload
    return f"{payload[:PAYLOAD_COLUMNS]}… (--json has all of it)"


def _events(page: Page[Moment]) -> object:
    return table(
        ("when", "what", "with"),
        [
            (
                f"{each.ts.astimezone():%Y-%m-%d %H:%M:%S}",
                each.kind,
                _shortened(msgspec.json.encode(each.payload).decode()),
            )
            for each in page.data
        ],
    )
