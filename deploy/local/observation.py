"""What an operator wants to see of the local stack, passed on to each of its processes."""

from collections.abc import Mapping

from deploy.local.program import StackError

METRICS_LISTEN = "TUNEYARD_METRICS_LISTEN"
SPANS_FILE = "TUNEYARD_SPANS_FILE"
PASSED_ON = (METRICS_LISTEN, SPANS_FILE, "TUNEYARD_OTLP_ENDPOINT", "TUNEYARD_TRACE_RATIO")


def wanted(environ: Mapping[str, str]) -> dict[str, str]:
    """As the operator's environment says; empty where nobody looks."""
    return {name: environ[name] for name in PASSED_ON if environ.get(name)}


def environment(observation: Mapping[str, str], place: int) -> dict[str, str]:
    """Of the process at this place. All listen on one host, each on a port of its own: the first
    on the operator's, the others behind it. Raises StackError for what is no address."""
    if METRICS_LISTEN not in observation:
        return dict(observation)
    host, _, port = observation[METRICS_LISTEN].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) + place <= 65_535:
        raise StackError(
            f"{METRICS_LISTEN} is {observation[METRICS_LISTEN]!r}: give a host and the first of a"
            " row of free ports, such as 127.0.0.1:9464."
        )
    return {**observation, METRICS_LISTEN: f"{host}:{int(port) + place}"}
