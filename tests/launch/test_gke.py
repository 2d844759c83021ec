"""The JobSet as it is after its names are filled in."""

import re
from pathlib import Path

import pytest
import yaml

from pretrainx.parallel.distributed import DistributedConfig
from pretrainx.parallel.schedulers import resolve

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "launch" / "gke_jobset.yaml").read_text()
EXAMPLE = dict(
    re.findall(r"([A-Z]+)=(\S+)", "".join(line for line in TEXT.splitlines(True) if line.startswith("#   export")))
)


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load(re.sub(r"\$\{(\w+)\}", lambda name: EXAMPLE[name[1]], TEXT))


@pytest.fixture(scope="module")
def job(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated


def test_the_example_names_all_that_is_to_be_filled_in():
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == set(EXAMPLE)
    assert (ROOT / EXAMPLE["CONFIG"]).is_file()
    chips = [int(size) for size in EXAMPLE["TOPOLOGY"].split("x")]
    assert chips[0] * chips[1] * chips[2] == int(EXAMPLE["HOSTS"]) * int(EXAMPLE["CHIPS"])


def test_the_slices(jobset, job):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"]["name"] == "llama"
    pod = job["template"]["spec"]["template"]["spec"]
    assert (job["replicas"], job["template"]["spec"]["parallelism"], job["template"]["spec"]["completions"]) == (
        2,
        16,
        16,
    )
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
    }
    (train,) = pod["containers"]
    assert train["resources"]["limits"] == train["resources"]["requests"] == {"google.com/tpu": 4}
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 300
    mounted, volumes = ({each["name"] for each in found} for found in (train["volumeMounts"], pod["volumes"]))
    assert mounted == volumes
    assert [*train["command"], *train["args"]] == (
        "python launch/xla_flags.py --platform=v5p -- "
        "pretrainx train --config=configs/lm/llama_8b.py --workdir=/runs/llama".split()
    )


@pytest.mark.parametrize(
    ("code", "action"),
    [*((code, "FailJobSet") for code in (1, 2, 3, 4, 5, 6, 8, 130)), (75, "RestartJobSetAndIgnoreMaxRestarts")]
    + [(code, None) for code in (7, 134, 137, 139)],
)
def test_what_follows_an_exit_code(jobset, job, code, action):
    """Kubernetes says in a job's message which rule a pod met, by its index; JobSet looks for that."""
    rules = job["template"]["spec"]["podFailurePolicy"]["rules"]
    met = [index for index, rule in enumerate(rules) if code in rule.get("onExitCodes", {}).get("values", ())]
    assert job["template"]["spec"]["backoffLimit"] == 0 and jobset["spec"]["failurePolicy"]["maxRestarts"] == 5
    assert {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule} == {"train"}
    assert followed(jobset, met[0] if met else None) == action


def test_a_pod_that_gke_takes_starts_again_without_limit(jobset, job):
    rules = job["template"]["spec"]["podFailurePolicy"]["rules"]
    (index,) = [index for index, rule in enumerate(rules) if "onPodConditions" in rule]
    assert rules[index]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert followed(jobset, index) == "RestartJobSetAndIgnoreMaxRestarts"


def followed(jobset, index):
    """The action for a job that failed by a rule of podFailurePolicy; None is JobSet's own: start again, counted."""
    if index is None:
        return None
    message = f"Container train for pod a/b failed with exit code 1 matching FailJob rule at index {index}"
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
        if any(re.search(pattern, message) for pattern in rule["onJobFailureMessagePatterns"]):
            return rule["action"]


def test_pods_find_each_other():
    """By what GKE puts into each pod of a slice of many hosts, and of several slices."""
    one = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "2", "JOB_COMPLETION_INDEX": "2"}
    plan = resolve(DistributedConfig(), one)
    assert (plan.kind, plan.processes, plan.process) == ("tpu", 4, 2)
    several = one | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_COORDINATOR_ADDRESS": "a"}
    assert resolve(DistributedConfig(), several).kind == "tpu"
