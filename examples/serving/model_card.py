"""
Describe a saved model in a model card
======================================

The card is a Markdown file beside the model. What the fitted model and its training matrix say is
filled in; the texts are yours. The card is a ``Card`` of the library skops (``pip install skops``),
so sections, plots and tables can be added.
"""

from datetime import date

import numpy as np
from skops.card import Card

import skvaecf

TO_WRITE = "*To be written.*"


def model_card(model, X, scores, *, data=TO_WRITE, evaluation=TO_WRITE, use=TO_WRITE, limits=""):
    """Return a card of a model that was fitted on X. ``scores`` is a dict of metrics."""
    name, text = type(model).__name__, type(model).__doc__
    counts = np.sort(model.item_counts_)[::-1]
    half = np.searchsorted(counts.cumsum(), counts.sum() / 2) + 1
    card = Card(model, model_diagram=False, template=None)
    card.add(
        **{
            "Model details": f"{text.strip().splitlines()[0]}\n\n`{name}` of skvaecf"
            f" {skvaecf.__version__}, card of {date.today()}.",
            "Uses": use,
            "Uses/Limits": f"The model recommends only the {X.shape[1]:,} items that it was fitted"
            " on. A user without any of these items gets the most popular ones. Half of the"
            f" training interactions are with {half:,} items. {limits}",
            "How to get started": "```python\nimport skvaecf\n\n"
            'model = skvaecf.load("model.safetensors")\n'
            "items = model.recommend(rows, k=10)  # rows: users x items, sparse\n```",
            "Training data": data,
        }
    )
    sizes = {"users": X.shape[0], "items": X.shape[1], "interactions": np.count_nonzero(X.data)}
    learned = {
        attribute: value if isinstance(value, int) else f"{value:.6g}"
        for attribute, value in vars(model).items()
        if attribute.endswith("_") and isinstance(value, int | float)
    }
    values = sizes | {key: value for key, value in learned.items() if key != "n_features_in_"}
    card.add_table(**{"Sizes and fitted values": {"name": [*values], "value": [*values.values()]}})
    card.add_hyperparams("Parameters")
    card.add_metrics("Evaluation", description=evaluation, **scores)
    references = text.partition("References\n")[2].partition("-\n")[2].partition("Examples")[0]
    card.add(Citation=" ".join(references.replace(".. [", "[").split()) or TO_WRITE)
    return card
