# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A reference for ratings of recordings: ridge regression on eGeMAPS functionals."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..data.datasets import DatasetError, read_datasets
from ..metrics.regression import concordance_correlation
from ..models.sparse_merit.audio import load_audio
from .predictions import Prediction
from .probes import OPENSMILE_LICENCE, as_list, functionals, functionals_cache, import_opensmile

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1_000.0)


class EgemapsRidge:
    """eGeMAPS functionals (Eyben et al., IEEE TAC 2016), standardised, and a ridge regression for each rating. It is
    trained on the train split as it is, and its regularisation is the one with the best CCC on the dev split.
    Predictions are limited to the range of the training ratings: unusual recordings have extreme functionals.

    openSMILE's licence restricts commercial use, including that of features and models made with it: see
    `OPENSMILE_LICENCE`.

    Args:
        task: name of the regression task that is predicted.
        ratings: columns of the datasets with the ratings of the task, in its order. A rating may be missing.
        speech: speech datasets with a train and a dev split.
        workers: processes that compute functionals; None is one per CPU core.
        cache: folder of cached functionals; None is a folder in the cache of `huggingface_hub`.

    Raises:
        ImportError: opensmile or scikit-learn is not installed.
        DatasetError: a dataset, split or column is missing, or fewer than two clips of a split have a rating.
    """

    name = "egemaps_ridge"

    def __init__(
        self,
        task: str,
        ratings: str | Sequence[str],
        speech: str | Sequence[str],
        workers: int | None = None,
        cache: str | None = None,
    ):
        import_opensmile()
        self.title = f"eGeMAPSv02 of openSMILE {version('opensmile')} (no commercial use) and ridge regression"
        self.task, self.tasks, self.ratings = task, (task,), as_list(ratings)
        self.workers, self.cache = workers, Path(cache or functionals_cache())
        (train, train_ratings), (dev, dev_ratings) = (
            self._examples(as_list(speech), split) for split in ("train", "dev")
        )
        self.training = {"clips": len(train), "dev_clips": len(dev)}
        chosen = [
            choose_ridge(train, train_ratings[:, place], dev, dev_ratings[:, place])
            for place in range(len(self.ratings))
        ]
        self.choices = {rating: choice for rating, (choice, _) in zip(self.ratings, chosen, strict=True)}
        self.predictors = [predict for _, predict in chosen]

    def describe(self) -> dict[str, Any]:
        """What identifies the system in a report."""
        versions = {name: version(name) for name in ("opensmile", "scikit-learn")}
        identity = {"name": self.title, "reference": self.name, "task": self.task, "training": self.training}
        return {**identity, "ratings": self.choices, "licence": OPENSMILE_LICENCE, "versions": versions}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz."""
        features = np.stack([row for _, row in functionals(recordings, self.cache, self.workers)])
        ratings = np.stack([predict(features) for predict in self.predictors], axis=-1)  # (clips, K)
        return [Prediction(None, None, task_outputs={self.task: row.tolist()}) for row in ratings]

    def _examples(self, speech: list[str], split: str) -> tuple[np.ndarray, np.ndarray]:
        """Functionals (clips, 88) and ratings (clips, K) of a split, NaN for a missing rating."""
        dataset = read_datasets(speech, split)
        if missing := sorted(set(self.ratings) - set(dataset.column_names)):
            raise DatasetError(
                f"`ratings` has {missing}, which are no columns of {speech}; expected some of {dataset.column_names}."
            )
        ratings = np.array([dataset[name] for name in self.ratings], dtype=np.float64).T
        for name, rated in zip(self.ratings, np.isfinite(ratings).sum(0), strict=True):
            if rated < 2:
                raise DatasetError(
                    f"{rated} clips of the split {split!r} of {speech} have a rating {name!r}; expected at least two."
                )
        recordings = (load_audio(audio) for audio in dataset["audio"])
        return np.stack([row for _, row in functionals(recordings, self.cache, self.workers)]), ratings


def choose_ridge(
    train: np.ndarray, train_ratings: np.ndarray, dev: np.ndarray, dev_ratings: np.ndarray
) -> tuple[dict[str, float], Callable[[np.ndarray], np.ndarray]]:
    """
    Trains ridge regressions on standardised features, and selects the one with the best CCC on the dev split.

    Args:
        train, dev: features (clips, F); undefined values (NaN) are replaced by the mean.
        train_ratings, dev_ratings: ratings (clips,); clips without one (NaN) are left out.

    Returns:
        {"alpha", "dev_ccc"}, and the prediction of features (clips, F), within the range of the training ratings.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rated, dev_rated = np.isfinite(train_ratings), np.isfinite(dev_ratings)
    limits = train_ratings[rated].min(), train_ratings[rated].max()
    candidates = []
    for alpha in ALPHAS:
        model = make_pipeline(SimpleImputer(), StandardScaler(), Ridge(alpha=alpha))
        model.fit(train[rated], train_ratings[rated])
        predict = partial(_predict, model, limits)
        score = concordance_correlation(dev_ratings[dev_rated], predict(dev[dev_rated]))
        candidates.append(({"alpha": alpha, "dev_ccc": score}, predict))
    return max(candidates, key=lambda candidate: np.nan_to_num(candidate[0]["dev_ccc"], nan=-1.0))


def _predict(model: Any, limits: tuple[float, float], features: np.ndarray) -> np.ndarray:
    return model.predict(features).clip(*limits)
