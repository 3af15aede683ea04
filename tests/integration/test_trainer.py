"""The guards and budgets of the training loop, on a model of one matrix and a task whose losses are told to it."""

import pytest
import torch
from tiny import examples

from stream_ft.learn.adapt.batches import Batches
from stream_ft.learn.adapt.trainer import MOST_SKIPPED, TrainingAborted, make_optimizer, schedule, train
from stream_ft.model.tasks.batch import Batch

CPU = torch.device("cpu")
ROWS = examples(32)


class Told:
    """Loss of each step as told, times the model's output, which starts at 1."""

    def __init__(self, *factors):
        self.factors = list(factors)
        self.sizes = []

    def encode(self, tokenizer, rows, device):
        weights = torch.tensor([row.weight for row in rows])
        zeros = torch.zeros(len(rows), 1, dtype=torch.int64)
        return Batch(tokens=zeros, mask=zeros, targets=None, labels=(), weights=weights)

    def loss(self, model, head, batch):
        self.sizes.append(len(batch.weights))
        factor = self.factors[min(len(self.sizes), len(self.factors)) - 1]
        return model.weight.sum() * factor * torch.ones(len(batch.weights))


def model():
    one = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(one.weight)
    return one


def go(task, *, the_model=None, steps=6, batch=8, deadline=None, monotonic=lambda: 0.0, optimizer=None):
    the_model = the_model or model()
    draws = Batches([row.label for row in ROWS], [True] * len(ROWS), share=0.5, seed=0)
    return train(
        task,
        the_model,
        None,
        optimizer or make_optimizer(the_model, None, 1e-4),
        None,
        ROWS,
        draws,
        steps=steps,
        batch=batch,
        deadline=deadline,
        monotonic=monotonic,
        device=CPU,
    )


def test_steps_bound_the_training():
    task = Told(1.0)
    done = go(task)
    assert done.steps == 6
    assert task.sizes == [8] * 6
    assert done.losses == pytest.approx([1.0] * 6, abs=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fault_14_a_step_that_is_not_finite_is_skipped_and_the_batch_halved_once(bad):
    one, task = model(), Told(1.0, bad, 1.0, bad, 1.0)
    done = go(task, the_model=one)
    assert done.skipped == 2
    assert done.steps == 4
    assert task.sizes == [8, 8, 4, 4, 4, 4]
    assert torch.isfinite(one.weight).all()


def test_fault_14_a_run_of_such_steps_ends_the_round():
    task = Told(1.0, float("nan"))
    with pytest.raises(TrainingAborted, match="not finite"):
        go(task, steps=100)
    assert len(task.sizes) == 1 + MOST_SKIPPED


class Starved(Told):
    """Told, but for the steps of which nothing fits into memory."""

    def __init__(self, error, *steps):
        super().__init__(1.0)
        self.error, self.steps = error, steps

    def loss(self, model, head, batch):
        told = super().loss(model, head, batch)
        if len(self.sizes) in self.steps:
            raise self.error
        return told


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "cpu", "python"])
def test_fault_14_a_step_without_memory_is_skipped_and_the_batch_halved_once(error):
    task = Starved(error, 2, 4)
    done = go(task)
    assert (done.skipped, done.steps) == (2, 4)
    assert task.sizes == [8, 8, 4, 4, 4, 4]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "cpu", "python"])
def test_fault_14_a_run_of_steps_without_memory_ends_the_round(error):
    with pytest.raises(TrainingAborted, match="memory did not suffice"):
        go(Starved(error, *range(2, 100)), steps=100)


def test_another_fault_of_a_step_is_not_taken_for_want_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        go(Starved(RuntimeError("shapes cannot be multiplied"), 2))


def test_a_loss_that_keeps_rising_ends_the_round():
    with pytest.raises(TrainingAborted, match="rose from"):
        go(Told(*[1.0] * 8, *[10.0] * 8), steps=100)


def test_a_loss_that_only_jumps_about_does_not():
    assert go(Told(*[0.4, 1.2] * 10), steps=20).steps == 20


def test_fault_14_exploding_gradients_are_clipped():
    one = model()
    # AdamW's steps hide the size of a gradient, so the clip is seen through plain descent.
    plain = torch.optim.SGD([{"params": [one.weight], "lr": 0.0, "peak": 0.01}])
    go(Told(1e6), the_model=one, steps=1, optimizer=plain)
    assert one.weight.item() == pytest.approx(0.99)


def test_a_deadline_ends_the_training_between_two_steps():
    times = iter([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0])
    done = go(Told(1.0), deadline=2.5, monotonic=lambda: next(times), steps=50)
    assert (done.steps, done.seconds) == (3, 5.0)


def test_the_rate_goes_up_and_then_down_to_nothing():
    rates = [schedule(step, 20) for step in range(20)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.1
    assert schedule(0, 1) == 1.0


def test_the_model_is_left_ready_to_serve():
    one = model()
    go(Told(1.0), the_model=one)
    assert not one.training
    assert one.weight.grad is None
