"""A Docker engine's HTTP API, as far as the tests' servers need it (Engine API 1.44).

It notes what it is asked to create. Instead of a container it runs the command that was asked for
as a process, with the environment that was asked for, from the wheels of the local stack: so the
configuration, the passwords and the port are those of the request.
"""

import json
import os
import shutil
import signal
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from deploy.local import postgres
from deploy.local.program import Program, wheel_executable
from deploy.local.supervisor import Supervisor

SECONDS = 60.0  # for a process to end that was killed


def postgres_program(
    asked: dict[str, Any], env: dict[str, str], folder: Path, port: str
) -> Program:
    """What the image's entrypoint does: makes the cluster, then runs the command."""
    assert env["POSTGRES_USER"] == postgres.ADMIN
    postgres.initialise(folder, password=env["POSTGRES_PASSWORD"])
    _, *options = asked["Cmd"]
    here = ("-clisten_addresses=127.0.0.1", f"-cport={port}", "-cunix_socket_directories=")
    return Program(
        name="postgres",
        argv=(str(postgres.binaries() / "postgres"), *options, "-D", str(folder), *here),
        stop_signal=signal.SIGKILL,
        identity=postgres.identity((folder, postgres.binaries())),
    )


def nats_program(asked: dict[str, Any], env: dict[str, str], folder: Path, port: str) -> Program:
    """With what is mounted, but for where it listens and keeps its files."""
    bound, *over_it = [each for each in asked["HostConfig"]["Mounts"] if each["Type"] == "bind"]
    mounted = folder.with_name("mounted")
    folder.mkdir(exist_ok=True)
    shutil.copytree(bound["Source"], mounted, dirs_exist_ok=True)
    for file in over_it:
        shutil.copy(file["Source"], file["Target"].replace(bound["Target"], str(mounted)))
    option, main = asked["Cmd"]
    config = Path(main.replace(bound["Target"], str(mounted)))
    text = config.read_text()
    instead = {"/data": folder, "/run/nats": folder, "0.0.0.0:4222": f"127.0.0.1:{port}"}
    for inside, here in instead.items():
        assert inside in text
        text = text.replace(inside, str(here))
    config.write_text(text)
    argv = (wheel_executable("nats-server"), option, str(config), "-m", "0")
    return Program(name="nats", argv=argv, env=env, stop_signal=signal.SIGKILL)


def s3_program(asked: dict[str, Any], env: dict[str, str], folder: Path, port: str) -> Program:
    (script,) = asked["Cmd"]
    script = script.replace("/data", str(folder)).replace(":9000", f"127.0.0.1:{port}")
    env = env | {"PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    argv = (*asked["Entrypoint"], script)
    return Program(name="s3", argv=argv, env=env, stop_signal=signal.SIGKILL)


PROGRAMS = {"postgres": postgres_program, "nats": nats_program, "rclone/rclone": s3_program}
"""By image, whatever its tag."""


class Engine:
    """``asked`` are the bodies of the requests for a container, in order; ``done`` what was done
    to each; ``pulled`` the images that were fetched."""

    def __init__(self, folder: Path) -> None:
        self.address = ""
        self.asked: list[dict[str, Any]] = []
        self.done: list[tuple[str, int]] = []
        self.pulled: list[str] = []
        self._folder = folder
        self.supervisor = Supervisor(folder, print)

    def routes(self) -> list[web.RouteDef]:
        one = r"/v1.{minor}/containers/{number}"
        return [
            web.get("/version", self.version),
            web.get(r"/v1.{minor}/images/{image:.+}/json", self.image),
            web.post(r"/v1.{minor}/images/create", self.pull),
            web.post(r"/v1.{minor}/containers/create", self.create),
            web.get(f"{one}/json", self.inspect),
            web.post(f"{one}/start", self.start),
            web.post(f"{one}/kill", self.kill),
            web.delete(one, self.remove),
        ]

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"ApiVersion": "1.44", "MinAPIVersion": "1.24"})

    async def image(self, request: web.Request) -> web.Response:
        name = request.match_info["image"]
        if name not in self.pulled:
            return web.json_response({"message": f"No such image: {name}"}, status=404)
        return web.json_response({"Id": f"sha256:{name}", "RepoTags": [name]})

    async def pull(self, request: web.Request) -> web.Response:
        self.pulled.append("{fromImage}:{tag}".format_map(request.query))
        return web.json_response({"status": "done"})

    async def create(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        return web.json_response({"Id": str(len(self.asked) - 1), "Warnings": []}, status=201)

    def _number(self, request: web.Request, done: str) -> int:
        number = int(request.match_info["number"])
        self.done.append((done, number))
        return number

    async def inspect(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        image = self.asked[number]["Image"]
        return web.json_response(
            {"Id": str(number), "Config": {"Image": image}, "State": {"Status": "running"}}
        )

    async def start(self, request: web.Request) -> web.Response:
        asked = self.asked[self._number(request, "start")]
        env = dict(each.split("=", 1) for each in asked["Env"])
        ((bound,),) = asked["HostConfig"]["PortBindings"].values()
        image, _, _ = asked["Image"].partition(":")
        folder = self._folder / image.replace("/", "-")
        program = PROGRAMS[image](asked, env, folder, bound["HostPort"])
        await self.supervisor.start(program)
        return web.Response(status=204)

    async def kill(self, request: web.Request) -> web.Response:
        await self._end(self._number(request, "kill"))
        return web.Response(status=204)

    async def remove(self, request: web.Request) -> web.Response:
        await self._end(self._number(request, f"remove {json.dumps(dict(request.query))}"))
        return web.Response(status=204)

    async def _end(self, number: int) -> None:
        image, _, _ = self.asked[number]["Image"].partition(":")
        name = "s3" if image == "rclone/rclone" else image
        await self.supervisor.stop([name], within_seconds=SECONDS)


@asynccontextmanager
async def engine(folder: Path) -> AsyncIterator[Engine]:
    """On a loopback port (``address``, as DOCKER_HOST has it); its processes end with it."""
    running = Engine(folder)
    app = web.Application()
    app.add_routes(running.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    running.address = f"tcp://{host}:{port}"
    try:
        yield running
    finally:
        await running.supervisor.stop_all(within_seconds=SECONDS)
        await runner.cleanup()
