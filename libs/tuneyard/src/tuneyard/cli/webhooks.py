"""Webhooks: try them on this machine."""

from tuneyard.cli.options import Commands


def add(commands: Commands) -> None:
    pass
