from __future__ import annotations

import pytest

from dagrad_bus.settings import from_environment
from dagrad_bus.workers.launch.environment import common_environment, count_cores, scrub, without_identity


@pytest.mark.parametrize(
    "name",
    ["RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"],
)
def test_ranks_of_another_launcher_are_taken_away_and_kept_readable(name: str) -> None:
    assert scrub({name: "2", "HOME": "/"}) == {f"DAGRAD_LAUNCHER_{name}": "2", "HOME": "/"}


def test_what_is_no_rank_stays() -> None:
    env = {"SLURM_JOB_ID": "7", "RANKING": "1", "PATH": "/bin", "DAGRAD_DENSITY": "0.1"}
    assert scrub(env) == env


def test_scrubbed_names_are_accepted_by_the_settings() -> None:
    assert from_environment(scrub({"RANK": "1", "WORLD_SIZE": "2"})).is_alone


def test_ranks_stay_where_the_user_wants_them() -> None:
    assert common_environment({"RANK": "1"}, workers=1, keep_ranks=True)["RANK"] == "1"


def test_a_run_inside_a_run_is_a_new_one() -> None:
    assert without_identity({"DAGRAD_RUN": "a", "DAGRAD_NAME": "b", "DAGRAD_RULE": "local"}) == {"DAGRAD_RULE": "local"}


def test_workers_share_the_cores_unless_told() -> None:
    assert common_environment({}, workers=10_000)["OMP_NUM_THREADS"] == "1"
    assert common_environment({}, workers=1)["OMP_NUM_THREADS"] == str(count_cores())
    assert common_environment({"OMP_NUM_THREADS": "3"}, workers=1)["OMP_NUM_THREADS"] == "3"
