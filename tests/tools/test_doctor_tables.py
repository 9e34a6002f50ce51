from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from dagrad_bus.tools.doctor_tables import faults_table, host_table, path_table, run_table
from dagrad_bus.workers.launch.examination.judgement import Examined, Fault, HostFacts, PathFacts
from dagrad_bus.workers.launch.examination.live import RunFacts, WorkerFacts


def _text(shown: RenderableType) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(shown)
    return console.export_text()


def _examined(paths: list[PathFacts], **facts: Any) -> Examined:
    good = HostFacts(
        label="node1", target="node1", reached=True, address="10.0.0.1", login=0.4, offset=0.01, facts=facts
    )
    lost = HostFacts(label="node2", target="node2")
    return Examined(hosts=[good, lost], paths=paths, here={}, first_port=1, last_port=9)


def test_each_fault_stands_with_its_repair() -> None:
    faults = [Fault("fault", "clock", "node2", "clock is late", "chronyc"), Fault("warning", "x", "a", "b", "c")]
    text = _text(faults_table(faults))
    assert "node2: clock is late" in text and "chronyc" in text and "1 fault, 1 warning" in text
    assert "no faults" in _text(faults_table([]))


def test_hosts_with_few_facts_have_a_row() -> None:
    text = _text(host_table(_examined([])))
    assert "node1" in text and "not reached" in text
    facts = {"fds": [1024, None], "memory": {"available": 3 << 30}, "cores": {"usable": 4, "quota": 2.0},
             "temporary": {"free": 5 << 30}, "packages": {"torch": "2.13.0"}}  # fmt: skip
    text = _text(host_table(_examined([], **facts)))
    assert "1 024" in text and "3.0 GiB" in text and "1/2" in text and "2.13.0" in text and "+10" in text


def test_of_a_pair_the_worst_port_is_shown() -> None:
    def path(target: str, port: int, **values: Any) -> PathFacts:
        return PathFacts(source="node1", target=target, address="10.0.0.2", port=port, **values)

    text = _text(path_table(_examined([path("node2", 5, rtt=0.001, rate=2e6), path("node2", 6, error="timeout")])))
    assert "timeout, port 6" in text and "1.00 ms" not in text
    many = [path(f"n{number}", 5, rtt=number / 1000) for number in range(50)]
    text = _text(path_table(_examined(many)))
    assert "and 10 better ones" in text and "49.00 ms" in text and "5.00 ms" not in text.replace("15.00", "").replace(
        "25.00", "").replace("35.00", "").replace("45.00", "")  # fmt: skip


def test_workers_of_a_run_have_a_row() -> None:
    workers = [WorkerFacts(name="a.0", state="alive", links=3, expected_links=4, step=7, quiet=0.5),
               WorkerFacts(name="a.1", state="dead")]  # fmt: skip
    text = _text(run_table(RunFacts(path="r", run="1", workers=workers)))
    assert "3/4" in text and "dead" in text and "0.5 s" in text
