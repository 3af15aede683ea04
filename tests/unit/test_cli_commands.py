"""The command line as a whole: what it hands on, its exit codes, and that nobody ever sees a traceback."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Done, command

from stream_ft import __version__
from stream_ft.config import Settings
from stream_ft.errors import AlreadyRunningError, ConfigError, ModelNotFoundError, StreamFTError

Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run ``stream-ft WORDS`` in an empty folder and environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("STREAM_FT_TRACEBACK", "STREAM_FT_SERVE__TOKEN", "STREAM_FT_SERVE__PORT"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: command(capsys, monkeypatch, *words)


def behind(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, result: Any
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Put a stand-in behind a command; returns the calls it gets. A result that is an exception is raised."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: stand_in}))
    return calls


@pytest.mark.parametrize("role", ["up", "serve", "learn"])
@pytest.mark.parametrize("code", [0, 1, 130, 143])
def test_a_process_gets_its_settings_and_gives_the_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, role: str, code: int
) -> None:
    calls = behind(monkeypatch, f"stream_ft.wiring.{role}", "run", code)
    done = run(role, "--port", "0", "--host", "::1", "--state-dir", "here", "--set", "seed=4")
    assert done.code == code
    ((settings,), _) = calls[0]
    assert isinstance(settings, Settings)
    section = settings.learn if role == "learn" else settings.serve
    assert (section.port, section.host, settings.state_dir, settings.seed) == (0, "::1", "here", 4)


def test_the_demo_is_told_everything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = behind(monkeypatch, "stream_ft.demo.run", "run", 0)
    assert run("demo").code == 0
    columns = ("--text-column", "body", "--label-column", "2")
    assert run("demo", "--data", "x.csv", *columns, "--model", "m", "--out", "o").code == 0
    assert [kwargs for _, kwargs in calls] == [
        {"out": Path("demo-out"), "data": None, "text_column": None, "label_column": None, "model": None},
        {"out": Path("o"), "data": Path("x.csv"), "text_column": "body", "label_column": "2", "model": "m"},
    ]


def test_simulate_is_told_everything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = {"events": 10, "prequential_accuracy": 0.875, "final_test_accuracy": None}
    calls = behind(monkeypatch, "stream_ft.wiring.simulate", "simulate", summary)
    words = (
        "simulate f.csv --text-column t --label-column 1 --out o --test g.csv --phase-column p --order shuffle --seed 3"
    )
    done = run(*words.split(), *["--limit", "9", "--noise", "0.5", "--label-delay", "2", "--set", "gate.margin=0.5"])
    assert done.code == 0
    assert "0.875" in done.out
    assert "o/report.html" in done.out
    ((file,), told) = calls[0]
    settings = told.pop("settings")
    told.pop("progress")(5, 10, 0.5)
    assert settings.gate.margin == 0.5
    assert (file, told) == (
        Path("f.csv"),
        {
            "text_column": "t",
            "label_column": "1",
            "out": Path("o"),
            "test": Path("g.csv"),
            "phase_column": "p",
            "order": "shuffle",
            "seed": 3,
            "limit": 9,
            "noise": 0.5,
            "label_delay": 2,
        },
    )


def test_simulate_can_print_json_alone_on_stdout(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    behind(monkeypatch, "stream_ft.wiring.simulate", "simulate", {"events": 10})
    done = run("simulate", "f", "--text-column", "0", "--label-column", "1", "--out", "o", "--json")
    assert json.loads(done.out) == {"events": 10}


def test_replay_is_told_everything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = behind(
        monkeypatch,
        "stream_ft.wiring.replay",
        "replay",
        {"events": 3, "accuracy": 0.123456, "latency_ms": {"p50": 1.23456}, "curve": []},
    )
    words = "replay f.csv --url http://h:1 --text-column t --label-column l --rate 5 --label-delay 0.5 --noise 0.1"
    done = run(
        *words.split(),
        *["--as", "labels", "--out", "o", "--limit", "7", "--seed", "2", "--token", "secret"],
        "--phase-column",
        "p",
    )
    assert "accuracy: 0.1235" in done.out
    assert "latency_ms: p50 1.235" in done.out
    assert "curve" not in done.out
    ((file,), told) = calls[0]
    assert file == Path("f.csv")
    told["tell"](3, 7, 0.5)
    assert (told["as_"], told["phase_column"]) == ("labels", "p")
    assert (told["url"], told["rate"], told["label_delay"], told["noise"]) == ("http://h:1", 5.0, 0.5, 0.1)
    assert (told["out"], told["limit"], told["seed"], told["token"]) == (Path("o"), 7, 2, "secret")


def test_replays_token_may_come_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = behind(monkeypatch, "stream_ft.wiring.replay", "replay", {})
    monkeypatch.setenv("STREAM_FT_SERVE__TOKEN", "secret")
    run("replay", "f", "--text-column", "0", "--label-column", "1")
    assert calls[0][1]["token"] == "secret"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            ConfigError("The port is odd.", "Choose an even one."),
            2,
            "stream-ft: The port is odd. Choose an even one.\n",
        ),
        (AlreadyRunningError("It runs.", "Stop it."), 1, "stream-ft: It runs. Stop it.\n"),
        (ModelNotFoundError("No model."), 1, "stream-ft: No model.\n"),
        (StreamFTError("Odd.", ""), 1, "stream-ft: Odd.\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "stream-ft: /x: Permission denied.\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "stream-ft: No space left on device.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    behind(monkeypatch, "stream_ft.wiring.up", "run", error)
    done = run("up")
    assert (done.code, done.out, done.err) == (code, "", said)


def test_what_should_not_happen_shows_no_traceback_unless_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    behind(monkeypatch, "stream_ft.wiring.up", "run", ZeroDivisionError("division by zero"))
    done = run("up")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "ZeroDivisionError: division by zero" in done.err
    monkeypatch.setenv("STREAM_FT_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run("up")


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "up --nonsense",
        "up --port many",
        "up --port 70000",
        "up --set port",
        "up --config missing.toml",
        "simulate",
        "simulate f --text-column t --label-column l",
        "simulate f --text-column t --label-column l --out o --noise 2",
        "simulate f --text-column t --label-column l --out o --order backwards",
        "simulate f --text-column t --label-column l --out o --limit 0",
        "replay f --text-column t --label-column l --rate 0",
        "replay f --text-column t --label-column l --as gossip",
        "control deny",
        "control rollback extra",
        "config show --set gate.margin=wide",
    ],
)
def test_wrong_use_is_exit_2_with_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    for module, name in (("up", "run"), ("simulate", "simulate"), ("replay", "replay")):
        behind(monkeypatch, f"stream_ft.wiring.{module}", name, AssertionError("must not be reached"))
    done = run(*words.split())
    assert done.code == 2
    assert done.err.strip()
    assert "Traceback" not in done.err


def test_the_version(run: Run) -> None:
    assert run("--version").out == f"stream-ft {__version__}\n"


def test_without_a_command_there_is_help(run: Run) -> None:
    done = run()
    assert "simulate" in done.out + done.err


def test_config_show_names_value_and_origin(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[gate]\nmargin = 0.5\n")
    monkeypatch.setenv("STREAM_FT_SERVE__PORT", "9")
    rows = json.loads(run("config", "show", "--config", "s.toml", "--set", "seed=3", "--json").out)
    found = {row["name"]: (row["value"], row["origin"]) for row in rows}
    assert found["gate.margin"] == (0.5, "file s.toml")
    assert found["serve.port"] == (9, "environment STREAM_FT_SERVE__PORT")
    assert found["seed"] == (3, "flag")
    assert found["learn.port"] == (8081, "default")


def test_config_show_never_prints_the_token(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_SERVE__TOKEN", "s3cret")
    for words in (["config", "show"], ["config", "show", "--json"]):
        done = run(*words)
        assert "s3cret" not in done.out
        assert "***" in done.out


def test_config_show_for_people_cuts_no_value(run: Run) -> None:
    text = run("config", "show").out
    assert "sentence-transformers/all-MiniLM-L6-v2" in text
    assert "schedule.budget_cpu_s_per_hour" in text
