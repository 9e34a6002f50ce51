"""All settings: one frozen dataclass a component, composed in :class:`Settings`.

Flags, files and the environment are read at the edge (:func:`from_environment` takes the mapping it is handed);
nothing below looks at them. Seconds and bytes inside; every bound is checked in ``__post_init__``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from dagrad_bus.errors import SettingsError

RuleName = Literal[
    "state", "gradient", "local", "sync-ps", "async-ps", "gossip-dense", "gossip-qsgd", "choco"
]  # fmt: skip
SERVED: frozenset[RuleName] = frozenset({"sync-ps", "async-ps"})
"""Rules with a server: they need a graph that joins it with everybody."""
WireType = Literal["f32", "f16", "bf16", "int8"]
ChoiceName = Literal["random", "complementary", "similar"]
Codec = Literal["auto", "raw", "zlib", "blosc2"]
GraphName = Literal["hash-rings", "ring", "complete"]
PREFIX = "DAGRAD_"
MOST_MEMBERS = 65536
_RANGE = re.compile(r"(.*?)(\d+)\.\.(\d+)")
_URL = re.compile(r"file://(?P<folder>.+)|torchstore://(?P<host>[^/]+):(?P<port>\d{1,5})/(?P<prefix>.+)")


def _check(ok: bool, name: str, value: object, bound: str) -> None:
    if not ok:
        raise SettingsError(f"{name} is {value!r}: needs {bound}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSettings:
    """What a worker sends and how it mixes (docs/algorithm.md)."""

    rule: RuleName = "state"
    """``state``: absolute values, mixed; ``gradient``: the paper's text; ``local``: no exchange; ``sync-ps``,
    ``async-ps``: a parameter server; ``gossip-dense``, ``gossip-qsgd``, ``choco``: gossip from the literature."""
    density: float = 0.015
    """Share of the model in one frame, refresh stripe and dirty blocks included; (0, 1]."""
    block: int = 0
    """Elements a block, a power of two up to 256; 1 selects single elements; 0 chooses by model size."""
    interval: int = 1
    """Local steps between two exchanges, from 1."""
    fanout: int = 0
    """Neighbours that get each frame, drawn among the ready ones; 0 means all."""
    choice: ChoiceName = "random"
    """How they are drawn: ``random``; ``complementary`` prefers peers that train unlike us, ``similar`` like us."""
    explore: int = 0
    """Members beyond the neighbours to hold a link with, chosen likewise and anew every minute; 0 to 2."""
    w0: float = 0.9
    """Weight of one version of typical age against the own value, in (0, 1): q = w0 / (1 - w0)."""
    tau: float = 0.0
    """Age in local steps up to which a version counts fully; 0 tunes it to the median age observed."""
    age_power: float = 1.0
    """Beyond tau the weight falls as (tau / age) ** age_power; 0 switches age weights off."""
    clip: float = 2.0
    """A frame moves the touched values by at most ``clip`` times their own norm; over 0."""
    wire: WireType = "int8"
    """Value type on the wire."""
    refresh: float = 1 / 16
    """Share of each frame that goes round robin over all blocks; [0, 1]."""
    dirty: float = 0.5
    """At most this share of each frame repeats blocks that a ready link should have had and did not get; [0, 1]."""
    seed: int = 0
    """Seed of every random choice of the exchange (peers, sampling, stochastic rounding)."""

    def __post_init__(self) -> None:
        """Check every bound."""
        _check(self.rule in get_args(RuleName), "rule", self.rule, f"one of {', '.join(get_args(RuleName))}")
        _check(self.wire in get_args(WireType), "wire", self.wire, f"one of {', '.join(get_args(WireType))}")
        _check(0 < self.density <= 1, "density", self.density, "a share in (0, 1]")
        power = self.block >= 0 and self.block & (self.block - 1) == 0
        _check(power and self.block <= 256, "block", self.block, "0 (automatic) or a power of two from 1 to 256")
        _check(self.interval >= 1, "interval", self.interval, "a number of steps from 1")
        _check(self.fanout >= 0, "fanout", self.fanout, "0 (all neighbours) or a count")
        _check(self.choice in get_args(ChoiceName), "choice", self.choice, f"one of {', '.join(get_args(ChoiceName))}")
        _check(0 <= self.explore <= 2, "explore", self.explore, "0 (none) to 2 members")
        _check(0 < self.w0 < 1, "w0", self.w0, "a weight in (0, 1)")
        _check(self.tau >= 0 and math.isfinite(self.tau), "tau", self.tau, "0 (automatic) or steps")
        _check(0 <= self.age_power <= 10, "age_power", self.age_power, "0 (off) to 10")
        _check(self.clip > 0, "clip", self.clip, "over 0")
        _check(0 <= self.refresh <= 1, "refresh", self.refresh, "a share in [0, 1]")
        _check(0 <= self.dirty <= 1, "dirty", self.dirty, "a share in [0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Sequence, acknowledgement, credit and limits of one link (docs/wire.md)."""

    window: int = 8
    """Frames in flight per link, at most; at least two (or this, if it is one) whatever their size."""
    window_bytes: int = 512 << 10
    """Bytes in flight per link, about: large frames get a smaller window, as what waits on a slow link ages."""
    ack_delay: float = 0.05
    """Seconds an ACK may wait for a frame that carries it along, or for a second one to answer."""
    abandon: float = 2.0
    """Seconds after which a frame still waiting to be sent is given up: fresher values exist."""
    hello_repeat: float = 2.0
    """Seconds between two HELLOs while no answer has come."""
    stalled: float = 2.0
    """Seconds without progress after which the sender asks (PING), once a second."""
    reset: float = 120.0
    """Seconds without any sign of life, at most, after which a stalled link's connection is made anew."""
    mailbox_frames: int = 8
    """Frames of one link waiting for the training thread at which credit stops."""
    mailbox_bytes: int = 64 << 20
    """Decoded bytes of all links waiting at which credit stops."""
    max_frame: int = 8 << 20
    """Largest payload of one frame this worker takes, in bytes; at most 64 MiB."""

    def __post_init__(self) -> None:
        """Check every bound."""
        _check(1 <= self.window <= 32, "window", self.window, "1 to 32 frames")
        _check(self.window_bytes >= 1, "window_bytes", self.window_bytes, "at least 1")
        _check(0 <= self.ack_delay <= 1, "ack_delay", self.ack_delay, "0 to 1 s")
        _check(self.mailbox_frames >= 1, "mailbox_frames", self.mailbox_frames, "at least 1")
        _check(65536 <= self.max_frame <= 64 << 20, "max_frame", self.max_frame, "64 KiB to 64 MiB")
        for name in ("abandon", "hello_repeat", "stalled", "reset"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "seconds over 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatSettings:
    """Heartbeats and what is concluded from their absence (docs/membership.md). All in seconds."""

    interval: float = 1.0
    """Between heartbeats, over 0. A node sends ``degree / interval`` copies a second."""
    silence: float = 3.0
    """Least silence before suspicion; the bound follows the arrivals. Under three intervals, one lost beat accuses."""
    silence_max: float = 10.0
    """Most silence before suspicion, while this worker itself is well."""
    suspicion: float = 8.0
    """A suspected member has so long to refute while one worker accuses it."""
    suspicion_min: float = 2.0
    """The same once three do."""
    grace: float = 120.0
    """Members launched and never heard of count as present for so long."""
    probe: float = 5.0
    """Between two PINGs to members taken at random: the backstop where all neighbours of a member died with it."""
    dead_probe: float = 5.0
    """Between two PINGs to dead members, for 600 s after the death; then 6 times as long. Heals partitions."""
    tombstone: float = 86400.0
    """Dead and departed members are remembered for so long."""
    push_pull: float = 30.0
    """Between two comparisons of tables with random members; stretched where there are more than 32."""
    wedged: float = 60.0
    """Without a step for so long, and for ten of its steps, a worker says that its training hangs."""

    def __post_init__(self) -> None:
        """Check every bound."""
        _check(0 < 3 * self.interval <= self.silence, "silence", self.silence, "at least 3 heartbeat intervals")
        _check(self.silence <= self.silence_max, "silence_max", self.silence_max, "at least silence")
        _check(0 < self.suspicion_min <= self.suspicion, "suspicion_min", self.suspicion_min, "over 0, to suspicion")
        for name in ("silence_max", "suspicion", "grace", "probe", "dead_probe", "tombstone", "push_pull", "wedged"):
            value = getattr(self, name)
            _check(value > 0 and math.isfinite(value), name, value, "seconds over 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """Sockets."""

    bind: str = "127.0.0.1"
    """Address both listening sockets bind; ``*`` for all interfaces."""
    advertise: str = ""
    """Address told to the peers; empty: the bound one."""
    inbox_port: int = 0
    """TCP port of the ROUTER; 0 takes a free one."""
    beat_port: int = 0
    """TCP port of the PUB; 0 takes a free one."""
    port_range: tuple[int, int] | None = None
    """First and last port that a free one is drawn from; None leaves the choice to the system."""
    advertise_inbox_port: int = 0
    """Port of the ROUTER as told to the peers, where a forwarder stands before it; 0: the bound one."""
    advertise_beat_port: int = 0
    """Port of the PUB as told to the peers; 0: the bound one."""
    codec: Codec = "auto"
    """Payload compression; ``auto`` measures what pays, frame by frame."""
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    """Event loop of the bus thread; falls back to asyncio where uvloop is not installed."""
    flush: float = 0.5
    """Seconds that leaving the bus waits for queued messages."""

    def __post_init__(self) -> None:
        """Check every bound."""
        _check(self.codec in get_args(Codec), "codec", self.codec, f"one of {', '.join(get_args(Codec))}")
        for name in ("inbox_port", "beat_port", "advertise_inbox_port", "advertise_beat_port"):
            _check(0 <= getattr(self, name) <= 65535, name, getattr(self, name), "0 (any free) to 65535")
        _check(0 <= self.flush <= 10, "flush", self.flush, "0 to 10 s")
        first, last = self.port_range or (1, 65535)
        _check(1 <= first < last <= 65535, "port_range", self.port_range, "two ports or more, 1 to 65535: a-b")

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this host can reach the sockets."""
        return self.bind in {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything one worker needs. ``Settings()`` alone is a worker without peers."""

    run: str = "alone"
    """Name of the run; workers of other runs are refused."""
    name: str = "local.0"
    """This worker's name, unique in the run and stable over its restarts."""
    members: tuple[str, ...] = ()
    """Names of all workers launched, this one included; empty: alone."""
    degree: int = 4
    """Neighbours of each worker in the graph; even."""
    topology: GraphName = "hash-rings"
    """The graph that the run starts with; ``dagrad topology rewire`` gives a live run another one."""
    seeds: tuple[tuple[str, str], ...] = ()
    """Name and inbox endpoint of members to turn to, where there is no run folder."""
    rendezvous: str = ""
    """Where addresses are told beside the run folder: ``file://DIR`` or ``torchstore://HOST:PORT/PREFIX``."""
    directory: Path | None = None
    """Run folder: addresses, metrics and results live below it. None: nothing is written."""
    key: bytes = field(default=b"", repr=False)
    """The run's shared secret; peers must prove they hold it. Empty: none asked."""
    exchange: ExchangeSettings = ExchangeSettings()
    link: LinkSettings = LinkSettings()
    beat: BeatSettings = BeatSettings()
    transport: TransportSettings = TransportSettings()

    def __post_init__(self) -> None:
        """Check what concerns more than one component."""
        _check(self.degree >= 2 and self.degree % 2 == 0, "degree", self.degree, "an even number from 2")
        _check(len(self.name.encode()) <= 32, "name", self.name, "at most 32 bytes")
        _check(len(set(self.members)) == len(self.members), "members", self.members, "distinct names")
        is_url = not self.rendezvous or _URL.fullmatch(self.rendezvous) is not None
        _check(is_url, "rendezvous", self.rendezvous, "file://DIR or torchstore://HOST:PORT/PREFIX")
        contacts = bool(self.seeds) or bool(self.rendezvous) or self.directory is not None
        known = not self.members or self.name in self.members or contacts
        _check(known, "name", self.name, f"one of the members {self.members}, or seeds or a run folder to join by")
        _check(self.topology in get_args(GraphName), "topology", self.topology, f"one of {get_args(GraphName)}")

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to exchange with."""
        return len({*self.members, self.name}) < 2 and not self.seeds and not self.rendezvous

    @property
    def joins(self) -> bool:
        """Whether this worker was not launched with the others."""
        return self.name not in self.members and not self.is_alone

    @property
    def meeting_folder(self) -> Path | None:
        """The folder that ``rendezvous`` names, if it names one."""
        match = _URL.fullmatch(self.rendezvous)
        return Path(match["folder"]) if match is not None and match["folder"] else None

    @property
    def meeting_store(self) -> tuple[str, int, str] | None:
        """Host, port and prefix of the key-value store that ``rendezvous`` names, if it names one."""
        match = _URL.fullmatch(self.rendezvous)
        return (match["host"].strip("[]"), int(match["port"]), match["prefix"]) if match and match["host"] else None


def describe(settings: Settings) -> dict[str, object]:
    """Return what ``run.json`` says of the settings that all workers of a run share."""
    parts = {name: asdict(getattr(settings, name)) for name in ("exchange", "link", "beat", "transport")}
    return {"degree": settings.degree, "topology": settings.topology, **parts}


_EXCHANGE = {f.name.upper(): f.name for f in fields(ExchangeSettings)}
_PLAIN = (
    *("RUN", "NAME", "RUN_DIR", "ROSTER", "KEY_FILE", "BIND", "ADVERTISE", "CODEC", "LOOP"),
    *("DEGREE", "TOPOLOGY", "SEEDS", "MEMBERS", "INBOX_PORT", "BEAT_PORT", "PORT_RANGE"),
)
_FOREIGN = ("SLOT", "ATTEMPT", "AGENT", "AGENT_BASE", "DEVICE", "TEST_TIMEOUT_FACTOR")
"""Names that launchers and tests set and this module does not read."""


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Build the settings from ``DAGRAD_*`` names; without any, a worker that is alone.

    Args:
        environ: ``os.environ`` or a mapping like it. ``DAGRAD_ROSTER`` names a file with one member a line;
            ``DAGRAD_KEY_FILE`` a file that holds the run's secret.

    Raises:
        SettingsError: unknown name (with the nearest known one), unreadable file or value out of range.
    """
    given = {k.removeprefix(PREFIX): v for k, v in environ.items() if k.startswith(PREFIX)}
    _refuse_unknown(given)
    defaults = ExchangeSettings()
    kinds: dict[str, type[object]] = {f.name: type(getattr(defaults, f.name)) for f in fields(ExchangeSettings)}
    exchange = {_EXCHANGE[k]: _convert(k, v, kinds[_EXCHANGE[k]]) for k, v in given.items() if k in _EXCHANGE}
    top: dict[str, object] = {k.lower(): given[k] for k in ("RUN", "NAME", "TOPOLOGY") if k in given}
    if "DEGREE" in given:
        top["degree"] = _convert("DEGREE", given["DEGREE"], int)
    if "RUN_DIR" in given:
        top["directory"] = Path(given["RUN_DIR"])
    if "KEY_FILE" in given:
        top["key"] = _read("KEY_FILE", given["KEY_FILE"]).strip()
    top |= _members(given) | _contacts(given)
    return Settings(exchange=ExchangeSettings(**exchange), transport=_sockets(given), **top)  # type: ignore[arg-type]  # checked above and in __post_init__


def _sockets(given: Mapping[str, str]) -> TransportSettings:
    sockets: dict[str, object] = {k.lower(): given[k] for k in ("BIND", "ADVERTISE", "CODEC", "LOOP") if k in given}
    for name in ("INBOX_PORT", "BEAT_PORT"):
        if name in given:
            sockets[name.lower()] = _convert(name, given[name], int)
    if text := given.get("PORT_RANGE", ""):
        first, _, last = text.partition("-")
        if not (first.isdigit() and last.isdigit()):
            raise SettingsError(f"{PREFIX}PORT_RANGE is {text!r}: needs FIRST-LAST, as in 20000-32000")
        sockets["port_range"] = int(first), int(last)
    return TransportSettings(**sockets)  # type: ignore[arg-type]  # checked above and in __post_init__


def _members(given: Mapping[str, str]) -> dict[str, object]:
    if "ROSTER" in given and "MEMBERS" in given:
        raise SettingsError(f"{PREFIX}ROSTER and {PREFIX}MEMBERS both name the members: give one of them")
    if "ROSTER" in given:
        return {"members": tuple(_read("ROSTER", given["ROSTER"]).decode().split())}
    return {"members": parse_members(given["MEMBERS"])} if "MEMBERS" in given else {}


def parse_members(text: str) -> tuple[str, ...]:
    """Return the names in a list such as ``slurm.0..7,late.0``: a range holds both its ends.

    Raises:
        SettingsError: a range that runs backwards, or more than 65 536 names.
    """
    names: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[2]), int(match[3])) if match is not None else (0, 0)
        if last < first or last - first + len(names) >= MOST_MEMBERS:
            raise SettingsError(f"{PREFIX}MEMBERS has {part!r}: needs NAME or STEM.FIRST..LAST, {MOST_MEMBERS} at most")
        names += [f"{match[1]}{n}" for n in range(first, last + 1)] if match is not None else part.split()
    return tuple(names)


def _contacts(given: Mapping[str, str]) -> dict[str, object]:
    parts = [part for part in given.get("SEEDS", "").split(",") if part]
    urls = [part for part in parts if "://" in part]
    if len(urls) > 1:
        raise SettingsError(f"{PREFIX}SEEDS has {' and '.join(urls)}: one folder or store at most")
    found: dict[str, object] = {"rendezvous": urls[0]} if urls else {}
    return found | {"seeds": tuple(_seed(part) for part in parts if part not in urls)} if parts else found


def _seed(text: str) -> tuple[str, str]:
    name, at, address = text.rpartition("@")
    if not (at and name and address.rpartition(":")[2].isdigit()):
        raise SettingsError(f"{PREFIX}SEEDS has {text!r}: needs NAME@HOST:PORT, several separated by commas")
    return name, f"tcp://{address}"


def _refuse_unknown(given: Mapping[str, str]) -> None:
    known = [*_EXCHANGE, *_PLAIN, *_FOREIGN]
    for name in given:
        if name not in known and not name.startswith("LAUNCHER_"):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {PREFIX}{near[0]}?" if near else ""
            raise SettingsError(f"unknown setting {PREFIX}{name}{hint}")


def _convert(name: str, text: str, kind: type[object]) -> object:
    try:
        return kind(text)  # type: ignore[call-arg]  # int, float or str: each takes a text
    except ValueError:
        raise SettingsError(f"{PREFIX}{name} is {text!r}: needs {kind.__name__}") from None


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{PREFIX}{name} is {path!r}: {error.strerror}") from None
