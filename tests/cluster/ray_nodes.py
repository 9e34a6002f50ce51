"""A Ray cluster of several nodes on this host, for tests: a process that obeys one word a line on stdin.

It prints one JSON object a line: first ``address``; then an answer to each order. ``kill N`` ends node N the hard way
(0 is the head's raylet), ``add`` adds a node, ``control`` kills the control service; the end of stdin ends all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

CLUSTER: Any = import_module("ray.cluster_utils").Cluster  # by name: `make check` runs without Ray


def _answer(**answer: object) -> None:
    print(json.dumps(answer), file=REPLIES, flush=True)


def _control_service(cluster: Any) -> int:
    """Return the pid of the control service."""
    return int(cluster.head_node.all_processes["gcs_server"][0].process.pid)


def main(count: int) -> None:
    """Make a cluster of ``count`` nodes with one CPU each."""
    cluster: Any = CLUSTER(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.head_node, *(cluster.add_node(num_cpus=1) for _ in range(count - 1))]
    cluster.wait_for_nodes()
    _answer(address=cluster.address)
    for line in sys.stdin:
        match line.split():
            case ["kill", number]:
                cluster.remove_node(nodes[int(number)], allow_graceful=False)
            case ["add"]:
                nodes.append(cluster.add_node(num_cpus=1))
                cluster.wait_for_nodes()
            case ["control"]:
                os.kill(_control_service(cluster), signal.SIGKILL)
            case words:
                raise SystemExit(f"no such order: {words}")
        _answer(done=line.strip())
    cluster.shutdown()


if __name__ == "__main__":
    REPLIES = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]
    main(int(sys.argv[1]))
