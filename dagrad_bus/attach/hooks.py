"""The optimizer's own step hooks: the only place where the user's training loop is touched.

Hooks leave the optimizer the user's own object, so schedulers, scalers and frameworks keep working. Three traps are
handled here: wrappers that never became optimizers are looked through; with a closure the pre-hook runs before the
gradient exists, so the closure is wrapped instead; a fused optimizer under a ``GradScaler`` runs its hooks with scaled
gradients, even when the scaler has decided to skip the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch.optim import Optimizer

from dagrad_bus.errors import UsageError

Before = Callable[[float], None]
"""Takes the loss scale that the gradients carry."""
After = Callable[[], None]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
PostHook = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None]
PreHook = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], Arguments | None]


class Removable(Protocol):
    """What torch returns for a registered hook."""

    def remove(self) -> None:
        """Take the hook off."""
        ...


def bare_optimizers(given: object) -> list[Optimizer]:
    """Return the optimizers in ``given`` (one, or a sequence), out of wrappers that keep theirs in ``.optimizer``.

    Raises:
        UsageError: something in it has no step hooks.
    """
    several = cast("Sequence[object]", given) if isinstance(given, list | tuple) else [given]
    if not several:
        raise UsageError("no optimizer given: pass one, a list of them, or None and call exchange() after each step")
    return [_bare(one) for one in several]


def _bare(optimizer: object) -> Optimizer:
    inner = optimizer
    # A wrapper may inherit the method without ever having run Optimizer.__init__, so the hook table decides.
    while not hasattr(inner, "_optimizer_step_post_hooks"):
        inner = getattr(inner, "optimizer", None)
        if inner is None:
            raise UsageError(f"{type(optimizer).__name__} is no torch optimizer and holds none in .optimizer")
    return cast("Optimizer", inner)


class StepHooks:
    """Registered hooks, until :meth:`close`.

    Args:
        optimizers: the last one's step ends a local step.
        before: called once a step, when the gradient exists and no parameter has moved; None if nobody asks.
        after: called after each step of the last optimizer.

    Raises:
        UsageError: ``before`` with more than one optimizer.
    """

    def __init__(self, optimizers: Sequence[Optimizer], before: Before | None, after: After) -> None:
        if before is not None and len(optimizers) > 1:
            raise UsageError("the gradient rule needs a single optimizer: use the state rule, or one with groups")
        self._before = before
        self._after = after
        last = optimizers[-1]
        # Under torch.compile the graph breaks at the hook instead of tracing into it.
        post = cast("PostHook", torch.compiler.disable(self._post))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._handles: list[Removable] = [last.register_step_post_hook(post)]
        if before is not None:
            pre = cast("PreHook", torch.compiler.disable(self._pre))  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._handles.append(last.register_step_pre_hook(pre))

    def close(self) -> None:
        """Remove the hooks; twice is harmless."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _post(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        del optimizer, args, kwargs
        with torch.no_grad():
            self._after()

    def _pre(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._once(kwargs["closure"], optimizer)}
        # Positional arguments hold the optimizer itself first.
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._once(args[1], optimizer), *args[2:]), kwargs
        self._merge(optimizer)
        return None

    def _once(self, closure: Callable[[], Any], optimizer: Optimizer) -> Callable[[], Any]:
        """Return ``closure``, followed by the merge the first time it is called."""
        merged = False

        def wrapped() -> Any:
            nonlocal merged
            loss = closure()
            if not merged:
                merged = True
                self._merge(optimizer)
            return loss

        return wrapped

    def _merge(self, optimizer: Optimizer) -> None:
        # Set by GradScaler around the step of an optimizer that unscales by itself.
        found_inf = getattr(optimizer, "found_inf", None)
        scale = getattr(optimizer, "grad_scale", None)
        if self._before is None or (found_inf is not None and float(found_inf) > 0):
            return
        with torch.no_grad():
            self._before(1.0 if scale is None else float(scale))
