"""Who a process is, by environments recorded under each engine, and what is no answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.engines import Found, detect, expand
from dagrad_bus.workers.launch.environment import scrub

TORCHRUN = {  # torchrun 2.13, --nproc-per-node 2
    "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
    "MASTER_PORT": "44663", "OMP_NUM_THREADS": "1", "RANK": "1", "ROLE_NAME": "default", "ROLE_RANK": "1",
    "ROLE_WORLD_SIZE": "2", "TORCHELASTIC_ERROR_FILE": "/tmp/x/attempt_0/1/error.json", "TORCHELASTIC_MAX_RESTARTS": "0",
    "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_RUN_ID": "f74c80ab-8889-4ab4-ab4b-cfe5a38c69d9",
    "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT", "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", "WORLD_SIZE": "2",
}  # fmt: skip
MPIRUN = {  # Open MPI 4.1.4, mpirun -n 2
    "OMPI_APP_CTX_NUM_PROCS": "2", "OMPI_COMMAND": "sh", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_NODE_RANK": "1", "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2", "OMPI_FILE_LOCATION": "/tmp/ompi.vm.0/pid.3738/0/0", "OMPI_FIRST_RANKS": "0",
    "OMPI_MCA_ess": "^singleton", "OMPI_MCA_ess_base_jobid": "1650720769", "OMPI_MCA_ess_base_vpid": "1",
    "OMPI_MCA_orte_ess_num_procs": "2",
    "OMPI_MCA_orte_hnp_uri": "1650720768.0;tcp://192.0.2.2:44147;tcp6://[fd00::2]:43457",
    "OMPI_MCA_orte_precondition_transports": "eb598207206d6646-74f8ba9dc061460b", "OMPI_UNIVERSE_SIZE": "2",
    "PMIX_HOSTNAME": "vm", "PMIX_ID": "1650720769.1", "PMIX_NAMESPACE": "1650720769", "PMIX_RANK": "1",
    "PMIX_SERVER_URI4": "1650720768.0;tcp4://127.0.0.1:44985", "PMIX_VERSION": "4.2.2rc2",
}  # fmt: skip
SRUN = {  # Slurm 22.05, srun -N3 -n4
    "SLURMD_NODENAME": "n1", "SLURM_CLUSTER_NAME": "c", "SLURM_CPUS_ON_NODE": "1", "SLURM_GTIDS": "2",
    "SLURM_JOBID": "17", "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[0-2]", "SLURM_JOB_NUM_NODES": "3",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9", "SLURM_LOCALID": "0", "SLURM_NNODES": "3", "SLURM_NODEID": "1",
    "SLURM_NODELIST": "n[0-2]", "SLURM_NPROCS": "4", "SLURM_NTASKS": "4", "SLURM_PROCID": "2",
    "SLURM_SRUN_COMM_HOST": "127.0.0.1", "SLURM_STEPID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "n[0-2]",
    "SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)",
    "SLURM_SUBMIT_DIR": "/data/me", "SLURM_SUBMIT_HOST": "login", "SLURM_TASKS_PER_NODE": "2,1(x2)",
}  # fmt: skip
POD = {"JOB_COMPLETION_INDEX": "3", "HOSTNAME": "train-3", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
DAGRAD = {"DAGRAD_RUN": "c0ffee", "DAGRAD_NAME": "node1.2", "DAGRAD_SLOT": "2", "DAGRAD_ATTEMPT": "1"}


def test_torchrun() -> None:
    assert detect(TORCHRUN) == Found(
        engine="torchrun", job="torchrun-f74c80ab-8889-4ab4-ab4b-cfe5a38c69d9", rank=1, size=2, local_rank=1,
        local_size=2, store="localhost:44663", first_host="localhost", reach="localhost",
    )  # fmt: skip


def test_torchrun_without_a_name_is_known_by_its_store_and_may_have_none_to_offer() -> None:
    found = detect(TORCHRUN | {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400"})
    assert found is not None and found.job == "torchrun-10.0.0.1-29400"
    found = detect(TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "False", "TORCHELASTIC_RESTART_COUNT": "2"})
    assert found is not None and (found.store, found.attempt) == ("", 2)


def test_mpirun() -> None:
    found = detect(MPIRUN)
    assert found is not None
    assert (found.name, found.members, found.local_rank, found.is_one_host) == ("mpi.1", "mpi.0..1", 1, True)
    assert found.folder == f".dagrad/{found.job}" and found.job.startswith("mpi-1650720769-")
    assert found.reach == "192.0.2.2"


def test_two_mpiruns_of_one_process_number_are_two_runs() -> None:
    other = detect(MPIRUN | {"OMPI_MCA_orte_precondition_transports": "0-1"})
    first = detect(MPIRUN)
    assert other is not None and first is not None and other.job != first.job


def test_a_name_of_open_mpi_5_can_be_a_folder() -> None:
    environ = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_NAMESPACE": "prterun-n/1-77@1"}
    found = detect(environ)
    assert found is not None and found.job == "mpi-prterun-n-1-77-1"


def test_pmix_alone_tells_no_size() -> None:
    found = detect({"PMIX_RANK": "3", "PMIX_NAMESPACE": "prun-9"})
    assert found is not None and (found.name, found.size, found.members, found.job) == ("mpi.3", 0, "", "mpi-prun-9")


def test_srun() -> None:
    assert detect(SRUN) == Found(
        engine="slurm", job="slurm-17.0", rank=2, size=4, local_rank=0, local_size=1, attempt=0,
        folder="/data/me/.dagrad/17.0", first_host="n0", reach="10.0.0.9",
    )  # fmt: skip


def test_a_node_list_in_another_form_is_done_without() -> None:
    found = detect(SRUN | {"SLURM_STEP_NODELIST": "n[0-", "SLURM_STEP_TASKS_PER_NODE": "?"})
    assert found is not None and (found.first_host, found.local_size, found.size) == ("", 0, 4)


def test_srun_after_a_requeue_on_one_node() -> None:
    one = {
        "SLURM_STEP_TASKS_PER_NODE": "4",
        "SLURM_STEP_NODELIST": "n1",
        "SLURM_NODEID": "0",
        "SLURM_RESTART_COUNT": "2",
    }
    found = detect(SRUN | one)
    assert found is not None and found.is_one_host and found.attempt == 2


def test_the_shell_of_a_batch_job_is_no_task() -> None:
    batch = {name: value for name, value in SRUN.items() if "STEP" not in name} | {"SLURM_PROCID": "0"}
    assert detect(batch) is None


def test_an_indexed_job() -> None:
    found = detect(POD | {"DAGRAD_ATTEMPT": "2"})
    assert found is not None
    assert (found.name, found.job, found.first_host, found.attempt, found.size) == ("pod.3", "train", "train-0", 2, 0)
    assert not found.is_one_host


def test_a_worker_of_ours_is_known_already() -> None:
    found = detect(DAGRAD)
    assert found is not None and (found.engine, found.job, found.rank, found.attempt) == ("dagrad", "c0ffee", 2, 1)


def test_nothing_known_is_nobody() -> None:
    assert detect({"PATH": "/bin", "RANK": "1", "WORLD_SIZE": "2", "DAGRAD_RUN": "x"}) is None


@pytest.mark.parametrize(
    ("outer", "inner", "engine"),
    [
        (SRUN, TORCHRUN, "torchrun"),
        (SRUN, MPIRUN, "mpi"),
        (POD, TORCHRUN, "torchrun"),
        (POD, MPIRUN, "mpi"),
        (SRUN, DAGRAD, "dagrad"),
        (SRUN, {"PMIX_RANK": "2", "PMIX_NAMESPACE": "slurm.pmix.17.0"}, "slurm"),
        (SRUN, {"PMIX_RANK": "2", "PMIX_NAMESPACE": "prterun-n1-77@1"}, "mpi"),
        (MPIRUN, TORCHRUN, "torchrun"),
    ],
)
def test_the_innermost_engine_counts(outer: dict[str, str], inner: dict[str, str], engine: str) -> None:
    found = detect(outer | inner)
    assert found is not None and found.engine == engine


@pytest.mark.parametrize("environ", [TORCHRUN, MPIRUN, SRUN])
def test_what_was_scrubbed_is_no_rank_any_more(environ: dict[str, str]) -> None:
    assert detect(scrub(environ)) is None


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"])
@pytest.mark.parametrize("value", ["x", "-1", "1.5", "²"])
def test_a_rank_that_is_no_number_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is"):
        detect(MPIRUN | {name: value})


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[0-3,7]", ("n0", "n1", "n2", "n3", "n7")),
        ("gpu[08-11],login", ("gpu08", "gpu09", "gpu10", "gpu11", "login")),
        ("a[1-2]x,b[3]", ("a1x", "a2x", "b3")),
        ("r[1-2]n[0,4]", ("r1n0", "r1n4", "r2n0", "r2n4")),
    ],
)
def test_node_lists_are_expanded(text: str, hosts: tuple[str, ...]) -> None:
    assert expand(text) == hosts


@pytest.mark.parametrize("text", ["n[1-", "n[3-1]", "n[a]", "n[0-999999]", "n]1", ",", "n[]", "n[0-999]x[0-999]"])
def test_what_is_no_node_list_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="no node list"):
        expand(text)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="n0123[]-,x", max_size=12))
def test_any_text_is_a_list_or_is_refused(text: str) -> None:
    try:
        hosts = expand(text)
    except UsageError:
        return
    assert not any(set(host) & set("[],") for host in hosts)
