"""The cluster files are what Ray's launcher accepts."""

import inspect
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job import job_supervisor

import whim
from pipeline.engine.nodes import metrics
from stages.stage import Resources

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"


@pytest.mark.parametrize("name", ["aws.yaml", "local.yaml"])
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(prepare_config(yaml.safe_load((CLUSTER / name).read_text())))


def kuberay(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return loaded


def test_kuberay_s_pods_are_of_one_ray_and_see_the_data_the_weights_and_the_token() -> None:
    cluster = kuberay("raycluster.yaml")
    assert (cluster["apiVersion"], cluster["kind"], cluster["spec"]["rayVersion"]) == ("ray.io/v1", "RayCluster", version("ray"))
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    assert [group.get("groupName", "head") for group in groups] == ["head", "cpu", "gpu"]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay takes text alone"
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        known = {one["name"] for one in container["env"]}
        assert known == {"WHIM_WEIGHTS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_JOB_STOP_WAIT_TIME_S"}
        assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
        assert container["resources"]["limits"] == container["resources"]["requests"], "Ray counts by the limits"
    assert groups[0]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["spec"]["authOptions"] == {"mode": "token"}, "else the operator asks Ray without the token, and learns nothing of a job"
    assert groups[2]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_job_runs_a_command_that_there_is_on_that_cluster() -> None:
    job, cluster = kuberay("rayjob.yaml"), kuberay("raycluster.yaml")
    assert job["spec"]["clusterSelector"]["ray.io/cluster"] == cluster["metadata"]["name"]
    words = job["spec"]["entrypoint"].split()
    assert words[0] == "whim"
    assert whim.parse(words[1:]).data.startswith("/data/")


def test_pods_and_the_job_show_the_token_of_the_secret_that_the_operator_makes() -> None:
    job, cluster = kuberay("rayjob.yaml"), kuberay("raycluster.yaml")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    pods = [*(group["template"] for group in groups), job["spec"]["submitterPodTemplate"]]
    for (container,) in (pod["spec"]["containers"] for pod in pods):
        shown = {one["name"]: one.get("value") or one["valueFrom"]["secretKeyRef"] for one in container["env"]}
        assert shown["RAY_AUTH_MODE"] == "token", "the image says disabled"
        assert shown["RAY_AUTH_TOKEN"] == {"name": cluster["metadata"]["name"], "key": "auth_token"}


def test_the_job_says_nothing_that_kuberay_refuses_on_a_cluster_that_is_there() -> None:
    spec = kuberay("rayjob.yaml")["spec"]
    assert spec["clusterSelector"]
    assert not {"backoffLimit", "suspend", "rayClusterSpec", "shutdownAfterJobFinishes"} & spec.keys()


def test_a_job_that_is_stopped_has_the_time_of_an_item() -> None:
    head = kuberay("raycluster.yaml")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    waits = {one["name"]: one.get("value") for one in head["env"]}
    (start,) = [line for line in yaml.safe_load((CLUSTER / "aws.yaml").read_text())["head_start_ray_commands"] if "--head" in line]
    told = dict(word.split("=") for word in start.split() if re.fullmatch(r"[A-Z_]+=\S+", word))
    assert float(waits[WAITS]) >= Resources().limit_s <= float(told[WAITS])
    assert WAITS in inspect.getsource(job_supervisor), "Ray reads another name"


WAITS = "RAY_JOB_STOP_WAIT_TIME_S"


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((CLUSTER / "grafana.json").read_text())
    asked = set(re.findall(r"ray_whim_(\w+)", " ".join(t["expr"] for panel in dashboard["panels"] for t in panel["targets"])))
    told = re.findall(r'(Counter|Gauge)\("whim_(\w+)"', inspect.getsource(metrics))
    assert asked == {f"{name}_total" if kind == "Counter" else name for kind, name in told}


def test_ray_refuses_a_wrong_field() -> None:
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    with pytest.raises(Exception, match="head_start_commands"):
        validate_config(prepare_config({**config, "head_start_commands": []}))
