"""Who a worker is among the members, for rules with a server: the member whose name sorts first trains and serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.settings import Settings
from dagrad_bus.topology.live import TopologySpec, neighbours


@dataclass(frozen=True, slots=True)
class Role:
    """One worker's place in a run with a parameter server."""

    me: NodeId
    members: tuple[NodeId, ...]
    """All workers launched, in the order of their names: the order of every sum. The first one is the server."""
    names: Mapping[NodeId, str] = field(default_factory=dict[NodeId, str])

    @property
    def server(self) -> NodeId:
        """Who sums up."""
        return self.members[0]

    @property
    def is_server(self) -> bool:
        """Whether that is this worker."""
        return self.me == self.server

    def name_of(self, member: NodeId) -> str:
        """Return the name of ``member``, for messages."""
        return self.names.get(member, member.hex())


def role_of(settings: Settings) -> Role:
    """Return the role that ``settings`` give this worker.

    Raises:
        UsageError: the members are not known, this worker was not launched with them and the rule counts on all, or
            the graph does not join the server with everybody.
    """
    rule = settings.exchange.rule
    if not settings.members:
        raise UsageError(f"rule {rule} needs the names of all members: start the workers with dagrad run")
    if rule == "sync-ps" and settings.name not in settings.members:
        raise UsageError(f"rule sync-ps counts on the workers launched: {settings.name} cannot join later")
    names = {derive_node_id(settings.run, name): name for name in sorted(settings.members)}
    members = tuple(names)
    graph = TopologySpec(kind=settings.topology, degree=settings.degree)
    if set(neighbours(members[0], members, graph)) != set(members[1:]):
        raise UsageError(
            f"rule {rule} needs a link between its server {names[members[0]]} and every worker, and the graph "
            f"{settings.topology} has none: use --topology complete"
        )
    return Role(derive_node_id(settings.run, settings.name), members, names)
