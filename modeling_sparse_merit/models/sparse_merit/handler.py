# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Handler of a Hugging Face Inference Endpoint: returns the emotion of a recording and its clean speech as base64 WAV.

This file is at the root of a model repository, next to the weights, and needs only torch, transformers, numpy and
soundfile. Invalid payloads return `{"error": ...}`. Paths and URLs in a payload are never opened.
"""

import base64
import binascii
import io
import reprlib
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from transformers import pipeline

EXPECTED_INPUTS = (
    "expected the bytes of an audio file (WAV, FLAC, OGG, MP3), their base64 text, or "
    '{"array": [numbers in -1 to 1], "sampling_rate": Hz}; paths and URLs are not opened'
)
PARAMETERS = ("tasks", "top_k", "min_score", "return_segments")
MAX_AMPLITUDE = 100  # 40 dB above full scale: larger values are integers that were not scaled


class PayloadError(ValueError):
    """A payload is invalid; the message says what was given and what is expected."""


class EndpointHandler:
    """Handles the requests of an Inference Endpoint.

    Args:
        path: folder of the model repository; the folder of this file by default.

    Usage:
        >>> handler = EndpointHandler("my-model")
        >>> handler({"inputs": Path("call.flac").read_bytes(), "parameters": {"top_k": 1}})
        {'emotion': [{'label': '...', 'score': 0...}], 'audio': 'UklGR...', 'sampling_rate': 16000}
    """

    def __init__(self, path: str = ""):
        self.pipe = pipeline(None, model=str(path) or str(Path(__file__).parent), trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Handles one payload.

        Args:
            data: `inputs` is a recording: the bytes of an audio file, their base64 text (a data URI too), or
                `{"array" or "raw": samples, "sampling_rate": Hz}`; or a list of such recordings. `parameters`, if any,
                holds `tasks` (which of the model's tasks to compute), `top_k` (how many emotions to return),
                `min_score` (an emotion with a lower score is unsure) and `return_segments` (whether to return the
                segments of speech).

        Returns:
            `emotion` (label and score, likeliest first; empty and with a `reason` where there is no speech), `audio`
            (base64 of a WAV as long as the recording) and its `sampling_rate` in Hz, each where its task was computed;
            or `error`, a sentence. A list for a list.
        """
        try:
            inputs, parameters = _checked_payload(data, self.pipe.model.config.tasks)
        except PayloadError as error:
            return {"error": str(error)}
        if _is_list_of_recordings(inputs):
            return [self._process(recording, parameters) for recording in inputs]
        return self._process(inputs, parameters)

    def _process(self, recording: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            result = self.pipe(_opened(recording), **parameters)
        except ValueError as error:  # from `_opened`, or from the checks of the pipeline
            return {"error": str(error)}
        if "audio" in result:
            result["audio"] = _encoded_wav(result["audio"], result["sampling_rate"])
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in result.items()}


def _checked_payload(data: Any, tasks: list[str]) -> tuple[Any, dict[str, Any]]:
    """The inputs, unchanged, and the parameters for the pipeline."""
    if not isinstance(data, dict) or data.get("inputs") is None:
        raise PayloadError(f"The payload is {_shown(data)}; expected an object with `inputs`: {EXPECTED_INPUTS}.")
    parameters = data.get("parameters") or {}
    if not isinstance(parameters, dict) or set(parameters) - set(PARAMETERS):
        raise PayloadError(f"`parameters` is {_shown(parameters)}; expected an object with any of {list(PARAMETERS)}.")
    parameters = {name: value for name, value in parameters.items() if value is not None}
    if "tasks" in parameters:
        parameters["tasks"] = _checked_tasks(parameters["tasks"], tasks)
    top_k = parameters.get("top_k", 1)
    if type(top_k) is not int or top_k < 1:
        raise PayloadError(f"`top_k` is {_shown(top_k)}; expected a whole number, 1 or more.")
    min_score = parameters.get("min_score", 0)
    if type(min_score) not in (int, float) or not 0 <= min_score <= 1:
        raise PayloadError(f"`min_score` is {_shown(min_score)}; expected a number from 0 to 1.")
    if type(parameters.get("return_segments", False)) is not bool:
        raise PayloadError(f"`return_segments` is {_shown(parameters['return_segments'])}; expected true or false.")
    return data["inputs"], parameters


def _checked_tasks(given: Any, tasks: list[str]) -> list[str]:
    chosen = [given] if isinstance(given, str) else given
    if not isinstance(chosen, list) or not chosen or any(task not in tasks for task in chosen):
        raise PayloadError(f"`tasks` is {_shown(given)}; expected one or more of {list(tasks)}.")
    return chosen


def _is_list_of_recordings(inputs: Any) -> bool:
    return isinstance(inputs, list) and bool(inputs) and all(isinstance(item, str | dict) for item in inputs)


def _opened(recording: Any) -> bytes | dict[str, Any]:
    """A recording in a form that the pipeline decodes from memory: never text, which it would open as a path."""
    if isinstance(recording, bytes | bytearray):
        return bytes(recording)
    if isinstance(recording, str):
        return _decoded_base64(recording)
    given = (recording.get("array"), recording.get("raw")) if isinstance(recording, dict) else ()
    samples = next((value for value in given if value is not None), None)
    if samples is None:
        raise PayloadError(f"`inputs` is {_shown(recording)}; {EXPECTED_INPUTS}.")
    return {"array": _checked_samples(samples), "sampling_rate": recording.get("sampling_rate")}


def _decoded_base64(text: str) -> bytes:
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PayloadError(f"`inputs` is the text {_shown(text)}, which is no base64; {EXPECTED_INPUTS}.") from error


def _checked_samples(samples: Any) -> np.ndarray:
    """Numbers as float32. JSON may write 1.0 as 1, so integers are amplitudes as well, never 16-bit samples."""
    try:
        array = np.asarray(samples)
    except ValueError:  # lists of different lengths
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "iuf":
        raise PayloadError(f"The samples of `inputs` are {_shown(samples)}; {EXPECTED_INPUTS}.")
    largest = np.abs(array).max(initial=0)
    if largest > (MAX_AMPLITUDE if array.dtype.kind == "f" else 1):
        raise PayloadError(f"The samples of `inputs` reach {largest:g}; {EXPECTED_INPUTS}.")
    return array.astype(np.float32)


def _encoded_wav(waveform: np.ndarray, sampling_rate: int) -> str:
    """Base64 of a mono WAV of (samples,): 16-bit, or 32-bit float where full scale (+-1) is exceeded."""
    subtype = "PCM_16"
    if np.abs(waveform).max() > 1:
        subtype = "FLOAT"
    else:
        waveform = np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sampling_rate, format="WAV", subtype=subtype)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _shown(value: Any) -> str:
    """A value for an error message, abbreviated."""
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        return f"an object with {sorted(map(str, value))[:8]}"
    return reprlib.repr(value)
