# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""External reference systems with the interface of a checkpoint: eGeMAPS with an SVM for emotion; spectral gating, and
files written by any other system, for enhancement. The first two need the extra `benchmark`; openSMILE, which computes
eGeMAPS, is licensed for research and other non-commercial use only."""

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from datasets import Dataset
from huggingface_hub import cached_assets_path
from scipy.special import softmax
from tqdm.auto import tqdm

from ..data.datasets import read_dataset, read_datasets
from ..data.labels import UNLABELLED, class_indices, class_weights
from ..data.mixing import SAMPLING_RATE, MixingRecipe
from ..files import replacing, sha256_of_samples
from ..metrics import macro_f1
from ..models.sparse_merit.audio import load_audio
from ..models.sparse_merit.decoding import audio_suffixes
from .predictions import Prediction

FUNCTIONALS = 88  # number of functionals of eGeMAPSv02
OPENSMILE_LICENCE = (
    "audEERING Research License Agreement: research and non-commercial use alone; neither openSMILE nor features or "
    "models made with it may be part of a product"
)
# A grid around the usual defaults, C = 1 and gamma = 1 / features.
COSTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
WIDTHS = tuple(scale / FUNCTIONALS for scale in (0.1, 0.3, 1.0, 3.0, 10.0))
GATE_SAMPLES = 1024  # window of noisereduce


class EgemapsSvm:
    """eGeMAPS functionals (Eyben et al., IEEE TAC 2016), standardised, and an SVM with an RBF kernel, for emotion.

    It is trained in many conditions on the train split: every labelled clip without noise, and `copies` times in noise
    at the level of the recording. C and gamma are chosen by macro-F1 on the dev split, mixed in the same way with the
    noise of the dev split. Functionals are cached by the content of the recording.

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
        _import_extra("opensmile")
        self.labels, self.workers = list(labels), workers
        self.cache = cache or cached_assets_path("modeling-sparse-merit", "egemaps", version("opensmile"))
        lowest, highest = snr_db
        self.snr_db, self.copies, self.seed = (lowest, highest), copies, seed
        speech, noise = ([paths] if isinstance(paths, str) else list(paths) for paths in (speech, noise))
        train, dev = (self._examples(speech, noise, split) for split in ("train", "dev"))
        self.training = {"clips": len(train[1]), "sha256": train[2], "dev_clips": len(dev[1]), "dev_sha256": dev[2]}
        self.choice, self.classifier = choose_classifier(*train[:2], *dev[:2], self.labels)

    def describe(self) -> dict:
        """What identifies the system in a report."""
        packages = {name: version(name) for name in ("opensmile", "scikit-learn")}
        name = f"eGeMAPSv02 of openSMILE {packages['opensmile']} (no commercial use) and an SVM"
        identity = {"name": name, "reference": self.name, "licence": OPENSMILE_LICENCE, "versions": packages}
        settings = {"snr_db": list(self.snr_db), "copies": self.copies, "seed": self.seed}
        return {**identity, "training": {**self.training, **settings}, **self.choice}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz. The probabilities are the softmax of the SVM's decision
        values; they are not calibrated."""
        functionals = np.stack([row for _, row in self._functionals(recordings)])  # (clips, 88)
        decisions = self.classifier.decision_function(functionals)  # (clips, classes), (clips,) of two classes
        if decisions.ndim == 1:
            decisions = np.stack([-decisions, decisions], axis=1)  # (clips, 2)
        return [Prediction(None, probabilities) for probabilities in softmax(decisions, axis=1)]

    def _examples(self, speech: list[str], noise: list[str], split: str) -> tuple[np.ndarray, np.ndarray, str]:
        """Functionals (examples, 88) and classes (examples,) of a split in all conditions, and the SHA-256 of both."""
        dataset = read_datasets(speech, split)
        classes = np.array(class_indices(dataset, self.labels))
        dataset, classes = dataset.select(np.flatnonzero(classes != UNLABELLED)), classes[classes != UNLABELLED]
        recipe = MixingRecipe(
            read_datasets(noise, split),
            snr_db=self.snr_db,
            level_db=None,
            seed=self.seed,
        )
        recordings = in_conditions(dataset, recipe, self.copies)
        classes = np.repeat(classes, 1 + self.copies)  # the conditions of a clip are adjacent
        functionals = list(
            tqdm(self._functionals(recordings), f"eGeMAPS of {split}", len(classes), unit="clip", disable=None)
        )
        lines = [f"{digest} {self.labels[index]}\n" for (digest, _), index in zip(functionals, classes, strict=True)]
        sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
        return np.stack([row for _, row in functionals]), classes, sha256

    def _functionals(self, recordings: Iterable[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """SHA-256 and functionals (88,) of each recording, in order."""
        from joblib import Parallel, delayed

        tasks = (delayed(cached_functionals)(recording, str(self.cache)) for recording in recordings)
        return Parallel(n_jobs=self.workers or -1, return_as="generator")(tasks)


class NoiseReduce:
    """Spectral gating by `noisereduce` (Sainburg, doi 10.5281/zenodo.3243139) with its defaults, for enhancement.
    Recordings that are silent, or shorter than the window of 64 ms, are returned unchanged.

    Args:
        labels: unused; part of the common signature of references.
        stationary: use one threshold for the whole recording; False adapts it to the noise.

    Raises:
        ImportError: noisereduce is not installed.
    """

    name = "noisereduce"

    def __init__(self, labels: Sequence[str], stationary: bool = False):
        self.library, self.stationary = _import_extra("noisereduce"), stationary

    def describe(self) -> dict:
        """What identifies the system in a report."""
        packages = {"noisereduce": version("noisereduce")}
        name = f"noisereduce {packages['noisereduce']}, {'stationary' if self.stationary else 'non-stationary'}"
        return {"name": name, "reference": self.name, "versions": packages, "stationary": self.stationary}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz.

        Raises:
            ValueError: the output is not finite.
        """
        return [Prediction(self._gate(recording), None) for recording in recordings]

    def _gate(self, recording: np.ndarray) -> np.ndarray:
        if len(recording) < GATE_SAMPLES or not np.any(recording):
            return recording.copy()
        # in one piece, since the noise is estimated per piece
        gated = self.library.reduce_noise(
            y=recording, sr=SAMPLING_RATE, stationary=self.stationary, chunk_size=len(recording)
        )
        if not np.isfinite(gated).all():
            raise ValueError("The output of noisereduce holds NaN or Inf. Leave this reference out.")
        return gated.astype(np.float32)


