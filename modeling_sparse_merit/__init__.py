# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Sparse MERIT: a single-pass multi-task model for speech enhancement and speech emotion recognition.

Names are imported when they are first used, so that `import modeling_sparse_merit` and the command start quickly.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` imports, for type checkers and editors
    from .inference.batching import enhance_recordings as enhance_recordings
    from .inference.files import find_recordings as find_recordings
    from .models.audio_enhancer.configuration_audio_enhancer import AudioEnhancerConfig as AudioEnhancerConfig
    from .models.audio_enhancer.modeling_audio_enhancer import AudioEnhancerModel as AudioEnhancerModel
    from .models.cnn14.configuration_cnn14 import Cnn14Config as Cnn14Config
    from .models.cnn14.modeling_cnn14 import Cnn14ForAudioClassification as Cnn14ForAudioClassification
    from .models.mister_e.configuration_mister_e import MisterEConfig as MisterEConfig
    from .models.mister_e.modeling_mister_e import MisterEForConversationEmotion as MisterEForConversationEmotion
    from .models.mister_e.pipeline_mister_e import ConversationPipeline as ConversationPipeline
    from .models.sparse_merit.audio import load_audio as load_audio
    from .models.sparse_merit.audio import read_audio as read_audio
    from .models.sparse_merit.audio import write_audio as write_audio
    from .models.sparse_merit.configuration_sparse_merit import SparseMeritConfig as SparseMeritConfig
    from .models.sparse_merit.configuration_speech_text import SpeechTextConfig as SpeechTextConfig
    from .models.sparse_merit.feature_extraction_sparse_merit import (
        SparseMeritFeatureExtractor as SparseMeritFeatureExtractor,
    )
    from .models.sparse_merit.modeling_sparse_merit import (
        SparseMeritForSpeechEnhancementAndEmotion as SparseMeritForSpeechEnhancementAndEmotion,
    )
    from .models.sparse_merit.modeling_sparse_merit import SparseMeritModel as SparseMeritModel
    from .models.sparse_merit.modeling_speech_text import SpeechTextForEmotion as SpeechTextForEmotion
    from .models.sparse_merit.pipeline_sparse_merit import EmotionPipeline as EmotionPipeline
    from .models.sparse_merit.pipeline_sparse_merit import (
        SpeechEnhancementAndEmotionPipeline as SpeechEnhancementAndEmotionPipeline,
    )
    from .models.sparse_merit.pipeline_speech_text import SpeechTextPipeline as SpeechTextPipeline
    from .models.sparse_merit.processing_speech_text import SpeechTextProcessor as SpeechTextProcessor
    from .models.sparse_merit.quantization import SparseMeritInt8Config as SparseMeritInt8Config
    from .models.sparse_merit.streaming import StreamingEnhancer as StreamingEnhancer

__version__ = "0.1.0"

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "base"
BATCH_SECONDS = 40.0  # seconds of audio in one batch
LAWFUL_USE = (
    "Analyse recordings only with the consent of the people in them. In the European Union, inferring emotions at "
    "work and in education is prohibited, except for medical or safety reasons (Regulation (EU) 2024/1689, Article "
    "5(1)(f)). Scores are guesses: do not base decisions about people on them."
)

_MODULE_OF = {
    "AudioEnhancerConfig": "models.audio_enhancer.configuration_audio_enhancer",
    "AudioEnhancerModel": "models.audio_enhancer.modeling_audio_enhancer",
    "Cnn14Config": "models.cnn14.configuration_cnn14",
    "Cnn14ForAudioClassification": "models.cnn14.modeling_cnn14",
    "ConversationPipeline": "models.mister_e.pipeline_mister_e",
    "MisterEConfig": "models.mister_e.configuration_mister_e",
    "MisterEForConversationEmotion": "models.mister_e.modeling_mister_e",
    "SparseMeritConfig": "models.sparse_merit.configuration_sparse_merit",
    "SparseMeritFeatureExtractor": "models.sparse_merit.feature_extraction_sparse_merit",
    "SparseMeritInt8Config": "models.sparse_merit.quantization",
    "SparseMeritModel": "models.sparse_merit.modeling_sparse_merit",
    "SparseMeritForSpeechEnhancementAndEmotion": "models.sparse_merit.modeling_sparse_merit",
    "SpeechEnhancementAndEmotionPipeline": "models.sparse_merit.pipeline_sparse_merit",
    "EmotionPipeline": "models.sparse_merit.pipeline_sparse_merit",
    "SpeechTextConfig": "models.sparse_merit.configuration_speech_text",
    "SpeechTextForEmotion": "models.sparse_merit.modeling_speech_text",
    "SpeechTextPipeline": "models.sparse_merit.pipeline_speech_text",
    "SpeechTextProcessor": "models.sparse_merit.processing_speech_text",
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
