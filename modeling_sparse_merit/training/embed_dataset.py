# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Adds embeddings of speech and text to a dataset: the input of a conversation model (stage 1 of arXiv 2602.23300)."""

from pathlib import Path

import pyarrow as pa
import torch
from datasets import Dataset, List, Value

from ..data.datasets import read_dataset
from ..inference.features import sha256_of_weights
from ..models.sparse_merit.configuration_speech_text import SPEECH, TEXT
from ..models.sparse_merit.modeling_speech_text import SpeechTextForEmotion
from ..models.sparse_merit.processing_speech_text import SpeechTextProcessor
from ..models.sparse_merit.sources import portable_name
from ..models.sparse_merit.tasks import EMOTION
from .embeddings import EmbeddingFolder, embed_clips
from .speech_text_clips import ClipDataset

EMBEDDINGS = {SPEECH: "speech_embedding", TEXT: "text_embedding"}
"""Columns with the embedding of each modality, None for a clip that does not have it."""
COLUMNS = {SPEECH: "audio", TEXT: "text"}


def embed_dataset(
    dataset: str | Path, cache: Path, speech: str | None = None, text: str | None = None, device: str = "cpu"
) -> Dataset:
    """
    Adds `speech_embedding` and `text_embedding`, the hidden layer of the emotion head of a model of one modality. The
    description of the dataset names the models, with the SHA-256 of their weights.

    Args:
        dataset: The dataset, with the columns `audio` and `text`, as the models need them.
        cache: Folder of the pooled outputs of the encoders, by hashes of weights and input, which an interrupted run
            resumes from.
        speech: Speech-text model of speech alone: a folder or a Hub id.
        text: The same of text alone.
        device: Device of torch.

    Raises:
        ValueError: No model is given, or one has another modality or no emotion head.
        DatasetError: There is no such dataset, or it lacks a column.
    """
    models = {name: source for name, source in ((SPEECH, speech), (TEXT, text)) if source}
    if not models:
        raise ValueError("No model was given; expected `speech`, `text`, or both.")
    rows = read_dataset(dataset, required=None)
    for modality, source in models.items():
        model = _load(source, modality).to(device)  # type: ignore[arg-type]  # transformers declares it wrongly
        processor = SpeechTextProcessor.from_pretrained(source)
        described = read_dataset(dataset, required=COLUMNS[modality])
        clips = ClipDataset(described, [{}] * len(described), [modality])
        pooled = embed_clips(model, processor, clips, EmbeddingFolder(cache, model, processor))
        values = _hidden(model, pooled[f"{modality}_embeddings"], modality)
        name = EMBEDDINGS[modality]
        if name in rows.column_names:
            rows = rows.remove_columns(name)
        rows = rows.add_column(name, values, feature=List(Value("float32")))
        rows.info.description = (
            f"{rows.info.description} {name}: hidden layer of {Path(portable_name(source)).name}, weights "
            f"{sha256_of_weights(model)[:16]}."
        ).strip()
    return rows


def _load(source: str, modality: str) -> SpeechTextForEmotion:
    model = SpeechTextForEmotion.from_pretrained(source, dtype=torch.float32).eval()
    own = list(model.config.embedding_sizes)
    if own != [modality] or EMOTION not in model.tasks:
        raise ValueError(
            f"{source} has {' and '.join(own)} and the tasks {list(model.tasks)}; expected {modality} alone and "
            f"{EMOTION!r}: `sparse-merit train speech_text` with `stage: {modality}` trains such a model."
        )
    return model


@torch.inference_mode()
def _hidden(model: SpeechTextForEmotion, pooled: torch.Tensor, modality: str) -> pa.Array:
    """Pooled embeddings (clips, width), NaN for none -> lists of the hidden layer, None for none."""
    present = ~pooled.isnan().all(1)  # (clips,)
    hidden = model.hidden_layer(**{f"{modality}_embeddings": pooled[present].to(model.device)}).float().cpu()
    following = iter(hidden.numpy())
    return pa.array([next(following) if here else None for here in present.tolist()], pa.list_(pa.float32()))
