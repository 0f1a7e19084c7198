# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The dataset card (README): its content is computed from the rows or taken from the metadata of the corpus."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features
from huggingface_hub import DatasetCard, DatasetCardData

from .datasets import DatasetError
from .licences import licence_metadata, licence_names

NOT_STATED = "a licence that is not stated"
MEANINGS = {
    "audio": "the recording: `bytes` of an audio file, and its name as `path`",
    "clean": "the clean speech in the recording, with the same length and level",
    "emotion": "the emotion; none where it is not labelled",
    "speaker": "the speaker; names are unique across corpora",
    "split": "the split of the row",
    "gender": "of the speaker",
    "language": "ISO 639 code",
    "text": "what is said or written",
    "dialogue": "the conversation; names are unique across splits and corpora",
    "turn": "place of the text in its conversation; some numbers may be missing",
    "sentiment": "positive, negative or neutral",
    "intent": "what the speaker wants",
    "sentence": "the corpus's own identifier of the sentence that was spoken",
    "source_file": "name of the recording or text in the corpus",
    "duration": "seconds",
    "arousal": "mean rating in the corpus's own scale",
    "valence": "mean rating in the corpus's own scale",
    "dominance": "mean rating in the corpus's own scale",
    "category": "kind of noise",
    "speed": "speed factor of the clip: 1.1 is faster, and higher in pitch",
    "descriptors": "acoustic descriptors of the clip, 100 frames a second",
    "log_pitch": "mean pitch in octaves above 55 Hz",
    "pitch_range": "80th minus 20th percentile of the pitch, in octaves",
    "active_share": "share of the clip that is active speech",
    "freesound_id": "its number at freesound.org",
    "rt60_s": "reverberation time in seconds",
    "corpus": "name of the speech dataset that the clip is from",
    "condition": "test condition: clean, or noise dataset and SNR",
    "transmission": "simulated telephone channel or codec, or none",
    "snr_db": "signal-to-noise ratio over the clip in dB",
    "mixture": "JSON of all parameters drawn for this mixture",
    "row": "number of the clip, the same in every condition",
    "pool": "name of the noise dataset, or none in the clean condition",
    "noise_file": "the noise's name in its dataset",
    "noise_offset": "sample at 16 kHz at which the noise starts; the noise loops at its end",
    "speech_gain": "factor of the speech in the mixture",
    "noise_gain": "factor of the noise in the mixture",
    "sha256": "of the samples of `audio`, decoded to little-endian float32",
    "clean_sha256": "of those of `clean`",
}
LOADING = """\
```python
from datasets import load_dataset
from modeling_sparse_merit import load_audio

rows = load_dataset({source!r}, split={split!r}, streaming=True)
recording = load_audio(next(iter(rows))["audio"])  # mono float32 at 16 kHz; torchcodec is not needed
```
"""
LOADING_TEXT = """\
```python
from datasets import load_dataset

rows = load_dataset({source!r}, split={split!r}, streaming=True)
text = next(iter(rows))["text"]
```
"""
MIXING = """
Noise is mixed on the fly, reproducibly, from any dataset of noises:

```python
from modeling_sparse_merit.data.mixing import MixingRecipe

recipe = MixingRecipe(load_dataset("name/noise", split="train"), snr_db=(-5, 15), seed=0)
mixture = recipe.apply(recording, recipe.draw(index=0, epoch=0))  # mixture.noisy and mixture.clean
```
"""


def split_rows(dataset: Dataset) -> dict[str, list[int]]:
    """The rows of each split, in order of first appearance; rows without a split are `unsplit`."""
    rows: dict[str, list[int]] = defaultdict(list)
    for index, split in enumerate(values(dataset, "split")):
        rows[split or "unsplit"].append(index)
    return dict(rows)


def values(dataset: Dataset, column: str) -> list[Any]:
    """The values of a column.

    Args:
        dataset: the dataset, in any format.
        column: name of the column.
    """
    return dataset.data.column(column).to_pylist() if dataset._indices is None else list(dataset[column])


def render_dataset_card(
    dataset: Dataset, source: str, configs: Sequence[dict[str, Any]] | None = None, licence: str | None = None
) -> DatasetCard:
    """The card of a dataset.

    Args:
        dataset: the dataset, with description, licence and citation in its `info`.
        source: the argument of `load_dataset` in the example: a repository of the Hub, or a folder.
        configs: which files belong to which split; the Hub's client adds them when it pushes.
        licence: the licence to state; by default that in `info`.
    """
    licence = dataset.info.license or licence or ""
    rows, audio = split_rows(dataset), "audio" in dataset.features
    further: dict[str, Any] = {"configs": list(configs)} if configs else {}
    data = DatasetCardData(
        **licence_metadata(licence),
        language=sorted({name for name in _column(dataset, "language") if name}) or None,
        pretty_name=source.rstrip("/").split("/")[-1],
        size_categories=_size_category(len(dataset)),
        **_purpose(dataset.features),
        **further,
    )
    mixable = {"audio", "emotion"} <= set(dataset.features) and "clean" not in dataset.features
    example = "train" if "train" in rows else next(iter(rows))
    loading = (LOADING if audio else LOADING_TEXT).format(source=source, split=example)
    sections = {
        "": dataset.info.description or "No description was given.",
        "## Splits": _splits_section(dataset, rows),
        "## Columns": _columns_section(dataset.features),
        "## Use": loading + (MIXING if mixable else ""),
        "## Licence": licence or "Not stated.",
        "## Source": dataset.info.citation or "Not stated.",
    }
    text = "\n\n".join(f"{title}\n\n{section.strip()}".strip() for title, section in sections.items())
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n# {data.pretty_name}\n\n{text}\n")


