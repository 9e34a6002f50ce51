"""Orders and answers find one another; late ones and dead ends are told apart."""

from __future__ import annotations

import socket

import pytest

from dagrad_bus.faults.lines import Line, OrderFailed, ProcessGone


def test_answers_are_matched_by_number() -> None:
    ours, theirs = (Line(sock) for sock in socket.socketpair())
    late = ours.start("slow")
    number = ours.start("state", names=["a"])
    assert theirs.receive(1) == {"id": late, "op": "slow"}
    assert theirs.has_more
    assert theirs.receive(1) == {"id": number, "op": "state", "names": ["a"]}
    theirs.send({"id": late, "step": 1})
    theirs.send({"id": number, "step": 2})
    assert ours.await_answer(number, 1)["step"] == 2
    theirs.send({"id": 3, "error": "no"})
    with pytest.raises(OrderFailed, match="no"):
        ours.ask("more", 1)
    with pytest.raises(TimeoutError):
        ours.receive(0.01)
    theirs.close()
    with pytest.raises(ProcessGone):
        ours.receive(1)
    ours.close()
