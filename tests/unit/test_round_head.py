import subprocess
import sys

import msgspec
import numpy as np
import pytest
from tiny import job_folder

from stream_ft.errors import ArtifactError
from stream_ft.events import Example, LabelCorrection, TextCorrection
from stream_ft.learn import round as rounds
from stream_ft.learn.job import Job, Result
from stream_ft.learn.round import main, run, write_result
from stream_ft.model.heads import Head

BASE = "b" * 64
DIM = 16
CENTRES = np.random.default_rng(1).normal(size=(4, DIM))


def example(i, base=BASE, label=None):
    random = np.random.default_rng(i)
    vector = (CENTRES[i % 4] + 0.3 * random.normal(size=DIM)).astype(np.float16)
    return Example(
        seq=i + 1,
        id=i + 1,
        input=f"text {i}",
        correction=LabelCorrection(label=label or f"class {i % 4}"),
        source="test",
        trust=2,
        embedding=vector.tobytes() if base else None,
        embedding_base=base,
    )


def job(**fields):
    return Job(**({"kind": "head", "base_model": "-", "champion_base": BASE, "projection": 64} | fields))


def do(folder, the_job, train, evaluate):
    return run(job_folder(folder, the_job, train, evaluate), the_job)


def test_a_head_is_fitted_and_scored_against_an_empty_champion(tmp_path):
    champion = tmp_path / "champion.safetensors"
    champion.write_bytes(Head.empty(DIM).to_bytes())
    result = do(
        tmp_path / "job",
        job(champion_head=str(champion), examples_upto=77),
        [example(i) for i in range(80)],
        [example(i) for i in range(80, 120)],
    )
    assert result.ok
    assert result.examples_upto == 77
    assert result.train_examples == 80
    assert result.scores_champion == [0.0] * 40
    assert sum(result.scores_candidate) == 40
    assert result.classes == [f"class {i % 4}" for i in range(80, 120)]
    head = Head.from_bytes((tmp_path / "job" / "head.safetensors").read_bytes())
    assert head.labels == ("class 0", "class 1", "class 2", "class 3")


def test_the_champion_is_scored_by_its_own_head(tmp_path):
    rows = [example(i) for i in range(80)]
    do(tmp_path / "first", job(), rows, rows[:1])
    swapped = [example(i, label=f"class {(i + 1) % 4}") for i in range(80, 160)]
    result = do(
        tmp_path / "second",
        job(champion_head=str(tmp_path / "first" / "head.safetensors")),
        swapped,
        [example(100), example(101, label="class 2")],
    )
    assert result.scores_champion == [1.0, 0.0]
    assert result.scores_candidate == [0.0, 1.0]


def test_examples_of_another_base_are_left_out_and_counted(tmp_path):
    train = [example(i) for i in range(40)] + [example(i, base="c" * 64) for i in range(40, 45)]
    evaluate = [example(i) for i in range(50, 60)] + [example(60, base="")]
    result = do(tmp_path / "job", job(), train, evaluate)
    assert result.train_examples == 40
    assert len(result.scores_champion) == len(result.scores_candidate) == len(result.classes) == 10
    assert result.reason.startswith("6 examples")


def test_corrections_that_are_no_label_do_not_become_classes(tmp_path):
    text = msgspec.structs.replace(example(3), correction=TextCorrection(text="say this"))
    do(tmp_path / "job", job(), [example(0), example(1), text], [example(4)])
    head = Head.from_bytes((tmp_path / "job" / "head.safetensors").read_bytes())
    assert head.labels == ("class 0", "class 1")


def test_the_weight_of_an_example_counts(tmp_path):
    rows = [example(0, label="light"), msgspec.structs.replace(example(0, label="heavy"), weight=5.0)]
    result = do(tmp_path / "job", job(), rows, [example(0, label="heavy")])
    assert result.scores_candidate == [1.0]


