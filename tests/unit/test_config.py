"""Settings: which source wins, and what is said of a mistake."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_ft import config
from stream_ft.cli_options import flags
from stream_ft.errors import ConfigError
from stream_ft.learn.schedule import Policy


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("STREAM_FT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('seed = 3\noperator = "ann"\n[serve]\nport = 9001\n[round]\nmethod = "head"\n')
    return path


def test_defaults_are_valid() -> None:
    settings = config.load()
    assert settings.serve.port == 8080
    assert settings.broker == "sqlite://"


def test_a_file_is_above_the_defaults(file: Path) -> None:
    settings = config.load(file)
    assert (settings.seed, settings.serve.port, settings.round.method, settings.serve.host) == (
        3,
        9001,
        "head",
        "127.0.0.1",
    )


def test_the_environment_is_above_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_SERVE__PORT", "9002")
    settings = config.load(file)
    assert (settings.serve.port, settings.round.method) == (9002, "head")


def test_flags_are_above_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_SERVE__PORT", "9002")
    settings = config.load(file, {"serve.port": 9003, "serve.host": None})
    assert (settings.serve.port, settings.serve.host, settings.seed) == (9003, "127.0.0.1", 3)


def test_every_source_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_GATE__MARGIN", "0.05")
    rows = {name: (value, origin) for name, value, origin in config.sources(file, {"serve.host": "0.0.0.0"})}
    assert rows["serve.host"] == ("0.0.0.0", "flag")
    assert rows["gate.margin"] == (0.05, "environment STREAM_FT_GATE__MARGIN")
    assert rows["serve.port"] == (9001, f"file {file}")
    assert rows["seed"] == (3, f"file {file}")
    assert rows["learn.port"] == (8081, "default")
    assert set(rows) == set(config.flatten(config.Settings().model_dump()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed = 3", "sed"),
        ("[serve]\nprot = 1", "serve.prot"),
        ("[serve]\nport = 70000", "serve.port"),
        ("[serve]\nport = 'x'", "serve.port"),
        ("[round]\nmethod = 'magic'", "round.method"),
        ("[model]\nname = '../etc'", "model.name"),
        ("[schedule]\nmin_new = 0", "schedule.min_new"),
        ("serve = ", "not a TOML file"),
        ("\x00", "not a TOML file"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        config.load(path)


def test_a_file_that_is_not_there_or_not_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no settings file"):
        config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)


def test_a_mistake_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_SERVE__PORT", "many")
    with pytest.raises(ConfigError, match="port"):
        config.load()


def test_other_variables_of_ours_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_DATA", "/data")
    monkeypatch.setenv("STREAM_FT_FAILPOINT", "store.before_commit:kill")
    assert config.load() == config.load()


def test_the_state_folder_follows_xdg_and_the_models_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert config.load(flags={"model.name": "shop"}).state_path() == tmp_path / "stream_ft" / "shop"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.load().state_path() == tmp_path / ".local" / "state" / "stream_ft" / "default"
    assert config.load(flags={"state_dir": "~/here"}).state_path() == tmp_path / "here"


def test_merge_changes_neither_side() -> None:
    low, high = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}
    assert config.merge(low, high) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert (low, high) == ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4})


def test_nest_is_the_undo_of_flatten() -> None:
    nested = config.Settings().model_dump()
    assert config.nest(config.flatten(nested)) == nested


@pytest.mark.parametrize(
    ("assignment", "name", "value"),
    [
        ("serve.port=9000", "serve.port", 9000),
        ("gate.margin=0", "gate.margin", 0.0),
        ("schedule.adapt_on_drift=false", "schedule.adapt_on_drift", False),
        ("seed=5", "seed", 5),
        ("operator=a=b", "operator", "a=b"),
        ("model.base=1234", "model.base", "1234"),
    ],
)
def test_set_gives_the_type_of_the_setting(assignment: str, name: str, value: Any) -> None:
    settings = config.load(flags=flags(None, [assignment]))
    assert config.flatten(settings.model_dump())[name] == value


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("serve.port", "no '='"),
        ("serve.prt=1", "no setting serve.prt"),
        ("seed=x", "seed"),
        ("serve=1", "no setting serve"),
    ],
)
def test_a_mistake_in_set_is_named(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        flags(None, [assignment])


def test_a_value_out_of_range_in_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="port"):
        config.load(flags=flags(None, ["serve.port=-1"]))


@pytest.mark.parametrize("value", ["foo", "22", "22-25", "-1-3"])
def test_quiet_hours_that_are_none_are_told(value: str) -> None:
    with pytest.raises(ConfigError, match="quiet_hours"):
        config.load(None, {"schedule.quiet_hours": value})


@pytest.mark.parametrize("value", ["", " ", "22-06", "0-24"])
def test_quiet_hours(value: str) -> None:
    assert config.load(None, {"schedule.quiet_hours": value}).schedule.quiet_hours == value


def test_a_section_that_is_no_json_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_LEARN", "abc")
    with pytest.raises(ConfigError, match="environment"):
        config.load()


@pytest.mark.parametrize("text", ["abc", "", "5", "[1]", "{", "[" * 100_000])
@pytest.mark.parametrize("variable", ["STREAM_FT_LEARN", "stream_ft_learn"])
def test_the_sentence_names_the_variable_and_no_inside(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    for call in (config.load, config.sources):
        with pytest.raises(ConfigError, match=f"^{variable} in the environment is not a JSON object") as caught:
            call()
        assert "EnvSettingsSource" not in str(caught.value)


def test_a_whole_section_of_the_environment_is_named_as_the_origin(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_SERVE", '{"port": 9005, "host": "0.0.0.0"}')
    monkeypatch.setenv("STREAM_FT_SERVE__HOST", "::1")
    rows = {name: (value, origin) for name, value, origin in config.sources(file)}
    assert rows["serve.port"] == (9005, "environment STREAM_FT_SERVE")
    assert rows["serve.host"] == ("::1", "environment STREAM_FT_SERVE__HOST")
    assert rows["serve.queue"] == (256, "default")


@pytest.mark.parametrize("value", ["", " ", "22-06", "0-24", " 1 - 2 ", "foo", "22", "25-1", "1-25", "22-06x", "-1-3"])
def test_the_schedule_and_the_settings_agree_on_quiet_hours(value: str) -> None:
    def refused(make: Callable[[], object]) -> bool:
        try:
            make()
        except ConfigError:
            return True
        return False

    good = config.ScheduleSettings().model_dump() | {"quiet_hours": value}
    assert refused(lambda: config.load(flags={"schedule.quiet_hours": value})) == refused(lambda: Policy(**good))
