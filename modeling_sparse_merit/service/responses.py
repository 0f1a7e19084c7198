# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Responses: JSON, or a multipart body with JSON and audio files."""

import base64
import io
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from starlette.responses import Response

from ..models.sparse_merit.audio import SAMPLING_RATE, as_pcm16, encoding_of, resample
from .limits import Refusal
from .tracks import Track

MULTIPART = "multipart/mixed"


def encoded(track: Track, suffix: str) -> bytes:
    """Enhanced speech as a file, as long as the recording and at its rate, with the samples that `enhance` writes.

    Args:
        track: the track, after its last window.
        suffix: "wav" or "flac".

    Raises:
        Refusal: the speech exceeds full scale, which FLAC would clip.
    """
    reader = track.decoded.reader
    waveform = resample(track.enhanced, SAMPLING_RATE, reader.own_rate)[: reader.own_samples]
    waveform = np.pad(waveform, (0, reader.own_samples - len(waveform)))
    try:
        kind, subtype = encoding_of(Path(f"enhanced.{suffix}"), float(np.abs(waveform).max()))
    except ValueError:
        raise Refusal(
            422, "The enhanced speech exceeds full scale, which FLAC would clip: ask for audio=wav."
        ) from None
    file = io.BytesIO()
    samples = as_pcm16(waveform) if subtype == "PCM_16" else waveform
    soundfile.write(file, samples, reader.own_rate, subtype, format=kind)
    return file.getvalue()


def wav_bytes(waveform: np.ndarray) -> bytes:
    """A waveform (samples,) at 16 kHz as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLING_RATE, format="WAV")
    return file.getvalue()


def json_response(body: dict[str, Any], audio: list[bytes]) -> Response:
    """JSON, with audio files as base64.

    Args:
        body: an `Analysis`.
        audio: the file of each result; none without audio.
    """
    for result, file in zip(body["results"], audio, strict=False):
        result["enhanced"] = base64.b64encode(file).decode("ascii")
    return Response(_json(body), media_type="application/json")


def multipart_response(body: dict[str, Any], audio: list[bytes], suffix: str) -> Response:
    """A part with JSON, then a part for each file. RFC 2046, section 5.1.3.

    Args:
        body: an `Analysis`; `enhanced` of each result becomes the name of its part.
        audio: the file of each result.
        suffix: "wav" or "flac".
    """
    boundary = secrets.token_hex(16)
    names = [f"enhanced-{number}.{suffix}" for number in range(1, len(audio) + 1)]
    for result, name in zip(body["results"], names, strict=True):
        result["enhanced"] = name
    parts = [(b"Content-Type: application/json", _json(body))]
    for name, file in zip(names, audio, strict=True):
        head = f'Content-Type: audio/{suffix}\r\nContent-Disposition: attachment; filename="{name}"'
        parts.append((head.encode(), file))
    delimiter = f"--{boundary}".encode()
    content = b"".join(delimiter + b"\r\n" + head + b"\r\n\r\n" + part + b"\r\n" for head, part in parts)
    return Response(content + delimiter + b"--\r\n", media_type=f"{MULTIPART}; boundary={boundary}")


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, allow_nan=False).encode()
