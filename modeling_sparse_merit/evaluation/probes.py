# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Emotion references that are classifiers on fixed features, trained in many conditions: an SVM on eGeMAPS, and
logistic regression on the hidden states of a frozen encoder. openSMILE, which computes eGeMAPS, is licensed for
research and other non-commercial use only."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import cached_assets_path
from scipy.special import softmax
from tqdm.auto import tqdm
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from ..data.datasets import read_datasets
from ..data.labels import UNLABELLED, class_indices, class_weights
from ..data.mixing import SAMPLING_RATE, MixingRecipe
from ..extras import import_extra
from ..files import replacing, sha256_of_file, sha256_of_samples
from ..metrics import macro_f1
from ..models.sparse_merit.audio import load_audio
from ..models.sparse_merit.feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritModel
from ..models.sparse_merit.sources import locate
from ..models.sparse_merit.tasks import EMOTION
from .predictions import Prediction

FUNCTIONALS = 88  # number of functionals of eGeMAPSv02
OPENSMILE_LICENCE = (
    "audEERING Research License Agreement: research and non-commercial use alone; neither openSMILE nor features or "
    "models made with it may be part of a product"
)
# A grid around the usual defaults, C = 1 and gamma = 1 / features.
COSTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
WIDTHS = tuple(scale / FUNCTIONALS for scale in (0.1, 0.3, 1.0, 3.0, 10.0))
# Hidden states are many more, so weights are regularised more.
PROBE_COSTS = (1e-4, 1e-3, 1e-2, 1e-1)
PROBE_ITERATIONS = 1_000

Settings = dict[str, Any]


