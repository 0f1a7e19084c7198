# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Baselines of emotion in texts: linear models on TF-IDF features, and on a frozen text encoder.

Ratings of EmoBank by ridge regression, emotions of MELD by logistic regression, trained on the train split and scored
on the test split. Regularisation is also chosen on the dev split, by the mean CCC and the weighted F1. The frozen
encoder, whose features are means over the tokens, is measured on EmoBank. Intervals are bootstrap intervals over
sentences and over dialogues. Writes `text_baselines.json` and `.md` to `benchmarks/results/wild`.

    sparse-merit prepare emobank EMOBANK tables/emobank
    sparse-merit prepare meld MELD tables/meld
    python -m benchmarks.wild.text_baselines --text-model TEXT_ENCODER
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import sklearn
import torch
import typer
from datasets import Dataset
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from benchmarks.intervals import shown
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import SpeechTextForEmotion, SpeechTextProcessor
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.evaluation.statistics import confusion_cells, draw_counts, resampled_confusion
from modeling_sparse_merit.evaluation.task_scores import Statistic, concordance
from modeling_sparse_merit.metrics.emotion import defined_mean, f1_from_confusion, weighted_f1_from_confusion

SPLITS = ("train", "dev", "test")
RATINGS = ("valence", "arousal", "dominance")
RESAMPLES, SEED, TOLERANCE = 2_000, 0, 1e-3
ALPHAS, STRENGTHS = (0.1, 0.3, 1.0, 3.0), (0.25, 1.0, 4.0)
EMBEDDING_ALPHAS = (0.1, 1.0, 10.0, 100.0, 1_000.0)
FROZEN = "frozen text encoder"
TEXTS_AT_ONCE = 64
WORDS = partial(TfidfVectorizer, ngram_range=(1, 2), min_df=2, sublinear_tf=True)
CHARACTERS = partial(TfidfVectorizer, analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True)
FEATURES: dict[str, Callable[[], Any]] = {
    "words 1-2": WORDS,
    "words 1-2, characters 2-5": lambda: make_union(WORDS(), CHARACTERS()),
}

Scores = dict[str, Callable[[np.ndarray], np.ndarray]]
"""Each score as a function of how often a row counts in each resample, (resamples, rows) -> (resamples,)."""


def f1(true: np.ndarray, predicted: np.ndarray, average: str, counts: np.ndarray) -> np.ndarray:
    """Macro or weighted F1 of classes (rows,) in resamples with these counts: (resamples, rows) -> (resamples,)."""
    classes = int(max(true.max(), predicted.max())) + 1
    confusion = resampled_confusion(confusion_cells(true, predicted[None], classes), counts)[:, 0]
    return defined_mean(f1_from_confusion(confusion)) if average == "macro" else weighted_f1_from_confusion(confusion)


def estimates(scores: Scores, units: np.ndarray) -> dict[str, dict[str, float]]:
    """
    Scores of a split with their 95 % intervals.

    Args:
        scores: {name: score}.
        units: What is drawn, 0, 1, ... of each row: (rows,).
    """
    counts = draw_counts(units, RESAMPLES, SEED)
    assert counts is not None
    results = {}
    for name, score in scores.items():
        low, high = np.nanpercentile(score(counts), [2.5, 97.5])
        results[name] = {"mean": point(score, len(units)), "low": float(low), "high": float(high)}
    return results


def point(score: Callable[[np.ndarray], np.ndarray], rows: int) -> float:
    """A score of all rows."""
    return float(score(np.ones((1, rows)))[0])


def rate(path: str, features: Any, alphas: Sequence[float], solver: str) -> dict[str, Any]:
    """
    Ridge regression of the ratings of EmoBank, with the regularisation that the dev split chooses.

    Args:
        path: The dataset of EmoBank.
        features: A scikit-learn transformer of texts.
        alphas: Regularisations to choose from.
        solver: Solver of scikit-learn's `Ridge`.
    """
    rows = _splits(path)
    targets = {split: np.array([rows[split][name] for name in RATINGS]).T for split in SPLITS}  # (rows, 3)
    inputs = _transformed(rows, features)
    best, chosen, alpha = -np.inf, None, 0.0
    for value in alphas:
        model = Ridge(alpha=value, solver=solver, random_state=SEED).fit(inputs["train"], targets["train"])
        scores = _concordances(targets["dev"], model.predict(inputs["dev"]))
        mean = np.mean([point(score, len(targets["dev"])) for score in scores.values()])
        if mean > best:
            best, chosen, alpha = mean, model, value
    assert chosen is not None
    scores = _concordances(targets["test"], chosen.predict(inputs["test"]))
    return {"alpha": alpha, "dev": float(best), "test": estimates(scores, np.arange(len(targets["test"])))}


def embedding_features(text_model: str) -> Any:
    """
    A scikit-learn transformer of texts to standardised means over the tokens of a frozen encoder, (texts, D).

    Args:
        text_model: Text encoder of transformers: a folder or a Hub id.
    """
    model = SpeechTextForEmotion.from_parts(text=text_model).eval()
    processor = SpeechTextProcessor.from_parts(text=text_model)

    def embedded(texts: Sequence[str]) -> np.ndarray:
        batches = (list(texts[start : start + TEXTS_AT_ONCE]) for start in range(0, len(texts), TEXTS_AT_ONCE))
        with torch.inference_mode():
            return np.concatenate(
                [model.embed_text(**processor(text=batch, return_tensors="pt")).numpy() for batch in batches]
            )

    return make_pipeline(FunctionTransformer(embedded), StandardScaler())


