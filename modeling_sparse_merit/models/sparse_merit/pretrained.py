# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pretrained encoders of other architectures in the layout of `SparseMeritEncoder`: Whisper, HuBERT, wav2vec 2.0."""

import os
import re
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, WavLMConfig, WavLMModel, WhisperConfig, WhisperModel

from .whisper import whisper_positions

WHISPER_NAMES = (
    (r"^conv(\d)\.", r"feature_extractor.conv\1."),
    (r"^layers\.", "encoder.layers."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    (r"^layer_norm\.", "encoder.layer_norm."),
)
WHISPER_WINDOW_SECONDS = 8.0
UNMAPPED = {
    "add_adapter": (False, None),
    "adapter_attn_dim": (None,),
    "conv_pos_batch_norm": (False, None),
    "feat_proj_layer_norm": (True, None),
}
"""Fields of HuBERT and wav2vec 2.0 that must have one of these values: WavLM does not have these parts."""
SUPPORTED = ("wavlm", "whisper", "hubert", "wav2vec2")


def read_encoder(name_or_path: str | os.PathLike, num_layers: int | None = None) -> tuple[dict[str, Any], dict]:
    """
    Reads a pretrained encoder in the layout of `SparseMeritEncoder`.

    Args:
        name_or_path: Hub id or local folder of a WavLM, Whisper, HuBERT or wav2vec 2.0 checkpoint.
        num_layers: Number of transformer layers to keep, from the first; all by default.

    Returns:
        The fields of [`SparseMeritConfig`] that describe the encoder, and the state dict of a `SparseMeritEncoder`, in
        fp32.

    Raises:
        ValueError: The architecture is not supported, has a part that WavLM does not have, or has fewer layers.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type not in SUPPORTED:
        raise ValueError(
            f"{str(name_or_path)!r} holds a model of type {config.model_type!r}, which is not supported. "
            f"Expected one of {list(SUPPORTED)}."
        )
    read = _read_whisper if config.model_type == "whisper" else _read_wavlm_like
    fields, state_dict = read(name_or_path, config)
    if num_layers is not None:
        if not 1 <= num_layers <= fields["num_hidden_layers"]:
            raise ValueError(
                f"`num_layers` is {num_layers}; {str(name_or_path)!r} has {fields['num_hidden_layers']} layers."
            )
        fields["num_hidden_layers"] = num_layers
        place = re.compile(r"encoder\.layers\.(\d+)\.")
        layers = {name: place.match(name) for name in state_dict}
        kept = [name for name, layer in layers.items() if layer is None or int(layer[1]) < num_layers]
        state_dict = {name: state_dict[name] for name in kept}
    return fields, state_dict


def shared_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a configuration that describe the encoder of a `WavLMConfig`."""
    own = {"layerdrop", "apply_spec_augment", "final_dropout", "model_type", "architectures", "transformers_version"}
    names = set(WavLMConfig.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__) - own
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def _read_wavlm_like(name_or_path: str | os.PathLike, config: PreTrainedConfig) -> tuple[dict[str, Any], dict]:
    unmapped = {name: getattr(config, name, None) for name in UNMAPPED}
    unmapped = {name: value for name, value in unmapped.items() if value not in UNMAPPED[name]}
    if unmapped:
        raise ValueError(
            f"{str(name_or_path)!r} has {unmapped}, which WavLM does not support; expected "
            f"{ {name: UNMAPPED[name][0] for name in unmapped} }."
        )
    is_wavlm = config.model_type == WavLMConfig.model_type
    model = (WavLMModel if is_wavlm else AutoModel).from_pretrained(name_or_path, dtype=torch.float32)
    return {**shared_fields(config), "relative_attention_bias": is_wavlm}, model.state_dict()


def _read_whisper(name_or_path: str | os.PathLike, config: WhisperConfig) -> tuple[dict[str, Any], dict]:
    fields = {
        "feature_encoder": "whisper",
        "relative_attention_bias": False,
        "encoder_window_seconds": WHISPER_WINDOW_SECONDS,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.encoder_layers,
        "num_attention_heads": config.encoder_attention_heads,
        "intermediate_size": config.encoder_ffn_dim,
        "hidden_act": config.activation_function,
        "conv_dim": (config.num_mel_bins,),
        "conv_kernel": (160,),
        "conv_stride": (320,),
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "feat_proj_dropout": 0.0,
        "do_stable_layer_norm": True,
    }
    whisper = WhisperModel.from_pretrained(name_or_path, dtype=torch.float32).encoder.state_dict()
    positions = whisper.pop("embed_positions.weight")  # (frames, D)
    expected = whisper_positions(config.d_model)
    if positions.shape != expected.shape or not torch.allclose(positions, expected, atol=2e-3):
        raise ValueError(f"{str(name_or_path)!r} has other position embeddings; expected the sinusoids of Whisper.")
    state_dict = {}
    for name, tensor in whisper.items():
        for pattern, replacement in WHISPER_NAMES:
            name = re.sub(pattern, replacement, name)
        state_dict[name] = tensor
    for name in [name for name in state_dict if name.endswith(".k_proj.weight")]:
        state_dict[name.replace("weight", "bias")] = torch.zeros(config.d_model)
    return fields, state_dict
