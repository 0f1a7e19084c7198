# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Emotion of the segments of a recording in the context of the others, by a conversation model."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig

from ..files import sha256_of_files
from ..models.mister_e.configuration_mister_e import SPEECH, TEXT, MisterEConfig
from ..models.mister_e.pipeline_mister_e import EMBEDDINGS, INPUTS, ConversationPipeline, embedder_folder
from ..models.sparse_merit.cutting import SAMPLING_RATE
from ..models.sparse_merit.pipeline_speech_text import SpeechTextPipeline, Transcriber
from .segments import ContextEmotion

MODEL_FILES = ("*.json", "*.safetensors")


class Context:
    """A conversation model for the segments of recordings. It may be used by several threads.

    Args:
        pipe: the pipeline, with its embedders.
        min_score: an emotion with a smaller score becomes None.
    """

    def __init__(self, pipe: ConversationPipeline, min_score: float = 0.0):
        self._pipe, self._min_score = pipe, min_score
        self._one_running = threading.Lock()  # pipelines of transformers are not thread-safe
        config: Any = pipe.model.config
        self.labels: list[str] = list(config.id2label.values())
        self.experts: list[str] = list(config.experts)
        self.modalities: list[str] = list(config.embedding_sizes)

    def embed(self, waveform: np.ndarray) -> torch.Tensor | None:
        """The speech embedding of a segment, (D,); None for a model of text alone.

        Args:
            waveform: float32 (samples,) at 16 kHz.
        """
        if SPEECH not in self.modalities:
            return None
        with self._one_running:
            audio = {"array": waveform, "sampling_rate": SAMPLING_RATE}
            return self._pipe.embed(SPEECH, audio, self._pipe.embedders)

    def emotions(
        self, tracks: Sequence[Sequence[tuple[float, torch.Tensor | None, str | None]]]
    ) -> list[list[ContextEmotion]]:
        """The emotions of the segments of all tracks of a recording, which are one conversation, ordered in time.

        Args:
            tracks: start in seconds, speech embedding and text of each segment of each track.

        Returns:
            the emotions of each track.
        """
        places = [(segment[0], track, place) for track, own in enumerate(tracks) for place, segment in enumerate(own)]
        results: list[list[ContextEmotion]] = [[] for _ in tracks]
        if not places:
            return results
        ordered = sorted(places)
        utterances = [self._utterance(*tracks[track][place][1:]) for _, track, place in ordered]
        with self._one_running:
            outputs = self._pipe(utterances)
        for (_, track, _), output in zip(ordered, outputs, strict=True):  # each track is in order already
            results[track].append(self._described(output))
        return results

    def _utterance(self, embedding: torch.Tensor | None, text: str | None) -> dict[str, Any]:
        given = {EMBEDDINGS[SPEECH]: embedding, INPUTS[TEXT]: text if TEXT in self.modalities else None}
        return {name: value for name, value in given.items() if value is not None}

    def _described(self, output: dict[str, Any]) -> ContextEmotion:
        scores = {entry["label"]: round(entry["score"], 6) for entry in output["emotion"]}
        first = output["emotion"][0]
        return {
            "emotion": first["label"] if first["score"] >= self._min_score else None,
            "scores": dict(sorted(scores.items())),
            "gate": {expert: round(weight, 6) for expert, weight in output["gate"].items()},
        }


def load_context(
    source: str, transcriber: Transcriber | Path | None, device: torch.device, min_score: float = 0.0
) -> tuple[Context, str]:
    """Loads a conversation model, and the models of its embeddings that its configuration names. Nothing is
    downloaded, and no code of a repository runs.

    Args:
        source: a folder, or the Hub id of a model that was downloaded before.
        transcriber: what gives the texts of segments.
        device: where the models run.
        min_score: see `Context`.

    Returns:
        The context, and the digest of all models, as a part of the settings of results.

    Raises:
        FileNotFoundError: a model is not on this computer.
        ValueError: it is another kind of model, its embeddings have another width, or it takes texts and there are
            none of segments.
    """
    folder = embedder_folder(source)
    model_type = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
    if model_type != MisterEConfig.model_type:
        raise ValueError(
            f"{source} is a model of the type {model_type!r}; expected a conversation model ('mister_e'), as "
            "`sparse-merit train conversation` writes it."
        )
    config = MisterEConfig.from_pretrained(folder)
    if TEXT in config.embedding_sizes and not callable(transcriber):
        given = f"{transcriber} has texts of whole recordings alone" if transcriber else "there are none"
        raise ValueError(
            f"The conversation model {source} takes the text of each segment, and {given}: give --transcribe MODEL, a "
            "model for speech recognition, or a conversation model of speech alone."
        )
    folders, embedders = [folder], {}
    for modality, size in config.embedding_sizes.items():
        own, embedders[modality] = _load_embedder(config, modality, size, source, device)
        folders.append(own)
    pipe = ConversationPipeline.from_pretrained(folder, embedders, device=device)
    files = [file for each in folders for pattern in MODEL_FILES for file in sorted(each.glob(pattern))]
    return Context(pipe, min_score), sha256_of_files(files)


def _load_embedder(
    config: MisterEConfig, modality: str, size: int, source: str, device: torch.device
) -> tuple[Path, SpeechTextPipeline]:
    """The folder and the pipeline of the model of an embedding."""
    name = getattr(config, f"{modality}_model")
    if name is None:
        raise ValueError(
            f"The configuration of {source} names no model of its {modality} embeddings: write its folder or Hub id "
            f"into config.json, as `{modality}_model`."
        )
    folder = embedder_folder(name, getattr(config, f"{modality}_revision"))
    pipe = SpeechTextPipeline.from_pretrained(folder, device=device)
    own = pipe.model.config
    if list(own.embedding_sizes) != [modality] or own.head_hidden_size != size:
        raise ValueError(
            f"{name}, the model of the {modality} embeddings of {source}, takes {' and '.join(own.embedding_sizes)} "
            f"and gives embeddings of width {own.head_hidden_size}; expected {modality} alone and the width {size}."
        )
    return folder, pipe
