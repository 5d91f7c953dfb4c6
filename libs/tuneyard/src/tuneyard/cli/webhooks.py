"""Webhooks: make them, try them, and have what they missed sent again."""

from tuneyard.cli import listen
from tuneyard.cli.options import Commands, command, group, types_of


def add(commands: Commands) -> None:
    webhooks = group(commands, "webhooks", "be told of what happens to jobs")
    one = command(
        webhooks, "listen", listen.listen, "bring the account's events to a server on this machine"
    )
    one.add_argument("--forward-to", required=True, metavar="URL", help="where they are posted to")
    one.add_argument(
        "--types", type=types_of(listen.TYPES), metavar="A,B", help="only these: job.completed, …"
    )
    one.add_argument("--secret", metavar="WHSEC", help="what signs them; left out: a new one")
    one.add_argument("--after", metavar="ID", help="go on behind what it said when it ended")
