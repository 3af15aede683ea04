"""The training loop of a round: bounded in steps and seconds, guarded against what is not a number and divergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from stream_ft import failpoints
from stream_ft.errors import StreamFTError
from stream_ft.events import Example
from stream_ft.learn.adapt.batches import Batches
from stream_ft.memory import give_back
from stream_ft.model.base import Tokenizer
from stream_ft.model.engines.batching import batches
from stream_ft.model.tasks import Task
from stream_ft.model.tasks.training_head import TrainingHead

CLIP = 1.0
WARM_UP = 0.1
HEAD_RATE = 2.0
"""The head's rows learn a little faster than the encoder. They start where they belong: ten times is too fast."""
FORWARD_CHARACTERS = 1_500
"""Most characters (about 375 tokens), padding included, in one forward and backward. Gradients are summed over the
parts of a batch: memory does not grow with the batch, and texts of one length are padded little."""
MOST_SKIPPED = 3
"""Steps in a row without a finite loss and gradient, or without enough memory, before a round is given up."""
WINDOW = 8


class TrainingAborted(StreamFTError):
    """The training went astray; the champion stays."""


@dataclass(kw_only=True)
class Trained:
    """What a training did."""

    steps: int = 0
    skipped: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """Of all steps, those that were skipped included."""


def make_optimizer(
    model: torch.nn.Module,
    head: TrainingHead | None,
    rate: float,
    factor: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over what requires gradients; the head in its own group.

    Args:
        rate: highest learning rate.
        factor: on it, for the parameter of a name.
    """
    of_factor: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of_factor.setdefault(factor(name), []).append(parameter)
    groups = [
        {"params": parameters, "lr": rate * times, "peak": rate * times}
        for times, parameters in sorted(of_factor.items())
    ]
    if head is not None:
        groups.append({"params": [head.weight], "lr": rate * HEAD_RATE, "peak": rate * HEAD_RATE, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, weight_decay=0.01)


def train(
    task: Task,
    model: torch.nn.Module,
    head: TrainingHead | None,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    draws: Batches,
    *,
    steps: int,
    batch: int,
    deadline: float | None,
    monotonic: Callable[[], float],
    device: torch.device,
) -> Trained:
    """Train ``model`` (and ``head``) in place; leaves it in ``eval``.

    Args:
        optimizer: from :func:`make_optimizer`; its rates are warmed up and decayed linearly over ``steps``.
        draws: which examples a step sees.
        batch: examples in a step; halved once if a step is not finite or does not fit into memory.
        deadline: on ``monotonic``, seconds; ``None`` for steps alone.

    Raises:
        TrainingAborted: losses were not finite or steps did not fit into memory several times in a row, or losses
            rose far above where they began.
    """
    done, began = Trained(), monotonic()
    in_a_row, size = 0, batch
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # Without dropout: over so few steps its noise costs more than overfitting would, and a tenth of the time.
    model.eval()
    for step in range(steps):
        if deadline is not None and monotonic() >= deadline:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(step, steps)
        optimizer.zero_grad(set_to_none=True)
        rows = [examples[i] for i in draws.draw(size)]
        value = _attempt(task, model, head, tokenizer, rows, parameters, device)
        if value is None or not math.isfinite(value):
            done.skipped += 1
            in_a_row += 1
            if value is None:
                optimizer.zero_grad(set_to_none=True)
                _make_room(device)
            if in_a_row >= MOST_SKIPPED:
                raise _given_up(in_a_row, size, memory=value is None)
            if size == batch:
                size = max(1, batch // 2)
            continue
        in_a_row = 0
        _update(optimizer)
        done.steps += 1
        done.losses.append(value)
        _guard(done.losses)
        failpoints.hit("round.after_step")
    optimizer.zero_grad(set_to_none=True)
    done.seconds = monotonic() - began
    return done


def _attempt(
    task: Task,
    model: torch.nn.Module,
    head: TrainingHead | None,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    parameters: Sequence[torch.nn.Parameter],
    device: torch.device,
) -> float | None:
    """Clipped gradients of a batch in place, and its loss: not finite if the gradients are not; ``None``: no memory."""
    try:
        value = _backward(task, model, head, tokenizer, examples, device)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, CLIP))
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        return None
    return value if math.isfinite(norm) else norm


def _update(optimizer: torch.optim.Optimizer) -> None:
    try:
        optimizer.step()
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        # Some of the parameters have moved and others have not: there is nothing to skip back to.
        raise TrainingAborted(
            "The memory did not suffice for the optimiser.", "Train less of the model: see round.method and round.rank."
        ) from error


def _out_of_memory(error: BaseException) -> bool:
    """The CPU's allocator raises a plain RuntimeError, told by its name alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _make_room(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    give_back()


def _given_up(count: int, size: int, *, memory: bool) -> TrainingAborted:
    if memory:
        return TrainingAborted(
            f"The memory did not suffice for {count} steps in a row, the last on {size} examples.",
            "Lower round.batch or model.max_tokens, or leave more memory to the round.",
        )
    return TrainingAborted(f"The loss was not finite in {count} steps in a row.", "Lower the learning rate.")


def _backward(
    task: Task,
    model: torch.nn.Module,
    head: TrainingHead | None,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    device: torch.device,
) -> float:
    """Add the gradients of the weighted mean loss of a batch; that loss."""
    total = max(1e-9, sum(example.weight for example in examples))
    value = 0.0
    for part in batches([len(example.input) + len(example.label) for example in examples], FORWARD_CHARACTERS):
        rows = task.encode(tokenizer, [examples[i] for i in part], device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            losses = task.loss(model, head, rows)
        loss = (losses.float() * rows.weights).sum() / total
        loss.backward()  # type: ignore[no-untyped-call]
        value += float(loss.detach())
    return value


def schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: up over the first tenth, then down to nothing, both linear."""
    warm = max(1, round(steps * WARM_UP))
    if step < warm:
        return (step + 1) / warm
    return max(0.0, (steps - step) / max(1, steps - warm))


def _guard(losses: list[float]) -> None:
    """Divergence: the mean of the last losses is more than twice that of the first ones, and by half a nat."""
    if len(losses) < 2 * WINDOW:
        return
    first, last = sum(losses[:WINDOW]) / WINDOW, sum(losses[-WINDOW:]) / WINDOW
    if last > 2 * first + 0.5:
        raise TrainingAborted(f"The loss rose from {first:.2f} to {last:.2f}.", "Lower the learning rate.")
