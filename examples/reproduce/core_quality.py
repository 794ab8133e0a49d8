"""
Quality of the core models under strong generalization
======================================================

The script fits several settings of each model with several seeds, on one split of the users. The
epoch and the setting are chosen on the validation users; each fit is scored once on the test users.
After each fit, the script appends a row to a CSV file. Rows that are in the file are not computed
again, so an interrupted run can be continued::

    python examples/reproduce/core_quality.py --data ml-1m.npz --n-heldout 1000
    python examples/reproduce/core_quality.py --data gowalla.npz --n-heldout 3000 --settings default

``--data`` is a users x items matrix written by ``scipy.sparse.save_npz``, ``ml-small``, or one of
``ml-20m``, ``netflix`` and ``msd``, which the script downloads and splits as in the papers. The
seconds are the processor time of the fit, which is its duration on a quiet machine if
``OMP_NUM_THREADS=1`` is set.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, load_npz
from sklearn.base import clone

from skvaecf import (
    AWAE,
    CDAE,
    EASE,
    ELSA,
    SLIM,
    WMF,
    HVampVAE,
    ItemKNN,
    MultDAE,
    MultiRankingScorer,
    MultVAE,
    Popularity,
    RecVAE,
    SIVAERecommender,
    VAEGANRecommender,
    mrr_at_k,
    ndcg_at_k,
    recall_at_k,
    strong_generalization_split,
)
from skvaecf.datasets import fetch_movielens, fetch_msd, fetch_netflix, load_movielens_small

SCORERS = MultiRankingScorer((ndcg_at_k, recall_at_k.at(20), recall_at_k.at(50), mrr_at_k.at(10)))
# All l2 are next to the loss summed over the training users. Those of MultVAE, MultDAE and SIVAE
# were chosen next to the mean loss; they are multiplied by the number of training users, 4,040 of
# MovieLens 1M or 23,858 of Gowalla, and rounded to two digits.

# A random start and a constant learning rate, as in the papers. Many files of docs/results have
# these settings; on data with fewer than 2,000 training users they have --batch-size 100.
TRAINING = {"init": "random", "learning_rate_schedule": "constant", "max_epochs": 200}
ANNEALED = TRAINING | {"anneal_steps": "auto"}
MULTINOMIAL = {"likelihood": "multinomial", "learning_rate": 1e-3}
HIDDEN = ANNEALED | MULTINOMIAL | {"kl_weight": 0.5, "l2": 0.0}
HIDDEN |= {"n_components": 200, "encoder_layer_sizes": (600,)}
BERNOULLI_AVB = ANNEALED | {"likelihood": "bernoulli", "l2": 4.0, "adversary_weight": 0.2}

# The best setting on the validation users of MovieLens 1M: no hidden layer, with decay.
LINEAR = ANNEALED | {"likelihood": "bernoulli", "l2": 1.2, "kl_weight": 0.2}
LINEAR_VAE = MultVAE(100, encoder_layer_sizes=(), learning_rate=5e-3, **LINEAR)
LINEAR_SIVAE = SIVAERecommender(
    100,
    encoder_layer_sizes=(300,),
    learning_rate=3e-3,
    n_mixing_samples=5,
    noise_size=30,
    **LINEAR,
)
NOISIER = {"n_mixing_samples": 10, "noise_size": 100}
FASTER = {"n_components": 200, "learning_rate": 5e-3}
GOWALLA = {
    "n_components": 400,
    "likelihood": "n-choose-k",
    "l2": 2.4,
    "learning_rate": 4e-3,
    "n_iter_no_change": 5,
}
# The network of both papers, without decay. The batch size is the default. The SIVAE paper has the
# multinomial likelihood, and the VAEGAN paper has the Bernoulli likelihood.
PAPERS = ANNEALED | {
    "n_components": 200,
    "encoder_layer_sizes": (600,),
    "decoder_layer_sizes": (600,),
    "likelihood": "multinomial",
    "dropout": 0.5,
    "l2": 0,
    "learning_rate": 1e-3,
}
BERNOULLI_PAPERS = PAPERS | {"likelihood": "bernoulli"}
NARROW_HVAMP = HVampVAE(
    100,
    layer_size=300,
    n_pseudo_inputs=20,
    likelihood="multinomial",
    kl_weight=0.3,
    l2=0,
    learning_rate=1e-3,
    batch_size=50,
)
SIVAE_SEARCH = {
    "300": {},
    "300, noise 100": NOISIER,
    "300, kl_weight 0.5": {"kl_weight": 0.5},
    "300-300": {"encoder_layer_sizes": (300, 300)},
    "200 of 300": {"n_components": 200},
    "200 of 300, kl_weight 1": NOISIER | {"n_components": 200, "kl_weight": 1.0},
    "200 of 300, faster": FASTER | NOISIER,
    "200 of 100": FASTER | NOISIER | {"encoder_layer_sizes": (100,), "shared_sigma": True},
    "200, no noise": FASTER | {"encoder_layer_sizes": ()},
}
SETTINGS = {
    ("Popularity", "default"): Popularity(),
    ("ItemKNN", "default"): ItemKNN(),
    ("SLIM", "default"): SLIM(),
    ("WMF", "default"): WMF(),
    ("EASE", "default"): EASE(),
    ("EASE", "l2=200"): EASE(200),
    ("EASE", "l2=500"): EASE(500),
    ("EASE", "l2=1000"): EASE(1000),
    ("EASE", "l2=2000"): EASE(2000),
    ("EASE", "all four"): EASE(dropout=0.3, user_exponent=0.25, item_exponent=0.1, relaxation=0.2),
    ("ELSA", "default"): ELSA(),
    ("ELSA", "512"): ELSA(512),
    ("MultDAE", "default"): MultDAE(),
    # 2e-5 next to the mean loss, as in the paper's code.
    ("MultDAE", "l2=0.081"): MultDAE(l2=0.081, **TRAINING | MULTINOMIAL),
    ("MultDAE", "paper"): MultDAE(
        200, dropout=0.5, l2=0.081, ema_decay=0, **TRAINING | MULTINOMIAL
    ),
    ("MultDAE", "narrow"): MultDAE(
        250, dropout=0.4, l2=2.0, batch_size=200, **TRAINING | MULTINOMIAL
    ),
    ("MultVAE", "default"): MultVAE(),
    ("MultVAE", "600, multinomial"): MultVAE(**HIDDEN),
    ("MultVAE", "600, Bernoulli"): MultVAE(**HIDDEN | {"likelihood": "bernoulli"}),
    ("MultVAE", "600, n-choose-k"): MultVAE(**HIDDEN | {"likelihood": "n-choose-k"}),
    ("MultVAE", "paper"): MultVAE(kl_weight=0.2, ema_decay=0, **PAPERS | {"anneal_steps": 40_000}),
    ("MultVAE", "narrow"): MultVAE(
        batch_size=100,
        **HIDDEN
        | {"n_components": 100, "encoder_layer_sizes": (300,)}
        | {"kl_weight": 0.2, "anneal_steps": 3200},
    ),
    ("MultVAE", "linear"): LINEAR_VAE,
    ("MultVAE", "linear, float32"): clone(LINEAR_VAE).set_params(precision="float32"),
    ("MultVAE", "linear, multinomial"): clone(LINEAR_VAE).set_params(likelihood="multinomial"),
    ("MultVAE", "linear, n-choose-k"): clone(LINEAR_VAE).set_params(likelihood="n-choose-k"),
    ("MultVAE", "linear 200, n-choose-k"): clone(LINEAR_VAE).set_params(
        n_components=200, likelihood="n-choose-k"
    ),
    # The best setting on the validation users of Gowalla.
    ("MultVAE", "linear 400, n-choose-k"): clone(LINEAR_VAE).set_params(**GOWALLA),
    ("MultVAE", "400 of 400, n-choose-k"): clone(LINEAR_VAE).set_params(
        encoder_layer_sizes=(400,), **GOWALLA
    ),
    ("SIVAERecommender", "400 of 400"): clone(LINEAR_SIVAE).set_params(
        encoder_layer_sizes=(400,), shared_sigma=True, **NOISIER | GOWALLA
    ),
    ("MultVAE", "300, n-choose-k"): clone(LINEAR_VAE).set_params(
        encoder_layer_sizes=(300,), learning_rate=3e-3, likelihood="n-choose-k"
    ),
    ("MultVAE", "600-200-600"): MultVAE(kl_weight=0.2, **PAPERS),
    ("MultVAE", "600-200-600, Bernoulli"): MultVAE(kl_weight=0.2, **BERNOULLI_PAPERS),
    ("SIVAERecommender", "600-200-600"): SIVAERecommender(kl_weight=0.2, **NOISIER, **PAPERS),
    ("VAEGANRecommender", "600-200-600"): VAEGANRecommender(
        normalize=False, adversary_weight=0.2, **BERNOULLI_PAPERS
    ),
    ("SIVAERecommender", "default"): SIVAERecommender(),
    ("SIVAERecommender", "linear"): LINEAR_SIVAE,
    **{
        ("SIVAERecommender", name): clone(LINEAR_SIVAE).set_params(
            likelihood="n-choose-k", **changes
        )
        for name, changes in SIVAE_SEARCH.items()
    },
    ("VAEGANRecommender", "default"): VAEGANRecommender(),
    ("VAEGANRecommender", "100, Bernoulli"): VAEGANRecommender(100, **BERNOULLI_AVB),
    ("VAEGANRecommender", "200, Bernoulli"): VAEGANRecommender(200, **BERNOULLI_AVB),
    ("VAEGANRecommender", "linear 400, n-choose-k"): VAEGANRecommender(**BERNOULLI_AVB | GOWALLA),
    ("RecVAE", "default"): RecVAE(),
    ("RecVAE", "narrow"): RecVAE(
        100,
        encoder_layer_sizes=(300,) * 5,
        likelihood="multinomial",
        kl_weight_per_item=0.0035,
        l2=0,
        learning_rate=1e-3,
        batch_size=100,
    ),
    ("AWAE", "default"): AWAE(),
    ("CDAE", "default"): CDAE(),
    ("HVampVAE", "default"): HVampVAE(),
    ("HVampVAE", "narrow"): NARROW_HVAMP,
    ("HVampVAE", "narrow, Bernoulli"): clone(NARROW_HVAMP).set_params(likelihood="bernoulli"),
}


def run(model, split, seed, scorers=SCORERS):
    """Fit a model; return its scores on the validation and the test users."""
    X_val = split.validation_fold_in, split.validation_heldout
    start = time.process_time()  # other programs on the machine do not change it
    if "random_state" in model.get_params():
        model.set_params(random_state=seed)
    model.fit(split.train, **({"X_val": X_val} if hasattr(model, "early_stopping") else {}))
    seconds = time.process_time() - start
    validation = ndcg_at_k(model, split.validation_fold_in, split.validation_heldout)
    return {
        "validation ndcg@100": validation,
        **scorers(model, split.test_fold_in, split.test_heldout),
        "epochs": getattr(model, "n_iter_", 0),
        "seconds": seconds,
    }


def read(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def append(path, row):
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def summarize(rows):
    """Print mean and spread over the seeds. A star marks the best setting of each model."""
    groups = {}
    for row in rows:
        group = groups.setdefault((row.pop("model"), row.pop("setting")), [])
        group.append({key: float(value) for key, value in row.items() if key != "seed"})
    mean = {
        g: {k: np.mean([row[k] for row in rows]) for k in rows[0]} for g, rows in groups.items()
    }
    for (model, setting), of in groups.items():
        chosen_by, *figures = mean[model, setting]
        scores = [means[chosen_by] for (name, _), means in mean.items() if name == model]
        best = mean[model, setting][chosen_by] == max(scores)  # on the validation users
        print(f"{model} {setting} {len(of)} seeds {'*' if best else ''}")
        for key in (chosen_by, *figures):
            spread = np.std([row[key] for row in of])
            print(f"    {key:20} {mean[model, setting][key]:.4f} +- {spread:.4f}")


DATA = {  # functions that load a data set, and numbers of held-out users, those of the papers
    "ml-small": (load_movielens_small, 100),
    "ml-20m": (fetch_movielens, 10_000),
    "netflix": (fetch_netflix, 40_000),
    "msd": (fetch_msd, 50_000),
}


def load(data, n_heldout):
    """Load a file or a named data set and split its users."""
    fetch, papers = DATA.get(data, (None, None))
    if fetch is None and n_heldout is None:
        raise SystemExit("--n-heldout is needed for a file")
    X = fetch().data if fetch else csr_array(load_npz(data))
    return strong_generalization_split(X, n_heldout or papers)


def command_line(description):
    """Return a parser of the options that all scripts have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", required=True, help=f"an .npz file, or one of {', '.join(DATA)}")
    parser.add_argument("--n-heldout", type=int, help="number of test and of validation users")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", help="only these models")
    parser.add_argument("--settings", nargs="+", help="only these settings")
    parser.add_argument("--batch-size", type=int, help="rows per mini-batch instead of 'auto'")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser


