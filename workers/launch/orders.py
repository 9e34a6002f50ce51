"""What a launcher and the agent of a host say to each other: one JSON object a line, at most 1 MiB each.

Orders go to the agent, reports come back. Unknown keys are ignored, so that either side may be newer; an unknown
``op`` is answered by :class:`Fault`. Nothing here does I/O.

Reports that must not get lost carry ``n``, counted from 1 an agent: a launcher that comes back says which was the last
it saw. Output and journals of workers are byte ranges of files (:class:`Chunk`), so that taking one twice is harmless.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar

from dagrad_bus.errors import RemoteError

VERSION = 1
LONGEST_LINE = 1 << 20
"""Bytes of one line, the newline included."""


class BadLine(RemoteError):
    """A line that is no order or report of this version."""

    code = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder:
    """One worker to start."""

    name: str
    """``host.slot``, the same after each restart."""
    slot: int
    """Number on its host, from 0."""
    attempt: int = 0
    """0 at first; a worker that starts again has a higher one, and copies its neighbours' state."""
    env: dict[str, str] = field(default_factory=dict[str, str])
    """What only this worker sees, over the host's environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """What becomes of a slot whose worker has failed."""

    on_failure: Literal["restart", "continue"] = "restart"
    most: int = 3
    """Restarts of one slot in a row; then it stays empty. Healthy time resets the count."""
    first: float = 1.0
    """Seconds before the first restart; each further one waits twice as long."""
    longest: float = 60.0
    """Seconds, at most."""
    healthy: float = 600.0
    """Seconds that a worker must have lived for the count to begin anew."""
    wedged: float = 0.0
    """Seconds without a step after which a worker is killed and restarted; 0: never."""


# Orders ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The first order to a new agent: who it is, what to run and how."""

    op: ClassVar[str] = "start"
    v: int = VERSION
    run: str
    """Run id, 16 hex digits."""
    host: str
    """Label of the host: the first part of its workers' names."""
    folder: str = ""
    """Run folder on this host, made by the launcher itself; empty: a private one, whose content is sent back."""
    key: str = ""
    """The run's secret, for the private folder."""
    roster: list[str] = field(default_factory=list[str])
    """Names of all workers launched at first, on every host."""
    command: list[str]
    """As the user gave it; resolved on the host."""
    cwd: str
    env: dict[str, str] = field(default_factory=dict[str, str])
    """Of all workers, over the agent's own environment."""
    keep_ranks: bool = False
    """Leave other launchers' rank names alone."""
    advertise: str = ""
    """Address that peers use; empty: the one by which the launcher came here."""
    workers: list[WorkerOrder] = field(default_factory=list[WorkerOrder])
    fork: bool = True
    preload: list[str] = field(default_factory=list[str])
    """The user's wishes: modules beside the usual ones; ``none`` drops those."""
    split: bool = False
    """stderr goes to a file of its own, ``logs/NAME.err``."""
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    lease: float = 0.0
    """Seconds without an order, or since the stream ended, after which all is stopped. 0: at once when the stream
    ends; negative: never."""
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    """Bytes that the launcher has of each file already, from an agent before: what is new comes behind them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """The first order of a launcher that comes back: serve it from now on."""

    op: ClassVar[str] = "attach"
    v: int = VERSION
    run: str
    host: str
    seen: int = 0
    """Number of the last report seen."""
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    """Bytes that the launcher has of each file."""
    lease: float | None = None
    """A new lease; None: as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """I live. Sent every sixth of the lease."""

    op: ClassVar[str] = "renew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """Start more workers."""

    op: ClassVar[str] = "add"
    workers: list[WorkerOrder]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """SIGTERM, after ``grace`` SIGKILL; no restarts any more. Without names all are meant, and no others start."""

    op: ClassVar[str] = "stop"
    grace: float = 10.0
    names: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """SIGKILL to all, now."""

    op: ClassVar[str] = "kill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Pass a signal on to workers, without names to all."""

    op: ClassVar[str] = "signal"
    number: int
    names: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where workers of other hosts listen: the content of their address files, by name."""

    op: ClassVar[str] = "addresses"
    entries: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A written graph that a rewiring names."""

    op: ClassVar[str] = "graph"
    digest: str
    """Hex."""
    at: int
    """Byte offset of this part of the document."""
    size: int
    """Bytes of the whole document."""
    data: str
    """Base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """All workers are over and all was received: end, and remove the private folder."""

    op: ClassVar[str] = "finish"
    keep: bool = False
    """Leave the private folder where it is."""


# Reports -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first report, before anything is imported."""

    op: ClassVar[str] = "hello"
    v: int = VERSION
    pid: int
    python: str
    version: str
    """Of dagrad-bus."""
    wire: int
    """Major version of the wire protocol."""
    hostname: str = ""
    cores: int = 1
    clock: float = 0.0
    """Unix time at the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The nursery has imported what it should; workers are being started."""

    op: ClassVar[str] = "ready"
    folder: str
    seconds: float
    notes: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A worker process runs."""

    op: ClassVar[str] = "started"
    n: int = 0
    name: str
    pid: int
    attempt: int
    time: float
    """Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A worker process has ended."""

    op: ClassVar[str] = "exited"
    n: int = 0
    name: str
    pid: int
    attempt: int
    time: float
    code: int | None = None
    signal: int | None = None
    by: Literal["itself", "launcher", "lease", "wedged"] = "itself"
    """Who wanted it."""
    wait: float | None = None
    """Seconds until it is started again; None: it is not."""
    why: str = ""
    """Why it is not, if it failed: ``3 restarts in a row``, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledOff:
    """A restart that had been announced will not happen."""

    op: ClassVar[str] = "called_off"
    n: int = 0
    name: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A worker published its address: the content of its address file."""

    op: ClassVar[str] = "located"
    n: int = 0
    entry: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A range of a worker's file."""

    op: ClassVar[str] = "chunk"
    file: str
    """``logs/NAME.log``, ``logs/NAME.err`` or ``workers/NAME.jsonl``."""
    at: int
    """Byte offset in the launcher's copy, which may lack what was skipped."""
    data: str
    """UTF-8; other bytes as lone surrogates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """No worker is left or will be started, and all their output was sent."""

    op: ClassVar[str] = "drained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An order could not be carried out, or the agent has failed."""

    op: ClassVar[str] = "fault"
    text: str
    code: int = 125
    """Exit code that it deserves: 2 usage, 126, 127 as a shell, 125."""
    gone: bool = False
    """Answer to ``attach``: there is no such agent any more."""


