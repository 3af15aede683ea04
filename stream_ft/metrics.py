"""Every series in one place. Names: ``stream_ft_`` prefix, base units; labels only from small fixed sets.

No user id, text or free string is ever a label: :func:`slug` maps what is not in a known set to ``other``, so the
number of series stays constant however many users, labels and versions there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

ROUTES = ("predict", "infer", "feedback", "labels", "control", "status", "metrics", "probe", "other")
CODES = ("200", "202", "400", "401", "403", "404", "405", "408", "413", "415", "422", "429", "499", "500", "503", "504")
SWAP_STEPS = (
    "", "missing", "hash", "manifest", "keys", "shapes", "dtypes", "base", "labels", "finite", "golden",
    "prepare", "flip",
)  # fmt: skip
SLOTS = ("champion", "challenger")
SHADOWED = ("agreed", "disagreed", "failed", "shed")
EVENT_KINDS = ("prediction", "feedback", "labelled", "duplicate", "orphan")
DEAD_LETTERS = (
    "invalid_json", "invalid_utf8", "not_an_object", "unknown_type", "unknown_schema_version", "missing_field",
    "wrong_type", "invalid_field", "too_long", "empty_text", "not_allowed_here", "bad_embedding", "bad_time", "too_old",
    "conflict", "identity_conflict", "orphan", "new_label", "invalid_event", "cloudevents", "invalid_original",
)  # fmt: skip
ROUND_KINDS = ("head", "lora", "partial", "full", "scratch")
VERDICTS = ("accepted", "refused", "failed", "overtaken")

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


def new_registry() -> CollectorRegistry:
    """A registry of one process. The global default registry is not used: a test can have as many as it likes."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return CollectorRegistry(auto_describe=True)


def slug(value: str, known: Iterable[str]) -> str:
    """``value`` if it is one of ``known``, else ``other``."""
    return value if value in known else "other"


def render(registry: CollectorRegistry) -> bytes:
    """All series in Prometheus' text format."""
    return generate_latest(registry)


