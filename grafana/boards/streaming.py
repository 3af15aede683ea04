"""Events: how many come, what waits, what is refused."""

from __future__ import annotations

from boards.panel import Board, Panel, quantiles, query

BOARD = Board(
    uid="stream-ft-streaming",
    title="stream_ft / Streaming",
    help="Events: how many come, what waits, and what is refused.",
    rows=(
        (
            "Reading",
            (
                Panel(
                    title="Records taken",
                    help="Per second and topic. Red: none. Nobody publishes, or the learner stands still: `curl "
                    "http://HOST:LEARN/readyz` of the learner.",
                    unit="cps",
                    queries=(
                        query("sum by (topic) (rate(stream_ft_consumer_records_total[$__rate_interval]))", "{{topic}}"),
                    ),
                    red=("below", 0.0001),
                ),
                Panel(
                    title="Lag",
                    help="Records in the log that were not taken yet. Red: more than a thousand. If it grows, events "
                    "come faster than they are learned from: look at the time of a batch.",
                    unit="short",
                    queries=(query("sum by (topic) (stream_ft_consumer_lag_events)", "{{topic}}"),),
                    red=("above", 1_000),
                ),
                Panel(
                    title="Age of what waits",
                    help="Of the oldest record when the log was read last. Red: above a minute. Look at "
                    "Time of a batch and at Standing still.",
                    unit="s",
                    queries=(query("max by (topic) (stream_ft_consumer_lag_seconds)", "{{topic}}"),),
                    red=("above", 60),
                ),
                Panel(
                    title="Standing still",
                    help="For how long one partition has stood still with records waiting. Red: above half a minute. "
                    "`curl http://HOST:LEARN/readyz` of the learner says why; a full disk or a log that was cut stops "
                    "it, and it goes on by itself.",
                    unit="s",
                    queries=(query("max by (topic) (stream_ft_consumer_stalled_seconds)", "{{topic}}"),),
                    red=("above", 30),
                ),
                Panel(
                    title="Partitions read",
                    help="By topic. Red: none. The topic is not there (`stream-ft doctor`), or the learner does not "
                    "run (`stream-ft status`). A topic that has been given partitions is read from the next start on.",
                    unit="none",
                    queries=(query("max by (topic) (stream_ft_consumer_partitions)", "{{topic}}"),),
                    red=("below", 1),
                ),
                Panel(
                    title="Since the last whole pass",
                    help="Of the learner's loop. Red: above half a minute. The store or the log does not answer: look "
                    "at the disk, and at the learner's log.",
                    unit="s",
                    queries=(query("max(stream_ft_learner_pass_age_seconds)", "seconds"),),
                    red=("above", 30),
                ),
                Panel(
                    title="Halted",
                    help="1 while nothing can be taken in. Red: it is. `curl http://HOST:LEARN/readyz` of the learner "
                    "says what is wrong and what to do.",
                    unit="none",
                    queries=(query("max(stream_ft_consumer_halted)", "halted"),),
                    red=("above", 1),
                ),
                Panel(
                    title="Time of a batch",
                    help="Parsed, answered and committed. Red: above ten seconds. A slow disk (each batch is one "
                    "fsync) or a busy CPU, as labelled events are answered before they are learned: look at CPU on "
                    "Overview; `stream-ft control pause` shows whether rounds have it.",
                    unit="s",
                    queries=quantiles("stream_ft_ingest_seconds"),
                    red=("above", 10),
                ),
                Panel(
                    title="Events by kind",
                    help="Per second; duplicates were absorbed. Red: none. Nothing is taken in: look at Records taken "
                    "and at Halted. Many duplicates: a publisher sends again what was acknowledged.",
                    unit="cps",
                    queries=(query("sum by (kind) (rate(stream_ft_events_total[$__rate_interval]))", "{{kind}}"),),
                    red=("below", 0.0001),
                ),
            ),
        ),
        (
            "Ingest workers",
            (
                Panel(
                    title="Lag of the ingest workers",
                    help="Events that wait for the ingest workers; empty where none runs. Red: more "
                    "than a thousand. If it grows, start another worker: they share the partitions.",
                    unit="short",
                    queries=(query("max by (instance) (stream_ft_ingest_lag_events)", "{{instance}}"),),
                    red=("above", 1_000),
                ),
                Panel(
                    title="Ingest workers that stand still",
                    help="For how long a worker has acknowledged nothing with events waiting; empty where none runs. "
                    "Red: above half a minute. Look at GET /readyz of its own port and at its log; then restart it.",
                    unit="s",
                    queries=(query("max by (instance) (stream_ft_ingest_still_seconds)", "{{instance}}"),),
                    red=("above", 30),
                ),
                Panel(
                    title="Refused by the ingest workers",
                    help="By reason, in the last ten minutes; empty where no worker runs. Red: more than a hundred. "
                    "Each lies with its original bytes on the topic stream_ft.MODEL.dlq. Correct the publisher, then "
                    "publish them again.",
                    unit="short",
                    queries=(
                        query("sum by (reason) (increase(stream_ft_ingest_dead_letters_total[10m]))", "{{reason}}"),
                    ),
                    red=("above", 100),
                ),
            ),
        ),
        (
            "Refused and waiting",
            (
                Panel(
                    title="Dead letters by reason",
                    help="In the last ten minutes. Red: more than a hundred. The reason says what is wrong with the "
                    "events; each lies with its original bytes on the topic stream_ft.MODEL.dlq. Correct the "
                    "publisher, then publish them again.",
                    unit="short",
                    queries=(query("sum by (reason) (increase(stream_ft_dead_letters_total[10m]))", "{{reason}}"),),
                    red=("above", 100),
                    width=12,
                ),
                Panel(
                    title="Waiting events",
                    help="For their prediction (orphans), or for their label to be allowed. Red: more than a "
                    "thousand. Orphans: predictions do not arrive. New labels: `stream-ft control label-add LABEL`.",
                    unit="short",
                    queries=(query("max by (reason) (stream_ft_waiting_events)", "{{reason}}"),),
                    red=("above", 1_000),
                    width=6,
                ),
                Panel(
                    title="Outbox",
                    help="Dead letters that wait to be published. Red: more than a thousand; at 10,000 reading stops. "
                    "The log takes nothing: look at its disk, or at the broker.",
                    unit="short",
                    queries=(query("max(stream_ft_outbox_messages)", "messages"),),
                    red=("above", 1_000),
                    width=6,
                ),
            ),
        ),
        (
            "Writing",
            (
                Panel(
                    title="Predictions written",
                    help="Per second: published, and dropped because the queue was full. Red: none. What is dropped "
                    "cannot be corrected: look at the disk or the broker.",
                    unit="cps",
                    queries=(
                        query("sum(rate(stream_ft_predictions_published_total[$__rate_interval]))", "published"),
                        query("sum(rate(stream_ft_predictions_dropped_total[$__rate_interval]))", "dropped"),
                    ),
                    red=("below", 0.0001),
                    width=6,
                ),
                Panel(
                    title="Commits that failed",
                    help="Of the serving processes, in ten minutes. Red: one. The log takes nothing, and feedback is "
                    "answered with 503: make room on the disk, or bring the broker back.",
                    unit="none",
                    queries=(query("sum(increase(stream_ft_appends_failed_total[10m]))", "failed"),),
                    red=("above", 1),
                    width=6,
                ),
                Panel(
                    title="The store's file",
                    help="Size of what is remembered. Red: above 10 GiB. A smaller `replay.capacity` or fewer "
                    "`replay.horizon_days`.",
                    unit="bytes",
                    queries=(query("max(stream_ft_store_bytes)", "store"),),
                    red=("above", 10 * 2**30),
                    width=6,
                ),
                Panel(
                    title="Free on the disk",
                    help="Share of the state folder's disk. Red: below a tenth. When it is full, reading pauses and "
                    "feedback is refused; serving goes on. Make room, or move the state folder.",
                    unit="percentunit",
                    queries=(query("min(stream_ft_disk_free_bytes / stream_ft_disk_size_bytes)", "free"),),
                    red=("below", 0.1),
                    width=6,
                    top=1.0,
                ),
            ),
        ),
    ),
)
