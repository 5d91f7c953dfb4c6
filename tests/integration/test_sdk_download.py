"""Downloads: resumed, checked, several at once, and never with the key of the API."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.support.failing_http import (
    RESETS,
    Answer,
    Asked,
    Server,
    failing_server,
    half,
    refuses,
    says,
)
from tests.support.sdk import KEY, KINDS, Kind, Sleeps, ask
from tuneyard import APIError, DownloadError, NotFoundError

FILES = {
    "adapter_model.safetensors": bytes(range(256)) * 4_000,
    "tokenizer/tokenizer.json": b'{"version": "1.0"}',
    "empty.txt": b"",
}
MODEL = "adapter_model.safetensors"
Answering = Callable[[Asked, bytes], Answer | Awaitable[Answer]]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


class House:
    """The platform, which gives links, and the store that they lead to."""

    def __init__(self, platform: Server, store: Server, folder: Path, kind: Kind) -> None:
        self.platform, self.store = platform, store
        self.folder, self.kind = folder, kind

    async def download(self, **options: Any) -> list[Path]:
        found = await ask(
            self.kind,
            self.platform.url,
            lambda client: client.jobs.download(job_id="j", dir=self.folder, **options),
            seams=Sleeps().seams(),
        )
        assert isinstance(found, list)
        return found

    def whole(self) -> bool:
        return all((self.folder / name).read_bytes() == of for name, of in FILES.items())


def ranged(asked: Asked, content: bytes) -> Answer:
    """As an object store serves a file."""
    wanted = asked.headers.get("range")
    if wanted is None:
        return Answer(body=content)
    begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if begin >= len(content):
        return Answer("416 Range Not Satisfiable")
    span = f"bytes {begin}-{len(content) - 1}/{len(content)}"
    return Answer("206 Partial Content", {"Content-Range": span}, content[begin:])


@pytest.fixture
async def house(kind: Kind, tmp_path: Path) -> AsyncIterator[Callable[[Answering], Any]]:
    @asynccontextmanager
    async def opened(answering: Answering, *, exchanged: bool = False) -> AsyncIterator[House]:
        """``exchanged``: later links are of other files."""
        issued = 0

        def digest(content: bytes, issued: int) -> str:
            other = b"another" if exchanged and issued > 1 else b""
            return hashlib.sha256(content + other).hexdigest()

        def serve(asked: Asked) -> Answer | Awaitable[Answer]:
            name = asked.path.removeprefix("/").partition("?")[0]
            return answering(asked, FILES[name])

        def link(asked: Asked) -> Answer:
            nonlocal issued
            issued += 1
            assert asked.headers["authorization"] == f"Bearer {KEY}"
            files = [
                {
                    "name": name,
                    "role": "model",
                    "url": f"{store.url}/{name}?n={issued}",
                    "size_bytes": len(of),
                    "sha256": digest(of, issued),
                    "expires_in": 3600,
                }
                for name, of in FILES.items()
            ]
            return says({"job_id": "j", "expires_in": 3600, "files": files})

        async with failing_server(serve) as store, failing_server(link) as platform:
            yield House(platform, store, tmp_path / "out", kind)
            assert all("authorization" not in asked.headers for asked in store.asked)
            assert not [KEY for asked in store.asked if KEY in str(asked)]

    return opened


async def test_every_file_arrives_under_its_name_and_progress_is_told(house: Any) -> None:
    told: list[tuple[int, int]] = []
    async with house(ranged) as one:
        paths = await one.download(progress=lambda *at: told.append(at))

        assert one.whole()
        assert paths == [one.folder / name for name in FILES]
        total = sum(map(len, FILES.values()))
        assert told[-1] == (total, total)
        assert [path.name for path in one.folder.rglob("*.part")] == []


async def test_what_is_there_already_is_not_fetched_again(house: Any) -> None:
    async with house(ranged) as one:
        await one.download()
        before = len(one.store.asked)
        await one.download()

        assert len(one.store.asked) == before


async def test_a_file_of_the_right_size_with_another_content_is_replaced(house: Any) -> None:
    async with house(ranged) as one:
        one.folder.mkdir()
        (one.folder / MODEL).write_bytes(bytes(len(FILES[MODEL])))
        await one.download()

        assert one.whole()


async def test_a_broken_connection_is_resumed_where_it_broke_off(house: Any) -> None:
    failures: list[Answer | Callable[[Answer], Answer]] = [half, RESETS, half, half]

    def serve(asked: Asked, content: bytes) -> Answer:
        good = ranged(asked, content)
        if not failures or MODEL not in asked.path:
            return good
        failure = failures.pop(0)
        return failure if isinstance(failure, Answer) else failure(good)

    async with house(serve) as one:
        await one.download()

        assert one.whole()
        size = len(FILES[MODEL])
        begins = [asked.headers.get("range") for asked in one.store.asked if MODEL in asked.path]
        assert begins == [
            *(None, f"bytes={size // 2}-", f"bytes={size // 2}-"),
            *(f"bytes={size // 4 * 3}-", f"bytes={size // 8 * 7}-"),
        ]


async def test_another_run_goes_on_with_what_is_there(house: Any) -> None:
    async with house(ranged) as one:
        one.folder.mkdir()
        (one.folder / f"{MODEL}.part").write_bytes(FILES[MODEL][:1000])
        await one.download(names=[MODEL])

        assert (one.folder / MODEL).read_bytes() == FILES[MODEL]
        assert [asked.headers["range"] for asked in one.store.asked] == ["bytes=1000-"]


@pytest.mark.parametrize("there", [b"something else", bytes(2_000_000)], ids=["wrong", "too long"])
async def test_a_part_of_something_else_is_fetched_anew(house: Any, there: bytes) -> None:
    async with house(ranged) as one:
        one.folder.mkdir()
        (one.folder / f"{MODEL}.part").write_bytes(there)
        await one.download()

        assert one.whole()


async def test_a_store_that_knows_no_ranges_sends_the_whole_file_again(house: Any) -> None:
    async with house(lambda _, content: Answer(body=content)) as one:
        one.folder.mkdir()
        (one.folder / f"{MODEL}.part").write_bytes(FILES[MODEL][:1000])
        await one.download()

        assert one.whole()


async def test_a_store_that_says_200_to_a_range_is_understood(house: Any) -> None:
    def serve(asked: Asked, content: bytes) -> Answer:
        good = ranged(asked, content)
        return Answer("200 OK", good.headers, good.body)

    async with house(serve) as one:
        one.folder.mkdir()
        (one.folder / f"{MODEL}.part").write_bytes(FILES[MODEL][:1000])
        await one.download(names=[MODEL])

        assert (one.folder / MODEL).read_bytes() == FILES[MODEL]
        assert len(one.store.asked) == 1


async def test_a_store_that_never_sends_the_end_is_given_up(house: Any) -> None:
    """Whatever is asked of it, it sends beginnings, of one length and another in turn."""
    lengths = cycle([1000, 900])

    def serve(asked: Asked, content: bytes) -> Answer:
        return Answer(body=content[: next(lengths)])

    async with house(serve) as one:
        with pytest.raises(DownloadError, match="ends before the file"):
            await one.download(names=[MODEL])

        assert len(one.store.asked) < 6


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "410 Gone"])
async def test_links_that_expire_are_renewed_and_the_file_goes_on(house: Any, status: str) -> None:
    def serve(asked: Asked, content: bytes) -> Answer:
        if MODEL not in asked.path:
            return ranged(asked, content)
        if asked.path.endswith("n=1"):
            return Answer(status) if asked.headers.get("range") else half(Answer(body=content))
        return ranged(asked, content)

    async with house(serve) as one:
        await one.download()

        assert one.whole()
        assert len(one.platform.asked) == 2
        last = [asked for asked in one.store.asked if MODEL in asked.path][-1]
        assert last.headers["range"] == f"bytes={len(FILES[MODEL]) // 2}-"


async def test_links_that_lead_nowhere_are_given_up(house: Any) -> None:
    async with house(lambda *_: Answer("403 Forbidden")) as one:
        with pytest.raises(Exception, match="403"):
            await one.download()

        assert len(one.store.asked) < 12


async def test_a_link_to_another_file_is_none(house: Any) -> None:
    """Its SHA-256 would fit, but not to what was asked for."""
    async with house(lambda *_: Answer("403 Forbidden"), exchanged=True) as one:
        with pytest.raises(DownloadError, match="there is no other"):
            await one.download(names=[MODEL])


async def test_a_file_that_is_damaged_twice_is_refused_and_not_left_there(house: Any) -> None:
    async with house(lambda _, content: Answer(body=content.replace(b"1", b"2"))) as one:
        with pytest.raises(DownloadError, match="SHA-256"):
            await one.download()

        assert not (one.folder / MODEL).exists()


async def test_a_file_that_is_damaged_once_is_fetched_again(house: Any) -> None:
    damaged = [Answer(body=bytes(len(FILES[MODEL])))]

    def serve(asked: Asked, content: bytes) -> Answer:
        return damaged.pop() if damaged and MODEL in asked.path else ranged(asked, content)

    async with house(serve) as one:
        await one.download()

        assert one.whole()


async def test_more_than_there_should_be_is_refused(house: Any) -> None:
    async with house(lambda _, content: Answer(body=content + b"more")) as one:
        with pytest.raises(DownloadError, match="more came"):
            await one.download()


async def test_files_are_fetched_at_once(house: Any) -> None:
    """No file is answered before all are asked for."""
    together = asyncio.Barrier(len(FILES) - 1)

    async def serve(asked: Asked, content: bytes) -> Answer:
        async with asyncio.timeout(120):
            await together.wait()
        return ranged(asked, content)

    async with house(serve) as one:
        await one.download()

        assert one.whole()


async def test_one_that_fails_ends_the_others(house: Any) -> None:
    """The model comes a byte a connection, so it alone would take a million of them."""

    def serve(asked: Asked, content: bytes) -> Answer:
        if "tokenizer" in asked.path:
            return Answer("400 Bad Request")
        whole = ranged(asked, content)
        rest = len(whole.body) - 1
        return Answer(whole.head, whole.headers, whole.body[:1], rest, "close")

    async with house(serve) as one, asyncio.timeout(120):
        with pytest.raises(APIError, match="400"):
            await one.download()

        assert not (one.folder / MODEL).exists()


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", "c:\\x", "", "a\0b"])
async def test_no_name_leads_out_of_the_folder(kind: Kind, tmp_path: Path, name: str) -> None:
    file = {
        "name": name,
        "role": "model",
        "url": "http://127.0.0.1:1/x",
        "size_bytes": 1,
        "sha256": "0" * 64,
        "expires_in": 3600,
    }
    links = says({"job_id": "j", "expires_in": 3600, "files": [file]})
    async with failing_server(lambda _: links) as server:
        with pytest.raises(DownloadError, match="no name"):
            await ask(kind, server.url, lambda one: one.jobs.download(job_id="j", dir=tmp_path))


async def test_a_job_without_files_is_told_as_the_platform_tells_it(
    kind: Kind, tmp_path: Path
) -> None:
    async with failing_server(lambda _: refuses("404 Not Found", "not_found")) as server:
        with pytest.raises(NotFoundError):
            await ask(kind, server.url, lambda one: one.jobs.download(job_id="j", dir=tmp_path))
