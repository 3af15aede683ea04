"""Is it healthy, and is it getting better?"""

from __future__ import annotations

from boards.panel import Board, Panel, query

BOARD = Board(
    uid="stream-ft-overview",
    title="stream_ft / Overview",
    help="Is it healthy, and is it getting better? The other dashboards say why not.",
    rows=(
        (
            "Now",
            (
                Panel(
                    title="Replicas that answer",
                    help="Serving processes in which some version answers; of the model that has fewest. Red: none "
                    "does. Look at GET /readyz of a replica for the reason, then at its log; roll back with "
                    "`stream-ft control rollback` if the version is at fault.",
                    unit="none",
                    queries=(query("min(sum by (model) (stream_ft_ready))", "ready"),),
                    red=("below", 1),
                    kind="number",
                    width=4,
                ),
                Panel(
                    title="Accuracy now",
                    help="Of the last 300 answers whose label came whether or not they were right; of the worst model. "
                    "Red: below one half. Look at Drift and quality for the classes that fell; if it fell with a "
                    "promotion, `stream-ft control rollback`.",
                    unit="percentunit",
                    queries=(query("min(stream_ft_accuracy_ratio)", "accuracy"),),
                    red=("below", 0.5),
                    kind="number",
                    width=4,
                ),
                Panel(
                    title="Corrections",
                    help="Share of the last judged answers that users rejected or corrected; of the worst model. Users "
                    "correct errors, so it is no accuracy. Red: above a half. Read some of the corrections (`curl "
                    "http://HOST:PORT/feedback`), and look at Drift and quality.",
                    unit="percentunit",
                    queries=(query("max(stream_ft_correction_ratio)", "corrected"),),
                    red=("above", 0.5),
                    kind="number",
                    width=4,
                ),
                Panel(
                    title="Requests",
                    help="Predictions asked for per second. Red: almost none. Look whether the callers can reach the "
                    "server: `curl http://HOST:PORT/livez`.",
                    unit="reqps",
                    queries=(
                        query(
                            'sum(rate(stream_ft_http_requests_total{route=~"predict|infer"}[$__rate_interval]))',
                            "asked",
                        ),
                    ),
                    red=("below", 0.001),
                    kind="number",
                    width=4,
                ),
                Panel(
                    title="Slowest answers",
                    help="99th percentile of the time from a request to its answer; of the slowest model. Red: above "
                    "half a second. Look at Serving: a long queue wants another replica, a slow forward fewer "
                    "threads elsewhere.",
                    unit="s",
                    queries=(
                        query(
                            "max(histogram_quantile(0.99, sum by (model, le)"
                            " (rate(stream_ft_predict_latency_seconds_bucket[$__rate_interval]))))",
                            "p99",
                        ),
                    ),
                    red=("above", 0.5),
                    kind="number",
                    width=4,
                ),
                Panel(
                    title="Correction to live",
                    help="Median time from a label or correction to the promotion of a version that learned from it; "
                    "of the slowest model. Red: above five minutes. Look at Training: refused or slow rounds, a "
                    "pause or a pin.",
                    unit="s",
                    queries=(
                        query(
                            "max(histogram_quantile(0.5, sum by (model, le)"
                            " (rate(stream_ft_feedback_to_live_seconds_bucket[10m]))))",
                            "median",
                        ),
                    ),
                    red=("above", 300),
                    kind="number",
                    width=4,
                ),
            ),
        ),
        (
            "Is it getting better?",
            (
                Panel(
                    title="Accuracy by base",
                    help="Rolling accuracy of each base's answers; promotions and rollbacks are marked. Red: below "
                    "one half. A step down at a promotion: `stream-ft control rollback`. A step down without one is "
                    "drift: see Drift and quality.",
                    unit="percentunit",
                    queries=(query("max by (base, tier) (stream_ft_live_accuracy_ratio)", "{{base}} {{tier}}"),),
                    red=("below", 0.5),
                    width=12,
                    top=1.0,
                ),
                Panel(
                    title="Rounds by verdict",
                    help="Rounds that ended in the last ten minutes. No single number is bad. Many that are refused "
                    "and none accepted: read the reason in `stream-ft status`, then look at Training.",
                    unit="none",
                    queries=(query("sum by (verdict) (increase(stream_ft_rounds_total[10m]))", "{{verdict}}"),),
                    red=None,
                    width=12,
                ),
            ),
        ),
        (
            "Is it healthy?",
            (
                Panel(
                    title="Is every process reached?",
                    help="1 if Prometheus reaches every process of a role. Red: one is not reached. Start it again "
                    "(`stream-ft up`, or the container), and read the end of its log for why it ended.",
                    unit="none",
                    queries=(query('min by (job) (up{job=~"stream-ft.*"})', "{{job}}"),),
                    red=("below", 1),
                ),
                Panel(
                    title="Wanted and active epoch",
                    help="The version that the control log asks for, and the oldest one that a replica answers with. "
                    "No single number is bad: the lines of a model meet. If they stay apart, a replica cannot load the "
                    "version: `curl http://HOST:PORT/status` of that one has the check that failed (`.serve.failure`).",
                    unit="none",
                    queries=(
                        query("max by (model) (stream_ft_control_epoch)", "{{model}} learner"),
                        query("max by (model) (stream_ft_wanted_epoch)", "{{model}} wanted"),
                        query("min by (model) (stream_ft_active_epoch)", "{{model}} active"),
                    ),
                    red=None,
                ),
                Panel(
                    title="Events waiting to be read",
                    help="Records in the log that the learner has not taken. Red: more than a thousand. Look at "
                    "Streaming for the topic, and whether the learner stands still: `curl http://HOST:LEARN/readyz`.",
                    unit="short",
                    queries=(query("sum by (topic) (stream_ft_consumer_lag_events)", "{{topic}}"),),
                    red=("above", 1_000),
                ),
                Panel(
                    title="Memory",
                    help="Resident memory of each process. Red: above 4 GiB. Fewer versions kept prepared "
                    "(`serve.keep_versions`) or a smaller replay memory (`replay.capacity`) need less.",
                    unit="bytes",
                    queries=(
                        query(
                            'max by (job, instance) (process_resident_memory_bytes{job=~"stream-ft.*"})',
                            "{{job}} {{instance}}",
                        ),
                    ),
                    red=("above", 4 * 2**30),
                    width=12,
                ),
                Panel(
                    title="CPU",
                    help="Cores that each process keeps busy; a round is a process of the learner's and is seen under "
                    "Training. Red: above four. Fewer threads (`model.threads`) or another replica.",
                    unit="none",
                    queries=(
                        query(
                            "sum by (job, instance)"
                            ' (rate(process_cpu_seconds_total{job=~"stream-ft.*"}[$__rate_interval]))',
                            "{{job}} {{instance}}",
                        ),
                    ),
                    red=("above", 4),
                    width=12,
                ),
            ),
        ),
    ),
)
