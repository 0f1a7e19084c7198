# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pipeline for emotion and ratings from speech and text."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from transformers import Pipeline

from .audio import Channel, check_duration, checked_channel, load_audio, name_of
from .configuration_speech_text import SPEECH, TEXT, speech_text_pipelines
from .cutting import SAMPLING_RATE
from .modeling_sparse_merit import load_checked
from .modeling_speech_text import SpeechTextForEmotion
from .pipeline_sparse_merit import ranked_labels, ratings
from .processing_speech_text import HUB_ARGUMENTS, SpeechTextProcessor
from .tasks import EMOTION

INPUTS = {"audio": SPEECH, "text": TEXT}
TRANSCRIPT = "transcript"
Transcriber = Callable[[Any], Any]
"""A pipeline "automatic-speech-recognition", or a function from float32 (samples,) at 16 kHz to a text."""


class SpeechTextPipeline(Pipeline):
    """
    Recognises the emotion of a clip, and its ratings, from speech, text, or both.

    Usage:
        >>> from modeling_sparse_merit import SpeechTextPipeline
        >>> pipe = SpeechTextPipeline.from_pretrained("my-speech-text-model")  # doctest: +SKIP
        >>> pipe({"audio": "call.flac", "text": "I am so glad to know that."})  # doctest: +SKIP
        {'emotion': [{'label': 'happy', 'score': 0.81}, ...], 'attributes': {'valence': 5.2, 'arousal': 4.1}}

    A clip is processed as a whole: cut long recordings into utterances, each with its text.

    Parameters, at construction or at each call:
        transcriber: Transcribes recordings without a text: a pipeline of `transformers` for
            "automatic-speech-recognition", or a function from float32 (samples,) at 16 kHz to a text. None by default:
            nothing is downloaded unasked. The result then has the `transcript`.
        top_k: How many emotions to return, all of them by default.
        sampling_rate: Sampling rate of bare arrays in Hz.
        channel: "mix" (mean of the channels, the default), "left", "right", or a number from 1.
        batch_size: Number of clips in a batch.
    """

    _load_processor: Any = True
    _load_tokenizer: Any = False
    _load_feature_extractor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    model: SpeechTextForEmotion
    processor: SpeechTextProcessor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # `Pipeline` pads batches with the values of these
        self.feature_extractor, self.tokenizer = self.processor.feature_extractor, self.processor.tokenizer
        # `transformers.pipeline` puts classes there, which cannot be serialised
        self.model.config.custom_pipelines = speech_text_pipelines()

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike, **kwargs: Any) -> "SpeechTextPipeline":
        """
        Loads model and processor.

        Args:
            model: Folder or Hub id.
            kwargs: Arguments for the Hub, `revision`, `token`, `cache_dir` and `local_files_only`; parameters of the
                pipeline; and `device`.

        Raises:
            OSError: There is no checkpoint.
            ValueError: Its weights cannot be used, see `load_checked`.
        """
        where = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        load = partial(SpeechTextForEmotion.from_pretrained, model, output_loading_info=True, **where)
        network = load_checked(load, str(model))
        return cls(model=network.eval(), processor=SpeechTextProcessor.from_pretrained(model, **where), **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """
        Writes model and processor.

        Args:
            save_directory: Folder to write.
            kwargs: As in `PreTrainedModel.save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """
        Processes one clip, or each one of a list or a generator.

        Args:
            inputs: {"audio": recording, "text": text}, or several. The recording has any form that `load_audio`
                accepts. A missing, empty or blank text is one that the clip does not have.
            kwargs: Parameters of the pipeline, for this call.

        Returns:
            A result (see `postprocess`), a list of results, or an iterator over results.

        Raises:
            TypeError: A clip is not a mapping, or an unknown parameter.
            ValueError: A clip has unknown keys, lacks what the model needs, or its recording cannot be used.
        """
        return super().__call__(inputs, **kwargs)

    # `Pipeline` hands each step its own parameters, which the signatures here name.
    def _sanitize_parameters(
        self,
        transcriber: Transcriber | None = None,
        top_k: int | None = None,
        sampling_rate: int | None = None,
        channel: Channel | None = None,
        **unknown: Any,
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}, expected transcriber, top_k, sampling_rate, channel or "
                "batch_size."
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected 1 or more, or None for all emotions.")
        if transcriber is not None and not callable(transcriber):
            raise TypeError(
                f"transcriber is {transcriber!r}, expected a pipeline "
                '`transformers.pipeline("automatic-speech-recognition", ...)` or a function from a waveform to a text.'
            )
        before: dict[str, Any] = {"transcriber": transcriber, "sampling_rate": sampling_rate}
        before["channel"] = None if channel is None else checked_channel(channel)
        return {name: value for name, value in before.items() if value is not None}, {}, {"top_k": top_k}

    def preprocess(  # type: ignore[override]
        self,
        inputs: Mapping[str, Any],
        transcriber: Transcriber | None = None,
        sampling_rate: int | None = None,
        channel: Channel = "mix",
    ) -> dict[str, Any]:
        """
        Loads the recording of a clip, and transcribes it where there is no text.

        Args:
            inputs: A clip.
            transcriber, sampling_rate, channel: As for a call.

        Returns:
            The inputs of the model for a batch of one, and the "transcript", or None.
        """
        self._check_clip(inputs)
        audio, text, transcript = inputs.get("audio"), inputs.get("text"), None
        waveform = None
        if audio is not None:
            waveform = load_audio(audio, sampling_rate, SAMPLING_RATE, channel)
            check_duration(waveform, SAMPLING_RATE, name_of(audio))
        if waveform is not None and transcriber is not None and not (text or "").strip():
            text = transcript = transcribe(transcriber, waveform)
        sizes = self.model.config.embedding_sizes
        features = self.processor(
            audio=[waveform] if SPEECH in sizes else None,
            text=[text] if TEXT in sizes else None,
            sampling_rate=SAMPLING_RATE,
            return_tensors="pt",
        )
        return {**features, TRANSCRIPT: transcript}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        transcript = model_inputs.pop(TRANSCRIPT)
        outputs = self.model(**model_inputs, return_dict=True)
        return {**{name: outputs.of(name) for name in self.model.tasks}, TRANSCRIPT: transcript}

    def postprocess(self, model_outputs: dict[str, Any], top_k: int | None = None) -> dict[str, Any]:  # type: ignore[override]
        """
        Describes the outputs for a clip.

        Args:
            model_outputs: The output of each task, (1, K).
            top_k: As for a call.

        Returns:
            {task: result}: for a classification [{"label", "score"}, ...], likeliest first; for a regression
            {rating: number}, within their scale; for an embedding (size,). And the `transcript`, if there is one.
        """
        result: dict[str, Any] = {}
        for name, task in self.model.tasks.items():
            output = model_outputs[name][0].float()
            if task.kind == "classification":
                scores = ranked_labels(task.describe(self.model.config)["labels"], output.softmax(-1))
                result[name] = scores[:top_k] if name == EMOTION else scores
            else:
                result[name] = ratings(task, output) if task.kind == "regression" else output.numpy()
        transcript = model_outputs[TRANSCRIPT]
        return result if transcript is None else {**result, TRANSCRIPT: transcript}

    def _check_clip(self, clip: Any) -> None:
        if not isinstance(clip, Mapping):
            raise TypeError(f'A clip is of type {type(clip).__name__}; expected {{"audio": ..., "text": ...}}.')
        own = [name for name, modality in INPUTS.items() if modality in self.model.config.embedding_sizes]
        if unknown := [name for name in clip if name not in INPUTS]:
            raise ValueError(f"A clip has the keys {unknown}; expected some of {own}.")
        if not any(clip.get(name) is not None for name in own):
            raise ValueError(f"A clip has the keys {list(clip)} without a value for the model; expected {own}.")


def transcribe(transcriber: Transcriber, waveform: np.ndarray) -> str:
    """
    The text of a recording.

    Args:
        transcriber: As for [`SpeechTextPipeline`].
        waveform: float32 (samples,) at 16 kHz.

    Raises:
        TypeError: The transcriber returned something else than a text.
    """
    is_pipeline = isinstance(transcriber, Pipeline)
    spoken = transcriber({"array": waveform, "sampling_rate": SAMPLING_RATE} if is_pipeline else waveform)
    text = spoken.get("text") if isinstance(spoken, Mapping) else spoken
    if not isinstance(text, str):
        raise TypeError(f"The transcriber returned {spoken!r}; expected a text.")
    return text.strip()
