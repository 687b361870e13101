"""The files for clusters in docs/archive.md have the shape that their readers ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")
ray = pytest.importorskip("ray")

PAGE = Path(__file__).parents[2] / "docs" / "archive.md"


@pytest.fixture(scope="module")
def files() -> list[dict[str, Any]]:
    text = PAGE.read_text("utf-8")
    return [
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.S | re.M)
    ]


def test_cluster_of_own_machines(files: list[dict[str, Any]]) -> None:
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(files[0], json.loads(schema.read_text("utf-8")))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(files[0] | {"cluster": 1}, json.loads(schema.read_text("utf-8")))
    started = " ".join(files[0]["head_start_ray_commands"])
    assert "--include-dashboard=false" in started
    assert "--env=RAY_AUTH_MODE=token" in files[0]["docker"]["run_options"]


def test_job_of_kuberay(files: list[dict[str, Any]]) -> None:
    assert (files[1]["apiVersion"], files[1]["kind"]) == ("ray.io/v1", "RayJob")
    spec = files[1]["spec"]
    assert "--address auto" in spec["entrypoint"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert {"cpu", "memory"} == container["resources"]["limits"].keys()
