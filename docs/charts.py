"""Charts of the measurements in ``docs/results``, as a directive for the pages.

The charts are drawn at each build, into the folder ``docs/_charts``, once for each theme. With
``:by-data:``, one panel has a colour for each data set::

    .. results-chart:: quality
       :kind: scatter
       :metric: NDCG@100
"""

import re
import textwrap
from collections import defaultdict
from io import StringIO
from statistics import fmean
from typing import ClassVar

import matplotlib as mpl
from docutils.parsers.rst import directives
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from measurements import DOCS, LINEAR, Mean, Results, means, number

# The colours of Okabe and Ito; the shapes alone distinguish the kinds as well. Keys: light theme.
DARK = {"#222832": "#ced6dd", "#d1d5da": "#48566b", "#0072b2": "#56b4e9", "#007a59": "#2fc49a"}
DARK |= {"#b84e00": "#f0a04b", "#8a3f86": "#dd9fd8"}
TEXT, LINES, BLUE, GREEN, ORANGE, PURPLE = DARK
STYLES = {
    "network": {"marker": "o", "color": BLUE},
    "linear": {"marker": "s", "color": GREEN, "markerfacecolor": "none"},
    "blend": {"marker": "^", "color": PURPLE},
    "published": {"marker": "D", "color": ORANGE, "markerfacecolor": "none"},
    # of charts with several data sets
    "MovieLens small": {"marker": "o", "color": BLUE},
    "ML-1M": {"marker": "s", "color": ORANGE},
    "ML-100K": {"marker": "D", "color": GREEN},
}
RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "skvaecf",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": LINES,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.color": LINES,
    "ytick.color": LINES,
    "grid.color": LINES,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def kind(row):
    """Return the kind of the model of a row, a key of STYLES."""
    if row.get("settings", "").startswith("published"):
        return "published"
    first = re.match(r"\w+", row["model"])[0]
    return "blend" if first == "Blend" else "linear" if first in LINEAR else "network"


def _legend(axes, kinds):
    names = {"linear": "linear or factorisation"}
    if "published" in kinds:
        names = {"network": "ours, network", "linear": "ours, linear", "blend": "ours, blend"}
    for name in [name for name in STYLES if name in kinds]:
        axes.plot([], [], linestyle="", label=names.get(name, name), **STYLES[name])
    axes.figure.legend(
        loc="lower left",
        ncols=2 if len(kinds) > 3 else 3,
        frameon=False,
        handletextpad=0.1,
        columnspacing=1,
        fontsize=9.5,
    )


def _short(name):
    return name.removesuffix(", published").replace("Recommender", "")


def draw_dots(title, metric, points):
    """Draw a row per model, the best on top: a dot per value, a bar for the standard deviation."""
    values = defaultdict(list)
    for model, of, value in points:
        values[_short(model), of != "published"].append(value.mean)
    # Our value places a row that has a published value as well.
    place = {name: fmean(of) for (name, _), of in sorted(values.items())}
    order = sorted(place, key=place.get)
    names = [textwrap.fill(name, 24, break_on_hyphens=False) for name in order]
    n_lines = sum(name.count("\n") + 1.3 for name in names)
    figure = Figure(figsize=(4.4, 1.25 + 0.19 * n_lines), layout="constrained")
    axes = figure.subplots()
    for model, of, value in points:
        axes.errorbar(
            value.mean,
            order.index(_short(model)),
            xerr=value.deviation or None,
            capsize=2.5,
            markersize=6,
            **STYLES[of],
        )
    axes.set_yticks(range(len(names)), names, linespacing=0.95)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}".removeprefix("0")))
    axes.grid(axis="both")
    axes.tick_params(length=0)
    axes.set_xlabel(metric)
    axes.set_title(title, loc="left", fontsize=11, x=0)
    _finish(figure, axes, {of for _, of, _ in points})
    return figure


