"""Requests: how many, how fast, by which version; swaps and trials."""

from __future__ import annotations

from boards.panel import Board, Panel, quantiles, query

BOARD = Board(
    uid="stream-ft-serving",
    title="stream_ft / Serving",
    help="Requests: how many, how fast, by which version; swaps and trials.",
    rows=(
        (
            "Requests",
            (
                Panel(
                    title="Answers by route",
                    help="Per second. Red: none. The callers do not reach the server: `curl http://HOST:PORT/livez`.",
                    unit="reqps",
                    queries=(
                        query("sum by (route) (rate(stream_ft_http_requests_total[$__rate_interval]))", "{{route}}"),
                    ),
                    red=("below", 0.0001),
                ),
                Panel(
                    title="Refused and failed answers",
                    help="Per second, by status. Red: more than ten. 429: too much comes, add a replica. 422 and 400: "
                    "a caller sends what is not valid, and the answer says what. 5xx: the server's log has the "
                    "reason.",
                    unit="reqps",
                    queries=(
                        query(
                            'sum by (code) (rate(stream_ft_http_requests_total{code!~"2.."}[$__rate_interval]))',
                            "{{code}}",
                        ),
                    ),
                    red=("above", 10),
                ),
                Panel(
                    title="Time to an answer",
                    help="From the arrival of a request. Red: above half a second. Compare with the two below: the "
                    "queue wants another replica, the forward a free CPU.",
                    unit="s",
                    queries=quantiles("stream_ft_predict_latency_seconds", (0.5, 0.95, 0.99)),
                    red=("above", 0.5),
                ),
                Panel(
                    title="Queue",
                    help="Inputs waiting for a forward, and how many may. Red: above two hundred. Start another "
                    "replica, or send fewer inputs in one request.",
                    unit="short",
                    queries=(
                        query("max(max_over_time(stream_ft_queue_inputs[$__rate_interval]))", "waiting"),
                        query("max(stream_ft_queue_limit_inputs)", "limit"),
                    ),
                    red=("above", 200),
                ),
                Panel(
                    title="Time in the queue",
                    help="Of a request, before its batch. Red: above half a second. Look at Time of a forward: if "
                    "it is short, start another replica.",
                    unit="s",
                    queries=quantiles("stream_ft_queue_wait_seconds"),
                    red=("above", 0.5),
                ),
                Panel(
                    title="Time of a forward",
                    help="Of one batch. Red: above half a second. A round or another process has the CPU: set "
                    "`round.threads` or `model.threads` lower, or `model.engine = onnx`.",
                    unit="s",
                    queries=quantiles("stream_ft_forward_seconds"),
                    red=("above", 0.5),
                ),
                Panel(
                    title="Inputs in a forward",
                    help="Mean size of a batch. Red: above 31, at the default of `serve.max_batch`; then the server "
                    "is saturated: another replica.",
                    unit="short",
                    queries=(
                        query(
                            "sum(rate(stream_ft_batch_inputs_sum[$__rate_interval]))"
                            " / sum(rate(stream_ft_batch_inputs_count[$__rate_interval]))",
                            "inputs",
                        ),
                    ),
                    red=("above", 31),
                ),
                Panel(
                    title="Feedback and labels accepted",
                    help="Acknowledged per second. Red: none. `curl -d @feedback.json http://HOST:PORT/feedback` "
                    "shows what is wrong with one.",
                    unit="cps",
                    queries=(
                        query("sum(rate(stream_ft_feedback_accepted_total[$__rate_interval]))", "feedback"),
                        query("sum(rate(stream_ft_labels_accepted_total[$__rate_interval]))", "labels"),
                    ),
                    red=("below", 0.0001),
                ),
                Panel(
                    title="Open files",
                    help="Of each process. Red: above a thousand. Connections are not closed by a caller, or there "
                    "are more of them than `ulimit -n` foresees.",
                    unit="short",
                    queries=(query('max by (job) (process_open_fds{job=~"stream-ft.*"})', "{{job}}"),),
                    red=("above", 1_000),
                ),
            ),
        ),
        (
            "Swaps",
            (
                Panel(
                    title="Swaps by result",
                    help="In the last ten minutes; of failed ones the check that failed. No single number is bad. "
                    "After a failed one the old version goes on: `curl http://HOST:PORT/status` of that replica has "
                    "the reason (`.serve.failure`), and `stream-ft control rollback` ends it.",
                    unit="none",
                    queries=(
                        query(
                            "sum by (result, step) (increase(stream_ft_swaps_total[10m])) > 0",
                            "{{result}} {{step}}",
                        ),
                    ),
                    red=None,
                ),
                Panel(
                    title="Time of a swap",
                    help="From reading the promotion to the flip. Red: above half a minute. Answers go on meanwhile. "
                    "Look at CPU on Overview: if a round has it, lower `round.threads`; else look at the "
                    "registry's disk.",
                    unit="s",
                    queries=quantiles("stream_ft_swap_seconds", (0.5, 0.9)),
                    red=("above", 30),
                ),
                Panel(
                    title="Time of a flip",
                    help="For which the forward thread answers nobody. Red: above a quarter of a second. It should "
                    "take a millisecond: the process is short of CPU. Look at CPU on Overview, and lower "
                    "`round.threads` or `model.threads`.",
                    unit="s",
                    queries=quantiles("stream_ft_flip_seconds"),
                    red=("above", 0.25),
                ),
                Panel(
                    title="The base that answers",
                    help="Replicas by base. Red: none answers: `curl http://HOST:PORT/readyz` has the reason. Two "
                    "bases for longer than a promotion takes: one replica cannot load the new base, and "
                    "`curl http://HOST:PORT/status` of it has the check that failed (`.serve.failure`).",
                    unit="none",
                    queries=(query("sum by (base, sha256) (stream_ft_active_base_info)", "{{base}} {{sha256}}"),),
                    red=("below", 1),
                ),
                Panel(
                    title="Control log",
                    help="Messages folded, by replica. No single number is bad. Lines that part: a replica does not "
                    "follow any more; read its log, then start it again.",
                    unit="none",
                    queries=(query("max by (instance) (stream_ft_control_offset)", "{{instance}}"),),
                    red=None,
                ),
                Panel(
                    title="Control log lost",
                    help="1 while a replica takes no commands, because its log is away or was replaced. Red: it is. "
                    "Serving goes on; restore the log, or start the replica on the right one.",
                    unit="none",
                    queries=(query("max by (instance) (stream_ft_control_halted)", "{{instance}}"),),
                    red=("above", 1),
                ),
            ),
        ),
        (
            "Trials",
            (
                Panel(
                    title="Requests by slot",
                    help="Answered by the champion, or in a canary by the challenger. Red: none. No requests come: "
                    "look at Answers by route. A trial that takes too much: "
                    "`stream-ft control canary --share 0` ends it.",
                    unit="reqps",
                    queries=(
                        query("sum by (slot) (rate(stream_ft_slot_requests_total[$__rate_interval]))", "{{slot}}"),
                    ),
                    red=("below", 0.0001),
                    width=6,
                ),
                Panel(
                    title="Shadow",
                    help="Requests that a challenger answered unseen, by whether it agreed. No single number is bad. "
                    "Many that disagree: read the gate's numbers before you promote it. `shed`: there was no time for "
                    "it.",
                    unit="reqps",
                    queries=(
                        query(
                            "sum by (result) (rate(stream_ft_shadow_requests_total[$__rate_interval]))", "{{result}}"
                        ),
                    ),
                    red=None,
                    width=6,
                ),
                Panel(
                    title="Time of a shadow",
                    help="For one text. Red: above a quarter of a second. It runs only while nobody waits, but on the "
                    "same CPU: end the shadow if answers became slower.",
                    unit="s",
                    queries=quantiles("stream_ft_shadow_seconds"),
                    red=("above", 0.25),
                    width=6,
                ),
                Panel(
                    title="Challenger",
                    help="1 while the challenger on trial is loaded, and the loads that failed in ten minutes. No "
                    "single number is bad. A trial that is wanted and not loaded: `curl http://HOST:PORT/status` "
                    "has the check that failed (`.serve.trial_failure`).",
                    unit="none",
                    queries=(
                        query("max(stream_ft_challenger_ready)", "loaded"),
                        query("sum(increase(stream_ft_challenger_failures_total[10m]))", "failed"),
                    ),
                    red=None,
                    width=6,
                ),
            ),
        ),
    ),
)
