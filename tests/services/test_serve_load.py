"""Small editions of `python -m benchmarks.serve`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from benchmarks import serve
from benchmarks.common.pictures import as_jpeg, draw_pictures

FILES = 6


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [as_jpeg(picture, 64) for picture in draw_pictures(FILES, None)]


def test_answers_under_load_are_those_of_the_command(files: list[bytes]) -> None:
    load = serve.measure_load(files, clients=3, requests=6, workers=2)
    assert (load["requests"], load["wrong"]) == (18, 0)
    assert load["memory_mib"].keys() == {"start", "middle", "end"}


def test_no_file_is_lost_while_the_server_is_killed(files: list[bytes]) -> None:
    killed = serve.measure_kills(files, 30, clients=3, kills=2, workers=1, seed=1)
    assert (killed["lost"], killed["wrong"]) == (0, 0)
    assert killed["answered_again"] <= 2 * 3, "of those alone that were under way at a kill"
    assert killed["kills"] == 2


@pytest.mark.slow
def test_the_benchmark_in_small(tmp_path: Path) -> None:
    words = ["--clients", "8", "--requests", "40", "--files", "200", "--kills", "5"]
    done = CliRunner().invoke(serve.main, [*words, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "serve.json").read_text("utf-8"))
    assert result["load"]["wrong"] == 0
    assert result["killed"]["lost"] == result["killed"]["wrong"] == 0
    assert result["killed"]["answered_again"] <= 5 * 8
    memory = result["load"]["memory_mib"]
    assert memory["end"] < 1.25 * memory["start"]
    assert (tmp_path / "serve.md").read_text("utf-8") in done.output
