# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the card of a conversation model says beyond that of other models: its experts, and the models of its
embeddings."""

from pathlib import Path
from typing import Any

import torch

from ..models.mister_e.configuration_mister_e import SPEECH, TEXT, MisterEConfig
from ..models.mister_e.modeling_mister_e import MisterEForConversationEmotion
from ..models.sparse_merit.sources import HUB_ID

EXAMPLES = {SPEECH: ("1.wav", "2.wav"), TEXT: ("Did you get the job?", "I start on Monday!")}
KEYS = {SPEECH: "audio", TEXT: "text"}


def describe_conversation(config: MisterEConfig, data: dict[str, Any]) -> dict[str, Any]:
    """Variables of the templates that differ for a conversation model, and those of `conversation_card.md` alone.

    Args:
        config: its configuration.
        data: content of `training_data.yaml`.
    """
    modalities = list(config.embedding_sizes)
    encoders = data.get("encoders") or {}
    utterances = [", ".join(f'"{KEYS[name]}": "{EXAMPLES[name][place]}"' for name in modalities) for place in range(2)]
    return {
        "parameters": count_conversation_parameters(config),
        "normalizes_over_time": False,
        "input_name": "an utterance",
        "unit": "utterance",
        "material": "speech" if SPEECH in modalities else "texts",
        "modalities": modalities,
        "experts": list(config.experts or ()),
        "sizes": config.embedding_sizes,
        "embedders": {name: shown_embedder(config, name) for name in modalities},
        "encoders": encoders,
        "restricted": [each["name"] for each in encoders.values() if "-nc" in each["license"].lower()],
        "conversation": ", ".join("{" + utterance + "}" for utterance in utterances),
    }


def count_conversation_parameters(config: MisterEConfig) -> int:
    """Number of parameters; no weights are made."""
    with torch.device("meta"):
        model = MisterEForConversationEmotion(config)
    return sum(parameter.numel() for parameter in model.parameters())


def shown_embedder(config: MisterEConfig, modality: str) -> str:
    """The name of the model of an embedding: a Hub id, with its commit, or the last part of a path.

    Args:
        config: configuration of a conversation model.
        modality: "speech" or "text".
    """
    name, revision = getattr(config, f"{modality}_model"), getattr(config, f"{modality}_revision")
    if name is None:
        return "not recorded"
    if modality in unpublished_embedders(config):
        return f"`{Path(name).name}`, not published"
    pinned = f", commit {revision}" if revision else ""
    return f"[{name}](https://huggingface.co/{name}){pinned}"


def unpublished_embedders(config: MisterEConfig) -> dict[str, str]:
    """The models of the embeddings that are not named by a Hub id: {"speech" or "text": name}.

    Args:
        config: configuration of a conversation model.
    """
    names = {modality: str(getattr(config, f"{modality}_model")) for modality in config.embedding_sizes}
    return {modality: name for modality, name in names.items() if not HUB_ID.fullmatch(name) or Path(name).is_dir()}
