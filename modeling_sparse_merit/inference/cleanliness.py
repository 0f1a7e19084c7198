# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""How clean the recordings of a dataset are, to train an enhancer on clean ones alone (arXiv 2407.13895, workflow)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value
from transformers import AudioClassificationPipeline

from ..data.corpora.folder import dynamic_range
from ..data.datasets import DatasetError, read_dataset
from ..models.sparse_merit.audio import SAMPLING_RATE, load_audio
from .classifiers import load_classifier

COLUMN = "clean_score"
Score = Callable[[np.ndarray], float]


def build(
    dataset: str | Path, classifier: str | None = None, label: str = "clean", threshold: float | None = None
) -> Dataset:
    """Adds the column `clean_score` to a dataset, and leaves out recordings whose score is below a threshold.

    Args:
        dataset: the dataset.
        classifier: model for audio classification, a folder or a Hub id; the score is then the probability of `label`.
            None takes the [`dynamic_range`] in dB, which is small in recordings with a loud background.
        label: the label of the classifier for clean recordings.
        threshold: the least score of recordings that are kept; None keeps all.

    Raises:
        DatasetError: there is no such dataset, no recording reaches the threshold, or the classifier has no such label
            or another sampling rate.
        OSError: there is no such classifier.
    """
    rows = read_dataset(dataset)
    score = dynamic_range if classifier is None else _probability(classifier, label)
    scores = np.array([score(load_audio(row["audio"])) for row in rows.select_columns(["audio"])], np.float32)
    rows = rows.add_column(COLUMN, pa.array(scores), feature=Value("float32"))
    measured = "dynamic range in dB" if classifier is None else f"probability of {label!r} by {classifier}"
    description = f"{rows.info.description} {COLUMN}: {measured}."
    if threshold is not None:
        kept = np.flatnonzero(scores >= threshold)
        if not len(kept):
            raise DatasetError(
                f"{dataset}: no recording has a `{COLUMN}` of {threshold:g} or more, {scores.max():g} at most; "
                "expected a lower threshold."
            )
        rows = rows.select(kept)
        description += f" {len(scores) - len(kept)} recordings below {threshold:g} were left out."
    rows.info.description = description.strip()
    return rows


def _probability(source: str, label: str) -> Score:
    """The probability of a label for a recording (samples,) at 16 kHz."""
    model, feature_extractor = load_classifier(source)
    labels = list(model.config.id2label.values())
    if label not in labels:
        raise DatasetError(f"{source} has the labels {labels}, not {label!r}; expected one of them.")
    if feature_extractor.sampling_rate != SAMPLING_RATE:
        raise DatasetError(
            f"{source} is for {feature_extractor.sampling_rate} Hz; expected a classifier for {SAMPLING_RATE} Hz."
        )
    pipe = AudioClassificationPipeline(model=model.eval(), feature_extractor=feature_extractor)

    def score(waveform: np.ndarray) -> float:
        scores = pipe(waveform, top_k=len(labels))
        return next(entry["score"] for entry in scores if entry["label"] == label)

    return score
