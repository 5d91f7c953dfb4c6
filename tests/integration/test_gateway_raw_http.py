"""What is hardly HTTP, over raw sockets: every answer is the envelope, and none is a 5xx."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import msgspec
import pytest
from msgspec import Struct

from deploy.local.s3 import S3Settings
from services.gateway.http.protocol import HEAD_LIMIT
from tests.integration.gateway_app import Gateway, running_gateway
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually

GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
PIECES_APART = 0.05  # seconds, so that each arrives by itself
MUCH = 64 * 1024 * 1024  # more than the sockets on the way hold
SENDING = 60.0  # seconds at most
SILENCE = 0.5  # seconds without a word, after which a connection is taken to stay open


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


class Answer(Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of the envelope, which must be whole."""
        assert self.headers["content-type"] == "application/json"
        error = msgspec.json.decode(self.body)["error"]
        assert error["message"]
        assert error["request_id"] == self.headers["x-request-id"]
        code: str = error["code"]
        return code


async def exchange(
    gateway: Gateway, *pieces: bytes, in_turn: bool = False, answers: int = 1
) -> list[Answer]:
    """Every answer on one connection, until the server closes it or has nothing more to say."""
    return parsed(await conversation(gateway, *pieces, in_turn=in_turn, answers=answers))


async def conversation(
    gateway: Gateway, *pieces: bytes, in_turn: bool = False, answers: int = 1
) -> bytes:
    """What the server says, in so many ``answers`` at least. It may hang up while pieces are still
    being sent, and says something to the first of them before the others are sent that come
    ``in_turn``."""
    at = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    received = bytearray()

    async def listen() -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                received.extend(piece)

    async def answered() -> bool:
        return listening.done() or is_whole(bytes(received), body=pieces[0][:4] != b"HEAD")

    listening = asyncio.create_task(listen())
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece.replace(b"KEY", gateway.key.encode()))
            await writer.drain()
            await (eventually(answered, bool) if in_turn else asyncio.sleep(PIECES_APART))
    await eventually(answered, bool)
    while received.count(b"HTTP/1.1 ") < answers and not listening.done():  # noqa: ASYNC110
        await asyncio.sleep(PIECES_APART)
    closes = b"connection: close" in received
    await asyncio.wait([listening], timeout=SENDING if closes else SILENCE)
    listening.cancel()
    writer.close()
    return bytes(received)


def is_whole(received: bytes, *, body: bool) -> bool:
    """Whether an answer has come that is not only a word between."""
    head, ended, rest = received.removeprefix(GO_ON).partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head) if body else None
    return bool(ended) and len(rest) >= (int(length[1]) if length else 0)


def parsed(received: bytes) -> list[Answer]:
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        status = int(first.split()[1])
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if status == 100:
            continue
        length = 0 if status == 204 else int(headers["content-length"])
        answers.append(Answer(status, headers, received[:length]))
        received = received[length:]
    return answers


GET = b"GET /v1/jobs HTTP/1.1\r\nhost: here\r\nauthorization: Bearer KEY\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nhost: here\r\nauthorization: Bearer KEY\r\n"
CHUNKED = POST + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"

NOT_HTTP = {
    "no request at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
    "HTTP/2 without a word": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\n\r\n",
    "a method that is none": b"FETCH /v1/jobs HTTP/1.1\r\nhost: here\r\n\r\n",
    "a header without a colon": GET + b"nonsense\r\n\r\n",
    "a header's name with a space": GET + b"a b: c\r\n\r\n",
    "a NUL in a header": GET + b"x: a\0b\r\n\r\n",
    "a header that goes on in the next line": GET + b"x: a\r\n b\r\n\r\n",
    "a length that is no number": POST + b"content-length: twelve\r\n\r\n{}",
    "a negative length": POST + b"content-length: -1\r\n\r\n{}",
    "a length beyond all numbers": POST + b"content-length: " + b"9" * 40 + b"\r\n\r\n{}",
    "two lengths": POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a length and chunks": POST
    + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk whose size is no number": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk that is longer than it says": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "a target with a space": b"GET /v1/jobs here HTTP/1.1\r\nhost: here\r\n\r\n",
    "a target beyond ASCII": "GET /v1/jöbs HTTP/1.1\r\nhost: here\r\n\r\n".encode(),
    "a target without a path": b"GET http:// HTTP/1.1\r\nhost: here\r\n\r\n",
    "a tunnel": b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere:443\r\n\r\n",
    "a target that is too long": b"GET /" + b"a" * HEAD_LIMIT + b" HTTP/1.1\r\nhost: here\r\n\r\n",
    "a header that is too long": GET + b"x: " + b"a" * HEAD_LIMIT + b"\r\n\r\n",
    "too many headers": GET + b"x: y\r\n" * HEAD_LIMIT + b"\r\n",
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP.keys())
async def test_what_is_not_http_is_a_400_in_the_envelope(gateway: Gateway, sent: bytes) -> None:
    (answer,) = await exchange(gateway, sent)
    assert (answer.status, answer.code) == (400, "malformed_request")
    assert answer.headers["connection"] == "close"


async def test_headers_that_never_end_are_not_kept(gateway: Gateway) -> None:
    """A client that goes on for ever is answered as soon as it has sent too much."""
    pieces = [GET] + [b"x: " + b"a" * 8000 + b"\r\n"] * 12
    (answer,) = await exchange(gateway, *pieces)
    assert (answer.status, answer.code) == (400, "malformed_request")


