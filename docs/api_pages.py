"""Write the pages of the API reference from what the package exports.

A class that is new in ``skvaecf.__all__`` gets its page without a change here.
"""

import inspect
from pathlib import Path

import skvaecf
from skvaecf import datasets, metrics
from skvaecf.base import BaseRecommender

# Sections, with the modules whose exports they hold; recommenders are known by their base class.
SECTIONS = {
    "Recommenders": [],
    "Priors and posteriors": ["latent"],
    "From a log to a matrix and back": ["encoding"],
    "Recommending, saving, loading": ["ranking", "persistence"],
    "Splitting": ["model_selection"],
    "Scoring": ["scorers"],
    "Displays": ["plotting"],
    "Callbacks": ["callbacks"],
    "Further objects": [],
}
PARTS = {
    "skvaecf.training": "The training loop",
    "skvaecf.objectives": "Terms of objectives",
    "skvaecf.likelihoods": "Likelihoods",
    "skvaecf.distributions": "Posteriors",
    "skvaecf.latent": "Priors and flows",
    "skvaecf.modules": "Building blocks of networks",
    "skvaecf.interactions": "Sparse rows",
    "skvaecf.least_squares": "Least squares problems",
    "skvaecf.base": "Bases of recommenders",
    "skvaecf.neural": "Recommenders with a network",
}


def write_api_pages(folder):
    """Write the index and a page per object, and delete pages of objects that are gone."""
    folder.mkdir(exist_ok=True)
    pages = {"parts": _parts()}
    index = [_heading("API reference", "=")]
    index.append("Everything is imported from ``skvaecf`` itself, but for data sets and metrics.\n")
    for title, names in _sections().items():
        index += _table(title, [(f"skvaecf.{name}", getattr(skvaecf, name)) for name in names])
        pages |= {f"skvaecf.{name}": _page("skvaecf", name) for name in names}
    for module, title in [(metrics, "Metrics per user"), (datasets, "Data sets")]:
        names = _functions(module)
        full = module.__name__
        heading, table = _table(
            title, [(f"{full}.{name}", getattr(module, name)) for name in names]
        )
        index += [heading, f".. automodule:: {full}\n", table]
        pages |= {f"{full}.{name}": _page(full, name) for name in names}
    index.append(_heading("For those who write recommenders", "-"))
    index.append(":doc:`parts`: the training loop, likelihoods, terms of objectives and modules.\n")
    toctree = "\n".join(f"   {name}" for name in pages)
    index.append(f".. toctree::\n   :hidden:\n\n{toctree}\n")
    pages["index"] = "\n".join(index)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        # Sphinx reads again what has changed only.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _sections():
    found = {title: [] for title in SECTIONS}
    for name in sorted(skvaecf.__all__, key=str.lower):
        thing = getattr(skvaecf, name)
        if name.startswith("_"):
            continue
        module = (thing if hasattr(thing, "__module__") else type(thing)).__module__
        if inspect.isclass(thing) and issubclass(thing, BaseRecommender):
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
        f"{head}.. py:data:: {name}\n\n   ``{_short(thing)}``: a :class:`~skvaecf.RankingScorer`,"
        f" for ``scoring=`` or to be called. ``{name}.at(20)`` is the same with k = 20. Formula:"
        f" :doc:`skvaecf.metrics.{thing.name.split('@')[0].replace('map', 'average_precision')}`.\n"
    )


def _methods(cls):
    """Name the public methods that the package itself defines, a class's own and inherited."""
    names = []
    for base in cls.__mro__:
        if base.__module__.startswith("skvaecf"):
            names += [
                name
                for name, value in vars(base).items()
                if (name == "__call__" or not name.startswith("_"))
                and (inspect.isfunction(value) or isinstance(value, classmethod))
                and inspect.getdoc(getattr(cls, name))
            ]
    return list(dict.fromkeys(names))


def _inherited(cls):
    if not hasattr(cls, "get_params"):
        return ""
    return (
        "\nFrom scikit-learn it has ``get_params`` and ``set_params``"
        + (", ``fit_transform``, ``set_output``" if hasattr(cls, "transform") else "")
        + (" and ``get_feature_names_out``" if hasattr(cls, "get_feature_names_out") else "")
        + ".\n"
    )


def _parts():
    text = [
        _heading("Parts of recommenders", "="),
        "A recommender is a file of its own that puts these together. They may change between"
        " minor versions.\n",
    ]
    for module, title in PARTS.items():
        text.append(_heading(title, "-"))
        text.append(
            f".. automodule:: {module}\n   :members:\n   :exclude-members: set_fit_request\n"
        )
    return "\n".join(text)


if __name__ == "__main__":
    write_api_pages(Path(__file__).parent / "api")
