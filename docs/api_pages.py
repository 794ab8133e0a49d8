"""Write the pages of the API reference from what the package exports.

A new name in ``skvaecf.__all__`` or ``skvaecf.neural.__all__`` needs no change here.
"""

import inspect
from pathlib import Path

import skvaecf
from skvaecf import _vectors, base, datasets, linear, metrics, neural

# Sections, with the modules whose exports they hold. Recommenders are found by their base class.
SECTIONS = {
    "Recommenders": [],
    "Priors and posteriors": ["neural"],
    "From a log to a matrix and back": ["encoding"],
    "Weights of interactions": ["weighting"],
    "Recommending, saving, loading": ["ranking", "reranking", "persistence"],
    "Reasons of recommendations": ["inspection"],
    "Index of neighbours": ["neighbors"],
    "Splitting": ["model_selection"],
    "Scoring": ["scorers"],
    "Comparing": ["comparison"],
    "Displays": ["plotting"],
    "Callbacks": ["callbacks"],
    "Further objects": [],
}
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
    index.append("Import everything from ``skvaecf``, except metrics, data sets and parts.\n")
    for title, names in _sections().items():
        index += _table(title, [(f"skvaecf.{name}", getattr(skvaecf, name)) for name in names])
        pages |= {f"skvaecf.{name}": _page("skvaecf", name) for name in names}
    for module, title in [(metrics, "Metrics"), (datasets, "Data sets")]:
        names = _functions(module)
        full = module.__name__
        heading, table = _table(
            title, [(f"{full}.{name}", getattr(module, name)) for name in names]
        )
        index += [heading, f".. automodule:: {full}\n", table]
        pages |= {f"{full}.{name}": _page(full, name) for name in names}
    index.append(_heading("Custom recommenders", "-"))
    index.append(":doc:`parts`: base classes, training, networks, likelihoods, distributions.\n")
    toctree = "\n".join(f"   {name}" for name in pages)
    index.append(f".. toctree::\n   :hidden:\n\n{toctree}\n")
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
    found = {title: [] for title in SECTIONS}
    for name in sorted(skvaecf.__all__, key=str.lower):
        thing = getattr(skvaecf, name)
        if name.startswith("_"):
            continue
        module = (thing if hasattr(thing, "__module__") else type(thing)).__module__
        if inspect.isclass(thing) and issubclass(thing, base.BaseRecommender):
            title = "Recommenders"
        else:
            titles = [t for t, of in SECTIONS.items() if module.split(".")[1] in of]
            title = titles[0] if titles else "Further objects"
        found[title].append(name)
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


def _table(title, entries):
    rows = "\n".join(
        f"   * - :doc:`{name.split('.')[-1]} <{name}>`\n     - {_summary(thing)}"
        for name, thing in entries
    )
    return [
        _heading(title, "-"),
        f".. list-table::\n   :widths: 30 70\n   :class: skvaecf-api\n\n{rows}\n",
    ]


def _summary(thing):
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return f"``{_short(thing)}``"
    return inspect.getdoc(thing).split("\n\n")[0].replace("\n", " ")


def _short(scorer):
    return f'RankingScorer("{scorer.metric}", k={scorer.k})'


def _page(module, name):
    thing = getattr(__import__(module, fromlist=[name]), name)
    head = f"{_heading(name, '=')}\n.. currentmodule:: {module}\n\n"
    if inspect.isclass(thing):
        methods = "".join(f"\n   .. automethod:: {method}\n" for method in _methods(thing))
        return f"{head}.. autoclass:: {name}\n{methods}{_inherited(thing)}"
    if inspect.isroutine(thing):
        return f"{head}.. autofunction:: {name}\n"
    return (
        f"{head}.. py:data:: {name}\n\n   ``{_short(thing)}``, a :class:`~skvaecf.RankingScorer`."
        f" Pass it as ``scoring=`` or call it. ``{name}.at(20)`` is the same with k = 20. Formula:"
        f" :doc:`skvaecf.metrics.{thing.name.split('@')[0].replace('map', 'average_precision')}`.\n"
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
    return list(dict.fromkeys(names))


def _inherited(cls):
    if not hasattr(cls, "get_params"):
        return ""
    return (
        "\nInherited from scikit-learn: ``get_params`` and ``set_params``"
        + (", ``fit_transform``, ``set_output``" if hasattr(cls, "transform") else "")
        + (" and ``get_feature_names_out``" if hasattr(cls, "get_feature_names_out") else "")
        + ".\n"
    )


def _parts():
    text = [
        _heading("Parts of recommenders", "="),
        "A custom recommender is a class that combines these parts. They may change between minor"
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
        options = "   :members:\n   :exclude-members: set_fit_request, set_partial_fit_request\n"
        return f"{head}.. autoclass:: {name}\n{options}"
    if inspect.isroutine(thing):
        return f"{head}.. autofunction:: {name}\n"
    return f"{head}.. py:data:: {name}\n\n   A type for annotations.\n"


if __name__ == "__main__":
    write_api_pages(Path(__file__).parent / "api")