class EmotionProbe(ABC):
    """A classifier of emotions on features of whole recordings.

    It is trained in many conditions on the train split: every labelled clip without noise, and `copies` times in noise
    at the level of the recording. The settings of the classifier are chosen by macro-F1 on the dev split, mixed in the
    same way with the noise of the dev split. Features are cached by the content of the recording.

    Args:
        labels: emotion classes, in the order of the probabilities.
        speech: speech datasets with a train and a dev split.
        noise: noise datasets with a train and a dev split.
        snr_db: lowest and highest signal-to-noise ratio in dB.
        copies: number of noisy copies of each clip.
        seed: seed of the mixtures.
        cache: folder of cached features.

    Raises:
        DatasetError: a dataset or split is missing, or a class has no training clip.
    """

    name: ClassVar[str]
    title: str
    tasks: ClassVar[tuple[str, ...]] = (EMOTION,)

    def __init__(
        self,
        labels: Sequence[str],
        speech: str | Sequence[str],
        noise: str | Sequence[str],
        snr_db: Sequence[float],
        copies: int,
        seed: int,
        cache: str | Path,
    ):
        self.labels, self.cache = list(labels), Path(cache)
        self.snr_db, self.copies, self.seed = (float(snr_db[0]), float(snr_db[-1])), copies, seed
        train, dev = (self._examples(as_list(speech), as_list(noise), split) for split in ("train", "dev"))
        self.training = {"clips": len(train[1]), "sha256": train[2], "dev_clips": len(dev[1]), "dev_sha256": dev[2]}
        self.choice, self.classifier = choose_classifier(*train[:2], *dev[:2], self.labels, self.candidates)

    @abstractmethod
    def candidates(self, weights: dict[int, float]) -> Iterator[tuple[Settings, Any]]:
        """Settings to choose from, and an untrained scikit-learn classifier for each.

        Args:
            weights: weight of each class.
        """

    @abstractmethod
    def features(self, recordings: Iterable[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """SHA-256 and features (F,) of each recording (samples,) at 16 kHz, in order."""

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(clips, F) to the probabilities of the labels (clips, labels)."""
        return self.classifier.predict_proba(features)

    def describe(self) -> dict[str, Any]:
        """What identifies the system in a report."""
        settings = {"snr_db": list(self.snr_db), "copies": self.copies, "seed": self.seed}
        identity = {"name": self.title, "reference": self.name, "training": {**self.training, **settings}}
        return {**identity, **self.choice, "versions": {"scikit-learn": version("scikit-learn")}}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz."""
        features = np.stack([row for _, row in self.features(recordings)])
        return [Prediction(None, probabilities) for probabilities in self.probabilities(features)]

    def _examples(self, speech: list[str], noise: list[str], split: str) -> tuple[np.ndarray, np.ndarray, str]:
        """Features (examples, F) and classes (examples,) of a split in all conditions, and the SHA-256 of both."""
        dataset = read_datasets(speech, split)
        classes = np.array(class_indices(dataset, self.labels))
        dataset, classes = dataset.select(np.flatnonzero(classes != UNLABELLED)), classes[classes != UNLABELLED]
        recipe = MixingRecipe(read_datasets(noise, split), snr_db=self.snr_db, level_db=None, seed=self.seed)
        classes = np.repeat(classes, 1 + self.copies)  # the conditions of a clip are adjacent
        features = self.features(in_conditions(dataset, recipe, self.copies))
        rows = list(tqdm(features, f"features of {split}", len(classes), unit="clip", disable=None))
        lines = [f"{digest} {self.labels[index]}\n" for (digest, _), index in zip(rows, classes, strict=True)]
        sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
        return np.stack([row for _, row in rows]), classes, sha256


class EgemapsSvm(EmotionProbe):
    """eGeMAPS functionals (Eyben et al., IEEE TAC 2016), standardised, and an SVM with an RBF kernel, whose C and
    gamma are chosen. Its probabilities are the softmax of its decision values; they are not calibrated.

    openSMILE's licence restricts commercial use, including that of features and models made with it: see
    `OPENSMILE_LICENCE`.

    Args:
        labels: emotion classes, in the order of the probabilities.
        speech: speech datasets with a train and a dev split.
        noise: noise datasets with a train and a dev split.
        snr_db: lowest and highest signal-to-noise ratio in dB.
        copies: number of noisy copies of each clip.
        seed: seed of the mixtures.
        workers: processes that compute functionals; None is one per CPU core.
        cache: folder of cached functionals; None is a folder in the cache of `huggingface_hub`.

    Raises:
        ImportError: opensmile or scikit-learn is not installed.
        DatasetError: a dataset or split is missing, or a class has no training clip.
    """

    name = "egemaps_svm"

    def __init__(
        self,
        labels: Sequence[str],
        speech: str | Sequence[str],
        noise: str | Sequence[str],
        snr_db: Sequence[float] = (-5.0, 15.0),
        copies: int = 2,
        seed: int = 0,
        workers: int | None = None,
        cache: str | None = None,
    ):
        import_opensmile()
        self.title = f"eGeMAPSv02 of openSMILE {version('opensmile')} (no commercial use) and an SVM"
        self.workers = workers
        super().__init__(labels, speech, noise, snr_db, copies, seed, cache or functionals_cache())

    def describe(self) -> dict[str, Any]:
        """What identifies the system in a report."""
        described = super().describe()
        versions = {"opensmile": version("opensmile"), **described["versions"]}
        return {**described, "licence": OPENSMILE_LICENCE, "versions": versions}

    def candidates(self, weights: dict[int, float]) -> Iterator[tuple[Settings, Any]]:
        """An SVM for each C and gamma.

        Args:
            weights: weight of each class.
        """
        from sklearn.svm import SVC

        for cost, width in product(COSTS, WIDTHS):
            settings = {"C": cost, "gamma": width}
            yield settings, SVC(**settings, class_weight=weights, break_ties=True)

    def features(self, recordings: Iterable[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """SHA-256 and functionals (88,) of each recording (samples,) at 16 kHz, in order."""
        return functionals(recordings, self.cache, self.workers)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(clips, 88) to the softmax of the decision values (clips, labels)."""
        decisions = self.classifier.decision_function(features)  # (clips, labels), (clips,) of two labels
        if decisions.ndim == 1:
            decisions = np.stack([-decisions, decisions], axis=1)  # (clips, 2)
        return softmax(decisions, axis=1)


class EncoderProbe(EmotionProbe):
    """Logistic regression on the mean and the standard deviation over time of all hidden states of a frozen encoder,
    standardised, such as Whisper's (`sparse-merit convert openai/whisper-base DIR`).

    Args:
        labels: emotion classes, in the order of the probabilities.
        encoder: a checkpoint of this package, whose encoder is used: its name, folder or Hub id.
        speech: speech datasets with a train and a dev split.
        noise: noise datasets with a train and a dev split.
        snr_db: lowest and highest signal-to-noise ratio in dB.
        copies: number of noisy copies of each clip.
        seed: seed of the mixtures.
        cache: folder of cached features; None is a folder in the cache of `huggingface_hub`.

    Raises:
        ImportError: scikit-learn is not installed.
        DatasetError: a dataset or split is missing, or a class has no training clip.
        OSError: `encoder` is not a checkpoint.
    """

    name = "encoder_probe"

    def __init__(
        self,
        labels: Sequence[str],
        encoder: str,
        speech: str | Sequence[str],
        noise: str | Sequence[str],
        snr_db: Sequence[float] = (-5.0, 15.0),
        copies: int = 2,
        seed: int = 0,
        cache: str | None = None,
    ):
        source = locate(encoder)
        weights = cached_file(source, SAFE_WEIGHTS_NAME)
        assert weights is not None  # where there is none, it raises
        self.title = f"logistic regression on the hidden states of {encoder}"
        self.sha256 = sha256_of_file(weights)
        self.feature_extractor = SparseMeritFeatureExtractor.from_pretrained(source)
        self.encoder = SparseMeritModel.from_pretrained(source).encoder.eval()
        folder = cache or cached_assets_path("modeling-sparse-merit", "hidden_states", self.sha256)
        super().__init__(labels, speech, noise, snr_db, copies, seed, folder)

    def describe(self) -> dict[str, Any]:
        """What identifies the system in a report."""
        weights = self.classifier[-1].coef_
        parameters = sum(parameter.numel() for parameter in self.encoder.parameters()) + weights.size + len(weights)
        return {**super().describe(), "encoder_sha256": self.sha256, "parameters": parameters}

    def candidates(self, weights: dict[int, float]) -> Iterator[tuple[Settings, Any]]:
        """A logistic regression for each C.

        Args:
            weights: weight of each class.
        """
        from sklearn.linear_model import LogisticRegression

        for cost in PROBE_COSTS:
            yield {"C": cost}, LogisticRegression(C=cost, class_weight=weights, max_iter=PROBE_ITERATIONS)

    def features(self, recordings: Iterable[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """SHA-256 and statistics (2 L D,) of each recording (samples,) at 16 kHz, in order."""
        for recording in recordings:
            yield cached_features(recording, self.cache, self._statistics)

    @torch.inference_mode()
    def _statistics(self, recording: np.ndarray) -> np.ndarray:
        """Mean and standard deviation over time of each hidden state, float32 (2 L D,)."""
        inputs = self.feature_extractor(recording, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        hidden_states, _, *_ = self.encoder(inputs["input_values"], inputs["attention_mask"])
        frames = torch.cat(hidden_states, dim=-1)[0].float()  # (T, L D)
        return torch.cat([frames.mean(0), frames.std(0, correction=0)]).numpy()


def in_conditions(dataset: Dataset, recipe: MixingRecipe, copies: int) -> Iterator[np.ndarray]:
    """Yields every clip of a dataset without noise, followed by `copies` mixtures of it; each (samples,) at 16 kHz.

    Args:
        dataset: a speech dataset.
        recipe: mixes speech with noise.
        copies: number of mixtures of each clip.
    """
    for row, audio in enumerate(dataset["audio"]):
        speech = load_audio(audio)
        yield speech
        for copy in range(copies):
            yield recipe.apply(speech, recipe.draw(row, epoch=copy), str(audio["path"] or f"clip {row}")).noisy


def choose_classifier(
    train: np.ndarray,
    train_classes: np.ndarray,
    dev: np.ndarray,
    dev_classes: np.ndarray,
    labels: list[str],
    candidates: Any,
) -> tuple[Settings, Any]:
    """Trains every candidate on standardised features, and selects the one with the best macro-F1 on the dev split
    (the first of ties).

    Args:
        train, dev: features (examples, F); undefined values (NaN) are replaced by the mean.
        train_classes, dev_classes: class numbers (examples,).
        labels: the classes.
        candidates: `EmotionProbe.candidates`.

    Returns:
        The settings with "dev_macro_f1", and the trained scikit-learn pipeline.

    Raises:
        DatasetError: a class has no training clip.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weights = class_weights(train_classes.tolist(), labels) or []  # n / (classes * n_class)
    best: tuple[Settings, Any] = ({"dev_macro_f1": -1.0}, None)
    for settings, candidate in candidates(dict(enumerate(weights))):
        classifier = make_pipeline(SimpleImputer(), StandardScaler(), candidate).fit(train, train_classes)
        score = macro_f1(dev_classes.tolist(), classifier.predict(dev).tolist(), range(len(labels)))
        if score > best[0]["dev_macro_f1"]:
            best = {**settings, "dev_macro_f1": score}, classifier
    return best


def cached_features(recording: np.ndarray, cache: Path, compute: Any) -> tuple[str, np.ndarray]:
    """SHA-256 and features of a recording, read from the cache if possible.

    Args:
        recording: (samples,) at 16 kHz.
        cache: folder of cached features.
        compute: computes the features (F,) of a recording.

    Returns:
        The digest as hexadecimal text, and the features.
    """
    sha256 = sha256_of_samples(recording)
    path = cache / sha256[:2] / f"{sha256}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            np.save(temporary, compute(recording))
    return sha256, np.load(path)


def functionals(
    recordings: Iterable[np.ndarray], cache: Path, workers: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    """SHA-256 and eGeMAPS functionals (88,) of each recording (samples,) at 16 kHz, in order.

    Args:
        recordings: the recordings.
        cache: folder of cached functionals.
        workers: processes that compute; None is one per CPU core.
    """
    from joblib import Parallel, delayed

    tasks = (delayed(cached_functionals)(recording, str(cache)) for recording in recordings)
    return Parallel(n_jobs=workers or -1, return_as="generator")(tasks)


def functionals_cache() -> Path:
    """The default folder of cached functionals, in the cache of `huggingface_hub`.

    Raises:
        ImportError: opensmile is not installed.
    """
    import_opensmile()
    return cached_assets_path("modeling-sparse-merit", "egemaps", version("opensmile"))


def cached_functionals(recording: np.ndarray, cache: str) -> tuple[str, np.ndarray]:
    """`cached_features` of eGeMAPS. It is a function of the module, so that it can be sent to worker processes.

    Args:
        recording: (samples,) at 16 kHz.
        cache: folder of cached functionals.

    Returns:
        The digest as hexadecimal text, and functionals as float32 (88,).
    """
    return cached_features(recording, Path(cache), egemaps)


def egemaps(recording: np.ndarray) -> np.ndarray:
    """The eGeMAPSv02 functionals of a recording (samples,) at 16 kHz: float32 (88,), NaN below 60 ms."""
    # openSMILE converts to 16 bits, where +1 would wrap around
    samples = np.clip(recording, -1, 1 - 2**-15)
    return _extractor().process_signal(samples, SAMPLING_RATE).to_numpy()[0]


@lru_cache(maxsize=1)
def _extractor() -> Any:
    opensmile = import_opensmile()
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)


def import_opensmile() -> ModuleType:
    """openSMILE.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_extra("opensmile", "benchmark")
    except ImportError as error:
        raise ImportError(f"{error}. Its licence: {OPENSMILE_LICENCE}.") from error


def as_list(paths: str | Sequence[str]) -> list[str]:
    """One path or several as a list."""
    return [paths] if isinstance(paths, str) else list(paths)
