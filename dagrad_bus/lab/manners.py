"""What each rule that never waits does at a step boundary, without values: whom it sends to, when, and what it takes in.

Each follows its rule in :mod:`dagrad_bus.attach` step by step; the names are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dagrad_bus.lab.crowd import Crowd, Letter, Link, Manner, Worker

QUESTION, ANSWER = 1, 2


class Silent:
    """``local``: nothing."""

    def boundary(self, worker: Worker) -> float:
        """Do nothing."""
        del worker
        return 0.0

    def lost(self, worker: Worker, peer: Worker) -> None:
        """Do nothing."""


class Sparse:
    """``state``, ``gradient``, ``choco``: one frame, the same for all neighbours or for ``fanout`` of them.

    Args:
        crowd: sends.
        coalesces: whether a newer frame makes an older one of the same part void that waits beside it: those that hold
            all blocks do (``gossip-qsgd``).
    """

    def __init__(self, crowd: Crowd, *, coalesces: bool = False, fanout: int = 0) -> None:
        self._crowd, self._coalesces, self._fanout = crowd, coalesces, fanout
        self._parts = [0] * len(crowd.workers)

    def boundary(self, worker: Worker) -> float:
        """Mix what is there, then send the next part to the links that have credit."""
        crowd = self._crowd
        taken = crowd.take(worker)
        for letter in newest(taken) if self._coalesces else [letter for _, letter in taken]:
            crowd.mixed(worker, letter.made)
        load = sum(letter.size for _, letter in taken)
        if worker.steps % crowd.scenario.exchange.interval:
            return load
        linked = [link for link in worker.outgoing if link.up]
        ready = [link for link in linked if crowd.is_ready(link)]
        wanted = min(self._fanout, len(linked)) if self._fanout else len(linked)
        if len(ready) > wanted:
            ready = [ready[int(place)] for place in worker.rng.permutation(len(ready))[:wanted]]
        crowd.due(worker, sent=len(ready), wanted=wanted)
        part = self._parts[worker.index]
        for link in ready:
            crowd.send(link, part=part)
        if ready:
            self._parts[worker.index] = (part + 1) % crowd.parcels.parts
        return load + crowd.parcels.size * bool(ready)

    def lost(self, worker: Worker, peer: Worker) -> None:
        """Do nothing: nothing is remembered."""


def newest(taken: list[tuple[Link, Letter]]) -> list[Letter]:
    """Return the newest frame of each link and part."""
    return list({(id(link), letter.part): letter for link, letter in taken}.values())


@dataclass(slots=True, eq=False)
class _Way:
    """A vector on its way to one peer."""

    link: Link
    kind: int
    made: float
    left: int


@dataclass(slots=True, eq=False)
class _Half:
    """What one worker of ``gossip-dense`` remembers."""

    ways: list[_Way] = field(default_factory=list[_Way])
    question: _Way | None = None
    got: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """Frames here, by peer and kind."""


class Pair:
    """``gossip-dense``: asks one neighbour at a time, answers everybody, a frame a link and boundary."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._halves = [_Half() for _ in crowd.workers]
        self._links = {(link.sender.index, link.receiver.index): link for w in crowd.workers for link in w.outgoing}

    def boundary(self, worker: Worker) -> float:
        """Take answers, answer questions, then ask a neighbour if nobody is being asked."""
        crowd, half = self._crowd, self._halves[worker.index]
        taken = crowd.take(worker)
        whole = [
            (link.sender.index, letter) for link, letter in taken
            if is_whole(half.got, (link.sender.index, letter.kind), crowd.parcels.parts)
        ]  # fmt: skip
        half.ways = [way for way in half.ways if way.left or not is_settled(crowd, way.link)]
        for peer, letter in sorted(whole, key=lambda entry: entry[1].kind == QUESTION):
            self._mix(worker, half, peer, letter)
        if half.question is None and not worker.steps % crowd.scenario.exchange.interval:
            self._ask(worker, half)
        return sum(letter.size for _, letter in taken) + self._pump(worker, half)

    def _mix(self, worker: Worker, half: _Half, peer: int, letter: Letter) -> None:
        question = half.question
        if question is not None and question.link.receiver.index == peer:
            half.question = None
            if letter.kind == ANSWER:
                half.ways = [way for way in half.ways if way is not question]
        elif letter.kind == QUESTION:
            half.ways.append(_Way(self._links[worker.index, peer], ANSWER, self._crowd.world.now, self._parts))
        else:
            return  # an answer to what was given up
        self._crowd.mixed(worker, letter.made)

    @property
    def _parts(self) -> int:
        return self._crowd.parcels.parts

    def _ask(self, worker: Worker, half: _Half) -> None:
        crowd, busy = self._crowd, {id(way.link) for way in half.ways}
        linked = [link for link in worker.outgoing if link.up and id(link) not in busy]
        ready = [link for link in linked if crowd.is_ready(link)]
        if ready:
            chosen = ready[int(worker.rng.integers(len(ready)))]
            half.question = _Way(chosen, QUESTION, crowd.world.now, self._parts)
            half.ways.append(half.question)
        elif linked:
            crowd.due(worker, sent=0, wanted=1)

    def _pump(self, worker: Worker, half: _Half) -> float:
        """Send the next frame of each vector."""
        crowd, used, load = self._crowd, set[int](), 0.0
        for way in half.ways:
            if way.left and id(way.link) not in used:
                used.add(id(way.link))
                ready = crowd.is_ready(way.link)
                crowd.due(worker, sent=int(ready), wanted=1)
                if ready:
                    crowd.send(way.link, way.kind, self._parts - way.left, way.made)
                    way.left -= 1
                    load += crowd.parcels.size
        return load

    def lost(self, worker: Worker, peer: Worker) -> None:
        """Give up what was under way with a peer that left."""
        half = self._halves[worker.index]
        half.ways = [way for way in half.ways if way.link.receiver is not peer]
        if half.question is not None and half.question.link.receiver is peer:
            half.question = None
        for kind in (QUESTION, ANSWER):
            half.got.pop((peer.index, kind), None)


