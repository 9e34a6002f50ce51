"""What becomes of a whole frame: decoded, put into the mailbox, and its link told the verdict."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dagrad_bus.bus.coding import Bench
from dagrad_bus.bus.framing import INLINE_BYTES, nack_code, unpack_frame
from dagrad_bus.errors import RemoteError
from dagrad_bus.events import Arrival
from dagrad_bus.ids import NodeId
from dagrad_bus.link import Assembled
from dagrad_bus.wire import NackCode

if TYPE_CHECKING:
    from dagrad_bus.bus.engine import Engine


class Intake:
    """Decodes the frames of one bus: small ones on the loop, large ones beside it, those of a link in order."""

    def __init__(self, bus: Engine) -> None:
        self._bus = bus
        self._bench = Bench(bus.threads, self._unpack, self._unpacked)
        self._decoding: Counter[NodeId] = Counter()
        """Frames of a peer with the decoder thread; while there are any, all go there, so their order holds."""
        self.run = self._bench.run

    def decode(self, frame: Assembled) -> None:
        """Take a frame; its verdict follows, now or later."""
        waiting = self._decoding[frame.peer]
        if frame.head.raw_size <= INLINE_BYTES and not waiting:
            self._decided(frame, self._unpack(frame))
        elif self._bench.put(frame):
            self._decoding[frame.peer] += 1
        else:  # credit keeps the queue short, but a peer that greets again and again gets it anew each time
            self._bus.metrics.count("frames_dropped.overload")
            self._answer(frame, NackCode.OVERLOAD)

    def _unpack(self, frame: Assembled) -> Arrival | RemoteError:
        """Decode; on the loop or beside it."""
        bus = self._bus
        contact = bus.node.by_peer.get(frame.peer)
        transit = frame.head.queued_ms / 1000 + (contact.out.srtt / 2 if contact is not None else 0.0)
        try:
            return unpack_frame(frame, frame.peer, bus.layout, bus.identity.codecs, transit)
        except RemoteError as error:
            return error

    def _unpacked(self, frame: Assembled, result: Arrival | RemoteError) -> None:
        self._decoding[frame.peer] -= 1
        self._decided(frame, result)

    def _decided(self, frame: Assembled, result: Arrival | RemoteError) -> None:
        if isinstance(result, Arrival):
            self._bus.mailbox.put(result)
            self._bus.metrics.count("frames_received")
            self._answer(frame, 0)
        else:
            self._bus.metrics.count("frames_dropped.decode")
            self._answer(frame, nack_code(result))

    def _answer(self, frame: Assembled, code: int) -> None:
        self._bus.node.verdict(frame, code, self._bus.loop.time())