Order = Start | Attach | Renew | Add | Stop | Kill | Signal | Addresses | Graph | Finish
Report = Hello | Ready | Started | Exited | CalledOff | Located | Chunk | Drained | Fault
T = TypeVar("T")


def encode(message: Order | Report | WorkerOrder) -> bytes:
    """Return one line."""
    body = {"op": message.op, **asdict(message)} if not isinstance(message, WorkerOrder) else asdict(message)
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def parse_order(line: bytes) -> Order:
    """Return the order in ``line``.

    Raises:
        BadLine: it is none.
    """
    found: Order = _parse(line, {kind.op: kind for kind in typing.get_args(Order)})
    return found


def parse_report(line: bytes) -> Report:
    """Return the report in ``line``.

    Raises:
        BadLine: it is none; from an agent's stdout it may be a login banner.
    """
    found: Report = _parse(line, {kind.op: kind for kind in typing.get_args(Report)})
    return found


def _parse(line: bytes, kinds: Mapping[str, type[Any]]) -> Any:
    if len(line) > LONGEST_LINE:
        raise BadLine(f"a line of {len(line)} bytes: at most {LONGEST_LINE}")
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine("no JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("op"), str):
        raise BadLine("no object with an op")
    kind = kinds.get(body["op"])
    if kind is None:
        raise BadLine(f"unknown op {body['op']!r}")
    return _build(kind, body)


def _build(kind: type[T], body: Mapping[str, Any]) -> T:
    hints = _hints(kind)  # type: ignore[arg-type]  # to mypy a class is not hashable
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]  # only dataclasses come here
    try:
        values = {name: _check(hints[name], value, name) for name, value in body.items() if name in names}
        return kind(**values)
    except TypeError as error:
        raise BadLine(f"{getattr(kind, 'op', kind.__name__)}: {str(error).removeprefix(f'{kind.__name__}.')}") from None


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _check(hint: Any, value: Any, name: str) -> Any:
    """Return ``value`` if it is what the annotation says, nested objects built."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in {types.UnionType, typing.Union}:
        if value is None and type(None) in typing.get_args(hint):
            return None
        return _check(next(one for one in typing.get_args(hint) if one is not type(None)), value, name)
    if origin is Literal:
        return _ensure(value in typing.get_args(hint), value, name)
    if origin is list and isinstance(value, list):
        return [_check(typing.get_args(hint)[0], one, name) for one in value]
    if origin is dict and isinstance(value, dict):
        return {str(key): _check(typing.get_args(hint)[1], one, name) for key, one in value.items()}
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _build(hint, value)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(_ensure(number and abs(value) <= sys.float_info.max, value, name))  # no infinity, no NaN
    plain = isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    return _ensure(plain, value, name)


def _ensure(ok: bool, value: Any, name: str) -> Any:
    if not ok:
        raise BadLine(f"{name} is {str(value)[:80]!r}")
    return value
