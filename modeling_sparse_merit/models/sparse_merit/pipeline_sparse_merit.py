# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The pipelines: any recording in, its emotion and its clean speech out.

`SpeechEnhancementAndEmotionPipeline` joins the three parts that a checkpoint holds. `EmotionPipeline` answers as every
"audio-classification" pipeline does. Every input passes the gate of `audio.py`, so paths, bytes, arrays and `datasets`
rows of any rate and channel count all work alike.
"""

import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .adapters import load_merged, read_adapter_config
from .audio import Channel, check_duration, checked_channel, decode_audio, load_audio, name_of
from .configuration_sparse_merit import custom_pipelines
from .feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from .modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion, damaged_weights
from .sources import locate
from .tasks import EMOTION, ENHANCEMENT, TASKS, RegressionTask

SCORE_FUNCTIONS = {"softmax": lambda logits: logits.softmax(-1), "sigmoid": torch.sigmoid, "none": torch.clone}
"""What `function_to_apply` may name: logits (classes,) to scores (classes,)."""
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")


class SpeechEnhancementAndEmotionPipeline(Pipeline):
    """Cleans speech and recognises its emotion.

    Usage:
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("path/or/hub-id")
        >>> pipe = transformers.pipeline(model="path/or/hub-id", trust_remote_code=True)   # without this package
        >>> result = pipe("call.wav")                       # or bytes, an array, {"array": ..., "sampling_rate": ...}
        >>> result["emotion"][0]                            # {"label": "angry", "score": 0.71}
        >>> result["audio"], result["sampling_rate"]        # float32 (samples,) in the recording's own level, 16000
        >>> results = pipe(["a.wav", "b.flac"], batch_size=2, tasks=("emotion",))

    Parameters, at construction or at each call:
        tasks: what to compute, any of the model's tasks; all of them by default.
        top_k: how many emotions to return, all of them by default.
        sampling_rate: the rate in Hz of bare arrays, which do not carry their own.
        channel: "mix" (mean of the channels, the default), "left", "right", a number from 1, or "each": a list with an
            answer for each channel, its number as `channel`.
        batch_size: how many recordings go through the model at once; the answers do not depend on it, but where the
            encoder has `feat_extract_norm="group"` (WavLM base).
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False
    _parameters = "tasks, top_k, sampling_rate, channel or batch_size"

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.pop("local_files_only", None)  # `transformers.pipeline` leaves it in
        super().__init__(*args, **kwargs)
        # `transformers.pipeline` leaves classes in there, with which the configuration could not be printed
        self.model.config.custom_pipelines = custom_pipelines()

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike, **kwargs: Any) -> "SpeechEnhancementAndEmotionPipeline":
        """Loads model and feature extractor from a folder, a Hub id or the package (`sparse-merit-tiny`).

        Adapters are merged into the checkpoint that they were trained on.

        `revision` (a branch or a commit), `token`, `cache_dir` and `local_files_only` say how it is loaded from the
        Hub; `dtype` ("fp32", the default, "bf16" or "int8") and the pipeline's own arguments may follow, as `device`.

        Raises:
            OSError: nothing loadable is there.
            ValueError: the checkpoint holds another kind of model, lacks weights, or its weights are not finite.
        """
        model, dtype = locate(model), kwargs.pop("dtype", "fp32")
        where = {name: value for name in HUB_ARGUMENTS if (value := kwargs.pop(name, None)) is not None}
        config_class = SparseMeritForSpeechEnhancementAndEmotion.config_class
        model_type = config_class.get_config_dict(model, **where)[0].get("model_type")
        if model_type != config_class.model_type:
            raise ValueError(
                f"{str(model)!r} holds a model of type {model_type!r}, expected {config_class.model_type!r}: "
                "give the folder or the Hub id of a Sparse MERIT checkpoint."
            )
        if (adapters := read_adapter_config(model, **where)) is not None:
            network, loading = load_merged(model, adapters, dtype, **where)
        else:
            network, loading = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
                model, dtype=dtype, output_loading_info=True, **where
            )
        _check_weights(network, loading["missing_keys"], str(model))
        feature_extractor = SparseMeritFeatureExtractor.from_pretrained(model, **where)
        return cls(model=network.eval(), feature_extractor=feature_extractor, **kwargs)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answers about one recording, or each of a list, a generator or a column of `datasets`.

        Returns:
            an answer; a list of answers for a list and for the column of a table; an iterator over answers for a
            generator and for the column of a stream. See `postprocess` for what an answer is.
        """
        if _is_column(inputs):
            answers = self.__call__((recording for recording in inputs), **kwargs)
            return list(answers) if isinstance(inputs, Sized) else answers
        if isinstance(inputs, list | tuple):
            if len(inputs) == 0:
                return []
            inputs = np.asarray(inputs) if isinstance(inputs[0], int | float | np.number) else list(inputs)
        if kwargs.get("channel", self._preprocess_params.get("channel")) == "each":
            return self._answer_channels(inputs, **{**kwargs, "channel": "mix"})
        return super().__call__(inputs, **kwargs)

    def _answer_channels(self, inputs: Any, **kwargs: Any) -> Any:
        """A list with the answer about each channel; of several recordings, a list or an iterator of such lists."""
        if isinstance(inputs, list):
            return [self._answer_channels(recording, **kwargs) for recording in inputs]
        if isinstance(inputs, Iterator):
            return (self._answer_channels(recording, **kwargs) for recording in inputs)
        audio = decode_audio(inputs, kwargs.pop("sampling_rate", self._preprocess_params.get("sampling_rate")))
        tracks = audio.tracks("each")
        arrays = [{"array": track.waveform, "sampling_rate": audio.sampling_rate} for track in tracks]
        answers = super().__call__(arrays, sampling_rate=audio.sampling_rate, **kwargs)
        return [self._of_channel(answer, track.channel) for answer, track in zip(answers, tracks, strict=True)]

    def _of_channel(self, answer: Any, channel: Channel) -> Any:
        return {"channel": channel, **answer}

    def _sanitize_parameters(
        self,
        tasks: Sequence[str] | None = None,
        top_k: int | None = None,
        sampling_rate: int | None = None,
        channel: Channel | None = None,
        **unknown,
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise TypeError(f"Unknown arguments {sorted(unknown)}, expected {self._parameters}.")
        if isinstance(tasks, str):
            tasks = (tasks,)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected 1 or more, or None for all emotions.")
        if channel is not None:
            channel = checked_channel(channel)
        given = ({"sampling_rate": sampling_rate, "channel": channel}, {"tasks": tasks}, {"top_k": top_k})
        return tuple({name: value for name, value in part.items() if value is not None} for part in given)

    def preprocess(self, inputs: Any, sampling_rate: int | None = None, channel: Channel = "mix") -> dict[str, Any]:
        """Reads a recording; the waveform travels along, because its level and length are needed at the end."""
        rate = self.feature_extractor.sampling_rate
        waveform = load_audio(inputs, sampling_rate, rate, channel)
        check_duration(waveform, rate, name_of(inputs))
        features = self.feature_extractor(waveform, sampling_rate=rate, return_tensors="pt")
        return {**features, "waveform": waveform}

    def _forward(self, model_inputs: dict[str, Any], tasks: Sequence[str] | None = None) -> dict[str, Any]:
        waveform = model_inputs.pop("waveform")
        outputs = self.model(**model_inputs, tasks=tasks)
        # A tensor comes first: from it the base class learns how many recordings are in the batch.
        found = {task: outputs.of(task) for task in (tasks or self.model.config.tasks)}
        return {**{task: value for task, value in found.items() if value is not None}, "waveform": waveform}

    def postprocess(self, model_outputs: dict[str, Any], top_k: int | None = None) -> dict[str, Any]:
        """
        Returns what each task found, by its name: of a classification label and score, likeliest first; of a
        regression {rating: number}; an embedding (size,). Of the enhancement `audio` (samples,) and its
        `sampling_rate`.
        """
        waveform = model_outputs.pop("waveform").reshape(-1)  # (samples,) or, out of a batch, (1, samples)
        result = {}
        for task, output in model_outputs.items():
            if TASKS[task].kind == "waveform":
                speech = self.feature_extractor.denormalize(output.float(), [waveform])[0]
                result["audio" if task == ENHANCEMENT else task] = speech
                result["sampling_rate"] = self.feature_extractor.sampling_rate
            elif TASKS[task].kind == "classification":
                result[task] = self._ranked(task, output, "softmax")[:top_k]
            elif TASKS[task].kind == "regression":
                result[task] = _ratings(TASKS[task], output[0])
            else:
                result[task] = output[0].float().numpy()
        return result

    def _ranked(self, task: str, logits: torch.Tensor, function: str) -> list[dict[str, Any]]:
        """Logits (1, classes) of one recording as label and score, the highest first."""
        labels = TASKS[task].classes(self.model.config)
        ranked = SCORE_FUNCTIONS[function](logits[0].float()).sort(descending=True)
        pairs = zip(ranked.indices.tolist(), ranked.values.tolist(), strict=True)
        return [{"label": labels[index], "score": score} for index, score in pairs]


class EmotionPipeline(SpeechEnhancementAndEmotionPipeline):
    """Recognises the emotion alone, and answers as every "audio-classification" pipeline of `transformers`.

    Usage:
        >>> pipe = transformers.pipeline("audio-classification", model="path/or/hub-id", trust_remote_code=True)
        >>> pipe("call.wav", top_k=2)                       # [{"label": "angry", "score": 0.71}, {...}]

    Parameters, at construction or at each call:
        top_k, sampling_rate, channel, batch_size: as in `SpeechEnhancementAndEmotionPipeline`.
        function_to_apply: what turns logits into scores: "softmax" (by default), "sigmoid" or "none".
    """

    _parameters = "top_k, function_to_apply, sampling_rate, channel or batch_size"

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        sampling_rate: int | None = None,
        function_to_apply: str | None = None,
        channel: Channel | None = None,
        **unknown,
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise TypeError(f"Unknown arguments {sorted(unknown)}, expected {self._parameters}.")
        before, during, after = super()._sanitize_parameters((EMOTION,), top_k, sampling_rate, channel)
        if function_to_apply is not None:
            if function_to_apply not in SCORE_FUNCTIONS:
                expected = list(SCORE_FUNCTIONS)
                raise ValueError(f"function_to_apply is {function_to_apply!r}, expected one of {expected}.")
            after["function_to_apply"] = function_to_apply
        return before, during, after

    def _of_channel(self, answer: Any, channel: Channel) -> Any:
        return answer

    def postprocess(
        self, model_outputs: dict[str, Any], top_k: int | None = None, function_to_apply: str = "softmax"
    ) -> list[dict[str, Any]]:
        """Returns label and score of each emotion, likeliest first."""
        return self._ranked(EMOTION, model_outputs[EMOTION], function_to_apply)[:top_k]


def _ratings(task: RegressionTask, predicted: torch.Tensor) -> dict[str, float]:
    """Ratings (K,) of one recording by their names, within their scale."""
    values = predicted.float().clamp(task.minimum, task.maximum).tolist()
    return dict(zip(task.outputs, values, strict=True))


def _is_column(inputs: Any) -> bool:
    """Whether this is a column of `datasets`, which need not be installed: many recordings, not one."""
    from_datasets = type(inputs).__module__.partition(".")[0] == "datasets"
    return from_datasets and isinstance(inputs, Iterable) and not hasattr(inputs, "get_all_samples")


def _check_weights(model: torch.nn.Module, missing: Sequence[str], source: str) -> None:
    if missing:
        raise ValueError(f"{source!r} lacks {len(missing)} weights, such as {', '.join(sorted(missing)[:5])}.")
    if damaged := damaged_weights((*model.named_parameters(), *model.named_buffers())):
        raise ValueError(f"{source!r} holds NaN or Inf in {', '.join(damaged[:5])}: download or train it anew.")
