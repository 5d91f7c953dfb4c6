"""The guide does what it says: every page, as it is written, on the whole platform."""

import shutil
from pathlib import Path

import msgspec
import pytest

from deploy.local.program import free_port
from deploy.local.services import ROOT
from deploy.local.state import Credentials
from tests.support.guide import Block, blocks_of, run_page
from tests.support.local_stack import LocalStack

GUIDE = ROOT / "docs" / "guide"
FIRST = GUIDE / "quick-start.md"
PAGES = [page for page in sorted(GUIDE.glob("*.md")) if blocks_of(page)]
BALANCE = 10_000  # cents, as the account of `just up` has
SAMPLES = Path("deploy/local/samples")


def settings() -> list[Block]:
    """What the quick start has a reader's terminal know, and the other pages count on."""
    found = blocks_of(FIRST)[:1]
    assert "tuneyard env" in found[0].text
    return found


@pytest.fixture
def folder(stack: LocalStack, tmp_path: Path) -> Path:
    """A folder as this repository's is for a reader after `just up`, with an account of its own."""
    shutil.copytree(ROOT / SAMPLES, tmp_path / SAMPLES)
    account_id, key = stack.new_account(BALANCE)
    credentials = Credentials(base_url=stack.base_url, api_key=key, account_id=account_id)
    kept = tmp_path / ".tuneyard" / "credentials.json"
    kept.parent.mkdir()
    kept.write_bytes(msgspec.json.encode(credentials))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_does_what_it_says(page: Path, folder: Path) -> None:
    blocks = blocks_of(page)
    if page != FIRST:
        blocks = settings() + blocks
    environ = {
        "HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PORT": str(free_port()),  # of the servers that a page begins
    }
    run_page(blocks, folder, environ)


def test_the_index_has_every_page() -> None:
    index = (GUIDE / "README.md").read_text()
    for page in GUIDE.glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index
