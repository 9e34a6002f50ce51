from __future__ import annotations

from rich.console import Console

from dagrad_bus.tools.plan import make_plan
from dagrad_bus.tools.plan_tables import plan_tables

OPTIONS = {"hostfile": None, "host_list": None, "include": None, "exclude": None, "bandwidth": None, "rate": 4.0}


def _text(**options: object) -> str:
    made = make_plan(OPTIONS | {"port_range": "20000-32000", **options})
    console = Console(width=140)
    with console.capture() as captured:
        console.print(plan_tables(made))
    return captured.get()


def test_every_number_is_named() -> None:
    text = _text(model="301066", workers=8, exchange_wire="int8")
    for said in ("301 066 elements", "4 516 of 301 066 single elements, int8", "284 B scales", "4 steps/s",
                 "of synchronous dense", "hash-rings, 8 workers, degree 4, 16 links", "rounds to 1e-3", "anchor 1.20 MB",
                 "local.7"):  # fmt: skip
        assert said in text, (said, text)
    assert "assumed" not in text and "leave it" not in text


def test_many_workers_are_cut() -> None:
    text = _text(model="1M", workers=None, host_list="a:40,b:40", rate=None)
    assert "and 48 more" in text and "assumed" in text and "leave it" in text