def draw_scatter(title, metric, points):
    """Draw seconds on a logarithmic axis against a metric; a line joins what is not dominated."""
    figure = Figure(figsize=(4.4, 3.7), layout="constrained")
    axes = figure.subplots()
    for _, of, seconds, value in points:
        axes.errorbar(
            seconds.mean, value.mean, yerr=value.deviation or None, capsize=2.5, **STYLES[of]
        )
    front = _front(points)
    axes.plot(
        [seconds.mean for *_, seconds, _ in front],
        [value.mean for *_, value in front],
        color=TEXT,
        linewidth=0.8,
        linestyle=":",
        zorder=1,
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.4g}".removeprefix("0")))
    axes.grid()
    axes.margins(0.16, 0.12)
    axes.tick_params(length=0, which="both")
    axes.set_xlabel("seconds of a fit")
    axes.set_ylabel(metric)
    axes.set_title(title, loc="left", fontsize=11)
    _finish(figure, axes, {of for _, of, *_ in points})
    _label(figure, axes, [(_short(m), s.mean, v.mean) for m, _, s, v in points])
    return figure


def _front(points):
    """Return the points that no other exceeds in less time, the fastest first."""
    front = []
    for point in sorted(points, key=lambda point: point[2].mean):
        if not front or point[3].mean > front[-1][3].mean:
            front.append(point)
    return front


def _finish(figure, axes, kinds):
    _legend(axes, kinds)
    below = (0.5 if len(kinds) > 3 else 0.3) / figure.get_figheight()
    figure.get_layout_engine().set(rect=(0, below, 1, 1 - below))


