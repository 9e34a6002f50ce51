"""The silent port does nothing and says so."""

from __future__ import annotations

import numpy as np

from dagrad_bus.attach.port import Port, Silent
from dagrad_bus.codec import Value
from dagrad_bus.events import Outgoing, Selection, View
from dagrad_bus.ids import JobId, Step
from dagrad_bus.wire import Kind


def test_the_silent_port_takes_nothing_and_never_fails() -> None:
    port: Port = Silent()
    selection = Selection(np.array([0]), np.zeros((1, 1), np.float32))
    assert port.view() == View(())
    assert not port.publish(Outgoing(JobId(1), (), Kind.STATE, Value.F32, selection, Step(1), 1.0, 0.0))
    port.wait(60.0)
    port.note_step(1, 1.0)
    port.sample(1, np.zeros(1, np.float32))
    port.log(loss=1.0)
    assert port.failure() is None
    assert port.snapshot() == {"counters": {}, "gauges": {}, "histograms": {}}
    port.close()