@pytest.mark.parametrize("before", [GET, CHUNKED + b"2\r\n{}\r\n0\r\n"], ids=["head", "trailer"])
async def test_a_header_that_never_ends_is_not_kept(gateway: Gateway, before: bytes) -> None:
    """The parser would keep it until it knows where it ends."""
    pieces = [before + b"x: ", *[b"a" * 8000] * 12]
    (answer,) = await exchange(gateway, *pieces)
    assert (answer.status, answer.code) == (400, "malformed_request")


async def test_a_client_that_sends_far_too_much_at_once_still_reads_why_not(
    gateway: Gateway,
) -> None:
    """It reads only when it has sent all; a connection that was reset would have nothing to say."""
    at = urlsplit(gateway.url)

    def send_and_read() -> bytes:
        with socket.create_connection((at.hostname, at.port), SENDING) as connection:
            connection.sendall(GET + b"x: " + b"a" * MUCH + b"\r\n\r\n")
            return b"".join(iter(lambda: connection.recv(65536), b""))

    (answer,) = parsed(await asyncio.to_thread(send_and_read))
    assert (answer.status, answer.code) == (400, "malformed_request")


async def test_headers_below_the_limit_are_read(gateway: Gateway) -> None:
    (answer,) = await exchange(gateway, GET + b"x: " + b"a" * (HEAD_LIMIT - 1000) + b"\r\n\r\n")
    assert answer.status == 200


async def test_a_fault_in_the_next_request_is_told_after_the_answer_to_this(
    gateway: Gateway,
) -> None:
    first, second = await exchange(
        gateway, GET + b"\r\n", b"nonsense\r\n\r\n", in_turn=True, answers=2
    )
    assert (first.status, second.status, second.code) == (200, 400, "malformed_request")


async def test_a_fault_right_behind_a_request_does_not_take_its_answer(gateway: Gateway) -> None:
    (answer,) = await exchange(gateway, GET + b"\r\nnonsense\r\n\r\n")
    assert answer.status == 200
    assert answer.headers["connection"] == "close"


async def test_chunks_that_break_in_the_middle_of_a_body_are_a_400(gateway: Gateway) -> None:
    (answer,) = await exchange(gateway, CHUNKED, b'5\r\n{"typ\r\n', b"nonsense\r\n")
    assert (answer.status, answer.code) == (400, "malformed_request")


async def test_an_answer_that_was_given_is_not_followed_by_one_to_its_broken_body(
    gateway: Gateway,
) -> None:
    strange = CHUNKED.replace(b"KEY", b"nobody")
    (answer,) = await exchange(gateway, strange, b"nonsense\r\n", in_turn=True)
    assert (answer.status, answer.code) == (401, "invalid_api_key")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_old_and_new_http_are_answered(gateway: Gateway, version: bytes) -> None:
    (answer,) = await exchange(gateway, GET.replace(b"1.1", version) + b"\r\n")
    assert answer.status == 200


async def test_a_target_may_name_the_host(gateway: Gateway) -> None:
    (answer,) = await exchange(gateway, GET.replace(b" /v1", b" http://here/v1") + b"\r\n")
    assert answer.status == 200


@pytest.mark.parametrize(
    "method", [b"PUT", b"PATCH", b"DELETE", b"TRACE", b"PROPFIND", b"QUERY", b"PURGE"]
)
async def test_a_method_that_a_path_does_not_take_is_a_405_that_says_which_it_does(
    gateway: Gateway, method: bytes
) -> None:
    (answer,) = await exchange(gateway, GET.replace(b"GET", method) + b"\r\n")
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


async def test_options_say_what_a_path_takes(gateway: Gateway) -> None:
    (answer,) = await exchange(gateway, GET.replace(b"GET", b"OPTIONS") + b"\r\n")
    assert (answer.status, answer.body) == (204, b"")
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


async def test_a_question_about_everything_needs_a_key_and_finds_nothing(gateway: Gateway) -> None:
    asked = GET.replace(b"GET /v1/jobs", b"OPTIONS *")
    (answer,) = await exchange(gateway, asked + b"\r\n")
    assert (answer.status, answer.code) == (404, "not_found")


async def test_head_is_answered_without_a_body(gateway: Gateway) -> None:
    received = await conversation(gateway, GET.replace(b"GET", b"HEAD") + b"\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert int(head.split()[1]) < 500
    assert (b"content-type: application/json" in head, body) == (True, b"")


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.0"])
async def test_who_asks_to_speak_otherwise_is_answered_in_http(
    gateway: Gateway, protocol: bytes
) -> None:
    """And on a connection that ends there, because nothing behind such a request is read."""
    asked = GET + b"connection: upgrade, http2-settings\r\nupgrade: " + protocol + b"\r\n\r\n"
    (answer,) = await exchange(gateway, asked, GET + b"\r\n")
    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_a_body_may_wait_to_be_asked_for(gateway: Gateway) -> None:
    expecting = POST + b"content-type: application/json\r\ncontent-length: 2\r\n"
    (answer,) = await exchange(gateway, expecting + b"expect: 100-continue\r\n\r\n", b"{}")
    assert (answer.status, answer.code) == (422, "validation_failed")


async def test_a_body_is_not_asked_for_from_strangers(gateway: Gateway) -> None:
    expecting = POST.replace(b"KEY", b"nobody") + b"content-length: 600000000\r\n"
    (answer,) = await exchange(gateway, expecting + b"expect: 100-continue\r\n\r\n")
    assert (answer.status, answer.code) == (401, "invalid_api_key")
