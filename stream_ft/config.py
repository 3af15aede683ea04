"""Settings: flags > ``STREAM_FT_*`` environment (``__`` nests) > TOML file > defaults.

Only :mod:`stream_ft.wiring` and the command line read this module; everything else takes flat typed parameters.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from stream_ft.config_fast import FastSettings
from stream_ft.config_ingest import IngestSettings
from stream_ft.config_kafka import KafkaSettings
from stream_ft.config_section import Section
from stream_ft.errors import ConfigError


class ModelSettings(Section):
    """Which base model, and how text becomes an embedding."""

    name: str = "default"
    """Name of the model in URLs and topics."""
    base: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hugging Face name or local path of the encoder."""
    task: Literal["classification"] = "classification"
    """What is learned."""
    max_tokens: int = Field(default=128, ge=8, le=8192)
    """Inputs are cut to this many tokens."""
    engine: Literal["auto", "onnx", "torch"] = "auto"
    """What runs a forward; ``auto`` takes torch on a GPU, and on a CPU what is faster there, measured once."""
    threads: int = Field(default=0, ge=0)
    """Threads of a forward that is alone, and forwards that run at once; with 1 as many run at once as there are cores.
    0 takes what was measured to be best beside a busy process; where torch is asked for or there is no other engine,
    nothing is measured, and it is one."""
    device: str = "auto"
    """``auto`` takes a GPU if there is one; or a torch device name."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """Weights as 8-bit or 4-bit integers: less exact, see docs/serving.md#faster-or-smaller-and-less-exact."""
    compile: bool = False
    """Run ``torch.compile`` at the start, in the torch engine; it takes up to minutes."""
    cache_dir: str = ""
    """Folder of exported graphs and measurements; empty: ``$XDG_CACHE_HOME/stream_ft``."""

    @field_validator("name")
    @classmethod
    def _name_is_a_slug(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", value):
            raise ValueError("must be letters, digits, '-' or '_', at most 64")
        return value


class ServeSettings(Section):
    """The HTTP process."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """0 takes a free one and prints it."""
    token: str = ""
    """If set, everything but the probes needs ``Authorization: Bearer TOKEN``."""
    max_batch: int = Field(default=32, ge=1, le=1024)
    """Most requests in one forward."""
    queue: int = Field(default=256, ge=1)
    """Requests that may wait; beyond it the answer is 429."""
    max_body_bytes: int = Field(default=1_000_000, ge=1_000)
    """Largest request body."""
    deadline_s: float = Field(default=10.0, gt=0)
    """A request older than this is answered with 504."""
    max_wait_s: float = Field(default=1.0, gt=0)
    """A request whose answer would probably take more than four fifths of this gets a 429 at once, unless nothing comes
    before it: so nearly all that are admitted have their answer within it."""
    keep_versions: int = Field(default=4, ge=2, le=32)
    """Sets of tensors kept in memory, for a fast rollback."""
    key_file: str = ""
    """File with the key that signs prediction ids (hex); replicas share it. Empty: one in the state folder."""
    learner_url: str = ""
    """Where to ask the learner how it is, if it has another state folder (``http://learn:8081``)."""

    @field_validator("learner_url")
    @classmethod
    def _learner_url_is_a_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/]+/?", value):
            raise ValueError("must be a URL of http or https without a path, or empty")
        return value


class LearnSettings(Section):
    """The learner process: its probes and metrics."""

    name: str = "learner-1"
    """Under which it leads on the control log."""
    reads: Literal["published", "ingested"] = "published"
    """The topics that applications publish to, or the one of ingest workers (docs/publish.md#ingest-workers)."""
    host: str = "127.0.0.1"
    """Address of the probes and metrics."""
    port: int = Field(default=8081, ge=0, le=65535)
    """Port of ``/livez``, ``/readyz`` and ``/metrics``; 0 takes a free one."""
    frozen_after: int = Field(default=1_000, ge=0)
    """Labels of the label topic after which a copy of the live version is frozen, to compare with; 0 for never."""


class ReplaySettings(Section):
    """What is remembered, and what is only tested on."""

    capacity: int = Field(default=10_000, ge=10)
    """Most training examples retained."""
    sampler: Literal["reservoir", "balanced", "recent"] = "balanced"
    """How examples beyond the capacity are chosen."""
    holdout_share: float = Field(default=0.05, ge=0, le=0.5)
    """Share of the examples that are tested on and never trained on."""
    holdout_after: int = Field(default=20, ge=0)
    """A class gives examples to the holdout only once it has this many training examples."""
    holdout_capacity: int = Field(default=1_000, ge=50)
    """Most holdout examples kept; the oldest leave."""
    orphan_limit_s: float = Field(default=3600.0, gt=0)
    """Feedback whose prediction has not come expires when the predictions' watermark has passed it by this."""
    horizon_days: int = Field(default=30, ge=1)
    """Identities are remembered this long; an older event is rejected."""
    contradictions: int = Field(default=3, ge=1)
    """Newer close neighbours that agree on another label before an example is evicted."""
    similarity: float = Field(default=0.8, gt=0, le=1)
    """Cosine of two embeddings from which they count as close."""


class ScheduleSettings(Section):
    """When a round starts."""

    interval_s: float = Field(default=5.0, ge=0)
    """Least time between the end of a round and the start of the next."""
    min_new: int = Field(default=50, ge=1)
    """New or revised examples needed for a head round."""
    min_evaluation: int = Field(default=200, ge=1)
    """Examples that neither version was trained on, needed to judge."""
    adapt_every: int = Field(default=2_000, ge=0)
    """New examples between two rounds that train the encoder; 0 never does so by count."""
    adapt_first: int = Field(default=1_500, ge=0)
    """Examples before the first round that trains the encoder."""
    adapt_misjudged: int = Field(default=500, ge=0)
    """Wrong answers between two rounds that train the encoder: without errors there is nothing to gain."""
    adapt_gain: float = Field(default=0.01, ge=0)
    """A round that trains the encoder and surely gains this much accuracy makes the next one wait for half as many
    examples and errors; one that gains less, for more and more."""
    adapt_on_drift: bool = True
    """A drift alarm after which errors stay up brings the next encoder round forward."""
    adapt_after_drift: int = Field(default=1_000, ge=0)
    """New examples after an alarm before that round: heads may answer it before, and it has something to learn."""
    quiet_hours: str = ""
    """``HH-HH`` in UTC: no round starts then, unless commanded."""
    budget_cpu_s_per_hour: float = Field(default=3600.0, gt=0)
    """CPU or GPU seconds of rounds per hour."""

    @field_validator("quiet_hours")
    @classmethod
    def _quiet_hours_are_hours(cls, value: str) -> str:
        found = re.fullmatch(r"\s*(\d{1,2})\s*-\s*(\d{1,2})\s*", value)
        if value.strip() and (found is None or max(int(found[1]), int(found[2])) > 24):
            raise ValueError("must be HH-HH in UTC, like 22-06, or empty")
        return value


class RoundSettings(Section):
    """One round that trains the encoder."""

    method: Literal["lora", "partial", "full", "scratch", "head"] = "lora"
    """What is trained; ``head`` only refits the head in closed form."""
    steps: int = Field(default=24, ge=1)
    """Most steps of the optimiser; four times as many while encoder rounds gain ``schedule.adapt_gain``."""
    passes: float = Field(default=1.0, gt=0)
    """Most passes over the examples, where they take fewer steps than that; at least 16 steps are taken."""
    batch: int = Field(default=32, ge=1)
    """Examples in a step."""
    fresh_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a batch drawn from examples since the last encoder round; the rest is replayed."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Highest learning rate, after the warm-up; of LoRA's `A`, while `B` learns 16 times as fast."""
    rank: int = Field(default=8, ge=1)
    """Rank of LoRA, on all linear layers."""
    last_layers: int = Field(default=2, ge=1)
    """Layers trained by ``partial``."""
    seconds: float = Field(default=300.0, gt=0)
    """A round is killed after this long."""
    memory_mb: int = Field(default=4_000, ge=100)
    """A round is killed beyond this."""
    threads: int = Field(default=1, ge=1)
    """Threads of the training process, which runs at nice 10."""
    projection: int = Field(default=2_000, ge=0)
    """Random features of the closed-form head; 0 fits it on the embedding itself."""


class GateSettings(Section):
    """When a candidate is accepted."""

    margin: float = Field(default=0.02, ge=0)
    """Accepted if the lower bound of (candidate - champion) exceeds minus this; a new encoder must not do worse."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """One-sided confidence of that bound."""
    class_floor: float = Field(default=0.2, ge=0, le=1)
    """Largest drop of one class's recall, where the class has enough examples to tell."""
    class_support: int = Field(default=10, ge=1)
    """Examples of a class needed for the floor."""
    source_support: int = Field(default=30, ge=1)
    """Examples of a source needed to ask whether the others would be worse off without it."""


class DriftSettings(Section):
    """The alarm on the live version's error."""

    detector: Literal["adwin", "page_hinkley", "none"] = "adwin"
    """What watches the error."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """Confidence of ADWIN: smaller alarms less."""


class LogSettings(Section):
    """What the log lines look like."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is printed."""
    json_lines: bool = False
    """One JSON object a line instead of text."""


class TraceSettings(Section):
    """Spans of OpenTelemetry, from an answer to the version that learned from what was said of it."""

    endpoint: str = ""
    """URL of a collector that takes OTLP over HTTP (``http://localhost:4318``); empty: no traces."""
    share: float = Field(default=0.1, ge=0, le=1)
    """Of the traces that begin here, those that are kept; a request that brings its own is kept as it says."""

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_a_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
            raise ValueError("must be a URL of http or https, or empty")
        return value


class Settings(BaseSettings):
    """All settings of a process."""

    model_config = SettingsConfigDict(env_prefix="STREAM_FT_", env_nested_delimiter="__", extra="ignore")

    model: ModelSettings = Field(default_factory=ModelSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)
    learn: LearnSettings = Field(default_factory=LearnSettings)
    ingest: IngestSettings = Field(default_factory=IngestSettings)
    replay: ReplaySettings = Field(default_factory=ReplaySettings)
    fast: FastSettings = Field(default_factory=FastSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    round: RoundSettings = Field(default_factory=RoundSettings)
    gate: GateSettings = Field(default_factory=GateSettings)
    drift: DriftSettings = Field(default_factory=DriftSettings)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    trace: TraceSettings = Field(default_factory=TraceSettings)
    state_dir: str = ""
    """Folder of everything this process writes; empty: ``$XDG_STATE_HOME/stream_ft/MODEL``."""
    registry_dir: str = ""
    """Folder of the versions' files, one for the learner and all servers; empty: ``registry`` in the state folder."""
    broker: str = "sqlite://"
    """Where events flow: ``sqlite://`` keeps them in the state folder, ``kafka://host:port`` in a Kafka cluster."""
    operator: str = "operator"
    """Name under which commands are issued."""
    seed: int = 0
    """Of sampling and training: the same seed and input give the same result at the same number of threads."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)

    def cache_path(self) -> Path:
        """Folder of what can be made again: exported graphs, measurements."""
        if self.model.cache_dir:
            return Path(self.model.cache_dir).expanduser()
        root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(root) / "stream_ft"

    def key_path(self) -> Path:
        """File of the key that signs ids of predictions."""
        return Path(self.serve.key_file).expanduser() if self.serve.key_file else self.state_path() / "serve.key"

    def registry_path(self) -> Path:
        """Folder of the versions' files."""
        return Path(self.registry_dir).expanduser() if self.registry_dir else self.state_path() / "registry"

    def state_path(self) -> Path:
        """Folder of everything this process writes."""
        if self.state_dir:
            return Path(self.state_dir).expanduser()
        root = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return Path(root) / "stream_ft" / self.model.name


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of two nested settings; ``over`` wins. Neither is changed."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def nest(dotted: dict[str, Any]) -> dict[str, Any]:
    """``{"serve.port": 1}`` to ``{"serve": {"port": 1}}``; values of ``None`` are left out."""
    result: dict[str, Any] = {}
    for path, value in dotted.items():
        if value is None:
            continue
        for part in reversed(path.split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def read_file(path: Path | None) -> dict[str, Any]:
    """Settings of a TOML file.

    Raises:
        ConfigError: the file is missing or is not TOML, or names a setting that does not exist.
    """
    if path is None:
        return {}
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no settings file {path}.", "Check the path given with --config.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", "Check the path given with --config.") from error
    unknown = sorted(set(data) - set(Settings.model_fields))
    if unknown:
        raise ConfigError(
            f"{path} names settings that do not exist: {', '.join(unknown)}.", "See stream-ft config show."
        )
    return data


def load(path: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Settings from all sources.

    Args:
        path: a TOML file.
        flags: dotted names (``serve.port``) given on the command line; ``None`` values count as not given.

    Raises:
        ConfigError: with the name of the setting and what is wrong with it.
    """
    _whole_sections()
    try:
        low = Settings(**read_file(path))
    except ValidationError as error:
        raise _told(error) from error
    return _with(low, flags) if flags else low


def _with(low: Settings, flags: dict[str, Any]) -> Settings:
    """``low`` with ``flags`` on top, validated. Environment is already in ``low``, so it is not read again."""
    merged = merge(low.model_dump(), nest(flags))
    values: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        values[name] = merged[name]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            try:
                values[name] = kind.model_validate(merged[name])
            except ValidationError as error:
                raise _told(error, name) from error
    return Settings.model_construct(**values)


def _told(error: ValidationError, *above: str) -> ConfigError:
    first = error.errors()[0]
    name = ".".join((*above, *(str(part) for part in first["loc"])))
    return ConfigError(f"Setting {name}: {first['msg']}.", "See stream-ft config show.")


def sources(path: Path | None = None, flags: dict[str, Any] | None = None) -> list[tuple[str, Any, str]]:
    """``(dotted name, value, where it came from)`` of every setting, in the order of definition."""
    file = flatten(read_file(path))
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    environment = {name.lower() for name in os.environ}
    whole = _whole_sections()
    rows = []
    for name, value in flatten(load(path, flags).model_dump()).items():
        variable = "STREAM_FT_" + name.replace(".", "__").upper()
        if name in given:
            origin = "flag"
        elif variable.lower() in environment:
            origin = f"environment {variable}"
        elif name in whole:
            origin = f"environment {variable.partition('__')[0]}"
        elif name in file:
            origin = f"file {path}"
        else:
            origin = "default"
        rows.append((name, value, origin))
    return rows


def _whole_sections() -> set[str]:
    """Dotted names of the settings that the environment gives by whole sections: ``STREAM_FT_SERVE={"port": 9000}``.

    Raises:
        ConfigError: such a variable is not a JSON object.
    """
    sections = {f"stream_ft_{name}": name for name, value in Settings.model_fields.items() if value.default_factory}
    found: set[str] = set()
    for variable, text in os.environ.items():
        if (section := sections.get(variable.lower())) is None:
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ConfigError(
                f"{variable} in the environment is not a JSON object.",
                f"Give one setting at a time, like {variable}__NAME=VALUE; stream-ft config show has the names.",
            )
        found |= set(flatten(value, f"{section}."))
    return found


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result
