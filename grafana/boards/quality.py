"""How right the answers are, and whether the world has changed."""

from __future__ import annotations

from boards.panel import Board, Panel, query

BOARD = Board(
    uid="stream-ft-quality",
    title="stream_ft / Drift and quality",
    help="How right the answers are, by base and class, and whether the world has changed.",
    rows=(
        (
            "Accuracy",
            (
                Panel(
                    title="Accuracy by base and tier",
                    help="Of the last 300 answers of each, where labels came whether or not the answer was right. "
                    "`slow` is the head of a release, `fast` what was learned since. Red: below one half. If `fast` "
                    "is below `slow`, recent labels are wrong: `stream-ft control pause`, find their source, and roll "
                    "back with `--quarantine-source`.",
                    unit="percentunit",
                    queries=(query("max by (base, tier) (stream_ft_live_accuracy_ratio)", "{{base}} {{tier}}"),),
                    red=("below", 0.5),
                    width=12,
                    top=1.0,
                ),
                Panel(
                    title="The classes that do worst",
                    help="Recall of the ten worst classes over the last 2,000 labels, and of all the others together. "
                    "Red: below one third. A class that stays there has too few or contradicting examples: label some "
                    "of its texts, or allow a label that is missing with `stream-ft control label-add LABEL`.",
                    unit="percentunit",
                    queries=(query("min by (class) (stream_ft_class_recall_ratio)", "{{class}}"),),
                    red=("below", 0.33),
                    width=12,
                    top=1.0,
                ),
                Panel(
                    title="Labels that score answers",
                    help="Per second, by base, right and wrong. What accuracy is measured by. Red: none; then "
                    "accuracy says nothing any more: look whether the labels topic is still written.",
                    unit="cps",
                    queries=(
                        query(
                            "sum by (base, result) (rate(stream_ft_scored_answers_total[$__rate_interval]))",
                            "{{base}} {{result}}",
                        ),
                    ),
                    red=("below", 0.0001),
                ),
                Panel(
                    title="Answers by base and tier",
                    help="Texts answered per second, by what answered. Red: none. No requests come: look at Answers by "
                    "route on Serving. If an old base still answers after a promotion, a replica could not load the "
                    "new one: look at Swaps by result there.",
                    unit="cps",
                    queries=(
                        query(
                            "sum by (base, tier) (rate(stream_ft_answers_total[$__rate_interval]))", "{{base}} {{tier}}"
                        ),
                    ),
                    red=("below", 0.0001),
                ),
                Panel(
                    title="Labels known",
                    help="Classes that the active version can answer. Red: none; then nothing has been learned yet, "
                    "or a rollback went back to the start: `stream-ft status`.",
                    unit="none",
                    queries=(query("min(stream_ft_classes)", "labels"),),
                    red=("below", 1),
                ),
            ),
        ),
        (
            "What users say",
            (
                Panel(
                    title="Corrections",
                    help="Share of the last 300 judged answers that users rejected or corrected. Red: above a half. "
                    "Compare with the accuracy: if that is high, users have begun to correct more, or one user "
                    "floods; if it is low, see the worst classes.",
                    unit="percentunit",
                    queries=(query("max(stream_ft_correction_ratio)", "corrected"),),
                    red=("above", 0.5),
                    top=1.0,
                ),
                Panel(
                    title="Judgements",
                    help="Answers that users judged per second. Red: none; then users have no way to correct any "
                    "more: `curl -d @feedback.json http://HOST:PORT/feedback` shows whether the server takes them.",
                    unit="cps",
                    queries=(
                        query(
                            "sum by (result) (rate(stream_ft_user_judgements_total[$__rate_interval]))", "{{result}}"
                        ),
                    ),
                    red=("below", 0.0001),
                ),
                Panel(
                    title="Ratings",
                    help="Mean of the last 300 ratings, in the unit in which they are given. Red: below one. Ratings "
                    "are never learned from: read the corrections of the same hours.",
                    unit="none",
                    queries=(query("min(stream_ft_rating_mean)", "mean"),),
                    red=("below", 1),
                ),
            ),
        ),
        (
            "Drift",
            (
                Panel(
                    title="Drift: statistic and threshold",
                    help="What the detector watches, and about where it alarms; the panel beside it has the one as a "
                    "share of the other. No single number is bad. After an alarm the next round of the encoder comes "
                    "sooner by itself.",
                    unit="none",
                    queries=(
                        query("max by (detector) (stream_ft_drift_statistic)", "{{detector}} statistic"),
                        query("max by (detector) (stream_ft_drift_threshold) < +Inf", "{{detector}} threshold"),
                    ),
                    red=None,
                    width=6,
                ),
                Panel(
                    title="How near an alarm",
                    help="The statistic as a share of the threshold. Red: above one. The world has changed, or a "
                    "broken import looks like it: read the newest labels; `stream-ft control train-now` starts a "
                    "round.",
                    unit="percentunit",
                    queries=(
                        query(
                            "max by (detector) (stream_ft_drift_statistic / stream_ft_drift_threshold)", "{{detector}}"
                        ),
                    ),
                    red=("above", 1),
                    width=6,
                ),
                Panel(
                    title="Error that the detector sees",
                    help="Of the active base's last 50 scored answers. Red: above one half. Look which classes fell, "
                    "and whether a source has begun to send something else.",
                    unit="percentunit",
                    queries=(query("max by (detector) (stream_ft_drift_error_ratio)", "{{detector}}"),),
                    red=("above", 0.5),
                    width=6,
                    top=1.0,
                ),
                Panel(
                    title="Alarms",
                    help="Drift alarms in the last ten minutes. Red: one. The world has changed, or a broken import "
                    "looks like it: read the newest labels before you trust the next promotion.",
                    unit="none",
                    queries=(query("sum(increase(stream_ft_drift_alarms_total[10m]))", "alarms"),),
                    red=("above", 1),
                    width=6,
                ),
                Panel(
                    title="Promotions",
                    help="In the last ten minutes, by the kind of round behind them. Red: more than a hundred, a "
                    "version every few seconds; raise `schedule.interval_s` or `schedule.min_new`.",
                    unit="none",
                    queries=(query("sum by (kind) (increase(stream_ft_promotions_total[10m]))", "{{kind}}"),),
                    red=("above", 100),
                    width=12,
                ),
                Panel(
                    title="Rollbacks",
                    help="In the last ten minutes. Red: one. Somebody, or the leader by itself, went back: *What "
                    "happened* in the console has who and why.",
                    unit="none",
                    queries=(query("sum(increase(stream_ft_rollbacks_total[10m]))", "rollbacks"),),
                    red=("above", 1),
                    width=12,
                ),
            ),
        ),
    ),
)
