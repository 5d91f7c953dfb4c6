"""NATS with JetStream: one server on loopback, and who may say what to whom."""

from collections.abc import Mapping
from pathlib import Path

import nats
from msgspec import Struct
from nats.errors import Error as NatsError

from deploy.local.program import Program, wheel_executable
from libs.contracts.rpc import ping_of
from libs.subscriber import API

PLATFORM, SUBSCRIBERS = "TUNEYARD", "SUBSCRIBERS"
"""Two accounts, since permissions alone do not keep a reader from writing: whoever may ask for a
consumer's next message may name any subject of its account for the answer."""

OPERATOR = "operator"

EVENTS_STREAM, REPORTS_STREAM, TELEMETRY_STREAM = "EVENTS", "REPORTS", "TELEMETRY"
STREAMS = (EVENTS_STREAM, REPORTS_STREAM, TELEMETRY_STREAM)


class Permissions(Struct, frozen=True, kw_only=True):
    """What a user may publish and subscribe to, beside its own inbox and answers to requests."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


def consume(stream: str) -> tuple[str, ...]:
    """The subjects that a durable pull consumer of one stream publishes to."""
    verbs = ("INFO", "CREATE", "DURABLE.CREATE", "MSG.NEXT")
    return (
        f"$JS.API.STREAM.INFO.{stream}",
        *(f"$JS.API.CONSUMER.{verb}.{stream}.>" for verb in verbs),
        f"$JS.ACK.{stream}.>",
    )


def declare(stream: str) -> tuple[str, ...]:
    """The subjects that creating or changing one stream publishes to."""
    return tuple(f"$JS.API.STREAM.{verb}.{stream}" for verb in ("CREATE", "UPDATE", "INFO"))


PERMISSIONS: dict[str, Permissions] = {
    "gateway": Permissions(
        publish=("rpc.>", "nudge.outbox", "limits.>"),
        subscribe=("rpc.gateway.>", "live.>", "limits.>"),
    ),
    "billing": Permissions(
        publish=("nudge.outbox", "rpc.gateway.keep_plan", *consume(EVENTS_STREAM)),
        subscribe=("rpc.billing.>",),
    ),
    "scheduler": Permissions(
        publish=(
            *("nudge.outbox", *consume(EVENTS_STREAM), *consume(REPORTS_STREAM)),
            f"$JS.API.STREAM.MSG.GET.{REPORTS_STREAM}",  # which of a job's reports is next
        ),
        subscribe=("rpc.scheduler.>",),
    ),
    # A trainer holds no secrets and decides nothing: it asks for work, uploads and reports.
    "trainer": Permissions(
        publish=(
            *("rpc.scheduler.lease", "rpc.scheduler.heartbeat"),
            *("rpc.artifact.inputs", "rpc.artifact.upload_url"),
            *("reports.>", "telemetry.>"),
        ),
        subscribe=("rpc.trainer.>",),
    ),
    "artifact": Permissions(
        publish=("nudge.outbox", *consume(EVENTS_STREAM)),
        subscribe=("rpc.artifact.>",),
    ),
    "webhooks": Permissions(
        publish=consume(EVENTS_STREAM),
        subscribe=("rpc.webhooks.>",),
    ),
    "telemetry": Permissions(
        publish=(
            *("live.>", *consume(EVENTS_STREAM), *consume(TELEMETRY_STREAM)),
            f"$JS.API.STREAM.MSG.GET.{TELEMETRY_STREAM}",  # what a job's trainer said last
        ),
        subscribe=("rpc.telemetry.>",),
    ),
    # The one publisher of events; it also declares the streams, and shows how far consumers are.
    "relay": Permissions(
        publish=(
            "events.>",
            *(subject for stream in STREAMS for subject in declare(stream)),
            *(f"$JS.API.CONSUMER.LIST.{stream}" for stream in STREAMS),
        ),
        subscribe=("nudge.outbox", "rpc.relay.>"),
    ),
    OPERATOR: Permissions(publish=(">",), subscribe=(">",)),
}


def inbox_prefix(user: str) -> str:
    """Where a user's answers arrive. Nobody else may listen there, unlike the shared ``_INBOX``."""
    return f"_INBOX_{user}"


def subscribe_to_events(user: str) -> tuple[str, ...]:
    """What a subscriber may publish: requests for its one consumer's messages, and its answers to
    them. The consumer has its user's name."""
    verbs = ("INFO", "MSG.NEXT")
    asks = (f"{API}.CONSUMER.{verb}.{EVENTS_STREAM}.{user}" for verb in verbs)
    return (*asks, f"$JS.ACK.{EVENTS_STREAM}.{user}.>")


def _subjects(subjects: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{subject}"' for subject in subjects) + "]"


def _user(name: str, password: str, allowed: Permissions) -> str:
    inbox = f"{inbox_prefix(name)}.>"
    return (
        f'    {{ user: "{name}", password: {password}, permissions: {{\n'
        f"        publish: {{ allow: {_subjects(allowed.publish)} }}\n"
        f"        subscribe: {{ allow: {_subjects((*allowed.subscribe, inbox))} }}\n"
        "        allow_responses: true\n"
        "    } }"
    )


