"""Rounds: what they cost, what they bring, what they learn from."""

from __future__ import annotations

from boards.panel import Board, Panel, quantiles, query

BOARD = Board(
    uid="stream-ft-training",
    title="stream_ft / Training",
    help="Rounds: what they cost, what they bring, and what they learn from.",
    rows=(
        (
            "Verdicts",
            (
                Panel(
                    title="Rounds by kind and verdict",
                    help="That ended in the last ten minutes. No single number is bad. Refused again and again: read "
                    "the gate's numbers below. Too many: raise `schedule.interval_s`.",
                    unit="none",
                    queries=(
                        query(
                            "sum by (kind, verdict) (increase(stream_ft_rounds_total[10m])) > 0",
                            "{{kind}} {{verdict}}",
                        ),
                    ),
                    red=None,
                ),
                Panel(
                    title="Champion and challenger",
                    help="Mean scores of both on the same examples, at the gate's last verdict. Red: below one half. "
                    "If both are low, the labels contradict each other: read some of them. If only the challenger is, "
                    "its round learned something wrong, and was refused for it: `stream-ft status` has the reason.",
                    unit="percentunit",
                    queries=(query("max by (version) (stream_ft_gate_score_ratio)", "{{version}}"),),
                    red=("below", 0.5),
                ),
                Panel(
                    title="The gate's bound",
                    help="Lower bound of challenger minus champion at the last verdict, and the margin it must stay "
                    "above. Red: below minus ten points. Rounds that are refused for the bound want more examples to "
                    "judge by (`schedule.min_evaluation`) or cleaner labels.",
                    unit="percentunit",
                    queries=(
                        query("max by (kind) (stream_ft_gate_bound_ratio)", "bound, {{kind}}"),
                        query("-max(stream_ft_gate_margin_ratio)", "margin"),
                    ),
                    red=("below", -0.1),
                ),
                Panel(
                    title="Examples judged by",
                    help="At the last verdict. Red: fewer than fifty; the gate then needs large differences. Raise "
                    "`replay.holdout_share` or send more labels.",
                    unit="short",
                    queries=(query("max by (kind) (stream_ft_gate_examples)", "{{kind}}"),),
                    red=("below", 50),
                ),
                Panel(
                    title="Rounds in a row without promotion",
                    help="Refused or failed. Red: five. Read the reason with `stream-ft status`; a source whose "
                    "labels contradict the others is set aside with a rollback and `--quarantine-source`.",
                    unit="none",
                    queries=(query("max(stream_ft_rounds_without_promotion)", "rounds"),),
                    red=("above", 5),
                ),
                Panel(
                    title="Not learned yet",
                    help="Examples, new or revised, that the active version has not learned from. Red: more than "
                    "5,000. Rounds are paused, refused, or too rare: `stream-ft status` says what the next one waits "
                    "for.",
                    unit="short",
                    queries=(query("max(stream_ft_unlearned_examples)", "examples"),),
                    red=("above", 5_000),
                ),
            ),
        ),
        (
            "Cost",
            (
                Panel(
                    title="Time of a round",
                    help="Median and 90th percentile over half an hour, and the budget. Red: above five minutes. "
                    "Fewer steps (`round.steps`) or another method (`round.method`).",
                    unit="s",
                    queries=(
                        query(
                            "histogram_quantile(0.5, sum by (le) (rate(stream_ft_round_seconds_bucket[30m])))", "median"
                        ),
                        query(
                            "histogram_quantile(0.9, sum by (le) (rate(stream_ft_round_seconds_bucket[30m])))", "p90"
                        ),
                        query("max(stream_ft_round_budget_seconds)", "budget"),
                    ),
                    red=("above", 300),
                ),
                Panel(
                    title="Running round",
                    help="Seconds since its start; 0 if none runs. Red: above five minutes. It is killed by itself "
                    "after its budget (`round.seconds`); the champion stays. A round that hangs leaves its log in the "
                    "state folder, jobs/round/log.txt.",
                    unit="s",
                    queries=(query("max(stream_ft_round_elapsed_seconds)", "elapsed"),),
                    red=("above", 300),
                ),
                Panel(
                    title="CPU of rounds",
                    help="CPU seconds of the last hour, and the budget. Red: above 3,600. At the budget no round "
                    "starts any more: raise `schedule.budget_cpu_s_per_hour`, or let rounds be rarer.",
                    unit="s",
                    queries=(
                        query("sum(increase(stream_ft_round_cpu_seconds_total[1h]))", "used"),
                        query("max(stream_ft_rounds_cpu_budget_seconds)", "budget"),
                    ),
                    red=("above", 3_600),
                ),
                Panel(
                    title="Killed for their budget",
                    help="Rounds of the last hour that broke a limit. Red: one. `time`: raise `round.seconds` or "
                    "lower `round.steps`. `memory`: raise `round.memory_mb` or lower `round.batch`.",
                    unit="none",
                    queries=(query("sum by (limit) (increase(stream_ft_rounds_over_budget_total[1h]))", "{{limit}}"),),
                    red=("above", 1),
                ),
                Panel(
                    title="Memory of the last round",
                    help="Largest resident size. Red: above 4 GB. At `round.memory_mb` it would be killed: a smaller "
                    "batch, or `round.method = partial`.",
                    unit="bytes",
                    queries=(query("max by (kind) (stream_ft_round_memory_bytes)", "{{kind}}"),),
                    red=("above", 4e9),
                ),
                Panel(
                    title="GPU memory of the last round",
                    help="Largest allocation; empty where no GPU is used. Red: above 70 GB. A smaller `round.batch`, "
                    "or `model.device = cpu`.",
                    unit="bytes",
                    queries=(query("max by (kind) (stream_ft_round_gpu_memory_bytes)", "{{kind}}"),),
                    red=("above", 70e9),
                ),
            ),
        ),
        (
            "Trainer",
            (
                Panel(
                    title="Loss",
                    help="Mean of the first and of the last eight steps of the last round that trained the encoder. "
                    "Red: above five. If the last is above the first, lower `round.learning_rate`.",
                    unit="none",
                    queries=(query("max by (steps) (stream_ft_trainer_loss)", "{{steps}} steps"),),
                    red=("above", 5),
                ),
                Panel(
                    title="Time of a step",
                    help="Mean over the last round. Red: above five seconds. The machine is busy, or swaps: look at "
                    "Overview for memory; lower `round.batch`.",
                    unit="s",
                    queries=(query("max by (kind) (stream_ft_trainer_step_seconds)", "{{kind}}"),),
                    red=("above", 5),
                ),
                Panel(
                    title="Steps",
                    help="Of the last hour: taken, and skipped for want of a finite loss or of memory. No single "
                    "number is bad. Any that were skipped: lower `round.learning_rate` or `round.batch`.",
                    unit="short",
                    queries=(query("sum by (result) (increase(stream_ft_trainer_steps_total[1h]))", "{{result}}"),),
                    red=None,
                ),
            ),
        ),
        (
            "What is learned from",
            (
                Panel(
                    title="Examples held",
                    help="For training and for the holdout, and how many may be. Red: none. No label has come: look at "
                    "Feedback and labels accepted on Serving. A holdout that stays empty: raise "
                    "`replay.holdout_share`. At the capacity the sampler chooses; that is no fault.",
                    unit="short",
                    queries=(
                        query("max by (split) (stream_ft_examples)", "{{split}}"),
                        query("max by (split) (stream_ft_examples_capacity)", "most, {{split}}"),
                    ),
                    red=("below", 1),
                    width=6,
                ),
                Panel(
                    title="Replay by origin and age",
                    help="Who said what is right, and whether a round of the encoder had it already. No single number "
                    "is bad. If users' feedback crowds out the label topic, ask for more labels.",
                    unit="short",
                    queries=(query("sum by (origin, age) (stream_ft_replay_examples)", "{{origin}} {{age}}"),),
                    red=None,
                    width=6,
                    stacked=True,
                ),
                Panel(
                    title="Examples of a class",
                    help="Of the largest, the median and the smallest class. Red: none. Send labels of the class that "
                    "has none. If the smallest stays far below the median, label some of its texts; "
                    "`replay.sampler = balanced` keeps classes even.",
                    unit="short",
                    queries=(query("max by (class) (stream_ft_replay_class_examples)", "{{class}}"),),
                    red=("below", 1),
                    width=6,
                ),
                Panel(
                    title="From correction to live",
                    help="Time from a label or correction to the promotion of a version that learned from it. Red: "
                    "above five minutes. Refused rounds, a pause, a pin, or a long `schedule.interval_s`.",
                    unit="s",
                    queries=quantiles("stream_ft_feedback_to_live_seconds", (0.5, 0.9)),
                    red=("above", 300),
                    width=6,
                ),
            ),
        ),
    ),
)
