from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.tools import cli
from dagrad_bus.tools.topology import COMPARED, topology
from dagrad_bus.topology.formats import read
from dagrad_bus.topology.kinds import KINDS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dagrad(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``dagrad topology`` in this process; returns exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["topology", *map(str, words)])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err

    return run


@pytest.mark.parametrize("name", topology.commands)
def test_every_help_teaches_with_examples_and_exit_codes(name: str, dagrad: Run) -> None:
    code, out, _ = dagrad(name, "--help")
    assert code == 0
    assert f"\n  dagrad topology {name} " in out
    assert "Exit code: 0 " in out and "--json" in out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom dagrad_bus.tools.cli import main\n"
        "try:\n    main(['topology', 'generate', '--help'])\n"
        "except SystemExit:\n    sys.exit(bool({'numpy', 'rich', 'torch', 'networkx', 'matplotlib'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15, check=False)
    assert ran.returncode == 0, ran.stderr
    assert set(KINDS) <= set(ran.stdout.replace(",", " ").replace("(", " ").split()), "help names every kind"


def test_a_graph_is_made_converted_inspected_and_drawn(dagrad: Run, tmp_path: Path) -> None:
    first, second, picture = tmp_path / "a.graphml", tmp_path / "a.npz", tmp_path / "a.svg"
    code, out, _ = dagrad("generate", "random-regular", "-n", 20, "--seed", 3, "-o", first)
    assert (code, out) == (0, f"wrote {first}: random-regular, 20 workers, 40 edges\n")
    assert dagrad("convert", first, second)[0] == 0
    assert read(first).rounds[0].edges.tolist() == read(second).rounds[0].edges.tolist()
    code, out, _ = dagrad("inspect", second, "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["size"], facts["degree_least"], facts["connected"], facts["directed"]) == (20, 4, True, False)
    assert facts["gap"] == pytest.approx(1 - facts["second"])
    code, out, _ = dagrad("plot", second, "-o", picture, "--layout", "kamada")
    assert (code, out) == (0, f"drew {picture}: file, 20 workers, 40 edges\n")
    assert "<svg" in picture.read_text()


def test_without_a_file_the_edges_go_to_stdout(dagrad: Run) -> None:
    assert dagrad("generate", "ring", "-n", 3) == (0, "# undirected\n0 1\n0 2\n1 2\n", "")
    facts = json.loads(dagrad("generate", "base", "-n", 8, "-d", 1, "--json")[1])
    assert facts == {"kind": "base", "size": 8, "rounds_in_period": 3, "directed": False, "links": 12}


def test_inspect_tells_a_reader_what_matters(dagrad: Run) -> None:
    code, out, _ = dagrad("inspect", "hash-rings", "-n", 64)
    assert code == 0
    for part in ("hash-rings, 64 workers", "spectral gap", "rounds predicted", "25 %: whole in", "liars", "diameter 5"):
        assert part in out
    assert "exact mean after 3 rounds" in dagrad("inspect", "base", "-n", 8, "-d", 1)[1]
    assert "in expectation only" in dagrad("inspect", "epidemic", "-n", 8)[1]


def test_a_graph_in_parts_is_exit_code_one(dagrad: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b\nc d\n")
    code, out, _ = dagrad("inspect", tmp_path / "a.txt")
    assert code == 1
    assert "no: it falls into parts" in out and "never" in out


def test_one_round_of_a_sequence_can_be_taken(dagrad: Run, tmp_path: Path) -> None:
    dagrad("generate", "base", "-n", 8, "-d", 1, "-o", tmp_path / "a.json")
    code, out, _ = dagrad("convert", tmp_path / "a.json", tmp_path / "a.dot", "--round", 2, "--json")
    assert code == 0 and json.loads(out)["links"] == 4
    code, _, err = dagrad("convert", tmp_path / "a.json", tmp_path / "a.dot", "--round", 4)
    assert code == 2 and "has 3 rounds, none of number 4" in err


def test_kinds_are_compared(dagrad: Run) -> None:
    code, out, err = dagrad("compare", "-k", "ring,torus,hash-rings", "-n", "16,17", "--seeds", 2)
    assert code == 0
    assert "means over 2 draws" in out
    assert "torus, 17: a torus needs a size that is a product" in out.replace("\n", " ")
    assert max(map(len, out.splitlines())) <= 120
    rows = json.loads(dagrad("compare", "-k", "ring", "-n", "32,64", "--json")[1])
    assert [(row["size"], round(row["gap"], 3), row["gap_published"]) for row in rows] == [
        (32, 0.013, 0.013),
        (64, 0.003, 0.003),
    ]
    assert not set(COMPARED.split(",")) - set(KINDS)
    assert "Traceback" not in err


def test_the_table_fits_a_terminal_of_80_columns(dagrad: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagrad_bus.tools import tables

    monkeypatch.setattr(tables, "_PLAIN_WIDTH", 80)
    code, out, _ = dagrad("compare", "-n", "64", "--seeds", 2)
    assert code == 0 and "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_pictures_of_several_are_side_by_side(dagrad: Run, tmp_path: Path) -> None:
    code, out, _ = dagrad("plot", "ring", "complete", "-n", 6, "-o", tmp_path / "a.svg", "--json")
    assert code == 0
    assert [one["kind"] for one in json.loads(out)] == ["ring", "complete"]
    assert "gap 1.000" in (tmp_path / "a.svg").read_text()


BAD: list[tuple[list[Any], str]] = [
    (["generate", "tree"], "kind is 'tree': needs one of hash-rings"),
    (["generate", "torus", "-n", 17], "product of two numbers"),
    (["generate", "ring", "-o", "a.png"], "the suffix says the format"),
    (["generate", "base", "-o", "a.dot"], "sequence of"),
    (["inspect", "tree"], "'tree' is neither a file nor a kind"),
    (["inspect", "none.json"], "cannot read none.json: No such file"),
    (["inspect", "none.json", "-n", 5], "leave --size out"),
    (["plot", "ring", "-o", "a.txt"], "a picture needs one of .png, .svg"),
    (["compare", "-k", "ring,tree"], "kind is 'tree'"),
    (["compare", "-n", "8,x"], "--sizes is '8,x'"),
    (["rewire", "nowhere", "--epoch", 1], "is not a run folder"),
    (["rewire", "nowhere"], "nothing to change"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_input_is_one_clear_line(
    words: list[Any], message: str, dagrad: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = dagrad(*words)
    assert (code, out) == (2, "")
    assert err.startswith("dagrad: ") and err.count("\n") == 1 and message in err


def test_without_matplotlib_plot_says_what_to_install(
    dagrad: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = dagrad("plot", "ring", "-o", tmp_path / "a.png")
    assert code == 2 and "pip install 'dagrad-bus[topology]'" in err
