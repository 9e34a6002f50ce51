"""Labels of hosts: the first part of their workers' names.

A worker is called ``LABEL.SLOT``; the bus allows 32 bytes for that. A label is, in this order,

* the first part of the host's DNS name, where no other host has the same;
* the whole name, where another has;
* an address as it is, with ``-`` for the ``:`` and ``%`` of IPv6 (``::1`` is ``0--1``: no name starts with ``-``);
* the start of that and six hexadecimal digits of its hash, where it is too long or taken.

Names are compared in lower case. A label, once given, stays: hosts that are added later take what is left.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b

LONGEST_NAME = 32
"""Bytes of a worker's name, as the settings allow."""
LONGEST = LONGEST_NAME - len(".99999")
"""Bytes of a label."""
_DIGITS = 6


def assign(hosts: Sequence[str], taken: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the label of each host.

    Args:
        hosts: names or addresses as written in a host file, IPv6 without brackets; repeated ones count once.
        taken: labels given before, by host. These hosts keep theirs, and no other gets it.

    Returns:
        By host in lower case, in the order of ``hosts``: letters, digits, ``.``, ``_`` and ``-``, no two alike.
    """
    given = {host.lower(): label for host, label in (taken or {}).items()}
    wanted = list(dict.fromkeys(host.lower() for host in hosts))
    firsts = Counter(_first(host) for host in {*wanted, *given})
    used = set(given.values())
    labels: dict[str, str] = {}
    for host in wanted:
        label = given.get(host)
        if label is None:
            label = _choose(host, used, alone=firsts[_first(host)] == 1)
            used.add(label)
        labels[host] = label
    return labels


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _first(host: str) -> str:
    """Return the first part of a DNS name; an address has none but itself."""
    return host if _address(host) is not None else host.partition(".")[0]


def _safe(host: str) -> str:
    """Return ``host`` as a part of file names and commands: it also names files, so never ``..`` or ``-x``."""
    text = re.sub(r"[^a-z0-9._-]", "-", host)
    return f"0{text}" if text[:1] in {"", "-", "."} else text


def _choose(host: str, used: Collection[str], *, alone: bool) -> str:
    whole = _safe(host)
    for label in [_safe(_first(host)), whole] if alone else [whole]:
        if len(label) <= LONGEST and label not in used:
            return label
    digest = blake2b(host.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    start = whole[: LONGEST - _DIGITS - 1]
    for at in range(len(digest) - _DIGITS + 1):  # six digits collide once in 16 million: look on
        label = f"{start}-{digest[at : at + _DIGITS]}"
        if label not in used:
            return label
    raise AssertionError(f"27 labels of {host!r} are taken")
