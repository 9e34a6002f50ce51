"""The manifest of docs/kubernetes is one that Kubernetes takes, and its container command makes workers that meet."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.faults import namespaces
from dagrad_bus.faults.engines import plain_environ, why_no_frameworks
from dagrad_bus.faults.host import VirtualHost, scratch
from dagrad_bus.faults.namespaces import Hosts

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(240)]
MANIFEST = Path(__file__).parents[2] / "docs/kubernetes/train.yaml"
VERSION = "1.37"
FAILURES = "metadata.annotations['batch.kubernetes.io/job-index-failure-count']"
KEY = "ab" * 32
TRAIN = """
import json, os, time, torch, dagrad_bus
model = torch.nn.Linear(32, 32)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with dagrad_bus.attach(model, optimizer) as worker:
    deadline, enough = time.monotonic() + 90, None
    longer = 90 if os.path.exists("stay") and os.environ["DAGRAD_ATTEMPT"] == "0" else 4
    while time.monotonic() < min(deadline, (enough or deadline) + longer):
        model(torch.randn(8, 32)).square().mean().backward()
        optimizer.step()
        time.sleep(0.02)
        counters = worker.metrics()["counters"]
        if enough is None and counters.get("frames_mixed", 0) > 20 and len(worker.members) == worker.count - 1:
            enough = time.monotonic()
            print("met", flush=True)
    print(json.dumps({"name": worker.name, "count": worker.count, "mixed": counters.get("frames_mixed", 0),
                      "members": sorted(worker.members), "attempt": os.environ["DAGRAD_ATTEMPT"], "omp": os.environ["OMP_NUM_THREADS"]}))
"""
PREPARE = """
mount -t tmpfs tmpfs /run && mkdir -p "$(dirname "$1")" && printf '%s\\n' "$2" > "$1" && chmod 400 "$1"
cd "$3"; shift 3; exec "$@"
"""
"""What a kubelet does before the command: the Secret's mount, the image's working directory."""


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    """The manifest's documents: Service and Job."""
    if reason := why_no_frameworks("yaml", "kubernetes_validate"):
        pytest.skip(reason)
    with MANIFEST.open() as file:
        return list(importlib.import_module("yaml").safe_load_all(file))


def refuse(document: dict[str, Any]) -> str:
    """Return why Kubernetes does not take a document; empty if it does."""
    validation = importlib.import_module("kubernetes_validate")
    try:
        validation.validate(document, VERSION, strict=True)
    except validation.ValidationError as error:
        return str(error.message)
    return ""


def test_the_schema_takes_the_manifest(documents: list[dict[str, Any]]) -> None:
    assert [document["kind"] for document in documents] == ["Service", "Job"]
    assert [refuse(document) for document in documents] == ["", ""]


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("spec",), "backofLimitPerIndex"),
        (("spec", "template", "spec"), "subDomain"),
        (("spec", "template", "spec", "containers", 0, "resources"), "limit"),
    ],
)
def test_the_schema_refuses_a_misspelling(
    documents: list[dict[str, Any]], path: Sequence[str | int], wrong: str
) -> None:
    document = copy.deepcopy(documents[1])
    place: Any = document
    for step in path:
        place = place[step]
    place[wrong] = {"cpu": "1"} if wrong == "limit" else "1"
    assert wrong in refuse(document)


def test_service_and_job_fit_each_other(documents: list[dict[str, Any]]) -> None:
    service, job = documents
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert [port["port"] for port in service["spec"]["ports"]] == [p["containerPort"] for p in container["ports"]]
    assert spec["completions"] == spec["parallelism"] == spec["maxFailedIndexes"]
    assert f"--workers={spec['completions']}" in container["command"]
    (mount,) = container["volumeMounts"]
    assert f"--key-file={mount['mountPath']}/key" in container["command"]


