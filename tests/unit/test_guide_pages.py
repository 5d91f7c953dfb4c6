"""A page of the guide can't show what was not run, or what did not come."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.guide import PageError, blocks_of, fits_json, fits_text, run_page

PATIENCE = 60.0  # seconds
GUIDE = Path(__file__).parents[2] / "docs" / "guide"


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text.replace("'''", "```"))
    return page


def run(folder: Path, text: str) -> None:
    run_page(blocks_of(page_of(folder, text)), folder, {"HOME": str(folder)})


def test_every_link_of_the_guide_leads_to_a_file() -> None:
    for page in GUIDE.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_every_block_of_the_guide_is_run_or_compared() -> None:
    for page in GUIDE.glob("*.md"):
        blocks_of(page)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("'''js\nlet a\n'''", "page.md:1: 'js' is none of"),
        ("'''\nls\n'''", "page.md:1: '' is none of"),
        ("~~~bash\nls\n~~~", "'bash' is none of"),
        ("- so:\n  '''yaml\n  a: 1\n  '''", "page.md:2: 'yaml' is none of"),
        ("'''json\n{}\n'''", "nothing before"),
        ("'''sh\nls\n", "has no end"),
        ("'''python\n# kept.py\nprint()\n'''", "kept.py is kept, and never run"),
    ],
)
def test_a_block_that_nobody_would_run_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(PageError, match=why):
        blocks_of(page_of(tmp_path, text))


def test_blocks_share_a_shell_and_a_folder(tmp_path: Path) -> None:
    text = (
        "'''sh\nexport A=7\nmkdir b && cd b\n'''\n'''python\n# kept.py\nprint('kept')\n'''\n"
        "'''sh\npython kept.py\n'''\n'''text\nkept\n'''\n"
        "'''python\nimport os\nprint(os.environ['A'], os.listdir())\n'''\n"
        "'''text\n7 ['kept.py']\n'''"
    )
    run(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("'''sh\ntrue\n'''\n\n'''sh\nfalse\ntrue\n'''", "page.md:5 ended with 1"),
        ("'''sh\necho what is wrong\nexit 3\n'''", "ended with 3:(.|\n)*what is wrong"),
        ("'''python\nraise ValueError('no')\n'''", "ValueError: no"),
        ("'''sh\necho one\n'''\n'''text\ntwo\n'''", "page.md:4 shows\ntwo"),
        ("'''sh\necho '{}'\n'''\n'''json\n{\"a\": 1}\n'''", "page.md:4 shows"),
    ],
)
def test_a_block_that_fails_is_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(PageError, match=why):
        run(tmp_path, text)


def test_a_page_ends_and_so_does_what_it_began(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    page = page_of(tmp_path, "'''sh\nsleep 600 &\necho $! >pid\nwait\n'''")

    def wait(shell: subprocess.Popen[bytes]) -> int:
        wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
        return shell.wait(0.1)

    with pytest.raises(PageError, match=r"page.md:1 did not end in time"):
        run_page(blocks_of(page), tmp_path, {"HOME": str(tmp_path)}, wait=wait)

    wait_until(lambda: has_ended(int(file.read_text())))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "what was waited for has not happened"
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_numbers_and_ids_may_differ_but_prices_and_words_may_not() -> None:
    shown = f"job {'0b5f2b0e-54c1-5b0e-8d7e-0a8e1c6d2f11'} is queued for 0.26 USD\nsteps  10\n"
    came = (
        f"job {'1c5f2b0e-54c1-5b0e-8d7e-0a8e1c6d2f99'} is queued for 0.26 USD\nsteps      2,000\n"
    )

    assert fits_text(shown, came)
    assert not fits_text(shown, came.replace("0.26", "0.27"))
    assert not fits_text(shown, came.replace("queued", "running"))
    assert not fits_text(shown, came + "more\n")
    assert fits_text(shown + "…\n", came + "more\nand more\n")
    assert not fits_text("26\n", "27\n")
    assert not fits_text("costs 26 cents\n", "costs 27 cents\n")
    assert fits_text("job … is queued for … USD\nsteps 1\n", came)


def test_json_has_what_is_shown_with_its_types() -> None:
    job = "0b5f2b0e-54c1-5b0e-8d7e-0a8e1c6d2f11"
    shown = f'{{"id": "{job}", "price_cents": 26, "steps": 10, "a": [{{"b": null}}]}}'
    came = f'{{"id": "9{job[1:]}", "price_cents": 26, "steps": 7, "a": [{{"b": null}}], "c": 1}}'

    assert fits_json(shown, came)
    for right, wrong in {
        "26": "27",
        '"steps": 7': '"steps": 7.5',
        '"steps"': '"step"',
        "null": "1",
        '[{"b": null}]': "[]",
        job[1:]: "no id",
        "}": "",
    }.items():
        assert not fits_json(shown, came.replace(right, wrong)), wrong


def test_a_page_knows_nothing_of_who_runs_it(tmp_path: Path) -> None:
    names = "'''text\nHOME PATH PWD PYTHONUNBUFFERED SHLVL _\n'''"
    run(tmp_path, f"'''sh\nenv | cut -d= -f1 | sort | xargs\n'''\n{names}")
