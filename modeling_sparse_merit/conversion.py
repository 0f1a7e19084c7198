# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Weights of the published implementation, in the file layout of its release, to the names of this package."""

import re
from pathlib import Path

import torch

ENCODER_NAMES = (
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"conv_layers\.(\d+)\.0\.", r"conv_layers.\1.conv."),
    (r"conv_layers\.(\d+)\.2\.1\.", r"conv_layers.\1.layer_norm."),
    (r"^encoder\.pos_conv\.0\.weight_g$", "encoder.pos_conv.0.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v$", "encoder.pos_conv.0.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
INTEGRATION_NAMES = (
    (r"^layer_weights$", "layer_weights.weight"),
    (r"^experts\.(\d+)\.weights$", r"experts.\1.weight"),
    (r"\.fc1\.", ".input_dense."),
    (r"\.fc2\.", ".output_dense."),
    (r"^gates\.0\.fc\.", "routers.enhancement."),
    (r"^gates\.1\.fc\.", "routers.emotion."),
)
POOLING_NAMES = ((r"^attention$", "score.weight"), (r"^sap_linear\.", "dense."))
CLASSIFIER_NAMES = ((r"^fc\.0\.0\.", "dense."), (r"^fc\.0\.1\.", "layer_norm."), (r"^out\.0\.", "classifier."))
ENHANCEMENT_NAMES = (
    (r"^lstm_enc\.0\.", "input_dense."),
    (r"^lstm_enc\.1\.blstm\.(\w+)_l(\d+)_reverse$", r"lstm.backward_layers.\2.\1_l0"),
    (r"^lstm_enc\.1\.blstm\.(\w+)_l(\d+)$", r"lstm.forward_layers.\2.\1_l0"),
    (r"^lstm_enc\.2\.", "output_dense."),
)
WEIGHTED_SUM_NAMES = (
    (r"^weights$", "layer_weights.enhancement.weight"),
    (r"^layer_norm\.(\d+)\.", r"layer_norms.enhancement.\1."),
)


def rename(
    state_dict: dict[str, torch.Tensor], names: tuple[tuple[str, str], ...], prefix: str
) -> dict[str, torch.Tensor]:
    """The same tensors under new names: every (pattern, replacement) of `names` in turn, then `prefix` in front."""
    renamed = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[prefix + name] = tensor
    return renamed


def published_state_dict(
    folder: str | Path, integration_file: str | None = "final_mmoe.pt"
) -> dict[str, torch.Tensor]:
    """
    The state dict of [`SparseMeritForSpeechEnhancementAndEmotion`] that a published checkpoint describes.

    Args:
        folder: Holds `final_ssl.pt`, `final_pool.pt`, `final_ser.pt`, `final_se.pt` and the integration file, each a
            {"model": state dict} that is read without unpickling code.
        integration_file: The file of experts and routers; None for the naive multi-task enhancement model, whose
            weighted sum of layers is kept in `final_se.pt`.
    """
    folder = Path(folder)

    def read(name: str) -> dict[str, torch.Tensor]:
        return torch.load(folder / name, weights_only=True, map_location="cpu")["model"]

    enhancement = read("final_se.pt")
    head = {name: tensor for name, tensor in enhancement.items() if name.startswith("lstm_enc.")}
    state = rename(read("final_ssl.pt"), ENCODER_NAMES, "model.encoder.")
    state |= rename(head, ENHANCEMENT_NAMES, "heads.enhancement.")
    if integration_file is None:
        sums = {name: tensor for name, tensor in enhancement.items() if name not in head}
        return state | rename(sums, WEIGHTED_SUM_NAMES, "model.integration.")
    pooling = read("final_pool.pt")
    pooling["attention"] = pooling["attention"].T  # (D, 1) -> (1, D)
    state |= rename(read(integration_file), INTEGRATION_NAMES, "model.integration.")
    state |= rename(pooling, POOLING_NAMES, "heads.emotion.pooling.")
    return state | rename(read("final_ser.pt"), CLASSIFIER_NAMES, "heads.emotion.")
