"""The taxonomy of errors.

::

    BusError                      root, never raised itself
    +-- RemoteError               a peer's fault: dropped, counted, never stops the process
    |   +-- MalformedFrame        bytes that are no valid frame of this wire version
    |   |   +-- NotFinite         values that are no numbers
    |   +-- LimitExceeded         a well-formed claim beyond a limit, refused before anything is allocated
    |   +-- VersionMismatch       another major version of the wire
    |   +-- LayoutMismatch        another model, block size or dtype than ours
    |   +-- NotAdmitted           another run, or a wrong run key
    +-- UsageError (ValueError)   the caller's fault: the message says what to do
    |   +-- SettingsError         a setting out of range, or two that contradict each other
    |   +-- NobodyAnswers         no worker of the run could be reached
    +-- BarrierBroken             a rule that waits for all waited in vain: who was lost, late or silent
    +-- BusClosed                 used after stop
    +-- StartError                the bus could not start: address unusable, run folder unreadable, ...
    |   +-- PortInUse             an address is taken
    |   +-- DiskFull              there is no room for a file that a run can do without
    |   +-- RendezvousLost        the place where workers tell their addresses is gone

Full queues, late peers and refused frames are events and counters, not exceptions.
"""

from __future__ import annotations


class BusError(Exception):
    """The root of all errors of this package; never raised itself."""


class RemoteError(BusError):
    """A peer's fault. Handled in one place: drop, count, perhaps disconnect.

    ``code`` is the counter's name: short, stable, lower case.
    """

    code = "remote"


class MalformedFrame(RemoteError):
    """Bytes that are not a valid frame of this wire version."""

    code = "malformed"


class NotFinite(MalformedFrame):
    """A frame with values that are infinite or no numbers."""

    code = "not_finite"


class LimitExceeded(RemoteError):
    """A claim (length, count, size) beyond its limit, refused before anything is allocated."""

    code = "limit"


class VersionMismatch(RemoteError):
    """Another major version of the wire protocol."""

    code = "version"


class LayoutMismatch(RemoteError):
    """The peer trains another model: names, shapes, dtypes or block size differ."""

    code = "layout"


class NotAdmitted(RemoteError):
    """The peer belongs to another run, or does not hold this run's key."""

    code = "admission"


class UsageError(BusError, ValueError):
    """The caller's fault. The message gives the value, the bound and what to do."""


class SettingsError(UsageError):
    """A setting out of range, or settings that contradict each other."""


class NobodyAnswers(UsageError):
    """No worker of the run could be reached: it is over, or the address or the key is wrong."""

    code = 3
    """Exit code of a command that ends by it."""


class BarrierBroken(BusError):
    """A rule that waits for all members waited in vain; the message names whom it waited for and what to do."""


class BusClosed(BusError):
    """The bus was used after it had stopped."""


class StartError(BusError):
    """The bus could not start; the message names the address or file and the cause."""


class PortInUse(StartError):
    """An address is taken; perhaps by an earlier process of the same worker that is not quite gone."""


class RendezvousLost(StartError):
    """The place where workers tell their addresses is gone, or cannot be reached."""


class DiskFull(StartError):
    """There is no room for a file; what it says can be told otherwise."""
