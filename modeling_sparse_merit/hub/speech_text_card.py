# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the card of a speech-text model says beyond that of other models: its modalities and its encoders."""

from pathlib import Path
from typing import Any

from ..models.sparse_merit.configuration_speech_text import SPEECH, TEXT, SpeechTextConfig
from ..models.sparse_merit.modeling_speech_text import count_speech_text_parameters
from ..models.sparse_merit.processing_speech_text import PROCESSOR_FILE
from ..models.sparse_merit.sources import HUB_ID
from .files import read_json

EXAMPLE_TEXT = "I am so glad to know that."
INPUT_NAMES = {(SPEECH,): "a voice", (TEXT,): "a text", (SPEECH, TEXT): "a voice with its words"}


def describe_speech_text(
    folder: Path, config: SpeechTextConfig, data: dict[str, Any], evaluation: dict[str, Any] | None
) -> dict[str, Any]:
    """Variables of the templates that differ for a speech-text model, and those of `speech_text_card.md` alone.

    Args:
        folder: the checkpoint.
        config: its configuration.
        data: content of `training_data.yaml`.
        evaluation: results of this model; None if it was not measured.
    """
    modalities = list(config.embedding_sizes)
    encoders = data.get("encoders") or {}
    extractor = read_json(folder / PROCESSOR_FILE).get("feature_extractor") or {}
    with_text = evaluation["clips"].get("with_text", 0) if evaluation and TEXT in modalities else None
    return {
        "sampling_rate": extractor.get("sampling_rate"),
        "parameters": count_speech_text_parameters(config),
        "normalizes_over_time": SPEECH in modalities and config.speech_config.feat_extract_norm == "group",
        "input_name": INPUT_NAMES[tuple(modalities)],
        "unit": "clip",
        "material": "speech" if SPEECH in modalities else "texts",
        "with_text": "" if with_text is None else f", {with_text} of them with text",
        "modalities": modalities,
        "parts": {name: describe_part(config, name) for name in modalities},
        "encoders": encoders,
        "restricted": [each["name"] for each in encoders.values() if "-nc" in each["license"].lower()],
        "is_complete": not config.modality_dropout,
        "clip": ", ".join(
            text
            for name, text in ((SPEECH, '"audio": "call.wav"'), (TEXT, f'"text": "{EXAMPLE_TEXT}"'))
            if name in modalities
        ),
        "example_text": EXAMPLE_TEXT,
    }


def base_models_of(data: dict[str, Any]) -> list[str] | None:
    """Hub ids of the encoders that a speech-text model started from.

    Args:
        data: content of `training_data.yaml`.
    """
    names = [encoder["name"] for encoder in (data.get("encoders") or {}).values()]
    return [name for name in names if HUB_ID.fullmatch(name)] or None


def speech_text_tags(config: dict[str, Any]) -> list[str]:
    """The tags of a speech-text model on the Hub; `config` is the content of its config.json."""
    speech = ["audio", "speech", "speech-emotion-recognition"] if config.get("speech_config") else []
    return [*speech, *(["text"] if config.get("text_config") else []), "emotion-recognition"]


def describe_part(config: SpeechTextConfig, modality: str) -> str:
    """Type and size of an encoder, and how its outputs become an embedding.

    Args:
        config: configuration of the model.
        modality: "speech" or "text".
    """
    part = config.speech_config if modality == SPEECH else config.text_config
    encoder = part.model_type if modality == TEXT else "Whisper" if part.feature_encoder == "whisper" else "WavLM"
    layers = f"{part.num_hidden_layers} layer{'' if part.num_hidden_layers == 1 else 's'} of width {part.hidden_size}"
    after = f"integration `{part.integration}`" if modality == SPEECH else f"pooling `{config.text_pooling}`"
    return f"{encoder}, {layers}, {after}"
