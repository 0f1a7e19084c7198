# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Sparse MERIT: a single-pass multi-task model for speech enhancement and speech emotion recognition.

Names are imported when they are first used, so that `import modeling_sparse_merit` and the command start quickly.
"""

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "base"
BATCH_SECONDS = 40.0  # seconds of audio in one batch

_MODULE_OF = {
    "SparseMeritConfig": "models.sparse_merit.configuration_sparse_merit",
    "SparseMeritFeatureExtractor": "models.sparse_merit.feature_extraction_sparse_merit",
    "SparseMeritInt8Config": "models.sparse_merit.quantization",
    "SparseMeritModel": "models.sparse_merit.modeling_sparse_merit",
    "SparseMeritForSpeechEnhancementAndEmotion": "models.sparse_merit.modeling_sparse_merit",
    "SpeechEnhancementAndEmotionPipeline": "models.sparse_merit.pipeline_sparse_merit",
    "EmotionPipeline": "models.sparse_merit.pipeline_sparse_merit",
    "StreamingEnhancer": "models.sparse_merit.streaming",
    "enhance_recordings": "inference.batching",
    "find_recordings": "inference.files",
    "load_audio": "models.sparse_merit.audio",
    "read_audio": "models.sparse_merit.audio",
    "write_audio": "models.sparse_merit.audio",
}

__all__ = ["DEFAULT_CHECKPOINT", "__version__", *_MODULE_OF]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