def _purpose(features: Features) -> dict[str, Any]:
    """Tags and tasks of a dataset of texts, speech or noise."""
    if "audio" not in features:
        return {"tags": ["text", "sparse-merit", "emotion-recognition"], "task_categories": ["text-classification"]}
    if "emotion" in features:
        tasks = ["audio-classification", "audio-to-audio"]
        return {"tags": ["audio", "sparse-merit", "speech-emotion-recognition"], "task_categories": tasks}
    return {"tags": ["audio", "sparse-merit", "noise"], "task_categories": ["audio-to-audio"]}


def class_counts(dataset: Dataset, rows: Iterable[int]) -> Counter[str]:
    """The number of clips of each emotion or label or, in a noise dataset, of each category.

    Args:
        dataset: a dataset of speech, of labelled sounds, or of noise.
        rows: indices of the rows to count.
    """
    column = next((name for name in ("emotion", "label") if name in dataset.features), "category")
    feature, entries = dataset.features.get(column), _column(dataset, column)
    names = feature.names if isinstance(feature, ClassLabel) else None
    classes = (entries[row] if names is None or entries[row] is None else names[entries[row]] for row in rows)
    return Counter(name or "without a class" for name in classes)


def hours(dataset: Dataset, rows: Iterable[int]) -> float:
    """The total duration of some rows, in hours.

    Args:
        dataset: a dataset with the column `duration`.
        rows: indices of the rows.
    """
    durations = _column(dataset, "duration")
    return sum(durations[row] or 0 for row in rows) / 3600


def _splits_section(dataset: Dataset, rows: dict[str, list[int]]) -> str:
    """A line for each split: clips and hours, or texts and dialogues; speakers and classes."""
    is_audio = "audio" in dataset.features
    first, second = ("clips", "hours") if is_audio else ("texts", "dialogues")
    speakers, dialogues = (_column(dataset, name) for name in ("speaker", "dialogue"))
    lines = [f"| split | {first} | {second} | speakers | classes |", "|---|---:|---:|---:|---|"]
    for split, indices in rows.items():
        classes = ", ".join(f"{name} {count}" for name, count in class_counts(dataset, indices).most_common())
        size = f"{hours(dataset, indices):.2f}" if is_audio else _distinct(dialogues, indices)
        lines.append(f"| {split} | {len(indices)} | {size} | {_distinct(speakers, indices)} | {classes} |")
    return "\n".join(lines)


def _distinct(entries: Sequence[Any], rows: Iterable[int]) -> int | str:
    """The number of different values in some rows; empty if there is none."""
    return len({entries[row] for row in rows} - {None}) or ""


def _columns_section(features: Features) -> str:
    """A line for each column: type and meaning."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    for name, feature in features.items():
        kind = ", ".join(feature.names) if isinstance(feature, ClassLabel) else getattr(feature, "dtype", "list")
        kind = "audio" if name in ("audio", "clean") else kind
        lines.append(f"| `{name}` | {kind} | {MEANINGS.get(name, '')} |")
    return "\n".join(lines)


def _column(dataset: Dataset, name: str) -> list[Any]:
    """The values of a column; None for each row where the column is missing."""
    return values(dataset, name) if name in dataset.column_names else [None] * len(dataset)


def _size_category(rows: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if rows < bound), "n>1M")


def licence_to_state(licence: str, confirmed: str | None = None) -> str:
    """The licence that the published dataset states.

    A dataset whose licence does not let everybody redistribute it is published only if the caller repeats that
    licence; one that states no licence, only if the caller names one.

    Args:
        licence: the licence in the dataset's `info`; empty if it states none.
        confirmed: the licence that the caller repeats or names.

    Raises:
        DatasetError: the licence was neither free nor confirmed; the message says how to confirm it.
    """
    if licence_names(licence) or (confirmed and _same(confirmed, licence or confirmed)):
        return licence or confirmed or ""
    if not licence:
        raise DatasetError(
            "this dataset states no licence, so it is not pushed; if you may redistribute its recordings, name their "
            "licence: --i-may-redistribute 'LICENCE'"
        )
    raise DatasetError(
        "this dataset is not pushed, since its licence does not let everybody redistribute it; if you may, repeat the "
        f"licence: --i-may-redistribute '{licence}'"
    )


def _same(first: str, second: str) -> bool:
    """Whether two texts are equal up to whitespace and case."""
    return first.split() != [] and first.casefold().split() == second.casefold().split()
