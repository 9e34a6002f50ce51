"""``dagrad run --on ray``: Ray places one agent a worker, and carries orders and reports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from dagrad_bus.tools.finish import report_end
from dagrad_bus.tools.live import watching
from dagrad_bus.tools.tables import make_console
from dagrad_bus.workers.launch.brief import Berth, Launch
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.launcher import Launcher
from dagrad_bus.workers.launch.orders import Start, WorkerOrder
from dagrad_bus.workers.launch.outcome import Outcome, Watcher
from dagrad_bus.workers.launch.ray import open_ray


def run_on_ray(folder: RunFolder, start: Start, options: Mapping[str, Any]) -> int:
    """Run one worker a bundle of a placement group, and return the exit code of the run.

    Args:
        folder: of the run.
        start: what every agent is told; ``roster`` names the workers.
        options: of the command line.

    Raises:
        StartError: Ray is not installed, no cluster answers, or it has no room.
    """
    click.echo(f"dagrad: {len(start.roster)} workers on Ray, run folder {folder.path}", err=True)
    with watching(options["progress"], make_console(to_stderr=options["as_json"]), start.roster) as watcher:
        outcome = asyncio.run(_launch(folder, start, options, watcher))
    return report_end(folder, outcome, options)


async def _launch(folder: RunFolder, start: Start, options: Mapping[str, Any], watcher: Watcher) -> Outcome:
    async with open_ray(
        len(start.roster),
        errors=folder.path / "logs" / "ray.log",
        cpus=options["cpus"],
        gpus=options["gpus"],
        strategy=options["strategy"],
    ) as bundles:
        berths = [
            Berth(
                label=name.rpartition(".")[0],
                workers=(WorkerOrder(name=name, slot=0),),
                dial=bundle.open_pipe,
                where=f"ray {bundle.address}",
            )
            for name, bundle in zip(start.roster, bundles, strict=True)
        ]
        for berth in berths:
            watcher.show_note(f"{berth.label} is on {berth.where}")
        launch = Launch(
            folder=folder,
            berths=berths,
            start=start,
            min_workers=options["min_workers"],
            min_success=options["min_success"],
            abort=options["on_failure"] == "abort",
        )
        return await Launcher(launch, watcher).run()