def kubelet_environ(job: dict[str, Any], index: int, attempt: int) -> dict[str, str]:
    """Return what a kubelet sets for the container of pod ``index``."""
    name = job["metadata"]["name"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environ = plain_environ() | {"HOSTNAME": f"{name}-{index}", "JOB_COMPLETION_INDEX": str(index)}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    for entry in container["env"]:
        source = entry["valueFrom"]
        if "resourceFieldRef" in source:
            kind, resource = source["resourceFieldRef"]["resource"].split(".")
            environ[entry["name"]] = container["resources"][kind][resource]
        else:
            assert source["fieldRef"]["fieldPath"] == FAILURES
            environ[entry["name"]] = str(attempt)
    return environ


class Pods:
    """The pods of a Job, each a network namespace with its host name and the DNS names of the Service."""

    def __init__(self, job: dict[str, Any], hosts: list[VirtualHost]) -> None:
        self.job = job
        self.hosts = hosts

    def start(self, index: int, attempt: int = 0) -> subprocess.Popen[bytes]:
        """Run the manifest's command in a pod."""
        (container,) = self.job["spec"]["template"]["spec"]["containers"]
        host = self.hosts[index]
        (host.tmp / "train.py").write_text(TRAIN)
        key = container["volumeMounts"][0]["mountPath"] + "/key"
        return host.start(
            *("sh", "-c", PREPARE, "sh", key, KEY, "/tmp", *container["command"]),
            env=kubelet_environ(self.job, index, attempt),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture
def pods(documents: list[dict[str, Any]]) -> Generator[Pods]:
    """Four pods, nothing started."""
    if reason := namespaces.why_not():
        pytest.skip(reason)
    job = documents[1]
    name, service = job["metadata"]["name"], job["spec"]["template"]["spec"]["subdomain"]
    folder = scratch("dagrad-pods-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        net = stack.enter_context(Hosts(job["spec"]["completions"]))
        hosts: list[VirtualHost] = []
        for index in range(net.count):
            others = {f"{name}-{n}.{service}": net.address(n) for n in range(net.count) if n != index}
            own = f"{name}-{index}"  # as a kubelet writes a pod's own line, the full name first
            names = {f"{own}.{service}.default.svc.cluster.local {own}": net.address(index), **others}
            hosts.append(stack.enter_context(VirtualHost(net.name(index), own, folder / own, names)))
        yield Pods(job, hosts)


def outcome(pod: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return what a pod's program has printed last."""
    output, _ = pod.communicate(timeout=150)
    assert pod.returncode == 0, output.decode()
    told: dict[str, Any] = json.loads(output.decode().splitlines()[-1])
    return told


def test_the_containers_command_makes_workers_that_meet(pods: Pods) -> None:
    started = [pods.start(index) for index in range(4)]
    told = [outcome(pod) for pod in started]
    names = [f"pod.{index}" for index in range(4)]
    assert [one["name"] for one in told] == names
    for one in told:
        assert one["count"] == 4 and one["omp"] == "2"
        assert set(one["members"]) == set(names) - {one["name"]}
        assert one["mixed"] > 20, told


def test_a_pod_that_is_made_anew_comes_back_by_its_name(pods: Pods) -> None:
    """Pod 0, to which the others turned first, dies; the Job makes it anew."""
    for host in pods.hosts:
        (host.tmp / "stay").touch()
    started = [pods.start(index) for index in range(4)]
    wait_for_line(started[1], b"met")
    for process in pods.hosts[0].find("train.py"):
        pods.hosts[0].kill(process.pid)
    assert started[0].wait(10) != 0
    again = pods.start(0, attempt=1)
    told = outcome(again)
    assert told["name"] == "pod.0" and told["mixed"] > 20 and told["attempt"] == "1"
    assert set(told["members"]) == {f"pod.{index}" for index in (1, 2, 3)}
    for pod in started[1:]:
        pod.kill()
    for pod in started:
        pod.communicate()


def wait_for_line(pod: subprocess.Popen[bytes], text: bytes) -> None:
    assert pod.stdout is not None
    for line in pod.stdout:
        if text in line:
            return
    raise AssertionError(f"no {text!r}: code {pod.wait()}")
