from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.settings import from_environment
from dagrad_bus.workers.launch.environment import (
    common_environment,
    count_cores,
    mask,
    portable,
    read_file,
    scrub,
    without_identity,
)

RANKS = (
    *("RANK", "WORLD_SIZE", "MASTER_ADDR", "NODE_RANK", "LOCAL_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS_PER_NODE"),
    *("SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_ess_base_vpid", "OMPI_MCA_orte_hnp_uri", "PMIX_RANK"),
    *("PMI_SIZE", "MPI_LOCALRANKID", "MV2_COMM_WORLD_RANK", "MVP_COMM_WORLD_RANK", "HOROVOD_RANK"),
    *("HOROVOD_LOCAL_SIZE", "JSM_NAMESPACE_SIZE", "PALS_LOCAL_RANKID", "ALPS_APP_PE", "FLUX_TASK_RANK"),
)
NAMES = st.one_of(
    st.sampled_from([*RANKS, "HOME", "DAGRAD_NAME", "DAGRAD_RULE", "PYTHONPATH", "PYTHONHOME", "HF_TOKEN", "LANG"]),
    st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True),
)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
ENVIRONS = st.dictionaries(NAMES, VALUES, max_size=12)


@pytest.mark.parametrize("name", RANKS)
def test_ranks_of_another_launcher_are_taken_away_and_kept_readable(name: str) -> None:
    assert scrub({name: "2", "HOME": "/"}) == {f"DAGRAD_LAUNCHER_{name}": "2", "HOME": "/"}


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "RANKING", "PATH", "DAGRAD_DENSITY", "OMPI_MCA_btl", "FLUX_URI"])
def test_what_is_no_rank_stays(name: str) -> None:
    assert scrub({name: "7"}) == {name: "7"}


@settings(deadline=None, max_examples=50)
@given(ENVIRONS)
def test_scrubbing_loses_no_value_and_twice_is_once(environ: dict[str, str]) -> None:
    once = scrub(environ)
    assert scrub(once) == once
    assert {name.removeprefix("DAGRAD_LAUNCHER_"): value for name, value in once.items()} == environ


def test_scrubbed_names_are_accepted_by_the_settings() -> None:
    assert from_environment(scrub({"RANK": "1", "WORLD_SIZE": "2"})).is_alone


def test_ranks_stay_where_the_user_wants_them() -> None:
    assert common_environment({"RANK": "1"}, workers=1, keep_ranks=True)["RANK"] == "1"


def test_a_run_inside_a_run_is_a_new_one() -> None:
    outer = {"DAGRAD_RUN": "a", "DAGRAD_NAME": "b", "DAGRAD_ATTEMPT": "1", "DAGRAD_RULE": "local"}
    assert without_identity(outer) == {"DAGRAD_RULE": "local"}


def test_workers_share_the_cores_unless_told() -> None:
    assert common_environment({}, workers=10_000)["OMP_NUM_THREADS"] == "1"
    assert common_environment({}, workers=1)["OMP_NUM_THREADS"] == str(count_cores())
    assert common_environment({}, workers=0)["OMP_NUM_THREADS"] == str(count_cores())  # an agent with none yet
    assert common_environment({"OMP_NUM_THREADS": "3"}, workers=1)["OMP_NUM_THREADS"] == "3"


HERE = {
    "PYTHONPATH": "src",
    "PYTHONHOME": "/usr",
    "DAGRAD_RULE": "local",
    "DAGRAD_NAME": "local.0",
    "DAGRAD_LAUNCHER_RANK": "0",
    "DAGRAD_ADVERTISE": "10.0.0.1",
    "HF_TOKEN": "t",
    "LANG": "de_DE.UTF-8",
    "PATH": "/bin",
    "HOME": "/home",
    "SSH_AUTH_SOCK": "/s",
    "MYVAR": "1",
}


def test_only_what_a_script_may_depend_on_travels() -> None:
    assert portable(HERE) == {"PYTHONPATH": "src", "DAGRAD_RULE": "local", "HF_TOKEN": "t"}


