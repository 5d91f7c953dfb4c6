"""``just demo``: the platform's main job on this machine, by the command that its users have.

Start everything, submit the sample data set, watch the run, download the result, load it in a
fresh process, and show what tuning did and what it cost.
"""

import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from deploy.local.program import StackError, free_port
from deploy.local.services import TINY_LLAMA
from deploy.local.state import Credentials, load

DATA = Path(".tuneyard")
SAMPLES = Path(__file__).parent / "samples"
START_PATIENCE = 600.0  # seconds; the first start also makes the base model, 30 s on idle cores
BALANCE_TOO_LOW = 5  # the command's exit code

console = Console()


class DemoError(Exception):
    """What went wrong, and where to look."""


async def main() -> None:
    began = time.monotonic()
    async with platform() as credentials:
        run_id = await submit(credentials)
        await tuneyard(credentials, "watch", run_id)
        folder = DATA / "downloads" / run_id
        await tuneyard(credentials, "download", run_id, "--dir", str(folder))
        await compare(folder)
        await tuneyard(credentials, "balance", "--summary")
    console.print(f"[bold green]done[/] in {time.monotonic() - began:.0f} s")


async def tuneyard(credentials: Credentials, *arguments: str) -> None:
    """Show a command and run it, here in this terminal. Raises DemoError unless it succeeds."""
    process = await started(credentials, *arguments)
    if code := await process.wait():
        raise DemoError(f"`tuneyard {arguments[0]}` ended with {code}; what it said stands above.")


async def started(
    credentials: Credentials, *arguments: str, stdout: int | None = None
) -> asyncio.subprocess.Process:
    console.print(f"\n[bold]$ tuneyard {shlex.join(arguments)}[/]", highlight=False)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tuneyard", *arguments),
        stdout=stdout,
        env=os.environ
        | {"TUNEYARD_BASE_URL": credentials.base_url, "TUNEYARD_API_KEY": credentials.api_key},
    )


@asynccontextmanager
async def platform() -> AsyncIterator[Credentials]:
    """The platform in ``.tuneyard``: the one that runs there already, or one for this demo."""
    credentials = load(DATA / "credentials.json", Credentials)
    if credentials is not None and await answers(credentials.base_url):
        console.print(f"using the platform at {credentials.base_url}")
        yield credentials
        return
    command = (sys.executable, "-m", "deploy.server", "up", "--data", str(DATA))
    server = await asyncio.create_subprocess_exec(
        *command, "--port", str(free_port()), stdout=asyncio.subprocess.PIPE
    )
    try:
        with console.status("starting the platform") as status:
            async with asyncio.timeout(START_PATIENCE):
                await until_ready(server, status.update)
        credentials = load(DATA / "credentials.json", Credentials)
        if credentials is None:
            raise DemoError(f"{DATA / 'credentials.json'} is missing after the start.")
        console.print(f"[green]ready[/] {credentials.base_url}, everything is in {DATA}/")
        yield credentials
    finally:
        if server.returncode is None:
            server.terminate()
            await server.wait()


async def answers(base_url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=2) as client:
            return (await client.get(f"{base_url}/v1/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def until_ready(server: asyncio.subprocess.Process, show: Any) -> None:
    assert server.stdout is not None
    async for line in server.stdout:
        text = line.decode().strip()
        show(f"starting the platform: {text}")
        if text.startswith("ready "):
            return
    raise DemoError(f"The platform did not start; its logs are in {DATA / 'logs'}.")


async def submit(credentials: Credentials) -> str:
    """Upload, validate, price, pay and queue in one; the run's id."""
    code, out = await sent(credentials)
    if code == BALANCE_TOO_LOW:
        console.print("the development account is spent; granting it another 10,000 cents")
        account = str(credentials.account_id)
        command = ("-m", "deploy.server", "grant", account, "10000", "--data", str(DATA))
        process = await asyncio.create_subprocess_exec(sys.executable, *command)
        await process.wait()
        code, out = await sent(credentials)
    if code:
        raise DemoError("The run was refused; why stands above.")
    run: dict[str, Any] = json.loads(out)
    console.print(f"run {run['run_id']}: {run['plan_name']}, {run['price_cents']} cents")
    return str(run["run_id"])


async def sent(credentials: Credentials) -> tuple[int | None, bytes]:
    process = await started(
        credentials,
        *(
            "submit",
            "run",
            "--model",
            TINY_LLAMA,
            "--dataset",
            str(SAMPLES / "training_data.jsonl"),
        ),
        *("--accept-model-terms", "--accept-data-policy", "--label", "demo", "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode, out


async def compare(adapter: Path) -> None:
    """Perplexity on held-out data, before and after, each measured in a fresh process."""
    with console.status("measuring perplexity on held-out data with transformers and peft"):
        before, after = await asyncio.gather(evaluate(), evaluate("--adapter", str(adapter)))
    table = Table("held-out data", "perplexity", "tokens")
    table.add_row("base model", f"{before['ppl']:.2f}", f"{before['tokens']:,}")
    table.add_row("with your adapter", f"[bold]{after['ppl']:.2f}[/]", f"{after['tokens']:,}")
    console.print(table)
    if not after["ppl"] < before["ppl"]:
        raise DemoError("Tuning did not lower the perplexity on held-out data.")


async def evaluate(*arguments: str) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.trainer.evaluate"),
        *("--model", str(DATA / "models" / TINY_LLAMA)),
        *("--data", str(SAMPLES / "heldout.jsonl"), *arguments),
        *("--threads", "1"),  # two of them share the machine
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise DemoError("The evaluation failed; its message stands above.")
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (DemoError, StackError, httpx.HTTPError, TimeoutError) as error:
        console.print(f"[bold red]the demo failed:[/] {str(error) or type(error).__name__}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
