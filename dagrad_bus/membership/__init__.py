"""Who is there: the member table, failure detection, and the graph that follows from both. A core without I/O.

See docs/membership.md for states, order and times.
"""

from dagrad_bus.membership.actions import (
    Action,
    Actions,
    Flood,
    GraphMissing,
    Healed,
    MemberChanged,
    NeighboursChanged,
    SpecChanged,
    Superseded,
    Tell,
)
from dagrad_bus.membership.core import Membership
from dagrad_bus.membership.table import Base, Table
from dagrad_bus.membership.wiring import GraphSource, no_graphs

__all__ = [
    "Action",
    "Actions",
    "Base",
    "Flood",
    "GraphMissing",
    "GraphSource",
    "Healed",
    "MemberChanged",
    "Membership",
    "NeighboursChanged",
    "SpecChanged",
    "Superseded",
    "Table",
    "Tell",
    "no_graphs",
]