def test_names_that_are_asked_for_travel_and_override() -> None:
    found = portable(HERE, ["MYVAR", "HF_TOKEN=other=1", "PYTHONHOME", "EMPTY="])
    assert found["MYVAR"] == "1" and found["HF_TOKEN"] == "other=1" and found["PYTHONHOME"] == "/usr"
    assert not found["EMPTY"]


def test_everything_is_all_but_this_host_and_session() -> None:
    wanted = {"PYTHONPATH", "DAGRAD_RULE", "HF_TOKEN", "LANG", "PATH", "MYVAR"}
    assert portable(HERE, everything=True).keys() == wanted


@settings(deadline=None, max_examples=50)
@given(ENVIRONS, st.booleans())
def test_what_travels_is_unchanged_and_no_identity(environ: dict[str, str], everything: bool) -> None:
    found = portable(environ, everything=everything)
    assert found.items() <= environ.items()
    assert without_identity(found) == found
    assert not any(name.startswith("DAGRAD_LAUNCHER_") for name in found)


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("NOSUCH", "--env NOSUCH: not set here, say --env NOSUCH=VALUE"),
        ("A B=1", "--env A B: 'A B' is no name of a variable"),
        ("=1", "--env : '' is no name of a variable"),
        ("DAGRAD_NAME=x", "--env DAGRAD_NAME: dagrad sets it for each worker itself"),
        ("DAGRAD_RUN", "--env DAGRAD_RUN: dagrad sets it for each worker itself"),
    ],
)
def test_a_wrong_name_is_refused(word: str, error: str) -> None:
    with pytest.raises(UsageError) as refused:
        portable(HERE, [word])
    assert str(refused.value) == error


def test_a_file_of_names_and_values(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(
        b'\xef\xbb\xbf# comment\r\n\r\nA=1\r\nexport B=two words # not this\nC="x # y\\"\\n$HOME"  # c\n'
        b"D='a\\n\"b'\nE=\nF=a#b\nexport\tG = \nA=2\n".replace(b"G = ", b"G=")
    )
    expected = {"A": "2", "B": "two words", "C": 'x # y"\n$HOME', "D": 'a\\n"b', "E": "", "F": "a#b", "G": ""}
    assert read_file(path) == expected
    assert portable({"HF_X": "0"}, ["A=3"], [path]) == expected | {"HF_X": "0", "A": "3"}


def test_all_faults_of_a_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text('A=1\nB\nC = 2\nD=\'x\nE="a"b\nDAGRAD_NAME=x\nF=a\0b\n')
    with pytest.raises(UsageError) as refused:
        portable({}, files=[path])
    assert str(refused.value).replace(str(path), "F").splitlines() == [
        "F:2: 'B' is not NAME=VALUE",
        "F:3: 'C ' is no name of a variable",
        "F:4: a quote that is not closed, or something behind it",
        "F:5: a quote that is not closed, or something behind it",
        "F:6: dagrad sets it for each worker itself",
        "F:7: a NUL character",
    ]


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_file(tmp_path / "nosuch")
    (tmp_path / "bad").write_bytes(b"A=\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_file(tmp_path / "bad")


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), VALUES, max_size=5))
def test_quoted_values_come_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("env") / "env"
    quoted = {n: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for n, v in values.items()}
    path.write_bytes("".join(f'{name}="{value}"\n' for name, value in quoted.items()).encode())
    assert read_file(path) == values


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("env") / "env"
    path.write_bytes(data)
    with suppress(UsageError):
        assert all("=" not in name for name in read_file(path))


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "HF_TOKEN", "MY_SECRET", "PGPASSWORD", "GIT_CREDENTIALS", "my_token"]
)
def test_secrets_are_not_shown(name: str) -> None:
    assert mask({name: "hush"}) == {name: "***"}


def test_the_rest_is_shown() -> None:
    shown = {"DAGRAD_KEY_FILE": "/run/key", "PYTHONPATH": "src", "URL": "http://host/a:b@c"}
    assert mask(shown) == shown
    assert mask({"PROXY": "http://me:hush@host:80/"}) == {"PROXY": "http://***@host:80/"}