class ProcessedFiles:
    """Outputs of another system for the recordings of a frozen test set, one file per recording, for enhancement.

    A recording is identified by its samples in the test set. Its file has the name given by the test set, with any
    suffix: `NAME.flac` may have become `NAME.wav`.

    Args:
        labels: unused; part of the common signature of references.
        folder: the folder of the files, at any sampling rate.
        test_set: the frozen test set that the other system processed; the path in its column `audio` names the file.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        DatasetError: the test set is missing.
        ValueError: a name points outside the folder.
    """

    name = "processed"

    def __init__(self, labels: Sequence[str], folder: str, test_set: str):
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"`folder`: {folder} is not a folder; expected a folder with the outputs of another system."
            )
        recordings = [row["audio"] for row in read_dataset(test_set).select_columns("audio")]
        self.files = {sha256_of_samples(load_audio(audio)): self._find(audio["path"]) for audio in recordings}

    def describe(self) -> dict:
        """What identifies the system in a report."""
        digest = hashlib.sha256()
        for samples_sha256, path in sorted(self.files.items()):
            digest.update(samples_sha256.encode() + path.read_bytes())
        name = f"the files in {self.folder.name}"
        return {"name": name, "reference": self.name, "files": len(self.files), "sha256": digest.hexdigest()}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz.

        Raises:
            ValueError: a recording is not in the test set, or its file has another length.
        """
        return [Prediction(self._read(recording), None) for recording in recordings]

    def _find(self, name: str | None) -> Path:
        path = (self.folder / (name or "")).resolve()
        if not name or path == self.folder or not path.is_relative_to(self.folder):
            raise ValueError(
                f"A recording of the test set has the name {name!r}; expected the name of a file inside {self.folder}."
            )
        # not only with_suffix: a file with the given suffix takes precedence
        candidates = [path, *(path.with_suffix(suffix) for suffix in audio_suffixes())]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None or not file.resolve().is_relative_to(self.folder):
            raise FileNotFoundError(
                f"{self.folder} has no file {path.name}, nor one of that name with another of the suffixes "
                f"{' '.join(audio_suffixes())}. Process every recording of the test set first."
            )
        return file

    def _read(self, recording: np.ndarray) -> np.ndarray:
        path = self.files.get(sha256_of_samples(recording))
        if path is None:
            raise ValueError(
                f"The files in {self.folder} belong to another test set, without a recording of this one. Evaluate "
                "the test set that was processed."
            )
        processed = load_audio(path)
        if processed.shape != recording.shape:
            raise ValueError(
                f"{path} has {len(processed)} samples at 16 kHz, but its recording has {len(recording)}. "
                "Cut or pad it to the same length, aligned in time."
            )
        return processed


REFERENCES: dict[str, Callable] = {kind.name: kind for kind in (EgemapsSvm, NoiseReduce, ProcessedFiles)}


def build_reference(
    name: str, options: Mapping[str, Any], labels: Sequence[str]
) -> EgemapsSvm | NoiseReduce | ProcessedFiles:
    """A reference by its name: `egemaps_svm`, `noisereduce` or `processed`.

    Args:
        name: one of `REFERENCES`.
        options: the arguments of the reference's class, without `labels`.
        labels: emotion classes, in the order of the probabilities.

    Returns:
        An object with `name`, `describe()` (plain JSON) and `predict(recordings)`.

    Raises:
        ValueError: no reference has this name, or an option is unknown or missing.
        ImportError: a package of the extra `benchmark` is not installed.
    """
    if name not in REFERENCES:
        raise ValueError(f"There is no reference {name!r}; the references are {', '.join(REFERENCES)}.")
    known = {key: option for key, option in inspect.signature(REFERENCES[name]).parameters.items() if key != "labels"}
    unknown = sorted(set(options) - set(known), key=str)
    missing = [key for key, option in known.items() if option.default is option.empty and key not in options]
    if unknown or missing:
        raise ValueError(
            f"The options of the reference {name!r} are {list(known)}; got the unknown options {unknown}, and the "
            f"options {missing} are missing."
        )
    return REFERENCES[name](labels=labels, **options)


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
    train: np.ndarray, train_classes: np.ndarray, dev: np.ndarray, dev_classes: np.ndarray, labels: list[str]
) -> tuple[dict[str, float], Any]:
    """Fits an SVM for each C and gamma, and selects the one with the best macro-F1 on the dev split (the first of
    ties).

    Args:
        train, dev: functionals (examples, 88); undefined values (NaN) are replaced by the mean.
        train_classes, dev_classes: class numbers (examples,).
        labels: the classes.

    Returns:
        `{"C", "gamma", "dev_macro_f1"}`, and the fitted scikit-learn pipeline.

    Raises:
        DatasetError: a class has no training clip.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    weights = class_weights(train_classes.tolist(), labels)  # n / (classes * n_class)
    assert weights is not None  # only those of the kind "none" are
    best: tuple[dict[str, float], Any] = ({"dev_macro_f1": -1.0}, None)
    for cost in COSTS:
        for width in WIDTHS:
            svm = SVC(C=cost, gamma=width, class_weight=dict(enumerate(weights)), break_ties=True)
            classifier = make_pipeline(SimpleImputer(), StandardScaler(), svm).fit(train, train_classes)
            score = macro_f1(dev_classes.tolist(), classifier.predict(dev).tolist(), range(len(labels)))
            if score > best[0]["dev_macro_f1"]:
                best = {"C": cost, "gamma": width, "dev_macro_f1": score}, classifier
    return best