def is_whole(got: dict[tuple[int, int], int], which: tuple[int, int], parts: int) -> bool:
    """Count one frame of a vector; return whether it is the last one."""
    got[which] = got.get(which, 0) + 1
    if got[which] < parts:
        return False
    del got[which]
    return True


def is_settled(crowd: Crowd, link: Link) -> bool:
    """Whether all that was sent on a link is there, as its sender knows."""
    crowd.is_ready(link)  # counts the receipts that have come
    return link.flying == 0


@dataclass(slots=True, eq=False)
class _Push:
    """What one worker of ``async-ps`` remembers."""

    made: float | None = None
    """When the push that is under way was made."""
    left: int = 0
    got: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    answer: float | None = None
    """When the server's values in the answer were made, once all of it is here."""


@dataclass(slots=True, eq=False)
class _Answer:
    """The server's values, on their way to some workers."""

    made: float
    left: dict[int, int]
    """Frames to be sent, by worker."""


class Server:
    """``async-ps``: worker 0 adds pushes and answers them; each worker has one push under way.

    Ages are those of pushes that the server adds, and of the server's values that workers take over.
    """

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._pushes = [_Push() for _ in crowd.workers]
        self._got: dict[tuple[int, int], int] = {}
        self._owed: dict[int, None] = {}
        """In the order of their pushes."""
        self._answers: list[_Answer] = []
        self._links = {link.receiver.index: link for link in crowd.workers[0].outgoing}

    def boundary(self, worker: Worker) -> float:
        """Be the server, or a worker."""
        return self._serve(worker) if worker.index == 0 else self._push(worker)

    def _push(self, worker: Worker) -> float:
        crowd, push = self._crowd, self._pushes[worker.index]
        taken = crowd.take(worker)
        for _, letter in taken:
            if is_whole(push.got, (0, ANSWER), crowd.parcels.parts):
                push.answer = letter.made
        (link,) = worker.outgoing
        if push.made is not None and push.answer is not None and not push.left and is_settled(crowd, link):
            crowd.mixed(worker, push.answer)
            push.made = push.answer = None
        if push.made is None and not worker.steps % crowd.scenario.exchange.interval and link.up:
            push.made, push.left, push.answer = crowd.world.now, crowd.parcels.parts, None
        load = sum(letter.size for _, letter in taken)
        if push.left and push.made is not None:
            ready = crowd.is_ready(link)
            crowd.due(worker, sent=int(ready), wanted=1)
            if ready:
                crowd.send(link, QUESTION, made=push.made)
                push.left -= 1
                load += crowd.parcels.size
        return load

    def _serve(self, worker: Worker) -> float:
        crowd, parts = self._crowd, self._crowd.parcels.parts
        taken = crowd.take(worker)
        for link, letter in taken:
            if is_whole(self._got, (link.sender.index, QUESTION), parts):
                self._owed[link.sender.index] = None
                crowd.mixed(worker, letter.made)
        used: set[int] = set()
        frames = sum(self._pump(worker, answer, used) for answer in self._answers)
        self._answers = [answer for answer in self._answers if answer.left]
        ready = [index for index in self._owed if index not in used and crowd.is_ready(self._links[index])]
        if ready:
            answer = _Answer(crowd.world.now, dict.fromkeys(ready, parts))
            frames += self._pump(worker, answer, used)
            self._owed = {index: None for index in self._owed if index not in answer.left and index not in used}
            if answer.left:
                self._answers.append(answer)
        return sum(letter.size for _, letter in taken) + frames * crowd.parcels.size

    def _pump(self, worker: Worker, answer: _Answer, used: set[int]) -> int:
        """Send the next frame to each worker that still needs some; return how many different ones."""
        crowd, different = self._crowd, set[int]()
        for index, left in list(answer.left.items()):
            if index in used:
                continue
            link = self._links[index]
            ready = crowd.is_ready(link)
            crowd.due(worker, sent=int(ready), wanted=1)
            if ready:
                crowd.send(link, ANSWER, made=answer.made)
                used.add(index)
                different.add(left)
                answer.left[index] -= 1
                if not answer.left[index]:
                    del answer.left[index]
        return len(different)

    def lost(self, worker: Worker, peer: Worker) -> None:
        """Forget what is under way with somebody who left."""
        if worker.index:
            self._pushes[worker.index] = _Push()
            return
        self._owed.pop(peer.index, None)
        self._got.pop((peer.index, QUESTION), None)
        for answer in self._answers:
            answer.left.pop(peer.index, None)


def manner_of(crowd: Crowd) -> Manner:
    """Return what the crowd's rule does."""
    rule, exchange = crowd.scenario.rule, crowd.scenario.exchange
    match rule:
        case "local":
            return Silent()
        case "gossip-dense":
            return Pair(crowd)
        case "gossip-qsgd":
            return Sparse(crowd, coalesces=True, fanout=exchange.fanout or 1)
        case "async-ps":
            return Server(crowd)
        case _:
            return Sparse(crowd, fanout=0 if rule == "choco" else exchange.fanout)
