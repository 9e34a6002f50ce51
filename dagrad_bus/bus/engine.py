"""The engine of the bus: drives a :class:`~dagrad_bus.bus.node.Node` with ZeroMQ sockets and one timer, on one loop.

Everything here runs on the loop's thread; frames over :data:`~dagrad_bus.bus.framing.INLINE_BYTES` are coded on a
thread beside it. What is sent when, and to whom, is the node's affair.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from dagrad_bus.blocks import Layout
from dagrad_bus.bus.alarm import Alarm
from dagrad_bus.bus.coding import Bench
from dagrad_bus.bus.framing import INLINE_BYTES, allowed, pack_frame
from dagrad_bus.bus.identity import Identity, boot_epoch
from dagrad_bus.bus.intake import Intake
from dagrad_bus.bus.node import Node
from dagrad_bus.bus.outlook import Outlook
from dagrad_bus.bus.upkeep import Upkeep
from dagrad_bus.errors import DiskFull, PortInUse, RemoteError, RendezvousLost, UsageError
from dagrad_bus.events import Outgoing
from dagrad_bus.ids import NodeId
from dagrad_bus.link import LinkUp, Packed, Rejected
from dagrad_bus.log import get_logger
from dagrad_bus.mailbox import Mailbox
from dagrad_bus.membership import GraphMissing, MemberChanged, SpecChanged
from dagrad_bus.metrics import Metrics
from dagrad_bus.rendezvous import Address, Folder, Rendezvous, find_graph
from dagrad_bus.settings import Settings
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.topology.static import StaticGraph
from dagrad_bus.transport import Transport, open_transport
from dagrad_bus.wire import StateRej, StateReq, parse

BIND_TRIES, BIND_PAUSE = 10, 0.5
"""How often, and how many seconds apart, a port is asked for that is taken."""
FAREWELL = 0.25
"""Seconds between the news that this worker leaves and its goodbye: its neighbours find each other in the meantime."""


class Engine:
    """One worker's end of the message bus, on the running loop; an async context manager.

    Frames of peers wait in :attr:`mailbox`; everything else an owner sees is in :attr:`outlook`.
    :class:`~dagrad_bus.bus.endpoint.Bus` wraps this for coroutines, ``dagrad_bus.attach`` for training loops.

    Args:
        settings: who this worker is and whom it talks to.
        layout: what is exchanged; peers with another one are refused.
        rendezvous: where addresses are told beside the folders of the settings; a store that these name must be
            handed in.

    Raises:
        UsageError: it is not.
    """

    node: Node
    outlook: Outlook
    metrics: Metrics

    def __init__(self, settings: Settings, layout: Layout, rendezvous: Rendezvous | None = None) -> None:
        if settings.meeting_store is not None and rendezvous is None:
            raise UsageError(f"{settings.rendezvous} is opened by dagrad_bus.attach: hand a bus its rendezvous")
        folders = [folder for folder in (settings.directory, settings.meeting_folder) if folder is not None]
        self.places: list[Rendezvous] = [*map(Folder, folders), *([rendezvous] if rendezvous is not None else [])]
        """Where addresses are told, without those that were lost."""
        self.settings = settings
        self.layout = layout
        self.mailbox = Mailbox(settings.link)
        self.metrics = Metrics()
        self.outlook = Outlook()
        self.identity = Identity(settings, layout, boot_epoch(settings))
        self.log = get_logger(worker=settings.name)
        self._is_flushing = False
        self._ended = False
        self._stack = AsyncExitStack()

    @property
    def self_id(self) -> NodeId:
        """This worker's id."""
        return self.identity.node

    @property
    def neighbours(self) -> tuple[NodeId, ...]:
        """Neighbours in the graph."""
        return self.node.neighbours

    async def __aenter__(self) -> Self:
        """Bind, tell the others the address, start.

        Raises:
            StartError: an address cannot be bound, or the run folder cannot be written.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self.loop.create_future()
        self._alarm = Alarm(self.loop, self._tick, self.fail)
        self._stack.callback(self._alarm.disarm)  # first in, last out: until then something may arm it again
        self.transport = await self._open_transport()
        self.threads = self._stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="dagrad-coder"))
        self.readers = ThreadPoolExecutor(2, thread_name_prefix="dagrad-rendezvous")
        self._stack.callback(self.places.clear)  # a store's connection ends with it
        self._stack.callback(self.readers.shutdown, wait=False, cancel_futures=True)  # a name server may take long
        self._encoder = Bench(self.threads, self._pack, self._submit)
        self._intake = Intake(self)
        self._upkeep = Upkeep(self)
        self.transport.start(self, self.fail)
        now = self.loop.time()
        node = Node(
            self.identity, self.transport, self.mailbox, self._intake.decode, self._chance(), now, self._find_graph,
            outlook=self.outlook, metrics=self.metrics,
        )  # fmt: skip
        self.node = node
        node.on_moved, node.on_event = self._schedule_flush, self._log
        await self._announce()
        node.tick(now)
        self._alarm.arm(node.due)
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        jobs = (self._watch, self._upkeep.watch_lag, self._upkeep.find_peers, self._upkeep.ask_seeds,
                self._encoder.run, self._intake.run)  # fmt: skip
        self._tasks = [group.create_task(job(), name=f"dagrad.{job.__qualname__}") for job in jobs]
        self._stack.push_async_exit(self._leave)

    async def _open_transport(self) -> Transport:
        """Bind; a port that is taken is tried again for a while, and then another one is advertised.

        An earlier life of this worker may still hold it, or a child that it forked and left behind.
        """
        settings = self.settings.transport
        for _ in range(BIND_TRIES):
            try:
                return self._stack.enter_context(open_transport(self.identity.node, settings))
            except PortInUse:
                if settings.advertise_inbox_port or settings.advertise_beat_port:
                    raise  # somebody forwards that very port
                await asyncio.sleep(BIND_PAUSE)
        self.log.warning("port_in_use", inbox=settings.inbox_port, beat=settings.beat_port, instead="any free port")
        self.metrics.count("ports_in_use")
        elsewhere = replace(settings, inbox_port=0, beat_port=0)
        return self._stack.enter_context(open_transport(self.identity.node, elsewhere))

    def _chance(self) -> np.random.Generator:
        return np.random.default_rng([int.from_bytes(self.identity.node, "little"), self.identity.epoch])

    def _find_graph(self, digest: bytes) -> StaticGraph | None:
        return find_graph(self.settings.directory, digest) if self.settings.directory is not None else None

    async def _announce(self) -> None:
        inbox, beat = self.transport.inbox, self.transport.beat
        mine = Address(name=self.settings.name, pid=os.getpid(), epoch=self.identity.epoch, inbox=inbox, beat=beat)
        for place in list(self.places):
            try:
                await self.loop.run_in_executor(self.readers, place.publish, mine)
            except DiskFull as error:  # a restart finds the others, and greets them with its address
                self.log.warning("address_not_written", why=str(error))
            except RendezvousLost as error:
                self.lost(place, error)

    def lost(self, place: Rendezvous, error: RendezvousLost) -> None:
        """Go on without a place that is gone: members tell each other's addresses."""
        if place in self.places:
            self.places.remove(place)
            self.metrics.count("rendezvous_lost")
            self.log.warning("rendezvous_lost", place=place.place, why=str(error))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Say goodbye, flush until the deadline, stop every task, close every socket.

        What the block raised comes out as it is; what tasks died of, as a group.
        """
        try:
            return await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if group.exceptions == (error,):
                return None
            raise

    async def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say goodbye if all is well, and stop the tasks. On the stack, so that whatever happens here all is closed."""
        try:
            if kind is None:
                await self._say_goodbye()
        finally:
            self._ended = True
            for task in self._tasks:
                task.cancel()

    async def _say_goodbye(self) -> None:
        """Tell the members, then the neighbours, and let what is queued out, as far as the flush time allows."""
        self.node.leave(self.loop.time())
        await asyncio.sleep(min(FAREWELL, self.settings.transport.flush) if self.node.neighbours else 0)
        self.node.say_goodbye(self.loop.time())
        self.node.flush(self.loop.time())
        deadline = self.loop.time() + self.settings.transport.flush
        while any(not contact.idle for contact in self.node.contacts):
            if self.loop.time() >= deadline:
                self.metrics.count("unflushed")
                return
            await asyncio.sleep(0.005)

    def fail(self, error: Exception) -> None:
        """Take an exception out of a callback: it ends the bus, like that of a task."""
        if not self._broken.done():
            self._broken.set_exception(error)

    async def _watch(self) -> None:
        await self._broken

    def _log(self, event: MemberChanged | SpecChanged | GraphMissing | Rejected | LinkUp) -> None:
        """Write down what is rare."""
        name_of = self.node.membership.name_of
        match event:
            case MemberChanged():
                self.log.info("member", peer=event.name, was=event.old, now=event.new, why=event.why)
            case SpecChanged(spec=spec):
                self.log.info("rewired", version=spec.version, kind=spec.kind, degree=spec.degree, epoch=spec.epoch)
            case GraphMissing(spec=spec):
                self.log.warning("graph_missing", version=spec.version, digest=spec.graph.hex())
            case Rejected():
                self.log.warning("link_refused", peer=name_of(event.peer), why=event.text)
            case LinkUp():
                self.log.info("link_up", peer=name_of(event.peer))

    # What the owner hands over ---------------------------------------------------------------------------------

    def publish(self, outgoing: Outgoing) -> None:
        """Send one frame; each of its links gets exactly one outcome, now or later."""
        by_peer = self.node.by_peer
        addressed = [by_peer[peer] for peer in outgoing.links if peer in by_peer]
        small = outgoing.selection.values.nbytes <= INLINE_BYTES
        if small and not any(contact.encoding for contact in addressed):
            self._submit(outgoing, self._pack(outgoing))
        elif self._encoder.put(outgoing):
            for contact in addressed:
                contact.encoding = True
            self.node.refresh()
        else:
            for peer in outgoing.links:
                self.node.settle(outgoing.job, peer)

    def _pack(self, outgoing: Outgoing) -> Packed:
        """Encode; on the loop or beside it."""
        contacts = [self.node.by_peer.get(peer) for peer in outgoing.links]
        takers = [contact.codecs for contact in contacts if contact is not None]
        return pack_frame(outgoing, self.layout, allowed(self.settings.transport.codec, takers))

    def _submit(self, outgoing: Outgoing, packed: Packed) -> None:
        self.metrics.count("payload_bytes_encoded", len(packed.payload))
        self.node.submit(outgoing.links, packed, self.loop.time())
        self.node.refresh()  # at once: an owner on this loop must not hand another frame to a link that has one

    def drained(self) -> None:
        """Take note that the owner emptied the mailbox: credit that had stopped returns."""
        self.node.drained(self.loop.time())

    def tell(self, peer: NodeId, message: StateReq | StateRej) -> bool:
        """Send a message of the state transfer; False: there is no connection to ``peer``."""
        return self.node.tell(peer, message, self.loop.time())

    def explore(self, peers: tuple[NodeId, ...]) -> None:
        """Hold links with members that are no neighbours, for a minute."""
        self.node.contacts.explore(peers, self.loop.time())
        self._schedule_flush()

    def rewire(self, spec: TopologySpec) -> None:
        """Publish a graph."""
        self.node.rewire(spec, self.loop.time())

    def connect(self, peer: NodeId, inbox: str, beat: str) -> None:
        """Open the connection to a member whose address the owner knows (without a run folder)."""
        now = self.loop.time()
        self.node.contacts.reach(peer, now, (inbox, beat))
        self._flush()

    def turn_to(self, peer: NodeId) -> None:
        """Compare tables with a member that is connected; one that did not take the greeting is greeted again."""
        contact, membership = self.node.contacts.reach(peer, self.loop.time()), self.node.membership
        record = membership.record_of(peer)
        if record is not None and record.epoch:
            self.node.do(membership.compare(peer, self.loop.time()))
        elif contact.connected and not contact.has_link:
            contact.queue(replace(self.node.hello, wanted=False))
            self.node.act(contact, [])

    # What the sockets tell -------------------------------------------------------------------------------------

    def received(self, routing: bytes, parts: list[bytes]) -> None:
        """Take one message of the inbox."""
        now = self.loop.time()
        if self.node.is_banned(routing, now):
            self.metrics.count("frames_dropped.banned")
            return
        try:
            message = parse(parts)
        except RemoteError as error:
            self.node.malformed(routing, error, now)
            return
        self.metrics.count("bytes_received", sum(map(len, parts)))
        self.node.received(routing, message, now)

    def beaten(self, peer: NodeId, parts: list[bytes]) -> None:
        """Take one broadcast from the socket that hears ``peer``."""
        try:
            message = parse(parts)
        except RemoteError as error:
            self.metrics.count(f"frames_dropped.{error.code}")
            return
        self.metrics.count("bytes_received", sum(map(len, parts)))
        self.node.beaten(peer, message, self.loop.time())
        self._alarm.arm(self.node.due)

    def connection(self, peer: NodeId, *, up: bool) -> None:
        """Take note of a connection made or broken."""
        self.node.connection(peer, up=up, now=self.loop.time())

    def refused(self, peer: NodeId) -> None:
        """Take note that nobody listens where ``peer`` did."""
        self.node.refused(peer, self.loop.time())

    def writable(self, peer: NodeId) -> None:
        """Take note that ``peer``'s socket has room again."""
        self.node.writable(peer, self.loop.time())

    # What follows ----------------------------------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        """Look at each link, and show the owner, once a burst and not once a message."""
        if not self._is_flushing:
            self._is_flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        self._guarded(lambda: self.node.flush(self.loop.time()))

    def _tick(self) -> None:
        """Let every core do what is due; a loop that was late hears the others out first."""
        self._upkeep.judge_lag()
        self._guarded(lambda: self.node.tick(self.loop.time()))

    def _guarded(self, step: Callable[[], None]) -> None:
        if self._ended:
            return
        try:
            step()
            self._alarm.arm(self.node.due)
        except Exception as error:  # noqa: BLE001  # outermost line of a callback: the bus ends with it
            self.fail(error)
