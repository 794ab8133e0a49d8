import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from conftest import naming
from scipy.sparse import csr_array
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer

from skvaecf import (
    EASE,
    WMF,
    BenchmarkDisplay,
    ItemKNN,
    MultVAE,
    Popularity,
    RankingCurveDisplay,
    RankingScorer,
    TrainingHistoryDisplay,
    compare,
    coverage_at_k,
    ndcg_at_k,
    neg_gini_at_k,
    neg_popularity_lift_at_k,
    recall_at_k,
)
from skvaecf.datasets import make_interactions

mpl.use("Agg")
import matplotlib.pyplot as plt

HISTORY = [
    {"epoch": 1, "autoencoder_loss": 5.0, "validation_ndcg": 0.1, "seconds": 0.2},
    {"epoch": 2, "autoencoder_loss": 4.0, "validation_ndcg": 0.3, "seconds": 0.2},
    {"epoch": 3, "autoencoder_loss": 3.5, "validation_ndcg": 0.2, "seconds": 0.2},
]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def X():
    return make_interactions(n_users=200, n_items=30, random_state=0)


@pytest.fixture(scope="module")
def models(X):
    return {"EASE": EASE(l2=10).fit(X[:120]), "popular": Popularity().fit(X[:120])}


def test_matplotlib_is_imported_only_to_draw():
    code = (
        "import sys; from skvaecf import RankingCurveDisplay, TrainingHistoryDisplay;"
        "assert 'matplotlib' not in sys.modules;"
        "import matplotlib; matplotlib.use('Agg');"
        "TrainingHistoryDisplay([{'epoch': 1, 'objective': 1.0}]).plot();"
        "assert 'matplotlib.pyplot' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_history_has_a_panel_per_figure_and_marks_the_epoch_kept():
    display = TrainingHistoryDisplay(HISTORY, best_iter=2, name="A model").plot(color="red")
    assert list(display.lines_) == ["autoencoder_loss", "validation_ndcg"]
    line = display.lines_["validation_ndcg"]
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(line.get_ydata(), [0.1, 0.3, 0.2])
    assert line.get_color() == "red"
    assert [ax.get_title() for ax in display.axes_] == ["autoencoder loss", "validation NDCG"]
    for ax in display.axes_:
        assert list(ax.lines[-1].get_xdata()) == [2, 2]
    assert display.figure_.get_suptitle() == "A model, epoch 2 kept"
    assert display.figure_ is display.axes_[0].figure


def test_history_of_an_estimator(X):
    model = MultVAE(8, encoder_layer_sizes=(), max_epochs=3, random_state=0).fit(X)
    display = TrainingHistoryDisplay.from_estimator(model, figures=["validation_ndcg"])
    assert display.figure_.get_suptitle() == f"MultVAE, epoch {model.best_iter_} kept"
    np.testing.assert_array_equal(
        display.lines_["validation_ndcg"].get_ydata(),
        [record["validation_ndcg"] for record in model.history_],
    )
    model = WMF(4, max_epochs=3, random_state=0).fit(X)
    assert list(TrainingHistoryDisplay.from_estimator(model).lines_) == ["objective"]


def test_history_on_given_axes():
    figure, axes = plt.subplots(2, 1)
    display = TrainingHistoryDisplay(HISTORY, name="A model").plot(ax=axes)
    assert display.figure_ is figure
    assert list(display.axes_) == list(axes)
    assert figure.get_suptitle() == ""
    _, ax = plt.subplots()
    display = TrainingHistoryDisplay(HISTORY).plot(figures=["validation_ndcg"], ax=ax)
    assert list(display.axes_) == [ax]
    assert len(ax.lines) == 1  # no epoch is marked


def test_history_has_as_many_axes_as_figures():
    history = [{"epoch": 1} | {f"figure_{i}": float(i) for i in range(5)}]
    display = TrainingHistoryDisplay(history).plot()
    assert len(display.axes_) == 5
    assert sum(ax.get_visible() for ax in display.figure_.axes) == 5


def test_history_errors(X):
    with pytest.raises(NotFittedError):
        TrainingHistoryDisplay.from_estimator(WMF())
    with pytest.raises(TypeError, match="must have history_, which Popularity does not have"):
        TrainingHistoryDisplay.from_estimator(Popularity().fit(X))
    for figures in (["seconds"], "validation_ndcg", []):
        message = r"figures must be a list of names in \['autoencoder_loss', 'validation_ndcg'\]"
        with naming(figures), pytest.raises(ValueError, match=message) as raised:
            TrainingHistoryDisplay(HISTORY).plot(figures=figures)
        assert str(raised.value).endswith(f"got {figures!r}.")
    with pytest.raises(ValueError, match="ax must have 2 axes"):
        TrainingHistoryDisplay(HISTORY).plot(ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="history must hold one epoch"):
        TrainingHistoryDisplay([]).plot()


@pytest.mark.parametrize("scorer", [ndcg_at_k, RankingScorer("recall", capped=False)])
def test_curves_are_the_scores(X, models, scorer):
    ks = [1, 3, 10]
    display = RankingCurveDisplay.from_estimator(models, X[120:], scorer=scorer, k_values=ks)
    for name, model in models.items():
        curve = display.curves[name]
        for i, k in enumerate(ks):
            values = scorer.at(k).per_user(model, X[120:])
            values = values[~np.isnan(values)]
            assert curve.mean[i] == pytest.approx(scorer.at(k)(model, X[120:]))
            assert curve.standard_error[i] == pytest.approx(
                values.std(ddof=1) / np.sqrt(len(values))
            )
        np.testing.assert_array_equal(display.lines_[name].get_ydata(), curve.mean)
        np.testing.assert_array_equal(display.lines_[name].get_xdata(), ks)
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == list(models)


def test_curves_of_lists_by_hand():
    heldout = csr_array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    ranked = np.array([[0, 2, 1], [0, 2, 1], [0, 1, 2]])
    display = RankingCurveDisplay.from_predictions(
        ranked, heldout, scorer=recall_at_k, k_values=[1, 2, 3], name="mine"
    )
    # Recall at 1, 2, 3: 1, 1/2, 1 and 0, 1, 1. The third user has no held-out items.
    np.testing.assert_allclose(display.curves["mine"].mean, [0.5, 0.75, 1])
    np.testing.assert_allclose(display.curves["mine"].standard_error, [0.5, 0.25, 0])
    assert display.ax_.get_ylabel() == "recall@k"


@pytest.mark.parametrize(
    ("scorer", "label"),
    [(recall_at_k, "recall@k"), (neg_popularity_lift_at_k, "popularity lift@k (lower is better)")],
)
def test_curves_say_if_lower_values_are_better(X, models, scorer, label):
    display = RankingCurveDisplay.from_estimator(models, X[120:], scorer=scorer, k_values=[1, 5])
    assert display.ax_.get_ylabel() == label


def test_lists_and_estimators_give_the_same_curves(X, models):
    fold_in, heldout = X[120:].copy(), X[120:].copy()
    held = np.arange(X[120:].nnz) % 4 == 0
    fold_in.data, heldout.data = np.where(held, 0, 1), np.where(held, 1, 0)
    fold_in.eliminate_zeros()
    heldout.eliminate_zeros()
    lists = {name: model.recommend(fold_in, k=20) for name, model in models.items()}
    ks = [1, 5, 20]
    of_lists = RankingCurveDisplay.from_predictions(lists, heldout, k_values=ks)
    of_models = RankingCurveDisplay.from_estimator(models, fold_in, heldout, k_values=ks)
    for name in models:
        np.testing.assert_allclose(of_lists.curves[name].mean, of_models.curves[name].mean)


def test_one_estimator_is_named_by_its_class_and_may_be_a_pipeline(X, models):
    display = RankingCurveDisplay.from_estimator(models["EASE"], X[120:], k_values=[5])
    assert list(display.curves) == ["EASE"]
    pipeline = make_pipeline(Binarizer(), models["EASE"])
    of_pipeline = RankingCurveDisplay.from_estimator(pipeline, X[120:], k_values=[5])
    assert list(of_pipeline.curves) == ["Pipeline"]
    np.testing.assert_array_equal(of_pipeline.curves["Pipeline"].mean, display.curves["EASE"].mean)


def test_width_of_the_bands(X, models):
    def heights(error_band):
        display = RankingCurveDisplay.from_estimator(
            models["EASE"], X[120:], k_values=[5, 10], error_band=error_band
        )
        error = display.curves["EASE"].standard_error[0]
        bands = display.ax_.collections
        if not bands:
            return 0
        vertices = bands[0].get_paths()[0].vertices
        at_5 = vertices[vertices[:, 0] == 5, 1]
        return (at_5.max() - at_5.min()) / error

    assert heights(1.96) == pytest.approx(2 * 1.96)
    assert heights(1) == pytest.approx(2)
    assert heights(None) == 0


def test_curves_on_given_axes(X, models):
    figure, ax = plt.subplots()
    display = RankingCurveDisplay.from_estimator(
        models, X[120:], k_values=[5, 10], ax=ax, linestyle="--"
    )
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert display.lines_["EASE"].get_linestyle() == "--"


def test_curve_errors(X, models):
    draw = RankingCurveDisplay.from_estimator
    with pytest.raises(ValueError, match="scorer must have a value per user"):
        draw(models, X[120:], scorer=coverage_at_k)
    for ks in ([], [3, 1], [1, 1]):
        with pytest.raises(ValueError, match="k_values must be one or more ascending numbers"):
            draw(models, X[120:], k_values=ks)
    with pytest.raises(ValueError, match="'k' parameter"):
        draw(models, X[120:], k_values=[0, 1])
    with pytest.raises(ValueError, match="Fewer than two users"):
        RankingCurveDisplay.from_predictions([[0]], csr_array([[1, 0]]), k_values=[1])


# --- benchmark

PER_USER = {  # of four users, the last with nothing held out
    "good": {"ndcg@20": [0.4, 0.6, 0.8, np.nan], "recall@5": [0.1, 0.2, 0.3, np.nan]},
    "worse": {"ndcg@20": [0.3, 0.5, 0.7, np.nan], "recall@5": [0.3, 0.1, 0.2, np.nan]},
    "mixed": {"ndcg@20": [0.2, 0.9, 0.4, np.nan], "recall@5": [0.2, 0.3, 0.1, np.nan]},
}


def dots(panel):
    """Yield rows, means and ends of the bars, of the dark and then of the pale dots."""
    for dark_or_pale in panel.containers:
        points, _, bars = dark_or_pale
        segments = bars[0].get_segments() if bars else []
        ends = np.array([bar[:, 0] for bar in segments]).reshape(-1, 2)
        yield points.get_ydata().tolist(), points.get_xdata(), ends


def test_benchmark_by_hand():
    display = BenchmarkDisplay(PER_USER, fit_seconds={"good": 9, "worse": 3, "mixed": 100}).plot()
    assert display.models_ == ["good", "mixed", "worse"]  # two equal means
    assert [ax.get_title() for ax in display.axes_] == ["NDCG@20", "recall@5", "fit, seconds"]
    assert [text.get_text() for text in display.axes_[0].get_yticklabels()] == display.models_
    # "worse" has 0.1 less than "good" for each user: it is pale, although the bars overlap. The
    # differences of "mixed" are 0.2, -0.3 and 0.4, with p = 0.68: it is dark.
    (rows, means, ends), (pale, _, _) = dots(display.axes_[0])
    assert (rows, pale) == ([0, 1], [2])
    np.testing.assert_allclose(means, [0.6, 0.5])
    np.testing.assert_allclose(ends[0], 0.6 + np.array([-1, 1]) * 1.96 * 0.2 / np.sqrt(3))
    # All means of the recall are 0.2.
    assert [rows for rows, _, _ in dots(display.axes_[1])] == [[0, 1, 2], []]
    (fastest, *_), (others, seconds, _) = dots(display.axes_[2])
    assert (fastest, others) == ([2], [0, 1])
    np.testing.assert_array_equal(seconds, [9, 100])


def test_benchmark_of_estimators_and_of_lists(X, models):
    heldout = X[120:].copy()
    heldout.data = (np.arange(heldout.nnz) % 4 == 0).astype(heldout.dtype)
    fold_in = csr_array(X[120:] - heldout)
    scorers = (recall_at_k.at(5), ndcg_at_k)
    lists = {name: model.recommend(fold_in, k=30) for name, model in models.items()}
    of_lists = BenchmarkDisplay.from_predictions(lists, heldout, scorers=scorers)
    of_models = BenchmarkDisplay.from_estimator(models, fold_in, heldout, scorers=scorers)
    for name, model in models.items():
        for scorer in scorers:
            expected = scorer.per_user(model, fold_in, heldout)
            np.testing.assert_allclose(of_models.values[name][scorer.name], expected)
            np.testing.assert_allclose(of_lists.values[name][scorer.name], expected)
    one = BenchmarkDisplay.from_estimator(models["EASE"], X[120:])
    assert list(one.values) == ["EASE"]
    assert [ax.get_title() for ax in one.axes_] == ["NDCG@100", "recall@20"]


@pytest.mark.parametrize("options", [{}, {"test": "wilcoxon", "reference": "Popularity"}])
def test_benchmark_of_a_comparison_has_its_colours(X, options):
    models = {"Popularity": Popularity(), "EASE": EASE(l2=10), "ItemKNN": ItemKNN()}
    comparison = compare(models, X, scoring=(ndcg_at_k, coverage_at_k.at(5)), cv=2, **options)
    display = BenchmarkDisplay.from_comparison(comparison, error_bar=None)
    table = comparison.table
    assert display.models_ == table["model"][:3].tolist()
    assert len(display.axes_) == 3  # one is for the seconds
    for panel, metric in zip(display.axes_, ("ndcg@100", "coverage@5"), strict=False):
        of_metric = table["metric"] == metric
        pale = dict(zip(table["model"][of_metric], table["distinguishable"][of_metric]))
        expected = [[row for row, m in enumerate(display.models_) if pale[m] == p] for p in (0, 1)]
        assert [rows for rows, _, _ in dots(panel)] == expected
    assert display.test == comparison.test
    display.plot()  # coverage has no bars, but the labels of its values
    assert all(np.isfinite(label.xy).all() for label in display.axes_[1].texts)


def test_benchmark_of_metrics_of_which_lower_values_are_better(X, models):
    values = {name: {"loss": of["ndcg@20"]} for name, of in PER_USER.items()}
    values["low"] = {"loss": [0.1, 0.3, 0.5, np.nan]}
    display = BenchmarkDisplay(values, lower_is_better=["loss"]).plot()
    assert display.models_ == ["low", "mixed", "worse", "good"]
    # The last two have 0.2 and 0.3 more than "low" for each user. "mixed" has 0.1, 0.6 and -0.1.
    (rows, means, _), (pale, _, _) = dots(display.axes_[0])
    assert (rows, pale) == ([0, 1], [2, 3])
    np.testing.assert_allclose(means, [0.3, 0.5])
    scorers = (neg_gini_at_k.at(5), ndcg_at_k, coverage_at_k.at(5))
    comparison = compare(models, X, scoring=scorers, cv=2)
    of_models = BenchmarkDisplay.from_estimator(models, X[120:], scorers=scorers)
    lists = {name: model.recommend(X[120:], k=5) for name, model in models.items()}
    of_lists = BenchmarkDisplay.from_predictions(lists, X[120:], scorers=scorers)
    for display in (BenchmarkDisplay.from_comparison(comparison), of_models, of_lists):
        labels = [panel.get_xlabel() for panel in display.axes_[:3]]
        assert labels == ["lower is better", "", ""]
        assert display.models_ == ["EASE", "popular"]


def test_benchmark_on_given_axes():
    figure, axes = plt.subplots(1, 2)
    display = BenchmarkDisplay(PER_USER).plot(ax=axes, error_bar=None, marker="s", capsize=5)
    assert display.figure_ is figure
    assert list(display.axes_) == list(axes)
    for _, _, ends in dots(axes[0]):
        assert not len(ends)
    assert all(caps == () for _, caps, _ in axes[0].containers)
    assert axes[0].containers[0][0].get_marker() == "s"


def test_benchmark_errors():
    with pytest.raises(ValueError, match="ax must have 2 axes, one per panel, got 1"):
        BenchmarkDisplay(PER_USER).plot(ax=plt.subplots()[1])
    with pytest.raises(ValueError, match=r"values must hold the metrics \['ndcg@20', 'recall@5'\]"):
        BenchmarkDisplay(PER_USER | {"other": {"ndcg@20": [0.1] * 4}}).plot()
    with pytest.raises(ValueError, match="Fewer than two users"):
        BenchmarkDisplay({"one": {"ndcg@20": [0.1, np.nan]}}).plot()
    with pytest.raises(ValueError, match=r"equal shapes, got those of ndcg@20: \[\(2,\), \(3,\)\]"):
        BenchmarkDisplay({"a": {"ndcg@20": [0, 1]}, "b": {"ndcg@20": [0, 1, 1]}}).plot()
    with pytest.raises(ValueError, match=r"reference must be a name in .* got 'nobody'"):
        BenchmarkDisplay(PER_USER, reference="nobody").plot()
    for names in (["ndcg@10"], "ndcg@20"):
        with pytest.raises(ValueError, match=r"lower_is_better must hold names in \['ndcg@20', "):
            BenchmarkDisplay(PER_USER, lower_is_better=names).plot()
    with pytest.raises(ValueError, match="values must hold one model"):
        BenchmarkDisplay({}).plot()
    for seconds in ({"good": 1, "worse": 1}, {"good": 1, "worse": 1, "mixed": 0}):
        with pytest.raises(ValueError, match="fit_seconds must be above 0 for every model"):
            BenchmarkDisplay(PER_USER, fit_seconds=seconds).plot()


def test_short_names_of_matplotlib_for_properties_of_lines(X, models):
    curves = RankingCurveDisplay.from_estimator(models, X[120:], ms=9, c="r")
    assert {(line.get_markersize(), line.get_color()) for line in curves.lines_.values()} == {
        (9.0, "r")
    }
    benchmark = BenchmarkDisplay(PER_USER).plot(ls=":", c="g")
    assert benchmark.axes_[0].containers[0][0].get_linestyle() == ":"
    history = TrainingHistoryDisplay.from_estimator(WMF(2, max_epochs=2).fit(X), lw=5)
    assert {line.get_linewidth() for line in history.lines_.values()} == {5.0}


@pytest.mark.parametrize("display", [BenchmarkDisplay, RankingCurveDisplay])
def test_held_out_interactions_are_not_changed(display):
    data, items, starts = np.ones(4), np.array([5, 2, 7, 2]), np.array([0, 3, 4])
    for array in (data, items, starts):
        array.flags.writeable = False
    heldout = csr_array((data, items, starts), shape=(2, 9))
    display.from_predictions([[5, 1], [1, 2]], heldout)
    assert heldout.indices.tolist() == [5, 2, 7, 2]
    with pytest.raises(ValueError, match="heldout contains NaN"):
        display.from_predictions([[5, 1], [1, 2]], csr_array(np.full((2, 9), np.nan)))