@pytest.mark.parametrize("train", [[], [example(0, base="c" * 64)]])
def test_nothing_to_train_on_is_told(tmp_path, train):
    result = do(tmp_path / "job", job(), train, [example(1)])
    assert not result.ok
    assert result.reason
    assert not (tmp_path / "job" / "head.safetensors").exists()


def test_a_task_without_classes_has_no_head_round(tmp_path):
    result = do(tmp_path / "job", job(task="causal-lm"), [example(0)], [])
    assert not result.ok
    assert "causal-lm" in result.reason


def test_the_same_job_gives_the_same_bytes(tmp_path):
    rows = [example(i) for i in range(60)]
    for name in ("one", "two"):
        do(tmp_path / name, job(seed=3), rows, rows[:5])
    assert (tmp_path / "one/head.safetensors").read_bytes() == (tmp_path / "two/head.safetensors").read_bytes()


def test_a_champion_that_is_damaged_is_named(tmp_path):
    path = tmp_path / "champion"
    path.write_bytes(b"not a head")
    with pytest.raises(ArtifactError, match="head"):
        do(tmp_path / "job", job(champion_head=str(path)), [example(0)], [example(1)])


def test_the_result_comes_whole_or_not_at_all(tmp_path):
    write_result(tmp_path, Result(ok=True, kind="head", examples_upto=1))
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_process_leaves_a_result_without_importing_torch(tmp_path):
    folder = job_folder(
        tmp_path / "job", job(), [example(i) for i in range(1_000)], [example(i) for i in range(1_000, 1_200)]
    )
    code = "import sys; from stream_ft.learn.round import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = msgspec.json.decode((folder / "result.json").read_bytes(), type=Result)
    assert result.ok
    assert result.cpu_s > 0
    assert result.peak_rss_mb > 10


def test_a_failed_round_says_why_in_its_result(tmp_path):
    path = tmp_path / "champion"
    path.write_bytes(b"not a head")
    folder = job_folder(tmp_path / "job", job(champion_head=str(path)), [example(0)], [example(1)])
    done = subprocess.run(
        [sys.executable, "-m", "stream_ft.learn.round", str(folder)], capture_output=True, check=False
    )
    assert done.returncode == 0
    result = msgspec.json.decode((folder / "result.json").read_bytes(), type=Result)
    assert not result.ok
    assert "head" in result.reason


def test_what_an_error_quotes_is_not_in_its_result(tmp_path, monkeypatch, capfd):
    """The reason goes to the log, the console and the metrics' annotations; an error may quote what a user wrote."""
    monkeypatch.setattr(rounds, "be_nice", lambda nice: None)
    monkeypatch.setattr(rounds, "follow_parent", lambda: None)

    def broken(folder, job):
        raise ValueError("my card is 4711")

    monkeypatch.setattr(rounds, "run", broken)
    folder = job_folder(tmp_path / "job", job(), [example(0)], [example(1)])
    assert main([str(folder)]) == 0
    result = msgspec.json.decode((folder / "result.json").read_bytes(), type=Result)
    assert not result.ok
    assert "ValueError" in result.reason
    assert "test_round_head.py" in result.reason
    assert "4711" not in result.reason
    assert "4711" in capfd.readouterr().err, "which is the round's own log"


def test_usage_is_told():
    assert main([]) == 2


def test_what_is_judged_by_does_not_train(tmp_path):
    """Labels drawn at random can only be right by chance, a quarter of them, unless the head has seen them."""
    random = np.random.default_rng(5)

    def at_random(i):
        wide = random.normal(size=128).astype(np.float16)
        return msgspec.structs.replace(
            example(i, label=f"class {random.integers(4)}"), embedding=wide.tobytes(), embedding_base=BASE
        )

    train, judged = ([at_random(i) for i in range(start, start + 200)] for start in (0, 1_000))
    honest = do(tmp_path / "honest", job(projection=512), train, judged)
    assert sum(honest.scores_candidate) / 200 < 0.4
    seen = do(tmp_path / "seen", job(projection=512), train + judged, judged)
    assert sum(seen.scores_candidate) / 200 > 0.6, "a head that had seen them would be noticed"
