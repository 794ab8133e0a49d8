"""Measurements of ``docs/results``: means over the seeds, and tables of them for the pages.

Each file of ``docs/results`` has one value per row, with the complete call of the model, the seed,
the CPU and the command. The tables show means and standard deviations over the seeds::

    .. results-table:: quality
       :columns: data
       :metric: NDCG@100

This command replaces rows of ``docs/results/quality.csv`` by those of the same data and models that
``examples/reproduce/core_quality.py --settings default`` wrote::

    python docs/measurements.py results/core_quality_ml-1m_1000.csv --data ML-1M --cpu "AMD EPYC"
"""

import argparse
import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from statistics import fmean, pstdev
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parent
FIELDS = ("data", "model", "settings", "seed", "metric", "value", "seconds", "CPU", "command")
# Columns that are no metric in a file that has a column for each metric.
NOT_METRICS = {*FIELDS, "best settings"}
SPREAD = ", standard deviation"
LINEAR = ("Popularity", "ItemKNN", "EASE", "EDLAE", "ELSA", "SLIM", "WMF")
RANDOM_FREE = ("Popularity", "ItemKNN", "EASE", "SLIM")
# The columns of core_quality.py, and their names here.
COLUMNS = {
    "validation ndcg@100": "validation NDCG@100",
    "ndcg@100": "NDCG@100",
    "recall@20": "Recall@20",
    "recall@50": "Recall@50",
    "mrr@10": "MRR@10",
}


@dataclass
class Mean:
    """Mean of the values of one metric over the seeds, and their standard deviation."""

    values: list[str]
    spread: str = ""

    @property
    def mean(self):
        """The mean."""
        return fmean(map(float, self.values))

    @property
    def deviation(self):
        """The standard deviation, None for one value."""
        if self.spread:
            return float(self.spread)
        return pstdev(map(float, self.values)) if len(self.values) > 1 else None

    def text(self, metric=""):
        """Return three or four digits."""
        decimals = max(len(value.partition(".")[2]) for value in self.values)
        if "second" in metric:
            decimals = min(decimals, 2)
        if metric in ("ratio", "validation ratio"):
            decimals = 3
        elif abs(self.mean) >= 1 and decimals > (3 if len(self.values) == 1 else 0):
            decimals = min(decimals, max(0, 2 - floor(log10(abs(self.mean)))))
        if abs(self.mean) < 1 and round(self.mean, 4) < 1:
            decimals = min(decimals, 4)
        words = [number(self.mean, decimals)]
        if self.deviation is not None:
            words += ["±", number(self.deviation, decimals)]
        if re.search("second|, ms$|, %$| l2", metric):  # shares have no zero, measures have one
            words = [f"0{word}" if word.startswith(".") else word for word in words]
        return "\N{NO-BREAK SPACE}".join(words)


def number(value, decimals):
    """Return the digits of a number, without the zero of a share."""
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("0") if decimals and text.startswith("0.") else text


