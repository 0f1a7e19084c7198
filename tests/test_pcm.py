# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Raw PCM and WAV headers of streams, read in pieces of any length."""

import io
import struct

import numpy as np
import pytest

from modeling_sparse_merit.inference.pcm import PcmReader, encode_pcm

GUID = bytes.fromhex("000000001000800000aa00389b71")


def wav(content, tag=1, channels=1, rate=16_000, bits=16, size=None, is_extensible=False, before=b""):
    """A WAV, whose data chunk claims `size` bytes."""
    width = bits // 8 * channels
    numbers = (0xFFFE if is_extensible else tag, channels, rate, rate * width, width, bits)
    fmt = struct.pack("<HHIIHH", *numbers)
    if is_extensible:
        fmt += struct.pack("<HHIH", 22, bits, 0, tag) + GUID
    size = len(content) if size is None else size
    return (
        (b"RIFF\xff\xff\xff\xffWAVE" + before + struct.pack("<4sI", b"fmt ", len(fmt)) + fmt)
        + struct.pack("<4sI", b"data", size)
        + content
    )


def read(content, given=None, channel="mix", most=1 << 20):
    """The reader after its end, and all it gave; `most` bytes come at once."""
    source = io.BytesIO(content)
    reader = PcmReader(lambda size: source.read(min(size, most)), "The input", given or {}, channel)
    return reader, np.concatenate([*reader, np.empty(0, np.float32)])


@pytest.mark.parametrize("most", [1, 7, 5000])
def test_raw_pcm_does_not_depend_on_how_it_arrives(most):
    samples = np.arange(-9_000, 9_000, dtype="<i2")
    reader, actual = read(samples.tobytes(), most=most)
    np.testing.assert_array_equal(actual, samples.astype(np.float32) / 32768)
    assert (reader.samples, reader.notes) == (18_000, [])


@pytest.mark.parametrize("is_extensible", [False, True])
@pytest.mark.parametrize(
    ("tag", "bits", "content", "encoding"),
    [
        (1, 8, bytes([0, 128, 192]), "u8"),
        (1, 16, struct.pack("<3h", -32768, 0, 16384), "s16le"),
        (1, 24, b"\0\0\x80" + b"\0\0\0" + b"\0\0\x40", "s24le"),
        (1, 32, struct.pack("<3i", -(2**31), 0, 2**30), "s32le"),
        (3, 32, struct.pack("<3f", -1, 0, 0.5), "f32le"),
    ],
)
def test_a_wav_tells_its_encoding(tag, bits, content, encoding, is_extensible):
    reader, actual = read(wav(content, tag, bits=bits, rate=8_000, is_extensible=is_extensible), most=5)
    assert (reader.format.encoding, reader.format.sampling_rate, reader.format.channels) == (encoding, 8_000, 1)
    np.testing.assert_array_equal(actual, np.float32([-1, 0, 0.5]))


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_wav_of_unknown_length_is_read_to_its_end(size):
    reader, actual = read(wav(bytes(1000), size=size, before=b"LIST\x03\0\0\0abc\0"))
    assert len(actual) == 500 and reader.notes == []


def test_chunks_behind_the_audio_are_no_audio_and_a_cut_wav_is_noted():
    content = bytes(1000)
    assert len(read(wav(content) + b"LIST\x04\0\0\0abcd")[1]) == 500
    reader, actual = read(wav(content, size=33_000))
    assert len(actual) == 500 and reader.notes == ["The input ends 1.00 s before the end given in its header."]


def test_channels_are_mixed_or_chosen():
    content = struct.pack("<6h", 8192, 16384, 0, 16384, -8192, 16384)
    for channel, expected in (("mix", [0.375, 0.25, 0.125]), ("left", [0.25, 0, -0.25]), ("2", [0.5, 0.5, 0.5])):
        np.testing.assert_array_equal(read(content, {"channels": 2}, channel)[1], np.float32(expected))
        np.testing.assert_array_equal(read(wav(content, channels=2), {}, channel)[1], np.float32(expected))


def test_half_a_sample_is_dropped_with_a_note():
    reader, actual = read(bytes(43), {"channels": 2})
    assert len(actual) == 10
    assert reader.notes == ["The input ends within a sample; 3 of its 4 bytes were dropped."]


@pytest.mark.parametrize(
    ("content", "given", "channel", "message"),
    [
        (b"", {}, "mix", "is empty"),
        (b"fLaC" + bytes(99), {}, "mix", "is FLAC, not raw PCM or WAV"),
        (b"\0\0\0\x20ftypM4A " + bytes(99), {}, "mix", "is MP4"),
        (wav(b""), {"sampling_rate": 8_000}, "mix", "sampling rate 16000, but 8000 was given"),
        (wav(b""), {"channels": 2}, "mix", "channels 1, but 2 was given"),
        (wav(b"", tag=3, bits=32), {"encoding": "s16le"}, "mix", "encoding f32le, but s16le was given"),
        (wav(b"", tag=7, bits=8), {}, "mix", "format tag 7"),
        (wav(b"", rate=100), {}, "mix", "sampling rate of 100"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", {}, "mix", "no `fmt ` chunk"),
        (b"RIFF\0\0\0\0WAVEjunk", {}, "mix", "ends before its audio"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0ab", {}, "mix", "chunk of 2 bytes"),
        (bytes(99), {}, "right", "no channel 2"),
        (bytes(99), {}, "each", "one channel"),
        (struct.pack("<5f", 0, 0, 0, np.nan, 0), {"encoding": "f32le"}, "mix", "NaN or infinite"),
    ],
)
def test_what_cannot_be_read_says_why(content, given, channel, message):
    with pytest.raises(ValueError, match=message):
        read(content, given, channel)


def test_samples_are_rounded_and_clipped_to_16_bits():
    written = encode_pcm(np.float32([-2, -1, 0.6 / 32768, 0.5, 1]), "s16le")
    assert struct.unpack("<5h", written) == (-32768, -32768, 1, 16384, 32767)
    assert struct.unpack("<2f", encode_pcm(np.float32([-2, 0.25]), "f32le")) == (-2, 0.25)
