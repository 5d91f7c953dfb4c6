"""Every event version ever shipped must decode for ever: one golden file each, and one more, named
`TYPE+WHAT.json`, as it was written once it had further fields."""

from pathlib import Path

import msgspec
import pytest

from libs.contracts.events import EVENT_CLASSES, decode_event

GOLDEN = Path(__file__).parent / "golden"


def missing(written: object, decoded: object, path: str = "$") -> list[str]:
    """What of ``written`` is not in ``decoded``; a field that came later may be there as well."""
    match written, decoded:
        case dict(), dict():
            return [
                gap
                for key, value in written.items()
                for gap in missing(value, decoded.get(key), f"{path}.{key}")
            ]
        case list(), list() if len(written) == len(decoded):
            pairs = enumerate(zip(written, decoded, strict=True))
            return [gap for n, (w, d) in pairs for gap in missing(w, d, f"{path}[{n}]")]
        case _:
            return [] if written == decoded else [path]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_event_still_decodes_to_the_same_thing(path: Path) -> None:
    event = decode_event(path.read_bytes())
    assert type(event) is EVENT_CLASSES[path.stem.partition("+")[0]]
    again = msgspec.json.decode(msgspec.json.encode(event))
    assert missing(msgspec.json.decode(path.read_bytes()), again) == []


def test_every_event_has_its_golden_file() -> None:
    assert {path.stem.partition("+")[0] for path in GOLDEN.glob("*.json")} == set(EVENT_CLASSES)


def test_a_tag_names_its_version() -> None:
    assert all(tag.rsplit(".v", 1)[1].isdigit() for tag in EVENT_CLASSES)
