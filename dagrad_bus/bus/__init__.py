"""The message bus on one event loop: tasks, timer, queues; turns the cores' events into actions."""

from dagrad_bus.bus.core import Bus

__all__ = ["Bus"]
