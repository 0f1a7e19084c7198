# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Prepares recordings and texts for the speech-text model: feature extractor and tokenizer in one object."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import AutoTokenizer, BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import logging

from .configuration_speech_text import SPEECH, TEXT, SpeechTextConfig
from .feature_extraction_sparse_merit import SparseMeritFeatureExtractor

logger = logging.get_logger(__name__)

PROCESSOR_FILE = "processor_config.json"
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")


class SpeechTextProcessor(ProcessorMixin):
    """
    Scales recordings and tokenizes texts for a [`SpeechTextForEmotion`]. A text is padded on the right; a tokenizer
    without a padding token pads with its end-of-sequence token.

    Args:
        feature_extractor: Of the speech model; None for a model of text alone.
        tokenizer: Of the text model; None for a model of speech alone.
        max_tokens: Longest text, which is cut behind this number of tokens; by default, and at most, the tokenizer's
            `model_max_length`.

    Raises:
        ValueError: Both parts are None, or the tokenizer has neither of both tokens.
    """

    def __init__(
        self,
        feature_extractor: SparseMeritFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_tokens: int | None = None,
    ):
        # Not that of `ProcessorMixin`, which requires all parts.
        if feature_extractor is None and tokenizer is None:
            raise ValueError("`feature_extractor` and `tokenizer` are None; expected at least one of them.")
        if tokenizer is not None:
            tokenizer.padding_side = "right"
            if tokenizer.pad_token is None and tokenizer.eos_token is None:
                raise ValueError("The tokenizer has neither `pad_token` nor `eos_token`; set `pad_token`.")
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        self.feature_extractor, self.tokenizer, self.max_tokens = feature_extractor, tokenizer, max_tokens
        self.chat_template = None

    @classmethod
    def from_parts(
        cls,
        speech: str | os.PathLike | None = None,
        text: str | os.PathLike | None = None,
        max_tokens: int | None = None,
    ) -> "SpeechTextProcessor":
        """
        The processor of a model that `SpeechTextForEmotion.from_parts` makes of the same parts.

        Args:
            speech: Folder or Hub id with a feature extractor.
            text: Folder or Hub id with a tokenizer.
            max_tokens: As in the class.
        """
        feature_extractor = SparseMeritFeatureExtractor.from_pretrained(speech) if speech else None
        return cls(feature_extractor, _read_tokenizer(text) if text else None, max_tokens)

    # The signature differs from that of `ProcessorMixin`, whose other modalities are not supported.
    def __call__(
        self,
        audio: Any = None,
        text: str | Sequence[str | None] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Prepares one clip or a list of clips, with speech, text, or both.

        Args:
            audio: Mono recording, float (samples,), or a list of such, None for a clip without speech.
            text: Text, or a list of such, None or blank for a clip without text.
            sampling_rate: Of the recordings, in Hz.
            return_tensors: "pt" or "np"; lists by default.

        Returns:
            With `audio`, `input_values` (B, S) and `attention_mask` (B, S); with `text`, `input_ids` (B, T) and
            `text_attention_mask` (B, T). The row of a missing modality is padding.

        Raises:
            ValueError: A modality is given that the processor does not have, none is given, or there are not as many
                texts as recordings.
        """
        clips: dict[str, Any] = {SPEECH: _as_list(audio), TEXT: [text] if isinstance(text, str) else _as_list(text)}
        clips = {name: values for name, values in clips.items() if values is not None}
        self._check(clips)
        features: dict[str, np.ndarray] = {}
        if SPEECH in clips:
            features |= self._speech_features(clips[SPEECH], sampling_rate)
        if TEXT in clips:
            features |= self._text_features(clips[TEXT])
        return BatchFeature(features).convert_to_tensors(return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns."""
        return ["input_values", "attention_mask", "input_ids", "text_attention_mask"]

    def to_dict(self) -> dict[str, Any]:
        """As in `ProcessorMixin`, with the modalities that the processor has."""
        return {**super().to_dict(), "modalities": self._modalities()}

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, **kwargs: Any
    ) -> list[str]:
        """
        Writes the processor and its code: `AutoProcessor` loads it with `trust_remote_code=True`.

        Args:
            save_directory: Folder to write.
            kwargs: Not used.

        Returns:
            The configuration file.
        """
        os.makedirs(save_directory, exist_ok=True)
        custom_object_save(self, save_directory, config=self)  # type: ignore[arg-type]  # or an object with `auto_map`
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)
        file = os.path.join(save_directory, PROCESSOR_FILE)
        self.to_json_file(file)
        return [file]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> "SpeechTextProcessor":
        """
        Args:
            pretrained_model_name_or_path: Folder or Hub id of a speech-text model.
            kwargs: Arguments for the Hub, such as `revision` and `token`, and `max_tokens`.
        """
        where = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        fields, _ = cls.get_processor_dict(pretrained_model_name_or_path, **where)
        extractor = fields.get("feature_extractor")
        return cls(
            SparseMeritFeatureExtractor(**extractor) if extractor else None,
            _read_tokenizer(pretrained_model_name_or_path, **where) if TEXT in fields["modalities"] else None,
            kwargs.get("max_tokens", fields.get("max_tokens")),
        )

    def _modalities(self) -> list[str]:
        parts = {SPEECH: self.feature_extractor, TEXT: self.tokenizer}
        return [name for name, part in parts.items() if part is not None]

    def _check(self, clips: dict[str, list[Any]]) -> None:
        own = self._modalities()
        if unknown := [name for name in clips if name not in own]:
            raise ValueError(f"The processor has no {unknown[0]}; it takes {own} alone.")
        if not clips:
            raise ValueError("The processor got neither `audio` nor `text`; expected at least one of them.")
        if len({len(values) for values in clips.values()}) > 1:
            raise ValueError(
                f"`audio` has {len(clips[SPEECH])} recordings, `text` {len(clips[TEXT])} texts; expected a text for "
                "each recording, None where there is none."
            )

    def _speech_features(self, recordings: list[Any], sampling_rate: int | None) -> dict[str, np.ndarray]:
        present = [recording is not None for recording in recordings]
        given = [recording for recording in recordings if recording is not None]
        if not given:
            return {"input_values": np.zeros((len(present), 1), np.float32), "attention_mask": _no_mask(present)}
        features = self.feature_extractor(given, sampling_rate=sampling_rate, return_attention_mask=True)
        return {name: _with_empty_rows(features[name], present, 0) for name in ("input_values", "attention_mask")}

    def _text_features(self, texts: list[Any]) -> dict[str, np.ndarray]:
        present = [text is not None and bool(text.strip()) for text in texts]
        given = [text for text, here in zip(texts, present, strict=True) if here]
        padding = self.tokenizer.pad_token_id
        if not given:
            return {"input_ids": np.full((len(present), 1), padding), "text_attention_mask": _no_mask(present)}
        tokens = self._tokenized(given)
        return {
            "input_ids": _with_empty_rows(tokens["input_ids"], present, padding),
            "text_attention_mask": _with_empty_rows(tokens["attention_mask"], present, 0),
        }

    def _tokenized(self, texts: list[str]) -> Any:
        """Tokens of texts, padded; long ones are cut, which is logged once."""
        limit = min(self.max_tokens or self.tokenizer.model_max_length, self.tokenizer.model_max_length)
        tokens = self.tokenizer(texts, verbose=False)
        longest = max(len(ids) for ids in tokens["input_ids"])
        if longest > limit:
            logger.warning_once(
                f"Texts of more than {limit} tokens are cut there: the first such text has {longest} tokens."
            )
            tokens = self.tokenizer(texts, truncation=True, max_length=limit)
        return self.tokenizer.pad(tokens, return_tensors="np")


def _read_tokenizer(source: str | os.PathLike, **where: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a text encoder or of a speech-text model, whose own configuration has remote code."""
    try:
        model_type = PreTrainedConfig.get_config_dict(source, **where)[0].get("model_type")
    except OSError:  # a processor alone
        model_type = SpeechTextConfig.model_type
    config = {"config": PreTrainedConfig()} if model_type == SpeechTextConfig.model_type else {}
    return AutoTokenizer.from_pretrained(source, **config, **where)


def _as_list(clips: Any) -> list[Any] | None:
    """One recording or several as a list."""
    if clips is None:
        return None
    is_several = isinstance(clips, list | tuple) and not (clips and isinstance(clips[0], int | float | np.number))
    return list(clips) if is_several else [clips]


def _no_mask(present: list[bool]) -> np.ndarray:
    return np.zeros((len(present), 1), np.int64)


def _with_empty_rows(rows: Any, present: list[bool], padding: float) -> np.ndarray:
    """The rows (b, S) of the clips that are present, and padding for the others: (B, S)."""
    rows = np.asarray(rows)
    complete = np.full((len(present), rows.shape[1]), padding, rows.dtype)
    complete[present] = rows
    return complete


SpeechTextProcessor.register_for_auto_class()
