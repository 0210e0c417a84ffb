"""The cluster files are what Ray's launcher accepts."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"


@pytest.mark.parametrize("name", ["aws.yaml", "local.yaml"])
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(prepare_config(yaml.safe_load((CLUSTER / name).read_text())))


def test_ray_refuses_a_wrong_field() -> None:
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    with pytest.raises(Exception, match="head_start_commands"):
        validate_config(prepare_config({**config, "head_start_commands": []}))
