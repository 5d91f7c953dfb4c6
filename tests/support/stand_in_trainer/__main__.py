"""The trainer service as it is, around `tests.support.stand_in_training`: run as a module.

A package's ``__main__``, as the service is one: a forked process does not import that again.
"""

import asyncio
import os

from libs.observability.export import observe
from libs.observability.logs import configure_logs
from libs.settings import decode_settings
from services.trainer.__main__ import serve
from services.trainer.launch_forked import ForkServerLauncher
from services.trainer.settings import Settings

TRAINING = "tests.support.stand_in_training"


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("trainer", settings.log_level)
    observe("trainer", os.environ)
    launcher = ForkServerLauncher(f"{TRAINING}:run", TRAINING)
    await launcher.warm_up()
    await serve(settings, launcher)


if __name__ == "__main__":
    asyncio.run(main())
