"""How fast a worker takes frames, beside a plain pyzmq loop that only takes messages.

Three sides in turn, each with a receiver and a sender in processes of their own, pinned to two cores where there are:

* ``raw``: a ROUTER drained by ``add_reader`` and ``recv_multipart``, which looks at nothing; the sender pumps the same
  parts as ``replay``, as fast as libzmq takes them. This is the limit.
* ``replay``: the receiving bus as it is (HELLO, link, credit, crc, assembly, decoding, mailbox drained by its owner);
  the sender is bare and replays frames packed beforehand, honouring credit, so the receiver is what is measured.
* ``bus``: the same receiver, and real buses as senders.

All have the same number of senders, DEALERs with the options of the bus. Large frames are 4000 blocks of 64 float32,
four chunks of up to 256 KiB; small ones a single block of 16, about 190 bytes in three parts. Throughput is wall time
from the first hundredth of the frames to the last one, or for 4 s; CPU is all the receiver's threads, libzmq's included.

    python benchmarks/bench_bus.py [--rounds 5] [--quick] [--json] [--profile FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import zmq
from spread import Row, Spread, interleave, report, spread_of_ratios

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus import Engine
from dagrad_bus.bus.framing import pack_frame
from dagrad_bus.bus.identity import Identity
from dagrad_bus.codec import Value
from dagrad_bus.events import Outgoing, Selection
from dagrad_bus.handoff import loop_factory
from dagrad_bus.ids import JobId, NodeId, Step, derive_node_id
from dagrad_bus.link import Packed
from dagrad_bus.settings import LinkSettings, Settings, TransportSettings
from dagrad_bus.transport import DRAIN_BYTES, DRAIN_MESSAGES
from dagrad_bus.wire import CHUNK, Ack, AckInfo, Data, HelloOk, Kind, pack, parse

LARGE_TARGET, SMALL_TARGET = 0.9, 0.5
LIMIT = 4.0
"""Seconds after which a repetition ends, however many frames are left."""
RECEIVER = "w.0"
Parts = list[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent."""

    name: str
    elements: int
    block: int
    blocks: int
    """In a frame."""
    frames: int
    senders: int
    window: int
    """Frames in flight a link; 0 is the default of the settings."""

    @property
    def layout(self) -> Layout:
        """The layout of all ends."""
        return Layout((Entry("x", (self.elements,), "float32"),), (), self.block)

    @property
    def members(self) -> tuple[str, ...]:
        """Receiver and senders."""
        return tuple(f"w.{number}" for number in range(self.senders + 1))

    def settings(self, name: str) -> Settings:
        """Return the settings of one end. With this degree all are neighbours."""
        degree = self.senders + self.senders % 2
        link = LinkSettings(window=self.window, mailbox_frames=max(4, self.window)) if self.window else LinkSettings()
        transport = TransportSettings(codec="raw")
        return Settings(run="bench", name=name, members=self.members, degree=degree, link=link, transport=transport)

    def outgoing(self, number: int, links: tuple[NodeId, ...]) -> Outgoing:
        """Return frame ``number``."""
        step = self.layout.blocks // self.blocks
        indices = np.arange(0, self.blocks * step, step, dtype=np.int64)
        values = np.random.default_rng(1).standard_normal((self.blocks, self.block)).astype(np.float32)
        return Outgoing(
            JobId(number), links, Kind.STATE, Value.F32, Selection(indices, values), Step(1), 10.0, time.monotonic()
        )

    def packed(self) -> Packed:
        """Return a frame in its encoded form."""
        return pack_frame(self.outgoing(1, ()), self.layout, frozenset())


@dataclass(frozen=True, slots=True)
class Result:
    """One repetition, as the receiver saw it."""

    seconds: float
    cpu: float
    """Seconds of all threads of the receiver."""
    messages: int
    size: int
    """Bytes of all parts after the routing id."""

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Messages a second of the receiver's CPU time."""
        return self.messages / self.cpu