def _label(figure, axes, points):
    """Write names beside their points where they cover neither points nor other names."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    inside = axes.get_window_extent(renderer)
    dots = [axes.transData.transform((x, y)) for _, x, y in points]
    taken = []
    moves = [
        (7, 0),
        (-7, 0),
        (0, 10),
        (0, -10),
        (6, 9),
        (6, -9),
        (-6, 9),
        (-6, -9),
        (0, 20),
        (0, -20),
    ]
    moves += [(dx, dy) for dx in (-14, 14, -36, 36) for dy in (18, -18, 30, -30, 44, -44)]
    for name, x, y in sorted(points, key=lambda point: -point[2]):
        options = []
        for dx, dy in moves:
            side = "left" if dx > 0 else "right" if dx else "center"
            text = axes.annotate(
                name,
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=9,
                arrowprops={"arrowstyle": "-", "color": LINES, "shrinkA": 0, "shrinkB": 3},
            )
            text.set_in_layout(False)
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the line to its point
            covered = sum(box.padded(5).contains(*dot) for dot in dots) + sum(
                map(box.overlaps, taken)
            )
            outside = box.x0 < inside.x0 or box.x1 > figure.bbox.x1 - 2
            outside += box.y0 < inside.y0 or box.y1 > inside.y1 + 4
            options.append((covered + outside, text, box))
            if not covered + outside:
                break
        *_, chosen = sorted(options, key=lambda option: -option[0])
        for option in options:
            if option is not chosen:
                option[1].remove()
        taken.append(chosen[2])


def save(figure, name):
    """Write the figure once for each theme; both have a transparent background."""
    folder = DOCS / "_charts"
    folder.mkdir(exist_ok=True)
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    light = file.getvalue()
    dark = re.sub("|".join(DARK), lambda match: DARK[match[0]], light)
    for theme, text in (("light", light), ("dark", dark)):
        (folder / f"{name}-{theme}.svg").write_text(text)


# --- what the alternative texts say


def say_dots(title, metric, points):
    """Return the finding of a dot plot: the best, differences from published values, all values."""
    points = sorted(points, key=lambda point: -point[2].mean)
    best = next(point for point in points if point[1] != "published")
    text = f"{title}: {_short(best[0])} has the highest {metric} of our models, {best[2].text()}. "
    published = {_short(model): value for model, of, value in points if of == "published"}
    both = [
        f"{_short(model)} {value.mean - published[_short(model)].mean:+.3f}"
        for model, of, value in points
        if of != "published" and _short(model) in published
    ]
    if both:
        text += f"Ours minus published: {', '.join(both)}. "
    every = ", ".join(f"{model} {value.text()}" for model, _, value in points)
    return f"{text}In order: {every}."


def say_data(title, metric, points):
    """Return the models of each data set with their values, the best first."""
    lists = []
    for data in dict.fromkeys(of for _, of, _ in points):
        here = sorted((point for point in points if point[1] == data), key=lambda p: -p[2].mean)
        named = ", ".join(f"{_short(model)} {number(value.mean, 3)}" for model, _, value in here)
        lists.append(f"{data}: {named}.")
    return f"{title}, {metric}, the best model first. {' '.join(lists)}"


def say_scatter(title, metric, points):
    """Return the finding of a scatter: the models that no other exceeds in less time."""
    front = ", ".join(
        f"{_short(model)} ({seconds.text('seconds').split(chr(160))[0]} s, {value.text()})"
        for model, _, seconds, value in _front(points)
    )
    return f"{title}: no model has a higher {metric} in less time than {front}."


class ResultsChart(Results):
    """A chart per data set."""

    option_spec: ClassVar = Results.option_spec | {
        "kind": lambda value: directives.choice(value, ("dots", "scatter")),
        "relative-to": directives.unchanged,
        "title": directives.unchanged,
        "columns": directives.positive_int,
        "by-data": directives.flag,
    }

    def run(self):
        """Draw the charts; return their images."""
        self.env.note_dependency(__file__)
        rows, metrics, data = self.selected()
        by_data = "by-data" in self.options  # one panel with a colour for each data set
        kinds = {(row["data"], row["model"]): row["data"] if by_data else kind(row) for row in rows}
        shape = self.options.get("kind", "dots")
        reference = self.options.get("relative-to")
        columns = self.options.get("columns", 2)
        lines = [f".. grid:: 1 1 {columns} {columns}", "   :gutter: 2", ""]
        with mpl.rc_context(RC):
            for metric in metrics:
                values, seconds = means(rows, metric), means(rows, "seconds")
                panels = {title: [key for key in values if key[0] == title] for title in data}
                label = metric
                if reference:  # all data sets in one panel
                    values = {
                        key: Mean([f"{value.mean / values[key[0], reference].mean:.3f}"])
                        for key, value in values.items()
                    }
                    panels = {self.options["title"]: list(values)}
                    label = f"{metric}, divided by that of {reference}"
                elif "title" in self.options:
                    panels = {self.options["title"]: list(values)}
                for title, keys in panels.items():
                    if shape == "scatter":
                        points = [
                            (key[1], kinds[key], seconds[key], values[key])
                            for key in keys
                            if key in seconds
                        ]
                        figure = draw_scatter(title, label, points)
                        alt = say_scatter(title, label, points)
                    else:
                        points = [(key[1], kinds[key], values[key]) for key in keys]
                        figure = draw_dots(title, label, points)
                        if "title" in self.options and len(data) > 1 and not by_data:
                            points = [
                                (f"{key[1]} ({key[0]})", *p[1:])
                                for key, p in zip(keys, points, strict=True)
                            ]
                        alt = (say_data if by_data else say_dots)(title, label, points)
                    name = f"{self.arguments[0]} {shape} {metric} {title}".lower()
                    name = re.sub(r"[^a-z0-9]+", "-", name)
                    save(figure, name)
                    lines += ["   .. grid-item::", ""]
                    for theme in ("light", "dark"):
                        lines += [
                            f"      .. image:: /_charts/{name}-{theme}.svg",
                            f"         :class: only-{theme}",
                            "         :width: 100%",
                            f"         :alt: {alt}",
                            "",
                        ]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app):
    """Register the directive."""
    app.add_directive("results-chart", ResultsChart)
    return {"parallel_read_safe": True}
