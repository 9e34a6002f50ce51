"""The message bus on one event loop: tasks, timer, queues; turns the cores' events into actions."""

from dagrad_bus.bus.endpoint import Bus
from dagrad_bus.bus.engine import Engine

__all__ = ["Bus", "Engine"]
