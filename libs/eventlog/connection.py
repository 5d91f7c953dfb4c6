"""PostgreSQL connections with the deadlines that asyncpg leaves off, and a pool of them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from libs.observability.metrics import POOL_WAIT
from libs.settings import with_each_password
from libs.tls import advice

COMMAND_TIMEOUT = 10.0  # seconds; a statement of ours takes milliseconds
CONNECT_TIMEOUT = 5.0
PATIENT_CONNECT_TIMEOUT = 60.0  # of those that a person or a start waits for, on a busy machine
ACQUIRE_TIMEOUT = 5.0  # seconds; a request that waits longer is better refused than kept
STATEMENT_LIFETIME = 300  # seconds
TRANSACTION_TIMEOUT = 2 * COMMAND_TIMEOUT
ROOT_CERT = "sslrootcert"
NO_CERTIFICATE = "NO_CERTIFICATE_OR_CRL_FOUND"  # as OpenSSL says it
REFUSES_TLS = "rejected SSL upgrade"  # as asyncpg says it
SERVER_SETTINGS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    # Milliseconds. A process that is frozen in a transaction frees what it holds, before those who
    # wait for it give up (the deadline above); nothing of ours pauses in one.
    "idle_in_transaction_session_timeout": "5000",
    # And one that is frozen between what asyncpg sends for a statement's first use, to have it
    # prepared, and then to have it run: PostgreSQL takes that session to be active.
    "transaction_timeout": f"{TRANSACTION_TIMEOUT * 1000:.0f}",
    "timezone": "UTC",
    "jit": "off",  # compiling takes longer than any of our statements
}

BROKEN_OFF = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a use meets whose connection ends: the last where PostgreSQL has said so just before it, and
asyncpg waits for the end."""

if TYPE_CHECKING:  # generic in the stubs, plain classes at run time
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection


class NotTrusted(ConnectionError):
    """PostgreSQL could not prove who it is, or not to us; the text says what to do."""


async def connect(
    dsn: str,
    *,
    command_timeout: float = COMMAND_TIMEOUT,
    statement_lifetime: int = STATEMENT_LIFETIME,
) -> Connection:
    """While the role's password is changed, ``dsn`` may have both (`with_each_password`).

    Whoever has more patience with a statement has no deadline for a transaction, and a longer one
    for the connection. Statements stay prepared for ``statement_lifetime`` seconds; for good,
    where it is 0.

    With ``?sslmode=verify-full&sslrootcert=FILE`` the server's certificate must be for the host
    of the address, and of a CA in the file, which is read for every connection. Raises NotTrusted.
    """
    *others, last = with_each_password(dsn)
    for one in others:
        with suppress(asyncpg.InvalidPasswordError):
            return await _connect(one, command_timeout, statement_lifetime)
    return await _connect(last, command_timeout, statement_lifetime)


async def _connect(dsn: str, command_timeout: float, statement_lifetime: int) -> Connection:
    is_patient = command_timeout > COMMAND_TIMEOUT
    patient = {"transaction_timeout": "0"} if is_patient else {}
    try:
        return await asyncpg.connect(
            dsn,
            timeout=PATIENT_CONNECT_TIMEOUT if is_patient else CONNECT_TIMEOUT,
            command_timeout=command_timeout,
            server_settings=SERVER_SETTINGS | patient,
            max_cached_statement_lifetime=statement_lifetime,
        )
    except OSError as error:
        if ROOT_CERT in dsn and (known := _advice(error)):
            host = urlsplit(dsn).hostname
            raise NotTrusted(f"PostgreSQL at {host}: {error}. {known}") from error
        raise


def _advice(error: OSError) -> str | None:
    if isinstance(error, FileNotFoundError | PermissionError) or NO_CERTIFICATE in str(error):
        return f"The file that {ROOT_CERT} names can't be read as a CA's certificate, in PEM."
    if REFUSES_TLS in str(error):
        return "It has no certificate: turn TLS on there (ssl = on)."
    return advice(error)


class Pool:
    """A few connections, opened as they are needed, for many callers.

    asyncpg's own pool wraps the connection anew for each use, gives it back in a task of its own
    and cleans its session: twice the work of a query by key. Nothing of ours leaves anything in a
    session, so here a connection is handed on as it is; one that may be in the middle of something
    (a query that was broken off, an open transaction) is closed.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], size: int) -> None:
        self._connect = connect
        self._room = size  # how many more may be opened
        self._open: set[Connection] = set()
        self._free: list[Connection] = []  # the one used last is at the end
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()

    def __await__(self) -> Generator[Any, None, "Pool"]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> "Pool":
        """Opens the first connection, so that a wrong address shows at once."""
        self.give_back(await self._another())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.terminate()

    def terminate(self) -> None:
        for connection in self._open:
            connection.terminate()

    def acquire(self, *, timeout: float = ACQUIRE_TIMEOUT) -> "_Use":
        """A connection for the body of ``async with``; TimeoutError after ``timeout`` seconds."""
        return _Use(self, timeout)

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        async with self.acquire() as connection:
            return await connection.fetch(query, *args)

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        async with self.acquire() as connection:
            return await connection.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: object) -> Any:
        async with self.acquire() as connection:
            return await connection.fetchval(query, *args)

    async def execute(self, query: str, *args: object) -> str:
        async with self.acquire() as connection:
            return await connection.execute(query, *args)

    def take_free(self) -> Connection | None:
        """A connection that nobody else uses until it is given back; None when all are in use."""
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
            self._drop(connection)
        return None

    async def take(self) -> Connection:
        """The same, and wait for one."""
        while True:
            if (connection := self.take_free()) is not None:
                return connection
            if self._room:
                return await self._another()
            given = await self._next_given()
            if given is not None:
                return given

    def give_back(self, connection: Connection, error: BaseException | None = None) -> None:
        """``error`` is what its use ended with."""
        broken_off = isinstance(error, (asyncio.CancelledError, TimeoutError))
        if broken_off or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
            self._drop(connection)
        elif not self._hand_on(connection):
            self._free.append(connection)

    async def _another(self) -> Connection:
        self._room -= 1
        try:
            connection = await self._connect()
        except BaseException:
            self._room += 1
            self._hand_on(None)
            raise
        self._open.add(connection)
        return connection

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._room += 1
        self._hand_on(None)

    async def _next_given(self) -> Connection | None:
        """What somebody gives back; None when there is room for a new one instead."""
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # it was given something just now
                given = waiter.result()
                if given is None:
                    self._hand_on(None)
                else:
                    self.give_back(given)
            raise

    def _hand_on(self, connection: Connection | None) -> bool:
        """Give it to whoever has waited longest, if anybody has."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False


class _Use:
    """One use of a connection. A class, because a generator costs as much again."""

    __slots__ = ("_connection", "_pool", "_timeout")

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    async def __aenter__(self) -> Connection:
        free = self._pool.take_free()
        if free is None:  # a deadline costs as much as the rest, so only who waits has one
            loop = asyncio.get_running_loop()
            since = loop.time()
            try:
                async with asyncio.timeout(self._timeout):
                    free = await self._pool.take()
            finally:
                POOL_WAIT.record(loop.time() - since)
        self._connection = free
        return free

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._pool.give_back(self._connection, error)


def create_pool(dsn: str, *, size: int) -> Pool:
    """A pool of at most ``size`` connections, opened by ``async with``, or by ``await``."""
    return Pool(partial(connect, dsn), size)