class Meter:
    """Counts frames; the clock runs from the first hundredth of them to the last, or to the time limit."""

    def __init__(self, frames: int, messages: int, size: int) -> None:
        self._wanted, self._messages, self._size = frames, messages, size
        self._first = max(1, frames // 100)
        self._seen = 0
        self._over = asyncio.Event()
        self._began: tuple[float, float, int] | None = None
        self._ended: tuple[float, float, int] | None = None

    def count(self, frames: int) -> None:
        """Take note of ``frames`` more."""
        self._seen += frames
        if self._began is None and self._seen >= self._first:
            self._began = self._now()
        if self._ended is None and self._seen >= self._wanted:
            self._ended = self._now()
            self._over.set()

    def _now(self) -> tuple[float, float, int]:
        return time.perf_counter(), cpu_seconds(), self._seen

    async def result(self) -> Result:
        """Wait for the last frame, or the time limit, and return what was counted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                await self._over.wait()
        end = self._ended or self._now()
        if self._began is None or end[2] == self._began[2]:
            raise RuntimeError(f"{self._seen} frames came within {LIMIT} s: nothing to measure")
        wall, cpu, frames = (b - a for a, b in zip(self._began, end, strict=True))
        return Result(wall, cpu, round(frames * self._messages), round(frames * self._size))


def cpu_seconds() -> float:
    """Return the CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def frame_messages(packed: Packed, edge: int, seq: int) -> list[Parts]:
    """Return the messages of one frame."""
    view = memoryview(packed.payload)
    return [
        pack(
            Data(
                edge=edge,  # type: ignore[arg-type]  # an EdgeId
                seq=seq,
                chunk_ix=number,
                chunk_n=packed.chunks,
                head=packed.head if number == 0 else None,
                payload=view[number * CHUNK : (number + 1) * CHUNK],
                crc=packed.crcs[number],
            )
        )
        for number in range(packed.chunks)
    ]


def frame_size(load: Load) -> tuple[int, int]:
    """Return messages and bytes of one frame."""
    messages = frame_messages(load.packed(), 1, 1)
    return len(messages), sum(len(part) for message in messages for part in message)


# The receiving process --------------------------------------------------------------------------------------------


async def receive_raw(load: Load) -> Result:
    """Take messages and look at nothing, with the budgets of the bus."""
    loop = asyncio.get_running_loop()
    messages, size = frame_size(load)
    meter = Meter(load.frames * messages, messages, size)
    with zmq.Context() as ctx, ctx.socket(zmq.ROUTER) as sock:
        sock.set(zmq.RCVHWM, 8)
        sock.set(zmq.LINGER, 0)
        say(f"tcp://127.0.0.1:{sock.bind_to_random_port('tcp://127.0.0.1')}")

        def drain() -> None:
            taken = 0
            for _ in range(DRAIN_MESSAGES):
                if taken >= DRAIN_BYTES:
                    break
                if sock.closed:  # a drain still queued when the side ended
                    return
                try:
                    parts = sock.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    return
                taken += sum(map(len, parts))
                meter.count(1)
            loop.call_soon(drain)

        descriptor = int(sock.get(zmq.FD))
        loop.add_reader(descriptor, drain)
        loop.call_soon(drain)
        result = await meter.result()
        loop.remove_reader(descriptor)
    return replace(result, messages=result.messages // messages, size=result.size // messages)


async def receive_bus(load: Load) -> Result:
    """Take frames with a bus whose owner empties the mailbox as soon as it can."""
    loop = asyncio.get_running_loop()
    meter = Meter(load.frames, *frame_size(load))
    woken = False

    def wake() -> None:
        nonlocal woken
        if not woken:
            woken = True
            loop.call_soon(take)

    def take() -> None:
        nonlocal woken
        woken = False
        if arrivals := bus.mailbox.take():
            meter.count(len(arrivals))
            bus.drained()

    async with Engine(load.settings(RECEIVER), load.layout) as bus:
        bus.outlook.on_change = wake
        say(bus.transport.inbox)
        return await meter.result()


def say(line: str) -> None:
    """Tell the parent process."""
    print(line, flush=True)


# The sending process ----------------------------------------------------------------------------------------------


class Replayer:
    """One bare sender of frames packed beforehand."""

    def __init__(self, ctx: zmq.Context[zmq.Socket[bytes]], load: Load, name: str, target: str) -> None:
        self.dealer = ctx.socket(zmq.DEALER)
        self.inbox = ctx.socket(zmq.ROUTER)
        self._beat = ctx.socket(zmq.PUB)
        for sock in (self.dealer, self.inbox, self._beat):
            sock.set(zmq.LINGER, 0)
        ends = [f"tcp://127.0.0.1:{sock.bind_to_random_port('tcp://127.0.0.1')}" for sock in (self.inbox, self._beat)]
        self.identity = Identity(load.settings(name), load.layout, time.time_ns())
        self.dealer.set(zmq.ROUTING_ID, b"\1" + self.identity.node + secrets.token_bytes(8))
        self.dealer.set(zmq.SNDHWM, 2)
        self.dealer.connect(target)
        self._hello = self.identity.hello(*ends)
        self._frames = load.frames // load.senders
        self._packed = load.packed()
        self._waiting: list[list[Parts]] = []
        self._seq = 0
        self._credit = 0

    def greet(self) -> None:
        """Ask for a link."""
        self.dealer.send_multipart(pack(replace(self._hello, wanted=True)))

    def prepare(self, edge: int) -> None:
        """Pack all frames."""
        self._waiting = [frame_messages(self._packed, edge, seq + 1) for seq in range(self._frames)]

    def answer(self) -> bool:
        """Take one message of the receiver; return whether the link is up."""
        message = parse(self.inbox.recv_multipart()[1:])
        if isinstance(message, HelloOk) and message.edge and not self._waiting:
            self.prepare(message.edge)
            self._note(message.ack)
            return True
        if isinstance(message, Ack):
            self._note(message.info)
        return False

    def _note(self, info: AckInfo | None) -> None:
        self._credit = max(self._credit, info.credit if info is not None else 0)

    def grant_all(self) -> None:
        """Pump without credit."""
        self.prepare(1)
        self._credit = self._frames

    def pump(self) -> bool:
        """Send what credit allows, one frame at most; return whether anything left."""
        if self._seq >= min(self._credit, self._frames):
            return False
        for parts in self._waiting[self._seq]:
            self.dealer.send_multipart(parts, copy=len(parts[-1]) < 65536)
        self._seq += 1
        return True

    @property
    def done(self) -> bool:
        """Whether all frames have left."""
        return self._seq == self._frames


def send_replay(load: Load, target: str, *, raw: bool) -> None:
    """Replay frames from several bare senders until all have left, then wait to be ended."""
    ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    senders = [Replayer(ctx, load, name, target) for name in load.members[1:]]
    poller = zmq.Poller()
    missing = len(senders)
    for sender in senders:
        poller.register(sender.inbox, zmq.POLLIN)
        if raw:
            sender.grant_all()
        else:
            sender.greet()
    while missing and not raw:  # all links up before the first frame
        for sock, _ in poller.poll():
            missing -= next(s for s in senders if s.inbox is sock).answer()
    by_sock = {sender.inbox: sender for sender in senders}
    while not all(sender.done for sender in senders):
        moved = sum(sender.pump() for sender in senders)
        for sock, _ in poller.poll(0 if moved else 1000):
            by_sock[sock].answer()
    sys.stdin.read()


async def send_bus(load: Load, target: str) -> None:
    """Publish from real buses whenever the link is ready, until ended."""
    async with asyncio.TaskGroup() as group:
        for name in load.members[1:]:
            group.create_task(publish_all(load, name, target), name=name)


async def publish_all(load: Load, name: str, target: str) -> None:
    """Be one sender."""
    receiver = derive_node_id("bench", RECEIVER)
    frame = load.outgoing(1, (receiver,))
    news = asyncio.Event()
    async with Engine(load.settings(name), load.layout) as bus:
        bus.outlook.on_change = news.set
        bus.connect(receiver, target, target)
        while True:  # until killed: the receiver counts
            if any(state.ready for state in bus.outlook.states if state.peer == receiver):
                bus.publish(frame)
                bus.outlook.outcomes.clear()
            else:
                news.clear()
                await news.wait()


# The parent -------------------------------------------------------------------------------------------------------


def run_side(load: Load, side: str, profile: str | None = None) -> Result:
    """Run one repetition of one side."""
    words = [sys.executable, __file__, "--load", load.name, "--frames", str(load.frames), "--side", side]
    words += ["--senders", str(load.senders), "--window", str(load.window)]
    extra = ["--profile", profile] if profile else []
    pipe = subprocess.PIPE
    with subprocess.Popen([*words, *extra, "--role", "receive"], stdout=pipe, text=True) as receiver:
        if receiver.stdout is None:
            raise AssertionError("asked for a pipe")
        target = receiver.stdout.readline().strip()
        with subprocess.Popen([*words, "--role", "send", "--target", target], stdin=pipe) as sender:
            answer = receiver.stdout.readline()
            sender.kill()
    if not answer:
        raise RuntimeError(f"{load.name} {side}: the receiver gave no result")
    return Result(**json.loads(answer))


def play_role(args: argparse.Namespace, load: Load) -> None:
    """Be one of the two processes."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0] if args.role == "receive" else cores[-1]})
    with asyncio.Runner(loop_factory=loop_factory("uvloop")) as runner:
        if args.role == "receive":
            profile = cProfile.Profile() if args.profile else None
            work = receive_raw(load) if args.side == "raw" else receive_bus(load)
            if profile is not None:
                profile.enable()
            result = runner.run(work)
            if profile is not None:
                profile.disable()
                profile.dump_stats(args.profile)
            say(json.dumps({name: getattr(result, name) for name in ("seconds", "cpu", "messages", "size")}))
        elif args.side == "bus":
            with suppress(KeyboardInterrupt):
                runner.run(send_bus(load, args.target))
        else:
            send_replay(load, args.target, raw=args.side == "raw")


def rows_of(load: Load, found: dict[str, list[Result]], target: float) -> list[Row]:
    """Return the rows of one load."""
    rows = []
    for side, results in found.items():
        label = f"{load.name} {side}"
        rows.append(Row(f"{label} messages", Spread.over([r.rate for r in results]), "1/s"))
        rows.append(Row(f"{label} throughput", Spread.over([r.size / r.seconds / 1e6 for r in results]), "MB/s"))
        rows.append(Row(f"{label} CPU", Spread.over([r.cpu / r.size * 1e9 for r in results]), "ms/MB"))
    for side in ("replay", "bus"):
        rate = spread_of_ratios([r.rate for r in found[side]], [r.rate for r in found["raw"]])
        cpu = spread_of_ratios([r.cpu_rate for r in found[side]], [r.cpu_rate for r in found["raw"]])
        goal = target if side == "replay" else None
        rows.append(Row(f"{load.name} {side} rate, ratio", rate, "x", at_least=goal, against="raw"))
        rows.append(Row(f"{load.name} {side} rate a CPU second, ratio", cpu, "x", against="raw"))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each side, default 5")
    parser.add_argument("--senders", type=int, default=4, help="neighbours that send, default 4")
    parser.add_argument("--window", type=int, default=0, help="frames in flight a link, default that of the bus")
    parser.add_argument("--frames", type=int, default=0, help="frames a repetition, default by load")
    parser.add_argument("--load", choices=["large", "small"], action="append", help="default both")
    parser.add_argument("--quick", action="store_true", help="2 repetitions of a quarter of the frames")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--profile", metavar="FILE", help="only profile the receiver of 'replay' into FILE")
    for hidden in ("--role", "--side", "--target"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    share = 4 if args.quick else 1
    large = Load("large", 4_000_000, 64, 4000, args.frames or 1600 // share, args.senders, args.window)
    small = Load("small", 100_000, 16, 1, args.frames or 100_000 // share, args.senders, args.window)
    chosen = [load for load in (large, small) if load.name in (args.load or ("large", "small"))]
    if args.role:
        play_role(args, chosen[0])
        return 0
    if args.profile:
        run_side(chosen[0], "replay", args.profile)
        return 0
    rows = []
    for load, target in ((large, LARGE_TARGET), (small, SMALL_TARGET)):
        if load in chosen:
            sides = {side: partial(run_side, load, side) for side in ("raw", "replay", "bus")}
            rows += rows_of(load, interleave(sides, 2 if args.quick else args.rounds), target)
    facts = {"pyzmq": zmq.pyzmq_version(), "libzmq": zmq.zmq_version(), "senders": args.senders, "window": args.window}
    report("bus", rows, as_json=args.json, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
