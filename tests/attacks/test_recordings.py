# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings of somebody else: numbers that overflow, headers that lie."""

import io

import numpy as np
import pytest
import soundfile

from modeling_sparse_merit.models.sparse_merit.audio import load_audio


def wav(samples: np.ndarray, subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("subtype, peak", [("FLOAT", 3e38), ("DOUBLE", 1e300), ("FLOAT", 2e12)])
def test_samples_that_overflow_are_refused(subtype, peak):
    samples = np.full((800, 2), 0.1)
    samples[400] = peak
    with pytest.raises(ValueError, match=r"reaches|NaN or infinite"):
        load_audio(wav(samples, subtype))
    with pytest.raises(ValueError, match=r"reaches|NaN or infinite"):
        load_audio({"array": samples.T, "sampling_rate": 16_000})


def test_unusual_scales_are_read():
    samples = np.full(800, 0.1, np.float32)
    samples[400] = 1e11
    assert load_audio(wav(samples)).max() == np.float32(1e11)


@pytest.mark.parametrize("field", [4, 16, 40], ids=["size of the file", "size of the format", "size of the audio"])
@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_numbers_in_a_header_allocate_nothing(field, value):
    content = bytearray(wav(np.zeros(800) + 0.1, "PCM_16"))
    content[field : field + 4] = value.to_bytes(4, "little")
    try:
        assert len(load_audio(bytes(content))) <= 2 * 800
    except ValueError:
        pass
