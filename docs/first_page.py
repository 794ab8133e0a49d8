"""Draw the figure of the first page from ``docs/results/first_page.csv``.

``examples/reproduce/first_page.py`` measures these values.
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
# Of each data set, the marker and the colours (Okabe and Ito) on white and on black.
STYLES = {
    "MovieLens small": ("o", "#0072b2", "#56b4e9"),
    "ML-1M": ("s", "#b84e00", "#f0a04b"),
    "ML-100K": ("D", "#007a59", "#2fc49a"),
}
TEXT, LINES = ("#222832", "#ced6dd"), ("#d1d5da", "#48566b")


def draw_first_page(folder):
    """Write the means over the seeds, once for each theme, on a transparent background."""
    values = defaultdict(list)
    with (DOCS / "results/first_page.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            values[row["data"], row["model"]].append(float(row["NDCG@100"]))
    means = {key: fmean(of) for key, of in values.items()}
    folder.mkdir(exist_ok=True)
    for theme, name in enumerate(("light", "dark")):
        colors = {"text.color": TEXT[theme], "ytick.color": TEXT[theme], "xtick.color": TEXT[theme]}
        colors |= {"axes.labelcolor": TEXT[theme], "grid.color": LINES[theme]}
        with mpl.rc_context(colors | {"svg.hashsalt": "skvaecf", "font.size": 11}):
            figure = _draw(means, theme)
            path = folder / f"first_page-{name}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None})


def _draw(means, theme):
    models = {model for _, model in means}
    models = sorted(models, key=lambda model: sum(means[data, model] for data in STYLES))
    figure = Figure(figsize=(4.6, 4.1), layout="constrained")
    axes = figure.subplots()
    for data, (marker, *color) in STYLES.items():
        style = {"marker": marker, "color": color[theme], "linestyle": ""}
        for y, model in enumerate(models):
            axes.plot(means[data, model], y, markersize=8, **style)
        axes.text(
            means[data, models[-1]],
            len(models) - 0.35,
            data.replace(" ", "\n"),
            color=color[theme],
            ha="center",
        )
    axes.set_yticks(range(len(models)), [model.removesuffix("Recommender") for model in models])
    axes.set_ylim(-0.5, len(models) - 0.45)
    axes.set_xlim(0.18, 0.62)
    axes.set_xlabel("NDCG@100 of held-out users")
    axes.grid(axis="both", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


if __name__ == "__main__":
    draw_first_page(DOCS / "_charts")
