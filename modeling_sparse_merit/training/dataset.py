# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""From datasets to batches: clips are decoded, cropped and mixed in worker processes.

The training speech is a dataset on this machine (`MixedClips`), or is streamed from the Hub (`StreamedClips`).
"""

import logging
import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..data.datasets import read_dataset, read_datasets, stream_datasets
from ..data.mixing import SAMPLING_RATE, MixingRecipe, rms
from ..files import one_line
from ..inference.features import FeatureFolder
from ..models.sparse_merit.audio import load_audio
from ..models.sparse_merit.feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from ..models.sparse_merit.tasks import EMOTION, UNLABELLED, Task, columns_of, tasks_of_kind
from .descriptors import DescriptorTargets, descriptor_frames
from .settings import EQUAL_CLASSES, UNLABELLED_NAME, TrainingSettings
from .targets import Target, Targets, collate_targets, configured_tasks, has_target

logger = logging.getLogger(__name__)

FRAME_STRIDE = 320  # samples between encoder frames
QUIETEST_CROP = 10 ** (-40 / 20)  # RMS relative to that of the recording; what is quieter is a pause


class Clips(Dataset):
    """
    Noisy and clean clips, local or streamed. A training clip that cannot be decoded is left out with a warning.

    Args:
        recipe: Draws and makes the mixtures.
        targets: {task: target} of every clip.
        max_seconds: Clips that are longer, in seconds, are cropped at a position drawn from (seed, epoch, index); None
            keeps them whole.
        fixed: Whether the mixtures are the same in every epoch, as in a dev set.

    Attributes:
        features: Folder of the features of the mixtures; while it is set, mixtures repeat after its `rounds` epochs.
        teacher_scale: The feature extractor that `add_teacher_values` has set.
        damaged: 1 for each clip that was left out, (clips,); shared with the processes that decode.
    """

    def __init__(
        self,
        recipe: MixingRecipe,
        targets: list[dict[str, Target]],
        max_seconds: float | None = None,
        fixed: bool = False,
    ):
        self.recipe, self.targets, self.max_seconds, self.fixed = recipe, targets, max_seconds, fixed
        self.epoch = 0
        self.features: FeatureFolder | None = None
        self.teacher_scale: SparseMeritFeatureExtractor | None = None
        self.damaged = torch.zeros(len(targets), dtype=torch.uint8).share_memory_()

    def __getitem__(self, item: Any) -> dict[str, Any] | None:
        """The example of a clip, see `mix`; None for a training clip that cannot be decoded or mixed."""
        try:
            return self.example(item)
        except (ValueError, OSError) as error:
            if self.fixed:  # scores of fewer clips would be others
                raise
            logger.warning("%s is left out: %s", self.name_of(item), one_line(error))
            self.damaged[self.number_of(item) % len(self.damaged)] = 1
            return None

    @abstractmethod
    def example(self, item: Any) -> dict[str, Any]:
        """The example of a clip, see `mix`."""

    @abstractmethod
    def name_of(self, item: Any) -> str:
        """The name of the recording of a clip."""

    @abstractmethod
    def number_of(self, item: Any) -> int:
        """The number of a clip."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def labels(self) -> list[int]:
        """The emotion class of every clip, -100 without one."""
        return [int(targets.get(EMOTION, UNLABELLED)) for targets in self.targets]

    def add_teacher_values(self, feature_extractor: SparseMeritFeatureExtractor) -> None:
        """Adds "teacher_values" to each example: its clean speech, (samples,), as that feature extractor scales it."""
        self.teacher_scale = feature_extractor

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that mixtures are drawn for, modulo the rounds of `features`. Fixed ones do not change."""
        rounds = 1 if self.fixed else self.features and self.features.rounds
        self.epoch = epoch % rounds if rounds else epoch

    def mix(self, index: int, audio: dict[str, Any], targets: dict[str, Target]) -> dict[str, Any]:
        """
        Makes the example of one recording.

        Args:
            index: Its number, which the mixture is drawn from together with the seed and the epoch.
            audio: The recording, `{"path": ..., "bytes": ...}`.
            targets: {task: target} of the recording.

        Returns:
            "noisy" and "clean", float32 (samples,) at 16 kHz; "targets" and "index"; and "start", the sample of the
            recording that they start at.
        """
        speech, start = self._crop(load_audio(audio), index)
        mixture = self.recipe.apply(speech, self.recipe.draw(index, self.epoch), recording_name(audio, index))
        example = {"noisy": mixture.noisy, "clean": mixture.clean, "targets": targets, "index": index, "start": start}
        if self.features is not None:
            file = self.features.file_of(mixture.noisy)
            example["features"] = (file, self.features.read(file))
        if self.teacher_scale is not None:
            scaled = self.teacher_scale(mixture.clean, sampling_rate=SAMPLING_RATE, return_tensors="pt")
            example["teacher_values"] = scaled["input_values"][0]  # (1, samples) -> (samples,)
        return example

    def _crop(self, speech: np.ndarray, index: int) -> tuple[np.ndarray, int]:
        """The crop of the speech, and the sample that it starts at."""
        if self.max_seconds is None or len(speech) <= self.max_seconds * SAMPLING_RATE:
            return speech, 0
        length = int(self.max_seconds * SAMPLING_RATE)
        last = len(speech) - length
        drawn = int(np.random.default_rng([self.recipe.seed, self.epoch, index, 1]).random() * (last + 1))
        quietest = QUIETEST_CROP * rms(speech)
        for start in (drawn, *range(0, last, length), last):  # they cover the recording, so one is loud enough
            cropped = speech[start : start + length]
            if rms(cropped) >= quietest:
                break
        return cropped, start


class MixedClips(Clips):
    """
    The clips of a speech dataset. Clip `index + k * len(speech)` is another mixture of the speech of clip `index`.

    Args:
        speech: Speech dataset with the columns `audio` and `duration`, and those that the tasks learn from.
        recipe, targets, max_seconds, fixed: As for [`Clips`].
        sources: For each row, the dataset of `settings.speech` that it is from; needed for weighted sampling.
    """

    def __init__(
        self,
        speech: datasets.Dataset,
        recipe: MixingRecipe,
        targets: list[dict[str, Target]],
        max_seconds: float | None = None,
        fixed: bool = False,
        sources: list[str] | None = None,
    ):
        super().__init__(recipe, targets, max_seconds, fixed)
        self.recordings, self.sources = speech.select_columns(["audio", "duration"]), sources
        self.described, self.receptive_field = speech, 0
        self.descriptor_targets: DescriptorTargets | None = None

    def add_descriptors(self, receptive_field: int) -> None:
        """Adds "descriptors" to each example: (T, 23), the targets of [`DescriptorTargets`] for encoder frames whose
        receptive field is that many samples."""
        self.descriptor_targets = DescriptorTargets(self.described, seed=self.recipe.seed)
        self.receptive_field = receptive_field

    def name_of(self, item: int) -> str:
        return recording_name(self.recordings[item % len(self.recordings)]["audio"], item)

    def number_of(self, item: int) -> int:
        return item

    def example(self, item: int) -> dict[str, Any]:
        index, row = item, item % len(self.recordings)
        example = self.mix(index, self.recordings[row]["audio"], self.targets[row])
        if self.descriptor_targets is not None:
            num_frames = (len(example["noisy"]) - self.receptive_field) // FRAME_STRIDE + 1
            example["descriptors"] = self.descriptor_targets.targets(
                descriptor_frames(self.described, row),
                num_frames,
                example["start"],
                self.receptive_field,
                FRAME_STRIDE,
            )
        return example

    def lengths(self) -> list[float]:
        """The duration of each clip after cropping, in seconds."""
        durations = np.asarray(self.recordings["duration"], dtype=np.float64)
        return np.minimum(durations, self.max_seconds or np.inf).tolist()


class StreamedClips(Clips):
    """
    The clips of streamed speech. An index is an item of [`StreamedRows`], which contains the recording.

    Args:
        rows: The rows, in the order of the stream.
        recipe, max_seconds: As for [`Clips`].
    """

    def __init__(self, rows: "StreamedRows", recipe: MixingRecipe, max_seconds: float | None = None):
        super().__init__(recipe, [targets for stream in rows.targets for targets in stream], max_seconds)
        self.rows = rows

    def name_of(self, item: "StreamedRow") -> str:
        return recording_name(item[1], item[0])

    def number_of(self, item: "StreamedRow") -> int:
        return item[0]

    def example(self, item: "StreamedRow") -> dict[str, Any]:
        return self.mix(*item)


StreamedRow = tuple[int, dict[str, Any], dict[str, Target]]
"""Position in the stream, recording, targets."""


class StreamedRows(Sampler):
    """
    The training rows of datasets on the Hub: (position in the stream, recording, targets).

    This is a sampler because a loader iterates its sampler in a single process, while its workers decode and mix. So
    the stream is read once, and a mixture depends on its position in the stream, not on the number of workers. The
    datasets take turns in proportion to their sizes; the order depends on (seed, epoch).

    Args:
        names: Names of datasets on the Hub. Their targets are read at once: the number of clips and the class weights
            depend on them.
        tasks: The tasks by name.
        labels: The emotions that are classes, in the order of the model.
        seed: Seed of the order.
        buffer_size: Rows of each dataset that are kept in memory to draw the next one from.
    """

    def __init__(self, names: list[str], tasks: Mapping[str, Task], labels: list[str], seed: int, buffer_size: int):
        columns = columns_of(tasks)
        self.streams = stream_datasets(names, "train", ["audio", *columns])
        self.readers = [Targets(stream, tasks, labels) for stream in self.streams]
        streams = stream_datasets(names, "train", columns or ["duration"])
        self.targets = [[reader.of(row) for row in rows] for reader, rows in zip(self.readers, streams, strict=True)]
        self.seed, self.buffer_size, self.epoch = seed, buffer_size, 0

    def __len__(self) -> int:
        return sum(map(len, self.targets))

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[StreamedRow]:
        generator = np.random.default_rng([self.seed, self.epoch, 0, 2])
        turns = np.repeat(np.arange(len(self.streams)), [len(targets) for targets in self.targets])  # (rows,)
        generator.shuffle(turns)
        rows = [self._shuffled(stream, generator) for stream in self.streams]
        for index, source in enumerate(turns.tolist()):
            row = next(rows[source])
            yield index, row["audio"], self.readers[source].of(row)

    def _shuffled(self, stream: datasets.IterableDataset, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        """The rows of one dataset in random order; that of its own `shuffle` depends on the version of `datasets`."""
        files = generator.permutation(stream.num_shards).tolist()
        held = []
        for row in chain.from_iterable(stream.shard(stream.num_shards, file) for file in files):
            held.append(row)
            if len(held) == self.buffer_size:
                yield held.pop(generator.integers(self.buffer_size))
        generator.shuffle(held)
        yield from held


class EpochSampler(Sampler[int]):
    """
    Chooses and orders the clips of an epoch. Both depend on (seed, epoch) alone, so a resumed run repeats them.

    Args:
        batch_size: Clips in a batch.
        lengths: The duration of each clip in seconds.
        seed: Seed of the choice and of the order.
        frequencies: (clips,), how often each clip occurs in an epoch on average, once by default. The number of clips
            in an epoch is their sum.
        order: "group_by_length" (clips of similar length are in one batch) or "random".
        classes: (clips,), class of each clip. Clips are then ordered at random such that a batch has equally many
            clips of each class, as far as its size is divisible, in place of `order`.
    """

    def __init__(
        self,
        batch_size: int,
        lengths: list[float],
        seed: int,
        frequencies: np.ndarray | None = None,
        order: str = "group_by_length",
        classes: np.ndarray | None = None,
    ):
        self.batch_size, self.lengths, self.generator = batch_size, lengths, torch.Generator()
        self.seed, self.frequencies, self.order, self.classes = seed, frequencies, order, classes
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the choice and the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) if self.frequencies is None else round(self.frequencies.sum())

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed * 1_000_003 + self.epoch)
        clips = list(range(len(self.lengths))) if self.frequencies is None else self._draw(self.frequencies)
        if self.classes is not None:
            return iter(self._mixed(clips, self.classes))
        if self.order == "random":
            return iter([clips[i] for i in torch.randperm(len(clips), generator=self.generator).tolist()])
        lengths = [self.lengths[clip % len(self.lengths)] for clip in clips]
        return iter([clips[i] for i in get_length_grouped_indices(lengths, self.batch_size, generator=self.generator)])

    def _draw(self, frequencies: np.ndarray) -> list[int]:
        """
        The clips of an epoch by systematic sampling: a frequency of 2.3 gives two or three occurrences. Repeats have
        numbers beyond the number of clips, since they are other mixtures.
        """
        generator = np.random.default_rng([self.seed, self.epoch, 0, 3])
        order = generator.permutation(len(self.lengths))
        if self.classes is not None:  # as many of each class as its frequencies add up to
            order = order[np.argsort(self.classes[order], kind="stable")]
        ends = np.cumsum(frequencies[order])
        ends[-1] = len(self)  # despite rounding errors
        offset = generator.random() if self.classes is None else 0.5
        counts = np.diff(np.floor(ends + offset), prepend=np.floor(offset)).astype(int)
        repeats = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... of each clip
        return (np.repeat(order, counts) + repeats * len(order)).tolist()

    def _mixed(self, clips: list[int], classes: np.ndarray) -> list[int]:
        """The clips in random order, in rounds of one clip of each class, whose order is random, too."""
        generator = np.random.default_rng([self.seed, self.epoch, 0, 4])
        numbers = np.asarray(clips)[generator.permutation(len(clips))]
        own = classes[numbers % len(self.lengths)]
        rounds = np.empty(len(numbers))
        for label in np.unique(own):
            rounds[own == label] = np.arange((own == label).sum())
        return numbers[np.lexsort((generator.random(len(numbers)), rounds))].tolist()


class Collator:
    """
    Collates examples, without those that are None, into arguments of the model. It is a class so that worker processes
    can unpickle it.

    Raises:
        ValueError: All are None.
    """

    def __init__(self, feature_extractor: Any):
        self.feature_extractor = feature_extractor

    def __call__(self, clips: Sequence[dict[str, Any] | None]) -> dict[str, torch.Tensor]:
        examples = decoded(clips)
        batch = self.feature_extractor(
            [example["noisy"] for example in examples],
            sampling_rate=SAMPLING_RATE,
            clean_speech=[example["clean"] for example in examples],
            padding=True,
            return_tensors="pt",
        )
        if "descriptors" in examples[0]:
            descriptors = [torch.from_numpy(example["descriptors"]) for example in examples]
            batch["descriptors"] = pad_sequence(descriptors, batch_first=True, padding_value=torch.nan)  # (B, T, 26)
        if "teacher_values" in examples[0]:
            values = [example["teacher_values"] for example in examples]
            batch["teacher_values"] = pad_sequence(values, batch_first=True)  # (B, S), as the noisy speech
        if "features" in examples[0]:
            batch["features"] = [example["features"] for example in examples]
        return {**batch, **collate_targets([example["targets"] for example in examples])}


def ignore_termination(worker: int) -> None:
    """A scheduler sends SIGTERM to all processes: those that decode go on until the run has written its checkpoint."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def decoded(clips: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """
    The examples of a batch without those of damaged clips.

    Args:
        clips: The examples as [`Clips`] returns them.

    Raises:
        ValueError: All clips are damaged.
    """
    examples = [example for example in clips if example is not None]
    if not examples:
        raise ValueError(
            f"All {len(clips)} clips of a batch are damaged, see the warnings. Run `sparse-merit check` on the "
            "datasets."
        )
    return examples


def recording_name(audio: dict[str, Any], index: int) -> str:
    """
    The name of a recording, or its number.

    Args:
        audio: The recording, `{"path": ..., "bytes": ...}`.
        index: Its number.
    """
    return str(audio.get("path") or f"clip {index}")


def clip_frequencies(clips: MixedClips, settings: TrainingSettings) -> np.ndarray | None:
    """
    How often each clip occurs in an epoch on average.

    Args:
        clips: The training clips.
        settings: Settings of the run. With `sampling: class_balanced` each class gets an equal share of the labelled
            clips, and unlabelled clips occur once.

    Returns:
        float64 (clips,), or None if each clip occurs once. Their mean is 1, except that "oversampled" repeats each
        class to the size of the largest, "undersampled" reduces it to that of the smallest, and both leave out
        unlabelled clips.

    Raises:
        ValueError: `sampling_weights` are 0 for all clips.
    """
    if settings.sampling == "natural":
        return None
    classes = np.asarray(clips.labels)
    if settings.sampling in ("class_balanced", *EQUAL_CLASSES):
        return class_frequencies(classes, settings.sampling)
    names = np.asarray([*settings.labels, UNLABELLED_NAME])[np.where(classes == UNLABELLED, -1, classes)]
    assert clips.sources is not None  # `load_clips` reads them for weighted sampling
    factor = settings.sampling_weights.get
    weights = [factor(name, 1.0) * factor(source, 1.0) for name, source in zip(names, clips.sources, strict=True)]
    if not any(weights):
        raise ValueError(f"`sampling_weights` is {dict(settings.sampling_weights)}, which leaves no clip to draw.")
    return np.asarray(weights) * len(weights) / sum(weights)


def class_frequencies(classes: np.ndarray, sampling: str) -> np.ndarray:
    """
    How often each clip occurs in an epoch, so that all classes are equally frequent.

    Args:
        classes: (clips,), class of each clip, -100 without one.
        sampling: "class_balanced", "oversampled" or "undersampled".

    Returns:
        float64 (clips,).
    """
    labelled = classes != UNLABELLED
    _, places, counts = np.unique(classes[labelled], return_inverse=True, return_counts=True)
    sizes = {
        "class_balanced": labelled.sum() / len(counts),
        "oversampled": counts.max(),
        "undersampled": counts.min(),
    }
    frequencies = np.full(len(classes), float(sampling == "class_balanced"))
    frequencies[labelled] = sizes[sampling] / counts[places]
    return frequencies


def load_clips(
    settings: TrainingSettings, split: str, tasks: Mapping[str, Task] | None = None
) -> MixedClips | StreamedClips:
    """
    The clips of one split. Those of `train` are augmented, and streamed if the settings say so; those of any other
    split have fixed mixtures.

    Args:
        settings: Settings of the run.
        split: Split of the speech datasets.
        tasks: The tasks by name; by default those of the settings, or enhancement and emotion.

    Raises:
        DatasetError: A dataset is missing or lacks a column.
    """
    train = split == "train"
    tasks = configured_tasks(settings) if tasks is None else tasks
    recipe = MixingRecipe(
        read_datasets(settings.noise, split=split),
        rirs=read_datasets(settings.rirs, split="train") if settings.rirs and train else None,
        snr_db=_limits(settings.snr_db if train else settings.eval_snr_db),
        level_db=_limits(settings.level_db),
        speed=_limits(settings.speed) if train else None,
        noise_speed=_limits(settings.noise_speed) if train else None,
        augment=pitch_shift(settings) if train else None,
        rir_probability=settings.rir_probability if train else 0.0,
        seed=settings.seed_of_data,
        transmissions=settings.transmissions,
        transmission_probability=settings.transmission_probability if train else 0.0,
        clipping_probability=settings.clipping_probability if train else 0.0,
        clean_probability=settings.clean_probability if train else 0.0,
    )
    if settings.streaming and train:
        rows = StreamedRows(settings.speech, tasks, settings.labels, settings.seed_of_data, settings.shuffle_buffer)
        return StreamedClips(rows, recipe, settings.max_seconds)
    speech = read_datasets(settings.speech, split=split, download_all=not settings.streaming)
    reader = Targets(speech, tasks, settings.labels)
    described = speech.select_columns(reader.columns or ["duration"])
    targets = [reader.of(row) for row in described]
    sources = _sources(settings.speech, split) if settings.unlabelled or settings.sampling == "weighted" else None
    if sources is not None and settings.unlabelled and EMOTION in tasks:
        for source, target in zip(sources, targets, strict=True):
            target[EMOTION] = UNLABELLED if source in settings.unlabelled else target[EMOTION]
    if not train:
        return MixedClips(speech, recipe, targets, fixed=True)
    if not tasks_of_kind(tasks, "waveform") and not settings.teacher:  # clips without a target are of no use
        kept = [row for row, target in enumerate(targets) if has_target(target)]
        speech, sources = speech.select(kept), sources and [sources[row] for row in kept]
        targets = [targets[row] for row in kept]
    return MixedClips(speech, recipe, targets, settings.max_seconds, sources=sources)


def _limits(values: list[float]) -> tuple[float, float]:
    low, high = values
    return low, high


def _sources(paths: list[str], split: str) -> list[str]:
    """For each row of one split of the concatenated datasets, the dataset that it is from."""
    return [path for path in paths for _ in range(read_dataset(path)["split"][:].count(split))]


def pitch_shift(settings: TrainingSettings) -> Callable[..., np.ndarray] | None:
    """The pitch shift of the settings, or None if they have none; it takes about 4 ms for a second of speech."""
    low, high = settings.pitch_semitones
    if low == high == 0 or not settings.pitch_probability:
        return None
    from audiomentations import PitchShift  # slow to import, so only where it is used

    return PitchShift(low, high, p=settings.pitch_probability)


def build_loader(
    clips: MixedClips | StreamedClips,
    feature_extractor: Any,
    settings: TrainingSettings,
    shuffle: bool,
    compares_clips: bool = False,
) -> DataLoader:
    """
    The loader of some clips.

    Args:
        clips: The clips. Those of a stream keep its order.
        feature_extractor: The feature extractor of the model.
        settings: Settings of the run. With `cleaned_by`, batches are lists of examples, for [`CleanedLoader`].
        shuffle: Whether batches are drawn in each epoch; otherwise clips are in the order of their length.
        compares_clips: Whether a loss compares the clips of a batch, which are then not of similar length by default.
    """
    sampler: Sampler | list[int]
    batch_size = settings.batch_size(len(clips))
    if isinstance(clips, StreamedClips):
        sampler = clips.rows
    elif shuffle:
        sampler = EpochSampler(
            batch_size,
            clips.lengths(),
            settings.seed_of_data,
            clip_frequencies(clips, settings),
            settings.train_sampling_strategy or ("random" if compares_clips else "group_by_length"),
            np.asarray(clips.labels) if settings.sampling in EQUAL_CLASSES else None,
        )
    else:
        sampler = np.argsort(clips.lengths(), kind="stable").tolist()
    return DataLoader(
        clips,
        batch_size,
        sampler=sampler,
        collate_fn=list if settings.cleaned_by else Collator(feature_extractor),
        num_workers=settings.dataloader_num_workers,
        worker_init_fn=ignore_termination,
        pin_memory=torch.cuda.is_available(),
    )
