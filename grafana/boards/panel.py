"""What a panel and a dashboard are here, and how they become Grafana's JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model

SOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")
OURS = re.compile(r"\b(stream_ft_\w+|process_\w+|up)\b(\{)?")
WIDE, HIGH, LOW = 24, 8, 5
"""The grid is 24 wide; a chart is 8 high, a number 5."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """One line of a panel.

    Attributes:
        expr: PromQL without the selection of the model, which is added to every metric.
        legend: name of each series, with ``{{label}}``.
    """

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel; its help says what to do when it is red.

    Attributes:
        title: unique on its dashboard.
        help: what it shows, and what to do when it is red.
        unit: Grafana's name of it.
        queries: what it shows.
        red: where red begins, and on which side of that number; ``None`` where no single number is bad.
        kind: a chart over time, or the last number.
        width: of 24.
        top: upper end of the axis, where there is one.
        stacked: series add up.
    """

    title: str
    help: str
    unit: str
    queries: tuple[Query, ...]
    red: tuple[Literal["above", "below"], float] | None
    kind: Literal["chart", "number"] = "chart"
    width: int = 8
    top: float | None = None
    stacked: bool = False


@dataclass(frozen=True, kw_only=True)
class Board:
    """One dashboard: rows of panels, each row under a title."""

    uid: str
    title: str
    help: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def query(expr: str, legend: str) -> Query:
    """A :class:`Query`."""
    return Query(expr=expr, legend=legend)


def quantiles(metric: str, of: Sequence[float] = (0.5, 0.99), by: str = "") -> tuple[Query, ...]:
    """Quantiles of a histogram over all processes."""
    return tuple(
        query(
            f"histogram_quantile({q}, sum by (le{', ' + by if by else ''}) (rate({metric}_bucket[$__rate_interval])))",
            f"p{q * 100:g}{' {{' + by + '}}' if by else ''}",
        )
        for q in of
    )


def scoped(expr: str) -> str:
    """``expr`` with the selection of the model in every metric of ours."""

    def select(found: re.Match[str]) -> str:
        name, brace = found.groups()
        return f'{name}{{model=~"$model"' + (", " if brace else "}")

    return OURS.sub(select, expr)


def as_json(board: Board) -> str:
    """The dashboard as Grafana imports it, the same bytes every time."""
    made = json.loads(json.dumps(_built(board), cls=JSONEncoder))
    for variable in made["templating"]["list"]:
        for name in ("auto", "auto_min", "auto_count"):  # of interval variables only; the library gives them to all
            variable.pop(name, None)
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _built(board: Board) -> Any:
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.help)
        .tags(["stream_ft"])
        .timezone("browser")
        .refresh("10s")
        .time("now-30m", "now")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(SOURCE)
            .query("label_values(stream_ft_ready, model)")
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .current(model.VariableOption(text="All", value="$__all"))
        )
        .link(
            dashboard.DashboardLink("stream_ft")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["stream_ft"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for name, metric, color in (("Promotions", "promotions", "green"), ("Rollbacks", "rollbacks", "red")):
        made = made.annotation(_annotation(name, metric, color))
    number, y = 0, 0
    for title, panels in board.rows:
        made = made.with_row(dashboard.Row(title).id(1000 + y).grid_pos(model.GridPos(h=1, w=WIDE, x=0, y=y)))
        x, y, height = 0, y + 1, 0
        for panel in panels:
            number += 1
            if x + panel.width > WIDE:
                x, y = 0, y + height
            height = HIGH if panel.kind == "chart" else LOW
            made = made.with_panel(_panel(panel, number, model.GridPos(h=height, w=panel.width, x=x, y=y)))
            x += panel.width
        y += height
    return made.build()


def _annotation(name: str, metric: str, color: str) -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(color)
        # Not changes(), which takes the zero after a restart for one. Of three scrapes one may be missing.
        .expr(scoped(f"sum(increase(stream_ft_{metric}_total[45s])) > 0"))
        .step("15s")
        .title_format(name.removesuffix("s"))
        .text_format("see stream-ft status, or GET /versions")
    )


def _panel(panel: Panel, number: int, place: model.GridPos) -> timeseries.Panel | stat.Panel:
    steps = [model.Threshold(value=None, color="green")]
    if panel.red is not None:
        side, at = panel.red
        colors = ("green", "red") if side == "above" else ("red", "green")
        steps = [model.Threshold(value=None, color=colors[0]), model.Threshold(value=at, color=colors[1])]
    thresholds = dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)
    made: timeseries.Panel | stat.Panel
    if panel.kind == "chart":
        made = (
            timeseries.Panel()
            .thresholds_style(common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED))
            .legend(
                common.VizLegendOptions()
                .show_legend(True)
                .display_mode(common_model.LegendDisplayMode.LIST)
                .placement(common_model.LegendPlacement.BOTTOM)
                .calcs(["lastNotNull"])
            )
            .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI))
            .line_width(2)
            .fill_opacity(10)
            .span_nulls(True)
        )
        if panel.stacked:
            made = made.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    else:
        made = (
            stat.Panel()
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            .color_mode(common_model.BigValueColorMode.BACKGROUND)
            .graph_mode(common_model.BigValueGraphMode.AREA)
        )
    if panel.top is not None:
        made = made.max(panel.top)
    for letter, line in zip("ABCDEF", panel.queries, strict=False):
        made = made.with_target(
            prometheus.Dataquery()
            .expr(scoped(line.expr))
            .legend_format(line.legend)
            .ref_id(letter)
            .datasource(SOURCE)
            .editor_mode(prometheus_model.QueryEditorMode.CODE)
            .range()
        )
    return (
        made.id(number)
        .title(panel.title)
        .description(panel.help)
        .unit(panel.unit)
        .datasource(SOURCE)
        .thresholds(thresholds)
        .grid_pos(place)
    )
