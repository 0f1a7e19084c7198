# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Models for audio classification, which a classification of sounds starts from or uses."""

from typing import Any

from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedConfig

from ..models.cnn14.configuration_cnn14 import Cnn14Config
from ..models.cnn14.modeling_cnn14 import Cnn14ForAudioClassification


def load_classifier(source: str, **kwargs: Any) -> tuple[Any, Any]:
    """
    A model for audio classification and its feature extractor.

    Checkpoints never bring their code: a CNN14 runs with that of this package, others with that of `transformers`.

    Args:
        source: Folder or Hub id.
        kwargs: As in `PreTrainedModel.from_pretrained`.

    Raises:
        OSError: There is no such checkpoint.
        ValueError: It is of another kind, or `transformers` has no code for it.
    """
    fields, _ = PreTrainedConfig.get_config_dict(source)
    is_cnn14 = fields.get("model_type") == Cnn14Config.model_type
    load: Any = Cnn14ForAudioClassification if is_cnn14 else AutoModelForAudioClassification
    kwargs = kwargs if is_cnn14 else {**kwargs, "trust_remote_code": False}
    feature_extractor = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
    return load.from_pretrained(source, **kwargs), feature_extractor
