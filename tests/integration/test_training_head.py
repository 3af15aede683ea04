import numpy as np
import pytest
import torch

from stream_ft.errors import ArtifactError
from stream_ft.learn.adapt.candidate import start_head
from stream_ft.learn.adapt.trainer import make_optimizer
from stream_ft.model.tasks.training_head import TrainingHead

DIM = 6
EYE = np.eye(DIM, dtype=np.float32)


def grown(*labels):
    model, head = torch.nn.Linear(DIM, DIM), TrainingHead(DIM)
    optimizer = make_optimizer(model, head, 0.01)
    head.grow({label: EYE[i] for i, label in enumerate(labels)}, optimizer)
    return head, optimizer


def step(head, optimizer, label="a"):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(head(torch.ones(1, DIM)), head.targets([label]))
    loss.backward()
    optimizer.step()


def moments(head, optimizer):
    return {name: optimizer.state[head.weight][name].clone() for name in ("exp_avg", "exp_avg_sq")}


def test_a_new_row_is_the_normalised_mean():
    head, optimizer = grown("a")
    head.grow({"b": 3 * EYE[1] + 4 * EYE[2]}, optimizer)
    assert head.labels == ("a", "b")
    np.testing.assert_allclose(head.weight[1].tolist(), [0, 0.6, 0.8, 0, 0, 0], atol=1e-6)


def test_growing_keeps_the_optimisers_state_of_the_old_rows():
    head, optimizer = grown("a", "b")
    step(head, optimizer)
    before, rows = moments(head, optimizer), head.weight.detach().clone()
    head.grow({"c": EYE[2]}, optimizer)
    after = moments(head, optimizer)
    for name in before:
        assert before[name].abs().sum() > 0
        assert torch.equal(after[name][:2], before[name])
        assert not after[name][2].any()
    assert torch.equal(head.weight[:2], rows)
    assert float(optimizer.state[head.weight]["step"]) == 1


def test_a_grown_head_goes_on_learning():
    head, optimizer = grown("a", "b")
    step(head, optimizer)
    head.grow({"c": EYE[2]}, optimizer)
    before = head.weight.detach().clone()
    step(head, optimizer, "c")
    assert (head.weight != before).any(1).all()
    assert len(optimizer.state) == 1, "the optimiser must have forgotten the parameter that was replaced"


def test_a_known_label_is_not_grown_twice():
    head, optimizer = grown("a", "b")
    head.grow({"a": EYE[5]}, optimizer)
    assert head.labels == ("a", "b")
    assert head.weight[0].tolist() == EYE[0].tolist()


def test_rows_and_moments_survive_from_round_to_round(tmp_path):
    head, optimizer = grown("a", "b")
    step(head, optimizer)
    path = tmp_path / "head"
    path.write_bytes(head.to_bytes(optimizer))
    other, others = grown()
    other.restore(str(path), others)
    assert other.labels == ("a", "b")
    assert torch.equal(other.weight, head.weight)
    step(head, optimizer, "b")
    step(other, others, "b")
    assert torch.equal(other.weight, head.weight), "the next step must be the one that would have been"


def test_a_row_whose_label_changed_its_meaning_starts_anew(tmp_path):
    head, optimizer = grown("a", "b", "gone", "same")
    step(head, optimizer)
    path = tmp_path / "head"
    path.write_bytes(head.to_bytes(optimizer))
    other, others = grown()
    other.restore(str(path), others)
    start_head(other, others, {"a": EYE[1], "b": EYE[0], "same": EYE[3], "new": EYE[4]})
    assert other.labels == ("same", "a", "b", "new")
    assert torch.equal(other.weight[0], head.weight[3])
    assert other.weight[1:].tolist() == [EYE[1].tolist(), EYE[0].tolist(), EYE[4].tolist()]
    assert not moments(other, others)["exp_avg"][1:].any()
    assert moments(other, others)["exp_avg"][0].any()


@pytest.mark.parametrize("data", [b"", b"nonsense"])
def test_a_state_that_cannot_be_read_is_refused(tmp_path, data):
    path = tmp_path / "head"
    path.write_bytes(data)
    head, optimizer = grown()
    with pytest.raises(ArtifactError):
        head.restore(str(path), optimizer)


def test_a_state_of_another_width_is_refused(tmp_path):
    head, optimizer = grown("a")
    path = tmp_path / "head"
    path.write_bytes(head.to_bytes(optimizer))
    wide = TrainingHead(DIM + 1)
    with pytest.raises(ArtifactError, match="shape"):
        wide.restore(str(path), make_optimizer(torch.nn.Linear(2, 2), wide, 0.1))
