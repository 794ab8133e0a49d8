"""Write the pages of the API reference from what the package exports.

A new name in ``skvaecf.__all__`` or ``skvaecf.neural.__all__`` needs no change here: it is listed
under "Further objects" until it is added to a section.
"""

import inspect
import re
from pathlib import Path

import skvaecf
from skvaecf import _vectors, datasets, linear, metrics, neural

# The names that skvaecf exports, by family. The most used ones come first.
SECTIONS = {
    "Linear models": ["EASE", "ELSA", "WMF", "ItemKNN", "SLIM", "Popularity"],
    "Autoencoders": [
        "MultVAE",
        "MultDAE",
        "RecVAE",
        "SIVAERecommender",
        "HVampVAE",
        "CDAE",
        "AWAE",
    ],
    "Adversarial models": ["VAEGANRecommender", "CFGAN", "IRGAN"],
    "Several models together": ["Blend"],
    "Ids and weights": ["InteractionEncoder", "CountSaturation", "TimeDecay"],
    "Recommend and explain": [
        "recommend",
        "explain",
        "Explanation",
        "limit_groups",
        "maximal_marginal_relevance",
    ],
    "Load and serve": ["load", "NeighborIndex"],
    "Split": [
        "UserSplitter",
        "strong_generalization_split",
        "split_interactions",
        "time_split",
        "rolling_time_splits",
        "last_interactions_split",
        "stack_splits",
    ],
    "Scorers of accuracy": [
        "ndcg_at_k",
        "recall_at_k",
        "precision_at_k",
        "hit_rate_at_k",
        "mrr_at_k",
        "map_at_k",
        "r_precision_at_k",
        "auc_at_k",
    ],
    "Scorers beyond accuracy": [
        "coverage_at_k",
        "entropy_at_k",
        "neg_gini_at_k",
        "novelty_at_k",
        "neg_mean_popularity_at_k",
        "neg_popularity_lift_at_k",
        "tail_recall_at_k",
        "unbiased_recall_at_k",
    ],
    "Custom scorers": ["RankingScorer", "MultiRankingScorer"],
    "Compare and plot": [
        "compare",
        "Comparison",
        "BenchmarkDisplay",
        "RankingCurveDisplay",
        "TrainingHistoryDisplay",
        "RankingMonitor",
    ],
    "Priors and posteriors": ["VampPrior", "InverseAutoregressiveFlow"],
}
# What stands above the table of a section.
NOTES = {
    "Linear models": "Guide: :doc:`../user_guide/linear`.",
    "Autoencoders": "Guide: :doc:`../user_guide/autoencoders`, :doc:`../user_guide/vae`.",
    "Adversarial models": "For research. Guide: :doc:`../user_guide/adversarial`.",
    "Split": "Guide: :doc:`../evaluation`.",
    "Scorers of accuracy": "For ``scoring=`` of scikit-learn's tools and of ``compare``. k is 100;"
    " ``ndcg_at_k.at(20)`` is the same scorer with k = 20. In the formulas, :math:`h_r` is 1 if the"
    " item in place r of the user's list is held out, and 0 otherwise; n is the number of the"
    " user's held-out items. A score is the mean over the users. The page of a scorer explains the"
    " other symbols.",
    "Scorers beyond accuracy": ":math:`L` are the first k items of a user, :math:`p_i` is the share"
    " of users who have item i, and :math:`c_i` is the number of users to whom item i is"
    " recommended. The scorers called ``neg_`` return the negative value, so that higher is"
    " better. The page of a scorer explains the other symbols. Guide: :doc:`../beyond_accuracy`.",
    "Compare and plot": "Guide: :doc:`../comparing`.",
    "Priors and posteriors": "Parameters of :class:`~skvaecf.MultVAE`.",
}
# The methods that come first on the page of a class.
FIRST = [
    "fit",
    "partial_fit",
    "recommend",
    "predict",
    "explain",
    "similar_items",
    "__call__",
    "per_user",
]
# The names that skvaecf.neural exports, in groups.
PARTS = {
    "Recommender base classes": ["TorchRecommender", "BaseRecommender"],
    "Training": ["Player", "Batch", "by_batch", "by_epoch"],
    "Networks": [
        "Autoencoder",
        "Encoder",
        "Decoder",
        "ItemEmbedding",
        "ItemLogits",
        "Linear",
        "SelfInitialized",
    ],
    "Likelihoods": ["ItemLikelihood", "Multinomial", "Bernoulli", "NChooseK", "likelihood_class"],
    "Distributions": ["DiagonalNormal", "FlowPosterior", "SemiImplicitNormal", "standard_normal"],
    "Priors and posteriors": [
        "Prior",
        "NormalPrior",
        "VampPrior",
        "Posterior",
        "NormalPosterior",
        "InverseAutoregressiveFlow",
    ],
    "Terms of objectives": [
        "anneal",
        "divergence",
        "mmd",
        "weight_penalty",
        "density_ratio_loss",
        "ratio_accuracy",
        "squared_jacobian",
        "squared_jacobian_estimate",
    ],
    "Sparse rows": ["InteractionBatch"],
}


