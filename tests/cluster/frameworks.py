"""A worker that trains a tiny model by way of another framework: ``frameworks.py NAME [--attach]``.

Prints one line of JSON: the world as the framework sees it and, attached, what was exchanged. It must find itself
alone: a gossip worker is a single-process job, whichever engine started it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn

import dagrad_bus

STEPS, PACE = 60, 0.05
WAIT = 30.0
"""Seconds for the others to appear."""
DATA = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
Report = dict[str, Any]


def join(model: nn.Module, optimizer: Any) -> dagrad_bus.Attachment:
    """Attach and wait for all others."""
    attachment = dagrad_bus.attach(model, optimizer)
    deadline = time.monotonic() + WAIT
    while list(attachment.members.values()).count("alive") + 1 < attachment.count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {attachment.members} of {attachment.count}")
        time.sleep(0.02)
    return attachment


def leave(attachment: dagrad_bus.Attachment) -> Report:
    """Close and return what was exchanged."""
    counters = attachment.metrics()["counters"]
    attachment.close()
    return {"mixed": counters.get("frames_mixed", 0), "sent": counters.get("frames_sent", 0)}


def with_accelerate(attached: bool) -> Report:
    """A plain loop around an Accelerator."""
    accelerate: Any = import_module("accelerate")  # by name: `make check` runs without these libraries
    report: Report = {"world": accelerate.PartialState(cpu=True).num_processes}
    accelerator = accelerate.Accelerator(cpu=True)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(DATA, batch_size=16)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    attachment = join(model, optimizer) if attached else None
    for _ in range(STEPS // 4 if attached else 1):
        for inputs, targets in loader:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
            optimizer.step()
            time.sleep(PACE if attached else 0)
    return report | (leave(attachment) if attachment is not None else {})


def with_transformers(attached: bool) -> Report:
    """Its Trainer; attached by a callback when training begins."""
    transformers: Any = import_module("transformers")

    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 1)

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            found = self.linear(inputs)
            return {"loss": nn.functional.mse_loss(found, labels), "logits": found}

    class Gossip(transformers.TrainerCallback):  # type: ignore[misc]  # Any
        attachment: dagrad_bus.Attachment | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if attached:
                self.attachment = join(given["model"], given["optimizer"])

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            time.sleep(PACE if attached else 0)

    gossip = Gossip()
    with tempfile.TemporaryDirectory() as folder:
        limit = STEPS if attached else 2
        arguments = transformers.TrainingArguments(
            output_dir=folder, max_steps=limit, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
        )
        rows = [{"inputs": inputs, "labels": targets} for inputs, targets in (DATA[at] for at in range(len(DATA)))]
        transformers.Trainer(Regression(), arguments, train_dataset=rows, callbacks=[gossip]).train()
    report: Report = {"world": arguments.world_size}
    return report | (leave(gossip.attachment) if gossip.attachment is not None else {})


def with_lightning(attached: bool) -> Report:
    """Its Trainer; attached by the module when the fit starts."""
    lightning: Any = import_module("lightning.pytorch")

    class Regression(lightning.LightningModule):  # type: ignore[misc]  # Any
        attachment: dagrad_bus.Attachment | None = None

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 1)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

        def on_train_start(self) -> None:
            if attached:
                self.attachment = join(self, self.optimizers())

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            time.sleep(PACE if attached else 0)
            return nn.functional.mse_loss(self.linear(batch[0]), batch[1])

    module = Regression()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_steps=STEPS if attached else 2, accelerator="cpu", default_root_dir=folder, **quiet
        )
        trainer.fit(module, torch.utils.data.DataLoader(DATA, batch_size=16))
    report: Report = {"world": trainer.world_size}
    return report | (leave(module.attachment) if module.attachment is not None else {})


FRAMEWORKS: dict[str, Callable[[bool], Report]] = {
    "accelerate": with_accelerate,
    "transformers": with_transformers,
    "lightning": with_lightning,
}


def main() -> None:
    """Run one of the frameworks, or several after one another."""
    parser = argparse.ArgumentParser()
    parser.add_argument("frameworks", nargs="+", choices=FRAMEWORKS)
    parser.add_argument("--attach", action="store_true")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    for name in flags.frameworks:
        began = time.monotonic()
        report = {"worker": os.environ.get("DAGRAD_NAME", ""), "framework": name} | FRAMEWORKS[name](flags.attach)
        line = json.dumps(report | {"seconds": round(time.monotonic() - began, 2)})
        sys.stdout.write(f"{line}\n")  # in one piece: the engine mixes the workers' lines
        sys.stdout.flush()


if __name__ == "__main__":
    main()