def reproduce(arguments, settings, table, run=run, load=load):
    """Fit the selected settings that are not in the CSV file, and print a summary."""
    models, names = zip(*settings, strict=True)
    for selected, known in ((arguments.models, models), (arguments.settings, names)):
        unknown = set(selected or ()).difference(known)
        if unknown:
            raise SystemExit(f"There are no {sorted(unknown)} among {sorted(set(known))}.")
    data = load(arguments.data, arguments.n_heldout)
    arguments.out.mkdir(parents=True, exist_ok=True)
    heldout = f"_{arguments.n_heldout}" if arguments.n_heldout else ""
    batch = f"_batch_{arguments.batch_size}" if arguments.batch_size else ""
    path = arguments.out / f"{table}_{Path(arguments.data).stem}{heldout}{batch}.csv"
    done = {(row["model"], row["setting"], row["seed"]) for row in read(path)}
    for (name, setting), model in settings.items():
        if setting != "default" and "n_sampled_items" in model.get_params():
            model.set_params(n_sampled_items=None)  # as in the papers
        if arguments.models and name not in arguments.models:
            continue
        if arguments.settings and setting not in arguments.settings:
            continue
        if arguments.batch_size and getattr(model, "batch_size", None) == "auto":
            model.set_params(batch_size=arguments.batch_size)
        for seed in arguments.seeds:
            if (name, setting, str(seed)) not in done:
                row = {"model": name, "setting": setting, "seed": seed}
                figures = run(clone(model), data, seed)
                append(path, row | {key: round(value, 5) for key, value in figures.items()})
                print(read(path)[-1], flush=True)
    summarize(read(path))


if __name__ == "__main__":
    reproduce(command_line(__doc__.split("\n\n")[1]).parse_args(), SETTINGS, "core_quality")