def write_api_pages(folder):
    """Write the index and a page per object; delete the pages of objects that are gone."""
    folder.mkdir(exist_ok=True)
    pages = {"parts": _parts()}
    index = [_heading("API reference", "=")]
    index.append(
        "Look up what a class or function does, its parameters and its errors. Import all of them"
        " from ``skvaecf``, except metrics, data sets and parts.\n"
    )
    for title, names in _sections().items():
        index += _section(title, skvaecf, names, NOTES.get(title))
        pages |= {f"skvaecf.{name}": _page("skvaecf", name) for name in names}
    for module, title in [(metrics, "Metrics"), (datasets, "Data sets")]:
        names, full = _functions(module), module.__name__
        index += _section(title, module, names, f".. automodule:: {full}")
        pages |= {f"{full}.{name}": _page(full, name) for name in names}
    index.append(_heading("Custom recommenders", "-"))
    index.append(":doc:`parts`: base classes, training, networks, likelihoods, distributions.\n")
    index.append(".. toctree::\n   :hidden:\n   :caption: Custom recommenders\n\n   parts\n")
    pages["index"] = "\n".join(index)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        # Sphinx reads only those files again that have changed.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _sections():
    public = [name for name in skvaecf.__all__ if not name.startswith("_")]
    listed = {name for names in SECTIONS.values() for name in names}
    others = [name for name in public if name not in listed]
    found = SECTIONS | {"Further objects": sorted(others, key=str.lower)}
    return {title: names for title, names in found.items() if names}


def _functions(module):
    return [
        name
        for name, thing in vars(module).items()
        if inspect.isfunction(thing)
        and not name.startswith("_")
        and (
            name in module.__all__
            if hasattr(module, "__all__")
            else thing.__module__ == module.__name__
        )
    ]


def _heading(title, line):
    return f"{title}\n{line * len(title)}\n"


def _section(title, module, names, note):
    """Return a table of names and summaries, and the entries of the sidebar."""
    pages = {name: f"{module.__name__}.{name}" for name in names}
    rows = "\n".join(
        f"   * - :doc:`{name} <{page}>`\n     - {_summary(getattr(module, name))}"
        for name, page in pages.items()
    )
    entries = "\n".join(f"   {name} <{page}>" for name, page in pages.items())
    return [
        _heading(title, "-"),
        *([f"{note}\n"] if note else []),
        f".. list-table::\n   :widths: 30 70\n   :class: skvaecf-api\n\n{rows}\n",
        f".. toctree::\n   :hidden:\n   :caption: {title}\n\n{entries}\n",
    ]


def _summary(thing):
    """Return the first sentence of a docstring; for a scorer, the formula of its metric."""
    if inspect.isclass(thing) or inspect.isroutine(thing):
        return _first_line(thing)
    formula = _formula(_metric(thing)).split(r", \qquad")[0]
    return f"{_scorer_line(thing)}\n\n       :math:`{formula}`"


def _first_line(thing):
    return inspect.getdoc(thing).split("\n\n")[0].replace("\n", " ")


def _scorer_line(scorer):
    line = _first_line(_metric(scorer))
    if scorer.greater_is_better:
        return line
    return line.replace("Compute", "Compute the negative value of", 1)


def _metric(scorer):
    return getattr(metrics, "average_precision" if scorer.metric == "map" else scorer.metric)


def _formula(metric):
    """Return the first formula of a docstring in one line."""
    found = re.search(r"\.\. math::\s+(.+?)\n\n", inspect.getdoc(metric), re.S)
    return " ".join(found[1].split())