def classify(path: str, make_features: Callable[[], Any]) -> dict[str, Any]:
    """Logistic regression of the emotions of MELD, plain and with class weights; and the most frequent class."""
    rows = _splits(path)
    targets = {split: np.array(rows[split]["emotion"]) for split in SPLITS}
    inputs = _transformed(rows, make_features())
    plain = {strength: LogisticRegression(C=strength, tol=TOLERANCE) for strength in STRENGTHS}
    for model in plain.values():
        model.fit(inputs["train"], targets["train"])
    dev = {
        strength: point(partial(f1, targets["dev"], model.predict(inputs["dev"]), "weighted"), len(targets["dev"]))
        for strength, model in plain.items()
    }
    best = max(dev, key=lambda strength: dev[strength])
    weighted = LogisticRegression(C=1.0, tol=TOLERANCE, class_weight="balanced")
    models = {
        "most frequent class": DummyClassifier(),
        "C = 1": plain[1.0],
        f"C = {best:g}, chosen on dev": plain[best],
        "C = 1, class weights": weighted,
    }
    for model in (models["most frequent class"], weighted):
        model.fit(inputs["train"], targets["train"])
    known = set(rows["train"]["text"])
    is_new = np.array([text not in known for text in rows["test"]["text"]])
    dialogues = np.array(rows["test"]["dialogue"])
    results = {}
    for name, model in models.items():
        predicted = model.predict(inputs["test"])
        results[name] = {
            part: estimates(_f1s(targets["test"][chosen], predicted[chosen]), _numbered(dialogues[chosen]))
            for part, chosen in (("test", np.ones(len(predicted), bool)), ("new lines", is_new))
        }
    return {"dev": dev, "new lines": int(is_new.sum()), "systems": results}


def _splits(path: str) -> dict[str, Dataset]:
    return {split: read_dataset(path, split, required="text") for split in SPLITS}


def _transformed(rows: dict[str, Dataset], features: Any) -> dict[str, Any]:
    features.fit(rows["train"]["text"][:])
    return {split: features.transform(rows[split]["text"][:]) for split in SPLITS}


def _numbered(names: np.ndarray) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1]


def _concordances(true: np.ndarray, predicted: np.ndarray) -> Scores:
    return {
        name: _of_one(concordance(true[:, place], predicted[None, :, place])) for place, name in enumerate(RATINGS)
    }


def _of_one(statistic: Statistic) -> Callable[[np.ndarray], np.ndarray]:
    """A score of the only member."""
    return lambda counts: statistic(counts)[:, 0]


def _f1s(true: np.ndarray, predicted: np.ndarray) -> Scores:
    return {average: partial(f1, true, predicted, average) for average in ("weighted", "macro")}


def markdown(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Emotion in texts by linear models",
        "",
        f"`{results['command']}`, commit {results['commit']}, seed {results['seed']}, scikit-learn "
        f"{results['scikit_learn']}. TF-IDF with sublinear term frequencies, of terms in at least two texts; 95 % "
        "intervals.",
        "",
        "EmoBank, official test split (1,000 sentences), CCC of ridge regression. The dev split chooses alpha. A "
        "constant prediction has a CCC of 0.",
        "",
        "| features | alpha | valence | arousal | dominance |",
        "|---|---:|---|---|---|",
    ]
    for name, result in results["emobank"].items():
        scores = " | ".join(shown(result["test"][rating], 3) for rating in RATINGS)
        lines.append(f"| {name} | {result['alpha']:g} | {scores} |")
    meld = results["meld"]
    lines += [
        "",
        "MELD, test split (2,610 lines, intervals over 280 dialogues), F1 of logistic regression on words 1-2 and "
        f"characters 2-5. New lines are the {meld['new lines']} test lines that are not in the train split.",
        "",
        "| system | weighted F1 | macro F1 | weighted F1, new lines | macro F1, new lines |",
        "|---|---|---|---|---|",
    ]
    for name, result in meld["systems"].items():
        scores = " | ".join(
            shown(result[part][average], 3) for part in ("test", "new lines") for average in ("weighted", "macro")
        )
        lines.append(f"| {name} | {scores} |")
    return "\n".join(lines)


def main(
    text_model: Annotated[str, typer.Option(help="Text encoder of transformers: a folder or a Hub id.")],
    emobank: Annotated[str, typer.Option(help="The dataset of EmoBank.")] = "tables/emobank",
    meld: Annotated[str, typer.Option(help="The dataset of MELD.")] = "tables/meld",
) -> None:
    """Measures the baselines, and writes the results."""
    measured = commit()
    emobank_results = {name: rate(emobank, make(), ALPHAS, "sparse_cg") for name, make in FEATURES.items()}
    emobank_results[FROZEN] = rate(emobank, embedding_features(text_model), EMBEDDING_ALPHAS, "cholesky")
    command = shlex.join(["python", "-m", "benchmarks.wild.text_baselines", *sys.argv[1:]])
    results = {
        "command": command.replace(text_model, "TEXT_ENCODER"),
        "commit": measured,
        "seed": SEED,
        "scikit_learn": sklearn.__version__,
        "emobank": emobank_results,
        "meld": classify(meld, FEATURES["words 1-2, characters 2-5"]),
    }
    write_results(RESULTS / "wild" / "text_baselines", results, markdown(results))


if __name__ == "__main__":
    typer.run(main)