def subscriber(name: str, password: str) -> str:
    """A subscriber among the users of its account."""
    return (
        f'    {{ user: "{name}", password: "{password}", permissions: {{\n'
        f"        publish: {{ allow: {_subjects(subscribe_to_events(name))} }}\n"
        f'        subscribe: {{ allow: ["{inbox_prefix(name)}.>"] }}\n'
        "    } }"
    )


def users_of(subscribers: Mapping[str, str]) -> str:
    """The users of the subscribers' account, passwords by name."""
    readers = "\n".join(subscriber(name, password) for name, password in subscribers.items())
    return f"users: [\n{readers}\n  ]"


def authorization(passwords: Mapping[str, str], readers: str) -> str:
    """Who may say what to whom. ``passwords`` has one for every user of `PERMISSIONS`, as the
    configuration's syntax wants it: quoted, or the ``$NAME`` of an environment variable.
    ``readers`` are `users_of` the subscribers, or where they are."""
    users = "\n".join(_user(name, passwords[name], PERMISSIONS[name]) for name in PERMISSIONS)
    return f"accounts {{\n{accounts(users, readers)}}}\n"


def config(
    *, port: int, store: Path, passwords: Mapping[str, str], subscribers: Mapping[str, str] = {}
) -> str:
    """The server's configuration. ``passwords`` has one for every user of `PERMISSIONS`.

    ``sync_interval: always``: a message is on the disk before its publisher gets the
    acknowledgement; by default JetStream would sync every two minutes. ``ping_interval``: who is
    frozen, or on a machine that is gone, is asked nothing more after 15 s; by default, 6 minutes.
    """
    quoted = {name: f'"{password}"' for name, password in passwords.items()}
    return (
        "server_name: tuneyard\n"
        f'listen: "127.0.0.1:{port}"\n'
        f'jetstream {{ store_dir: "{store}", sync_interval: always }}\n'
        'ping_interval: "5s"\nping_max: 2\n'
        f"{authorization(quoted, users_of(subscribers))}"
    )


def accounts(users: str, readers: str) -> str:
    """The platform's account, and that of subscribers with what they reach of it."""
    asks = {
        "CONSUMER.INFO": "",
        "CONSUMER.MSG.NEXT": ", response_type: stream",
    }
    exports, imports = "", ""
    for verb, how in asks.items():
        subject = f"$JS.API.{verb}.{EVENTS_STREAM}.*"
        exports += f'    {{ service: "{subject}"{how}, accounts: [{SUBSCRIBERS}] }}\n'
        imports += (
            f'    {{ service: {{ account: {PLATFORM}, subject: "{subject}" }},'
            f' to: "{API}.{verb}.{EVENTS_STREAM}.*" }}\n'
        )
    acks = f"$JS.ACK.{EVENTS_STREAM}.>"
    exports += f'    {{ service: "{acks}", accounts: [{SUBSCRIBERS}] }}\n'
    imports += f'    {{ service: {{ account: {PLATFORM}, subject: "{acks}" }} }}\n'
    return (
        f"{PLATFORM} {{ jetstream: enabled\n"
        f"  users: [\n{users}\n  ]\n  exports: [\n{exports}  ] }}\n"
        f"{SUBSCRIBERS} {{\n"
        f"  {readers}\n  imports: [\n{imports}  ] }}\n"
    )


def write_config(
    folder: Path, *, port: int, passwords: Mapping[str, str], subscribers: Mapping[str, str]
) -> Path:
    """Write the configuration in one step (it holds passwords: mode 0600); its path."""
    text = config(port=port, store=folder / "store", passwords=passwords, subscribers=subscribers)
    unfinished = folder / "nats.unfinished"
    unfinished.touch(mode=0o600)
    unfinished.write_text(text)
    return unfinished.rename(folder / "nats.conf")


def program(
    folder: Path, *, port: int, passwords: Mapping[str, str], subscribers: Mapping[str, str] = {}
) -> Program:
    """Write the configuration and give the server to run, which is not running now."""
    folder.mkdir(mode=0o700, exist_ok=True)
    # Before there were subscribers, the platform had the server's own account to itself.
    former, store = folder / "store/jetstream/$G", folder / "store/jetstream" / PLATFORM
    if former.exists() and not store.exists():
        former.rename(store)
    file = write_config(folder, port=port, passwords=passwords, subscribers=subscribers)
    return Program(name="nats", argv=(wheel_executable("nats-server"), "-c", str(file)))


def url(*, user: str, password: str, port: int) -> str:
    return f"nats://{user}:{password}@127.0.0.1:{port}"


async def answers(operator_url: str) -> bool:
    """Whether the server accepts this user and JetStream is up."""
    try:
        client = await nats.connect(
            operator_url,
            allow_reconnect=False,
            reconnect_time_wait=0,
            connect_timeout=2,
            error_cb=_quiet,
        )
        try:
            await client.jetstream().account_info()
        finally:
            await client.close()
    except (OSError, TimeoutError, NatsError):
        return False
    return True


async def service_answers(operator_url: str, service: str) -> bool:
    """Whether a process of this service answers its readiness question."""
    try:
        client = await nats.connect(operator_url, allow_reconnect=False, error_cb=_quiet)
        try:
            await client.request(ping_of(service).subject, b"{}", timeout=1)
        finally:
            await client.close()
    except (OSError, TimeoutError, NatsError):
        return False
    return True


async def _quiet(_error: Exception) -> None:
    """A refused connection is an answer here, not something to log."""
