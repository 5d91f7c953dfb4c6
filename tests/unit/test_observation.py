"""What an operator asks to see: a malformed wish is named, and spans are the operator's alone."""

from pathlib import Path

import pytest

from libs.observability.exported_spans import LinesExporter
from libs.observability.observation import Observation
from libs.settings import SettingsError, decode_settings


@pytest.mark.parametrize(
    "listen", ["9464", ":9464", "host:x", "host:", "host:65536", "host:-1", "127.0.0.1:9464\n"]
)
def test_an_address_that_nobody_can_listen_on_is_named(listen: str) -> None:
    with pytest.raises(SettingsError, match="metrics_listen"):
        decode_settings(Observation, {"TUNEYARD_METRICS_LISTEN": listen})


@pytest.mark.parametrize("listen", ["127.0.0.1:9464", "0.0.0.0:1", "::1:9464", "metrics:65535"])
def test_a_host_and_a_port_are_listened_on(listen: str) -> None:
    observation = decode_settings(Observation, {"TUNEYARD_METRICS_LISTEN": listen})
    assert observation.metrics_listen == listen


def test_a_file_of_spans_is_for_its_owner_alone(tmp_path: Path) -> None:
    LinesExporter(tmp_path / "spans.jsonl")
    assert (tmp_path / "spans.jsonl").stat().st_mode & 0o777 == 0o600
