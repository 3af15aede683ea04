"""Every series of a serving process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from stream_ft.metrics.labels import (
    CODES,
    PAGE_CODES,
    PAGES,
    ROUTES,
    SHADOWED,
    SLOTS,
    SWAP_STEPS,
    LastBases,
    base_and_tier,
    slug,
)
from stream_ft.metrics.registry import kinds

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
FORWARD_BUCKETS = (0.005, 0.025, 0.1, 0.25, 1.0, 5.0)
SHORT_BUCKETS = (0.0001, 0.001, 0.01, 0.05, 0.25, 1.0)
"""Of what should take no time at all."""
BATCH_BUCKETS = (1, 4, 16, 64, 256)
SWAP_BUCKETS = (0.1, 1.0, 5.0, 10.0, 30.0, 120.0)


class ServeMetrics:
    """Series of the serving process; one instance per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        counter, gauge, histogram = kinds(registry)
        # fmt: off
        self._requests = counter("stream_ft_http_requests", "Answers by route and status.", ["route", "code"])
        self.latency = histogram("stream_ft_predict_latency_seconds",
            "From the arrival of a prediction request to its answer.", buckets=LATENCY_BUCKETS)
        self._answers = counter("stream_ft_answers", "Texts answered, by base and tier.", ["base", "tier"])
        self._bases = LastBases(self._answers)
        self.batch = histogram("stream_ft_batch_inputs", "Inputs in one forward.", buckets=BATCH_BUCKETS)
        self.queue = gauge("stream_ft_queue_inputs", "Inputs waiting for a forward.")
        self.queue_limit = gauge("stream_ft_queue_limit_inputs", "Inputs that may wait.")
        self.queue_wait = histogram("stream_ft_queue_wait_seconds",
            "From the arrival of a request in the queue to its batch.", buckets=FORWARD_BUCKETS)
        self.forward = histogram("stream_ft_forward_seconds", "Time of one forward.", buckets=FORWARD_BUCKETS)
        self._swaps = counter("stream_ft_swaps", "Swaps by result; of failed ones, the step that failed.",
            ["result", "step"] )
        self.swap_seconds = histogram("stream_ft_swap_seconds",
            "From reading the promotion to the flip, verification included.", buckets=SWAP_BUCKETS)
        self.flip_seconds = histogram("stream_ft_flip_seconds",
            "Time the forward thread spent on a flip, between two batches.", buckets=SHORT_BUCKETS)
        self._active = gauge("stream_ft_active_base_info", "1 for the base that answers.", ["base", "sha256"])
        self.epoch = gauge("stream_ft_active_epoch", "Epoch of the version that answers.")
        self.wanted_epoch = gauge("stream_ft_wanted_epoch", "Epoch of the version that should answer.")
        self.ready = gauge("stream_ft_ready", "1 if some version that is not denied answers.")
        self.control_halted = gauge("stream_ft_control_halted",
            "1 if the control log was lost or replaced: no commands are taken." )
        self.control_offset = gauge("stream_ft_control_offset", "Next offset of the control log to fold.")
        self.published = counter("stream_ft_predictions_published", "Predictions written to the log.")
        self.dropped = counter("stream_ft_predictions_dropped", "Predictions not written: the queue was full.")
        self.feedback = counter("stream_ft_feedback_accepted", "Feedback events acknowledged.")
        self.labels = counter("stream_ft_labels_accepted", "Labelled events acknowledged.")
        self.appends_failed = counter("stream_ft_appends_failed", "Group commits that failed.")
        self._answered = counter("stream_ft_slot_requests", "Requests answered, by the slot that answered.", ["slot"])
        self._shadowed = counter("stream_ft_shadow_requests", "Requests sampled for a shadow, by what came of them.",
            ["result"] )
        self.shadow_seconds = histogram("stream_ft_shadow_seconds", "Time a shadow took for a text.",
            buckets=SHORT_BUCKETS )
        self.challenger_ready = gauge("stream_ft_challenger_ready", "1 if the challenger on trial is loaded.")
        self._challenger_failures = counter("stream_ft_challenger_failures",
            "Challengers that could not be loaded, by the step that failed.", ["step"] )
        # fmt: on
        # A series that is born with its first event has no rate of it: alerts would miss it.
        self._swaps.labels("ok", "")
        for step in (*SWAP_STEPS[1:], "other"):
            self._swaps.labels("failed", step)
        self._challenger_failures.labels("missing")

    def request(self, route: str, code: int) -> None:
        """Count one answer."""
        route = slug(route, ROUTES)
        self._requests.labels(route, slug(str(code), PAGE_CODES if route in PAGES else CODES)).inc()

    def predicted(self, version: str) -> None:
        """Count one text that a version answered."""
        base, tier = base_and_tier(version)
        self._bases.touch(base)
        self._answers.labels(base, tier).inc()

    def swapped(self, version: str, base: str, epoch: int, seconds: float) -> None:
        """A version went live.

        Args:
            version: its name.
            base: sha256 of its base.
            epoch: in which it was released.
            seconds: since its promotion was read.
        """
        self._swaps.labels("ok", "").inc()
        self.swap_seconds.observe(seconds)
        self._active.clear()
        self._active.labels(base_and_tier(version)[0], base[:12]).set(1)
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