def _page(module, name):
    thing = getattr(__import__(module, fromlist=[name]), name)
    head = f"{_heading(name, '=')}\n.. currentmodule:: {module}\n\n"
    if inspect.isclass(thing):
        methods = "".join(f"\n   .. automethod:: {method}\n" for method in _methods(thing))
        return f"{head}.. autoclass:: {name}\n{methods}{_inherited(thing)}"
    if inspect.isroutine(thing):
        return f"{head}.. autofunction:: {name}\n"
    metric = _metric(thing)
    sign = "" if thing.greater_is_better else "negative "
    value = "value" if metric.__module__.endswith("_catalogue") else "mean over the users"
    return (
        f"{head}.. py:data:: {name}\n\n   {_scorer_line(thing)}\n\n"
        f"   .. math:: {_formula(metric)}\n\n"
        f"   :func:`skvaecf.metrics.{metric.__name__}` explains the symbols and computes the metric"
        f" of given lists.\n\n"
        f'   This is the :class:`~skvaecf.RankingScorer` ``RankingScorer("{thing.metric}",'
        f" k={thing.k})``. It returns the {sign}{value}. Pass it as ``scoring=``, or call"
        f" ``{name}(model, X)``. ``{name}.at(20)`` is the same scorer with k = 20.\n\n"
        f"   .. seealso:: :doc:`index` lists all scorers; :doc:`../evaluation` shows their use.\n"
    )


def _methods(cls):
    """Return the public methods that the package itself defines, inherited ones included."""
    names = []
    for parent in cls.__mro__:
        if parent.__module__.startswith("skvaecf"):
            names += [
                name
                for name, value in vars(parent).items()
                if (name == "__call__" or not name.startswith("_"))
                and (
                    inspect.isfunction(value)
                    or isinstance(value, classmethod)
                    or hasattr(value, "attribute_name")  # of available_if
                )
                and inspect.getdoc(getattr(cls, name))
            ]
    if not getattr(cls, "_takes_further_users", True):
        names.remove("partial_fit")
    # The most used ones come first, whichever class defines them.
    return sorted(
        dict.fromkeys(names), key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)
    )


def _inherited(cls):
    """Return a sentence with the methods of scikit-learn that the package does not document."""
    names = ["get_params", "set_params", "fit_transform", "get_feature_names_out"]
    if getattr(cls, "_sklearn_auto_wrap_output_keys", None):
        names.append("set_output")
    names = [f"``{name}``" for name in names if hasattr(cls, name) and name not in _methods(cls)]
    if not names:
        return ""
    return f"\nInherited from scikit-learn: {', '.join(names[:-1])} and {names[-1]}.\n"


def _parts():
    text = [
        _heading("Parts of recommenders", "="),
        "Look up the classes and functions that a custom recommender is made of."
        " :doc:`../user_guide/extending` shows how to combine them. They may change between minor"
        " versions.\n",
        f".. automodule:: {neural.__name__}\n",
    ]
    grouped = {name for names in PARTS.values() for name in names}
    others = [name for name in neural.__all__ if name not in grouped]
    for title, names in (PARTS | {"Further parts": others}).items():
        text += [_heading(title, "-"), *(_part(neural, name) for name in names)]
        if "BaseRecommender" in names:
            text += [_part(_vectors, name) for name in ("LatentFactorMixin", "SimilarItemsMixin")]
    text += [_heading("Least squares and item-item products", "-")]
    text += [f".. automodule:: {linear.__name__}\n", *(_part(linear, n) for n in linear.__all__)]
    return "\n".join(text)


def _part(module, name):
    thing, head = getattr(module, name), f".. currentmodule:: {module.__name__}\n\n"
    if name in skvaecf.__all__:
        return f"{head}.. py:class:: {name}\n\n   See :class:`skvaecf.{name}`.\n"
    if inspect.isclass(thing):
        omitted = ["set_fit_request", "set_partial_fit_request", *getattr(thing, "_fields", ())]
        options = f"   :members:\n   :exclude-members: {', '.join(omitted)}\n"
        return f"{head}.. autoclass:: {name}\n{options}"
    if inspect.isroutine(thing):
        return f"{head}.. autofunction:: {name}\n"
    return f"{head}.. py:data:: {name}\n\n   A type for annotations.\n"


if __name__ == "__main__":
    write_api_pages(Path(__file__).parent / "api")
