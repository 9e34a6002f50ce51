"""Who breaks things: looks at the run once a second and draws, for each fault class that is on, whom it hits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from dagrad_bus.ids import EdgeId, NodeId
from dagrad_bus.messages import Ack, AckInfo, Bye, Gossip, Hello, MemberState, Message, Nack, Ping, Record
from dagrad_bus.sim.cluster import Cluster, Worker
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.plug import Line, Weather
from dagrad_bus.sim.worker import Process
from dagrad_bus.topology.live import TopologySpec

INTERVAL = 1.0
"""Seconds between two looks."""
FEWEST = 3
"""Workers that crashes and departures leave."""
Pairs = list[tuple[int, int]]


def weather_of(options: Options) -> Weather:
    """Return the network that the options of a run ask for."""
    weather = Weather()
    if options.has("latency"):
        weather.latency, weather.jitter, weather.late = (0.001, options.latency), 1.0, 0.5
    if options.has("rate"):
        weather.rate, weather.rate_share = options.rate, 0.3
    if options.has("drop"):
        weather.drop = options.drop
    if options.has("flip"):
        weather.flip = options.flip
    if options.has("full"):
        weather.full = options.full
    if options.has("reset"):
        weather.snap = options.reset / 2
    return weather


class Nemesis:
    """The source of faults."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world, self.network, self.options = cluster.world, cluster.network, cluster.options
        self.felt: Counter[str] = Counter()
        """How often each fault happened."""
        self.stopped = False
        self.closed: list[Pairs] = []
        """Directions closed at present, one list a partition."""
        self._specs = 0
        self._last = Hello(NodeId(bytes(16)), b"", 0, 0, b"", "10.0.0.9", 1, 2, "nobody", 1 << 20)
        self.world.after(INTERVAL, self._look)

    def _look(self, _: object, __: object) -> None:
        if self.stopped:
            return
        options = self.options
        for worker in self.cluster.running:
            self._look_at(worker)
        if options.has("partition") or options.has("oneway"):
            self._divide()
        if options.has("restart"):
            self._restart()
        if options.has("join") and self._chance(0.01) and len(self.cluster.workers) < 2 * options.workers:
            self.felt["join"] += 1
            self.cluster.join()
        if options.has("rewire") and self._chance(0.01):
            self.rewire()
        self.world.after(INTERVAL, self._look)

    def _chance(self, share: float) -> bool:
        return self.world.rng.random() < share

    def _look_at(self, worker: Worker) -> None:
        options, chance = self.options, self._chance
        if options.has("reset") and chance(options.reset):
            self.reset(worker)
        if options.has("hang") and chance(options.hang):
            self.hang(worker)
        if options.has("pause") and chance(options.pause):
            self.pause(worker, self.world.rng.choice((0.5, 2.0, 6.0, 25.0)))
        if options.has("stall") and chance(0.005):
            self.stall(worker, self.world.rng.uniform(2.0, 30.0))
        if options.has("slowreader") and chance(0.01):
            self.slow_down(worker, self.world.rng.uniform(2.0, 10.0), 10.0)
        if options.has("nocredit") and chance(0.01):
            self.withhold(worker, self.world.rng.uniform(1.0, 15.0))
        if options.has("wallclock") and chance(0.01):
            worker.wall_shift += self.world.rng.choice((-3600.0, -60.0, 60.0, 3600.0))
            self.felt["wallclock"] += 1
        if options.has("hostile") and chance(0.05):
            self.attack(worker)
        if len(self.cluster.running) > max(FEWEST, options.workers // 3):
            self._end_one(worker)

    def _end_one(self, worker: Worker) -> None:
        options = self.options
        if options.has("crash") and self._chance(options.crash):
            self.felt["crash"] += 1
            self.cluster.crash(worker)
        elif options.has("hostloss") and self._chance(options.crash / 2):
            self.felt["hostloss"] += 1
            self.cluster.crash(worker, host=True)
        elif options.has("leave") and self._chance(0.005):
            self.felt["leave"] += 1
            self.cluster.leave(worker)

    def _restart(self) -> None:
        for worker in self.cluster.workers:
            if worker.process is not None and not worker.is_up and self._chance(0.1):
                self.felt["restart"] += 1
                self.cluster.start(worker, same_port=self._chance(0.5))

    # Single faults -----------------------------------------------------------------------------------------------

    def line_of(self, worker: Worker) -> Line | None:
        """Return one of the connections that a worker sends or listens on."""
        if worker.process is None:
            return None
        plug = worker.process.plug
        dialers = [*plug.dialers.values(), *plug.ears.values()]
        lines = [dialer.line for dialer in dialers if dialer.line is not None]
        return self.world.rng.choice(lines) if lines else None

    def reset(self, worker: Worker) -> None:
        """Break one connection; the end is noticed late."""
        line = self.line_of(worker)
        if line is not None:
            self.felt["reset"] += 1
            self.network.cut(line, self.world.rng.expovariate(1 / self.network.weather.late))

    def hang(self, worker: Worker) -> None:
        """Let one connection deliver nothing for a while."""
        line = self.line_of(worker)
        if line is not None:
            self.felt["hang"] += 1
            self.network.hang(line, self.world.rng.uniform(0.5, 14.0))

    def pause(self, worker: Worker, seconds: float) -> None:
        """Stop a process for a while."""
        if worker.process is not None and worker.runs:
            self.felt["pause"] += 1
            process = worker.process
            process.pause()
            self.world.after(seconds, self._go_on, process)

    def _go_on(self, process: Process, _: object) -> None:
        if process.plug.paused and not process.plug.dead:
            process.go_on()

    def stall(self, worker: Worker, seconds: float) -> None:
        """Let a training thread take no step for a while."""
        if worker.trainer is not None:
            self.felt["stall"] += 1
            worker.trainer.stalled_until = self.world.now + seconds

    def slow_down(self, worker: Worker, times: float, seconds: float) -> None:
        """Let a training thread be slow for a while."""
        trainer = worker.trainer
        if trainer is not None:
            self.felt["slowreader"] += 1
            trainer.slowness = times
            self.world.after(seconds, lambda a, b: setattr(trainer, "slowness", 1.0))

    def withhold(self, worker: Worker, seconds: float) -> None:
        """Let a worker grant no credit for a while."""
        process = worker.process
        if process is not None:
            self.felt["nocredit"] += 1
            process.mailbox.withheld = True
            self.world.after(seconds, lambda a, b: setattr(process.mailbox, "withheld", False))

    def rewire(self) -> None:
        """Have somebody publish another graph; at times two at once."""
        running, rng = self.cluster.running, self.world.rng
        for worker in rng.sample(running, min(len(running), rng.choice((1, 1, 2)))):
            if worker.process is None:
                continue
            self.felt["rewire"] += 1
            node = worker.process.node
            version = node.membership.spec.version + 1
            node.rewire(TopologySpec(version=version, author=node.self_id, seed=version), worker.process.now())
            worker.process.settle()

    def attack(self, worker: Worker) -> None:
        """Send what only somebody without the run's key could send: from a routing id that greeted nobody."""
        if worker.process is None:
            return
        self.felt["hostile"] += 1
        rng = self.world.rng
        victim = rng.choice(self.cluster.workers).node
        routing = b"\1" + victim + rng.getrandbits(64).to_bytes(8, "little")
        for message in self._lies(victim, EdgeId(rng.getrandbits(64))):
            worker.process.received(routing, message)

    def _lies(self, victim: NodeId, edge: EdgeId) -> list[Message]:
        record = Record(victim, 1 << 63, 0, MemberState.DEAD, b"\0" * 8)
        return [
            replace(self._last, node=victim, job=b"\0" * 16),
            Gossip(records=(record,)),
            Ack(edge, 0, AckInfo(1 << 40, (1 << 64) - 1, 1 << 50)),
            Nack(edge, 1, 3),
            Ping(1, 1 << 62, edge),
            Bye(1),
        ]

    # Partitions --------------------------------------------------------------------------------------------------

    def _divide(self) -> None:
        rng = self.world.rng
        if self.closed and self._chance(0.08):
            self.heal(self.closed[rng.randrange(len(self.closed))])
        if len(self.closed) < 2 and self._chance(self.options.partition):
            shapes = [self.halves, self.single, self.ring, self.bridge]
            pairs = rng.choice(shapes)()
            if not self.options.has("partition") or (self.options.has("oneway") and self._chance(0.5)):
                pairs = [pair for pair in pairs if pair[0] < pair[1]]
            self.close(pairs)

    def close(self, pairs: Pairs) -> Pairs:
        """Close directions between hosts until they are healed."""
        self.felt["partition"] += 1
        self.closed.append(pairs)
        self.network.block(pairs)
        return pairs

    def heal(self, pairs: Pairs) -> None:
        """Open them again."""
        self.closed.remove(pairs)
        self.network.unblock(pairs)

    def _hosts(self) -> list[int]:
        hosts = [worker.host for worker in self.cluster.workers]
        self.world.rng.shuffle(hosts)
        return hosts

    def halves(self) -> Pairs:
        """Two halves that do not reach each other."""
        hosts = self._hosts()
        half = max(1, self.world.rng.randint(1, len(hosts) // 2))
        return both_ways(hosts[:half], hosts[half:])

    def single(self) -> Pairs:
        """One host that reaches nobody."""
        hosts = self._hosts()
        return both_ways(hosts[:1], hosts[1:])

    def ring(self) -> Pairs:
        """Each host reaches only the next two in a circle, on either side."""
        hosts = self._hosts()
        size = len(hosts)
        near = {(i, (i + k) % size) for i in range(size) for k in (-2, -1, 0, 1, 2)}
        return [(hosts[i], hosts[j]) for i in range(size) for j in range(size) if (i, j) not in near]

    def bridge(self) -> Pairs:
        """Two halves, and one host that reaches both."""
        hosts = self._hosts()[1:]
        return both_ways(hosts[: len(hosts) // 2], hosts[len(hosts) // 2 :])


def both_ways(left: list[int], right: list[int]) -> Pairs:
    """Return every pair across, in both directions."""
    return [pair for a in left for b in right for pair in ((a, b), (b, a))]