def read(name):
    """Return the rows of a file, one for each value."""
    with (DOCS / "results" / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if "metric" not in rows[0]:
        metrics = [column for column in rows[0] if column not in NOT_METRICS]
        rows = [row | {"metric": m, "value": row[m]} for row in rows for m in metrics]
    return [row for row in rows if row["value"]]


def means(rows, metric):
    """Return the mean of a metric for each data set and model."""
    values, spreads = defaultdict(dict), {}
    for row in rows:
        key = row["data"], row["model"]
        if metric == "seconds" and row.get("seconds"):
            values[key][row["seed"]] = row["seconds"]  # which all rows of a fit repeat
        elif row["metric"] == metric:
            values[key][row["seed"]] = row["value"]
        elif row["metric"] == metric + SPREAD:
            spreads[key] = row["value"]
    return {key: Mean([*of.values()], spreads.get(key, "")) for key, of in values.items()}


class Results(SphinxDirective):
    """What tables and charts have in common: a file and a selection of its rows."""

    required_arguments = 1
    option_spec: ClassVar = dict.fromkeys(
        ("metric", "data", "models", "omit"), directives.unchanged
    )

    def selected(self):
        """Return the rows, the metrics and the data sets."""
        self.env.note_dependency(str(DOCS / "results" / f"{self.arguments[0]}.csv"))
        self.env.note_dependency(__file__)
        rows = read(self.arguments[0])
        data = self._list("data") or list(dict.fromkeys(row["data"] for row in rows))
        models = self._list("models") or list(dict.fromkeys(row["model"] for row in rows))
        omitted = self._list("omit")
        rows = [
            row
            for row in rows
            if row["data"] in data and row["model"] in models and row["model"] not in omitted
        ]
        metrics = self._list("metric") or list(dict.fromkeys(row["metric"] for row in rows))
        return rows, [m for m in metrics if not m.endswith(SPREAD)], data

    def _list(self, option):
        return [part.strip() for part in self.options.get(option, "").split(";") if part.strip()]


class ResultsTable(Results):
    """A table with one mean per cell, and what was measured how below it."""

    option_spec: ClassVar = Results.option_spec | {
        "rows": directives.unchanged,
        "columns": lambda value: directives.choice(value, ("metric", "data", "model")),
    }

    def run(self):
        """Return the table and the paragraph below it."""
        rows, metrics, data = self.selected()
        columns = self.options.get("columns", "metric")
        labels = self._list("rows") or ["data" if columns == "model" else "model"]
        cells, texts, heads, order = {}, {}, {}, {}
        for metric in metrics:
            for (of, model), value in means(rows, metric).items():
                names = {"data": of, "model": model, "metric": metric}
                label = tuple(names[name] for name in labels)
                order[label] = heads[names[columns]] = None
                cells[label, names[columns]] = value
                texts[label, names[columns]] = value.text(metric)
        if columns == "data":
            heads = [name for name in data if name in heads]
        lines = [[*labels, *heads]]
        for label in order:
            lines.append([*label, *(texts.get((label, head), "") for head in heads)])
        return [_table(lines, len(labels)), *self.parse_text_to_nodes(self._below(rows, cells))]

    def _below(self, rows, cells):
        cpus = list(dict.fromkeys(row["CPU"] for row in rows if row.get("CPU")))
        text = f"CPU: {'; '.join(cpus)}. " if cpus else ""
        counts = {len(mean.values) for mean in cells.values() if len(mean.values) > 1}
        if counts:
            n = " or ".join(map(str, sorted(counts)))
            text += f"± is the standard deviation over the seeds (n = {n}). "
        file = self.arguments[0]
        contents = (
            "seeds, complete calls and commands"
            if rows[0].get("command")
            else "seeds and best settings"
        )
        return f"{text}Full digits, {contents}: :download:`{file}.csv </results/{file}.csv>`."


def _table(lines, n_labels):
    group = nodes.tgroup(cols=len(lines[0]))
    group += [nodes.colspec(colwidth=1) for _ in lines[0]]
    head, body = nodes.thead(), nodes.tbody()
    for i, line in enumerate(lines):
        row = nodes.row()
        for j, cell in enumerate(line):
            code = i and j < n_labels and re.fullmatch(r"\w+\(.*\)", cell)
            text = nodes.literal("", cell) if code else nodes.Text(cell)
            row += nodes.entry("", nodes.paragraph("", "", text))
        (body if i else head).append(row)
    group += [head, body]
    return nodes.table("", group, classes=["skvaecf-labels"] if n_labels > 1 else [])


def add_defaults(path, data, cpu):
    """Replace the rows of models in quality.csv by those of a file of core_quality.py."""
    target = DOCS / "results" / "quality.csv"
    with path.open(newline="") as file:
        fits = [row for row in csv.DictReader(file) if row["setting"] == "default"]
    options = f"--data {data}"
    if found := re.fullmatch(r"core_quality_(.+)_(\d+)", path.stem):
        options = f"--data {found[1]}.npz --n-heldout {found[2]}"
    elif found := re.fullmatch(r"core_quality_(.+)", path.stem):
        options = f"--data {found[1]}"
    command = f"OMP_NUM_THREADS=1 python examples/reproduce/core_quality.py {options}"
    rows, seen = [], set()
    for fit in fits:
        model, seed = fit["model"], fit["seed"]
        if model in RANDOM_FREE:
            seed = ""
        if (model, seed) in seen:
            continue
        seen.add((model, seed))
        for column, metric in COLUMNS.items():
            rest = (metric, fit[column], fit["seconds"], cpu)
            asked = f"{command} --models {model} --settings default --seeds {fit['seed']}"
            rows.append(
                dict(zip(FIELDS, (data, model, f"{model}()", seed, *rest, asked), strict=True))
            )
    models = {model for model, _ in seen}
    kept = [row for row in read("quality") if row["data"] != data or row["model"] not in models]
    order = list(dict.fromkeys(row["data"] for row in [*kept, *rows]))

    def place(row):
        of = row["model"]
        return order.index(row["data"]), LINEAR.index(of) if of in LINEAR else len(LINEAR), of

    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*kept, *rows], key=place))


def setup(app):
    """Register the directive."""
    app.add_directive("results-table", ResultsTable)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=add_defaults.__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--data", required=True, help="name of the data set in the charts")
    parser.add_argument("--cpu", required=True)
    add_defaults(**vars(parser.parse_args()))
