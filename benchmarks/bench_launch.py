"""Starting six workers over ssh, on three hosts in network namespaces, against six on one host: A B A B.

What counts is what the launcher adds to the imports of torch, which all hosts of this machine do on the same cores.
Needs root and OpenSSH::

    python benchmarks/bench_launch.py --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from dagrad_bus.faults.sshhosts import SshHosts
from dagrad_bus.faults.sshrun import DAGRAD, DIGITS, Run, make_run

COMMAND = (*DIGITS, "--steps", "30", "--pace", "0.05", "--linger", "0")


def start(run: Run, kind: str) -> dict[str, float]:
    """Run six workers to their end; return seconds from the call, the longest import taken off."""
    began = time.time()
    if kind == "ssh":
        run.write_hosts("node1:2\nnode2:2\nnode3:2\n")
        run.start(command=COMMAND)
    else:
        words = (DAGRAD, "run", "-n", "6", "--dir", str(run.folder), "--no-figures", "--progress", "none", "--")
        with (run.base / "out").open("wb") as out:
            run.launcher = run.cluster.run(*words, *COMMAND, cwd=run.base, stdout=out, stderr=out)
    assert run.wait() == 0
    imports = max(event["imports"] for event in run.events("ready"))
    workers: list[str] = json.loads((run.folder / "run.json").read_text())["workers"]
    started = max(event["time"] for event in run.events("started"))
    attached = max(line["time"] for name in workers for line in run.journal(name) if line["event"] == "start")
    stepping = max(_first_step(run.journal(name)) for name in workers)
    times = {"started": started, "attached": attached, "stepping": stepping}
    return {"imports": imports, **{name: at - began - imports for name, at in times.items()}}


def _first_step(journal: list[dict[str, Any]]) -> float:
    return next(float(line["time"]) for line in journal if "time" in line and line.get("step", 0) >= 1)


def main() -> None:
    """Measure and print one JSON object: medians in seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[str, list[dict[str, float]]] = {"ssh": [], "local": []}
    for _ in range(rounds):
        for kind, times in found.items():
            with SshHosts(3) as cluster, make_run(cluster) as run:
                times.append(start(run, kind))
    medians = {
        kind: {name: round(statistics.median(one[name] for one in times), 2) for name in times[0]}
        for kind, times in found.items()
    }
    print(json.dumps({"rounds": rounds, "workers": 6, "seconds": medians}, indent=2))


if __name__ == "__main__":
    main()