def cached_functionals(recording: np.ndarray, cache: str) -> tuple[str, np.ndarray]:
    """SHA-256 and eGeMAPS functionals of a recording, read from the cache if possible. It is a function of the module,
    so that it can be sent to worker processes.

    Args:
        recording: (samples,) at 16 kHz.
        cache: folder of cached functionals.

    Returns:
        The digest as hexadecimal text, and functionals as float32 (88,).
    """
    sha256 = sha256_of_samples(recording)
    path = Path(cache) / sha256[:2] / f"{sha256}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            np.save(temporary, egemaps(recording))
    return sha256, np.load(path)


def egemaps(recording: np.ndarray) -> np.ndarray:
    """The eGeMAPSv02 functionals of a recording (samples,) at 16 kHz: float32 (88,), NaN below 60 ms."""
    # openSMILE converts to 16 bits, where +1 would wrap around
    samples = np.clip(recording, -1, 1 - 2**-15)
    return _extractor().process_signal(samples, SAMPLING_RATE).to_numpy()[0]


@lru_cache(maxsize=1)
def _extractor() -> Any:
    opensmile = _import_extra("opensmile")
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)


def _import_extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        licence = f" Its licence: {OPENSMILE_LICENCE}." if name == "opensmile" else ""
        raise ImportError(
            f'This reference needs the package `{name}`: pip install "modeling-sparse-merit[benchmark]".{licence}'
        ) from error
