"""What rules do at a boundary: who asks whom, what is one exchange, what is forgotten."""

from __future__ import annotations

import math

import pytest

from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.crowd import Crowd, Letter
from dagrad_bus.lab.manners import ANSWER, QUESTION, Pair, Server, Silent, Sparse, is_whole, manner_of, newest
from dagrad_bus.lab.parcels import Parcels, Simulated
from dagrad_bus.lab.scenario import Scenario
from dagrad_bus.settings import ExchangeSettings

SIZE = 1000.0


def make_crowd(rule: Simulated = "state", *, count: int = 2, parts: int = 1, interval: int = 1) -> Crowd:
    """Make workers that are all joined with each other, or with worker 0 alone under a rule with a server."""
    costs = Costs(compute=0.1, spread=0.0, bandwidth=math.inf, latency=0.0)
    scenario = Scenario(
        rule=rule, workers=count, costs=costs, exchange=ExchangeSettings(interval=interval), warmup=0, steps=1000
    )
    near = [[peer for peer in range(count) if peer != index] for index in range(count)]
    if rule == "async-ps":
        near[1:] = [[0]] * (count - 1)
    return Crowd(scenario, near, Parcels(SIZE, parts))


def step(crowd: Crowd, manner: Sparse | Pair | Server, index: int) -> float:
    """Let one worker come to a boundary, a moment later than everything before."""
    crowd.world.run(crowd.world.now + 0.01)
    worker = crowd.workers[index]
    worker.steps += 1
    return manner.boundary(worker)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [("local", Silent), ("state", Sparse), ("choco", Sparse), ("gossip-qsgd", Sparse), ("gossip-dense", Pair),
     ("async-ps", Server)],
)  # fmt: skip
def test_every_rule_that_never_waits_has_its_manner(rule: Simulated, kind: type) -> None:
    assert isinstance(manner_of(make_crowd(rule)), kind)


def test_a_sparse_frame_costs_once_and_goes_to_all() -> None:
    crowd = make_crowd(count=4)
    manner = Sparse(crowd)
    assert step(crowd, manner, 0) == SIZE
    assert step(crowd, manner, 1) == 2 * SIZE  # its own and one that came
    assert crowd.workers[1].contacts == 1
    assert crowd.workers[0].sent == pytest.approx(3 * SIZE, rel=0.3)


def test_an_interval_is_kept() -> None:
    crowd = make_crowd(interval=3)
    manner = Sparse(crowd)
    assert [step(crowd, manner, 0) for _ in range(6)] == [0, 0, SIZE, 0, 0, SIZE]


def test_a_newer_frame_of_the_same_part_makes_the_older_void() -> None:
    crowd = make_crowd("gossip-qsgd", parts=2)
    manner = Sparse(crowd, coalesces=True, fanout=1)
    for _ in range(5):  # parts 0, 1, 0, 1, 0
        step(crowd, manner, 0)
    step(crowd, manner, 1)
    assert crowd.workers[1].contacts == 2
    link = crowd.workers[0].outgoing[0]
    letters = [Letter(SIZE, float(age), 0, age % 2, 0) for age in range(5)]
    assert [letter.made for letter in newest([(link, letter) for letter in letters])] == [4.0, 3.0]


def test_a_question_is_answered_and_both_have_averaged() -> None:
    crowd = make_crowd("gossip-dense")
    manner = Pair(crowd)
    step(crowd, manner, 0)  # asks
    step(crowd, manner, 1)  # averages and answers; asks nobody, as its one neighbour is being sent to
    assert crowd.workers[1].contacts == 1
    step(crowd, manner, 0)
    assert crowd.workers[0].contacts == 1


def test_who_ask_each_other_take_the_question_as_the_answer() -> None:
    crowd = make_crowd("gossip-dense", interval=2)
    manner = Pair(crowd)
    crowd.workers[0].steps = crowd.workers[1].steps = 2
    manner.boundary(crowd.workers[0])
    manner.boundary(crowd.workers[1])
    step(crowd, manner, 0)
    step(crowd, manner, 1)
    assert [worker.contacts for worker in crowd.workers] == [1, 1]


def test_a_vector_of_frames_leaves_one_frame_a_step_and_counts_when_it_is_whole() -> None:
    crowd = make_crowd("gossip-dense", parts=3)
    manner = Pair(crowd)
    for sent in range(3):
        assert step(crowd, manner, 0) == SIZE, sent
    assert step(crowd, manner, 0) == 0  # waits for the answer
    step(crowd, manner, 1)
    assert crowd.workers[1].contacts == 1
    got: dict[tuple[int, int], int] = {}
    assert [is_whole(got, (0, QUESTION), 3) for _ in range(6)] == [False, False, True] * 2


def test_a_worker_pushes_anew_when_the_answer_is_here() -> None:
    crowd = make_crowd("async-ps", count=3)
    manner = Server(crowd)
    assert step(crowd, manner, 1) == SIZE  # pushes
    assert step(crowd, manner, 1) == 0  # waits for nobody, sends nothing
    step(crowd, manner, 0)  # adds and answers
    assert crowd.workers[0].contacts == 1
    assert step(crowd, manner, 1) == 2 * SIZE  # takes over, pushes anew
    assert crowd.workers[1].contacts == 1
    assert crowd.workers[2].contacts == 0


def test_a_server_sends_one_copy_to_all_who_wait() -> None:
    crowd = make_crowd("async-ps", count=5)
    manner = Server(crowd)
    for index in range(1, 5):
        step(crowd, manner, index)
    assert step(crowd, manner, 0) == 4 * SIZE + SIZE
    for index in range(1, 5):
        step(crowd, manner, index)
    assert [worker.contacts for worker in crowd.workers] == [4, 1, 1, 1, 1]


def test_who_has_left_is_forgotten() -> None:
    pairs = make_crowd("gossip-dense", parts=2)
    pair = Pair(pairs)
    step(pairs, pair, 0)
    pair.lost(pairs.workers[0], pairs.workers[1])
    assert step(pairs, pair, 0) == SIZE  # asks anew instead of going on
    served = make_crowd("async-ps", count=2)
    server = Server(served)
    step(served, server, 1)
    step(served, server, 0)
    server.lost(served.workers[1], served.workers[0])
    server.lost(served.workers[0], served.workers[1])
    assert step(served, server, 1) > 0
    assert QUESTION != ANSWER