class ServeMetrics:
    """Series of the serving process.

    Args:
        registry: where they are registered; one instance per registry.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "stream_ft_http_requests", "Answers by route and status.", ["route", "code"], registry=registry
        )
        self.latency = Histogram(
            "stream_ft_predict_latency_seconds",
            "From the arrival of a prediction request to its answer.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.batch = Histogram(
            "stream_ft_batch_inputs", "Inputs in one forward.", buckets=BATCH_BUCKETS, registry=registry
        )
        self.queue = Gauge("stream_ft_queue_inputs", "Inputs waiting for a forward.", registry=registry)
        self._swaps = Counter(
            "stream_ft_swaps",
            "Swaps by result; of failed ones, the step that failed.",
            ["result", "step"],
            registry=registry,
        )
        self.swap_seconds = Histogram(
            "stream_ft_swap_seconds",
            "From reading the promotion to the flip, verification included.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.flip_seconds = Histogram(
            "stream_ft_flip_seconds",
            "Time the forward thread spent on a flip, between two batches.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._active = Gauge(
            "stream_ft_active_version_info", "1 for the version that answers.", ["version", "base"], registry=registry
        )
        self.epoch = Gauge("stream_ft_active_epoch", "Epoch of the version that answers.", registry=registry)
        self.wanted_epoch = Gauge(
            "stream_ft_wanted_epoch", "Epoch of the version that should answer.", registry=registry
        )
        self.ready = Gauge("stream_ft_ready", "1 if some version that is not denied answers.", registry=registry)
        self.control_halted = Gauge(
            "stream_ft_control_halted",
            "1 if the control log was lost or replaced: no commands are taken.",
            registry=registry,
        )
        self.control_offset = Gauge(
            "stream_ft_control_offset", "Next offset of the control log to fold.", registry=registry
        )
        self.published = Counter(
            "stream_ft_predictions_published", "Predictions written to the log.", registry=registry
        )
        self.dropped = Counter(
            "stream_ft_predictions_dropped", "Predictions not written: the queue was full.", registry=registry
        )
        self.feedback = Counter("stream_ft_feedback_accepted", "Feedback events acknowledged.", registry=registry)
        self.labels = Counter("stream_ft_labels_accepted", "Labelled events acknowledged.", registry=registry)
        self.appends_failed = Counter("stream_ft_appends_failed", "Group commits that failed.", registry=registry)
        self._answered = Counter(
            "stream_ft_slot_requests", "Requests answered, by the slot that answered.", ["slot"], registry=registry
        )
        self._shadowed = Counter(
            "stream_ft_shadow_requests",
            "Requests sampled for a shadow, by what came of them.",
            ["result"],
            registry=registry,
        )
        self.shadow_seconds = Histogram(
            "stream_ft_shadow_seconds", "Time a shadow took for a text.", buckets=LATENCY_BUCKETS, registry=registry
        )
        self.challenger_ready = Gauge(
            "stream_ft_challenger_ready", "1 if the challenger on trial is loaded.", registry=registry
        )
        self._challenger_failures = Counter(
            "stream_ft_challenger_failures",
            "Challengers that could not be loaded, by the step that failed.",
            ["step"],
            registry=registry,
        )

    def request(self, route: str, code: int) -> None:
        """Count one answer."""
        self._requests.labels(slug(route, ROUTES), slug(str(code), CODES)).inc()

    def swapped(self, version: str, base: str, epoch: int, seconds: float) -> None:
        """A version went live."""
        self._swaps.labels("ok", "").inc()
        self.swap_seconds.observe(seconds)
        self._active.clear()
        self._active.labels(version, base[:12]).set(1)
        self.epoch.set(epoch)

    def swap_failed(self, step: str) -> None:
        """A version could not be loaded; ``step`` is the check that failed."""
        self._swaps.labels("failed", slug(step, SWAP_STEPS)).inc()

    def answered(self, slot: str) -> None:
        """Count one request that was answered."""
        self._answered.labels(slug(slot, SLOTS)).inc()

    def shadowed(self, result: str) -> None:
        """Count one request that was sampled for a shadow."""
        self._shadowed.labels(slug(result, SHADOWED)).inc()

    def challenger_failed(self, step: str) -> None:
        """A challenger could not be loaded; ``step`` is the check that failed."""
        self._challenger_failures.labels(slug(step, SWAP_STEPS)).inc()


class LearnMetrics:
    """Series of the learner.

    Args:
        registry: where they are registered; one instance per registry.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._events = Counter("stream_ft_events", "Events taken from the log, by kind.", ["kind"], registry=registry)
        self._dead = Counter("stream_ft_dead_letters", "Events refused, by reason.", ["reason"], registry=registry)
        self._examples = Gauge("stream_ft_examples", "Examples held.", ["split"], registry=registry)
        self.examples_upto = Gauge(
            "stream_ft_examples_upto", "Store sequence number that the active version covers.", registry=registry
        )
        self.classes = Gauge("stream_ft_classes", "Labels among the examples held.", registry=registry)
        self._rounds = Counter(
            "stream_ft_rounds", "Rounds by kind and verdict.", ["kind", "verdict"], registry=registry
        )
        self._round_seconds = Histogram(
            "stream_ft_round_seconds", "Wall time of a round.", ["kind"], buckets=SECONDS_BUCKETS, registry=registry
        )
        self.round_cpu = Counter("stream_ft_round_cpu_seconds", "CPU time of rounds.", registry=registry)
        self.gate_bound = Gauge(
            "stream_ft_gate_bound_ratio",
            "Lower bound of candidate minus champion at the last verdict.",
            registry=registry,
        )
        self.drift_alarms = Counter("stream_ft_drift_alarms", "Alarms of the drift detector.", registry=registry)
        self.drift_statistic = Gauge(
            "stream_ft_drift_error_ratio", "Error of the live version as the drift detector sees it.", registry=registry
        )
        self.live_accuracy = Gauge(
            "stream_ft_live_accuracy_ratio", "Rolling accuracy where labels cover what they sample.", registry=registry
        )
        self.correction_rate = Gauge(
            "stream_ft_correction_ratio",
            "Of the last answers that users judged, the share that they rejected or corrected.",
            registry=registry,
        )
        self.rating = Gauge("stream_ft_rating_mean", "Mean of the last ratings that users gave.", registry=registry)
        self.lag = Gauge(
            "stream_ft_lag_events", "Events in the log that the store does not have yet.", registry=registry
        )
        self.outbox = Gauge("stream_ft_outbox_messages", "Messages waiting to be published.", registry=registry)
        self.leading = Gauge("stream_ft_leading", "1 while this learner leads.", registry=registry)
        self.epoch = Gauge("stream_ft_control_epoch", "Epoch of the control log.", registry=registry)

    def event(self, kind: str, count: int = 1) -> None:
        """Count events taken from the log."""
        self._events.labels(slug(kind, EVENT_KINDS)).inc(count)

    def dead_letter(self, reason: str) -> None:
        """Count one refused event."""
        self._dead.labels(slug(reason, DEAD_LETTERS)).inc()

    def examples(self, train: int, holdout: int) -> None:
        """Set how many examples are held."""
        self._examples.labels("train").set(train)
        self._examples.labels("holdout").set(holdout)

    def round(self, kind: str, verdict: str, seconds: float, cpu_s: float = 0.0) -> None:
        """Count one round that ended."""
        kind = slug(kind, ROUND_KINDS)
        self._rounds.labels(kind, slug(verdict, VERDICTS)).inc()
        self._round_seconds.labels(kind).observe(seconds)
        self.round_cpu.inc(max(0.0, cpu_s))


def series(registry: CollectorRegistry) -> int:
    """How many series a scrape returns."""
    return sum(len(metric.samples) for metric in registry.collect())


Ready = Callable[[], tuple[bool, str]]
"""``(ready, why not)``: what a readiness probe asks."""
