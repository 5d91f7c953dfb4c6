"""The platform's own processes: how each is started, and the environment it is given."""

import os
import sys
from pathlib import Path

from msgspec import Struct

from deploy.local import issuer, nats, observation, payments, postgres, s3
from deploy.local.program import Program, StackError
from deploy.local.state import Ports, Secrets

ROOT = Path(__file__).parents[2]
TINY_LLAMA = "tiny-llama"

MODULES = {
    "gateway": "services.gateway",
    "billing": "services.billing",
    "scheduler": "services.scheduler",
    "trainer": "services.trainer",
    "artifact": "services.artifact",
    "webhooks": "services.webhooks",
    "telemetry": "services.telemetry",
    "relay": "libs.bus.relay",
}
"""What ``tuneyard-server service NAME`` runs."""

WITH_DATABASE = tuple(name for name in MODULES if name != "trainer")
WITH_OBJECT_STORE = ("gateway", "artifact")


class Stack(Struct, frozen=True, kw_only=True):
    """One local installation: its folder, its addresses, and how much of it runs. There are as
    many processes of each service as gateways have a port."""

    folder: Path
    secrets: Secrets
    ports: Ports
    gateway_port: int
    trainers: int
    further_gateways: tuple[int, ...] = ()
    """The ports of all gateways but the first."""
    stripe: dict[str, str] = {}
    """The operator's own connection to Stripe; empty: the sandbox."""
    observation: dict[str, str] = {}
    """What the operator wants to see of each process; empty: nothing."""

    @property
    def base_url(self) -> str:
        return self.gateway_urls[0]

    @property
    def gateway_urls(self) -> list[str]:
        ports = (self.gateway_port, *self.further_gateways)
        return [f"http://127.0.0.1:{port}" for port in ports]

    @property
    def s3(self) -> s3.S3Settings:
        return s3.settings(
            port=self.ports.s3,
            access_key=self.secrets.s3_access_key,
            secret_key=self.secrets.s3_secret_key,
        )

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def issuer_url(self) -> str:
        return issuer.url(self.ports.issuer)

    @property
    def sandbox_url(self) -> str | None:
        """Where the payments sandbox shows its pages; None where Stripe itself is used."""
        return None if self.stripe else payments.url(self.ports.sandbox)

    def admin_dsn(self, database: str = postgres.DATABASE) -> str:
        return postgres.dsn(
            role=postgres.ADMIN,
            password=self.secrets.postgres_admin,
            port=self.ports.postgres,
            database=database,
        )

    def nats_url(self, user: str) -> str:
        return nats.url(user=user, password=self.secrets.nats_users[user], port=self.ports.nats)


def command(service: str) -> tuple[str, ...]:
    """The command line of one service; `StackError` names those that exist."""
    if service not in MODULES:
        raise StackError(f"There is no service {service}; choose one of {', '.join(MODULES)}.")
    return (sys.executable, "-m", MODULES[service])


def environment(stack: Stack, service: str, replica: int = 0) -> dict[str, str]:
    """Everything a service needs to know, and nothing that it does not. Replicas differ in where
    they listen, if they do."""
    env = {"TUNEYARD_NATS_URL": stack.nats_url(service), "TUNEYARD_LOG_LEVEL": "info"}
    place = replica * len(MODULES) + list(MODULES).index(service)
    env |= observation.environment(stack.observation, place)
    if service in WITH_DATABASE:
        env["TUNEYARD_DATABASE_URL"] = postgres.dsn(
            role=service,
            password=stack.secrets.postgres_roles[service],
            port=stack.ports.postgres,
        )
    if service in WITH_OBJECT_STORE:
        env |= {
            "TUNEYARD_S3_ENDPOINT": stack.s3.endpoint,
            "TUNEYARD_S3_ACCESS_KEY": stack.s3.access_key,
            "TUNEYARD_S3_SECRET_KEY": stack.s3.secret_key,
            "TUNEYARD_S3_BUCKET": stack.s3.bucket,
        }
    if service in ("gateway", "trainer"):
        env |= {"TUNEYARD_MODELS_DIR": str(stack.models)}
    if service == "gateway":
        env |= {
            "TUNEYARD_LISTEN": stack.gateway_urls[replica].removeprefix("http://"),
            "TUNEYARD_KEY_PEPPER": stack.secrets.key_pepper,
            "TUNEYARD_KEY_PEPPER_PREVIOUS": ",".join(stack.secrets.key_pepper_previous),
            "TUNEYARD_CATALOG": str(ROOT / "catalog.toml"),
            "TUNEYARD_LIMITS": str(ROOT / "limits.toml"),
            "TUNEYARD_OIDC": str(issuer.trusted_file(stack.folder)),
        }
    if service == "webhooks":
        # Whoever develops a receiver does so on this machine.
        env |= {"TUNEYARD_ALLOW_LOOPBACK": "true"}
    if service == "billing":
        env |= {"TUNEYARD_PRICES": str(ROOT / "prices.toml")}
        env |= payments.billing_environment(
            stack.secrets, stack.stripe, port=stack.ports.sandbox, gateway_url=stack.base_url
        )
    return env


def trainer_environment(stack: Stack, trainer_id: str) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // stack.trainers)
    return environment(stack, "trainer") | {
        "TUNEYARD_TRAINER_ID": trainer_id,
        "TUNEYARD_WORK_DIR": str(stack.folder / "work" / trainer_id),
        "TUNEYARD_THREADS": str(threads),
    }


def service_programs(stack: Stack) -> list[Program]:
    """The issuer, the payments sandbox unless Stripe itself is used, and every replica of every
    service but the trainers, each as its own process."""
    sandbox = payments.program(
        stack.folder, stack.secrets, port=stack.ports.sandbox, gateway_url=stack.base_url
    )
    return [
        issuer.program(stack.folder, port=stack.ports.issuer),
        *([] if stack.stripe else [sandbox]),
        *(
            Program(
                name=replica_name(name, replica),
                argv=command(name),
                env=environment(stack, name, replica),
            )
            for replica in range(len(stack.gateway_urls))
            for name in MODULES
            if name != "trainer"
        ),
    ]


def replica_name(service: str, replica: int) -> str:
    """``gateway`` is the first one, ``gateway-2`` the next."""
    return f"{service}-{replica + 1}" if replica else service


def trainer_programs(stack: Stack) -> list[Program]:
    """As many trainers as asked for."""
    behind_the_services = len(stack.gateway_urls) * len(MODULES)
    return [
        Program(
            name=f"trainer-{number}",
            argv=command("trainer"),
            env=trainer_environment(stack, f"trainer-{number}")
            | observation.environment(stack.observation, behind_the_services + number),
        )
        for number in range(stack.trainers)
    ]


def programs(stack: Stack) -> list[Program]:
    """Everything but the servers."""
    return [*service_programs(stack), *trainer_programs(stack)]
