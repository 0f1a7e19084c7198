# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the gate promises: any recording becomes mono float32, or an error says what is wrong and how to fix it."""

import io
import os
import types

import numpy as np
import pytest
import soundfile
import torch

from modeling_sparse_merit.models.sparse_merit.audio import as_float32, load_audio, read_audio, resample, write_audio

RATE = 16_000


def tone(samples: int = RATE, rate: int = RATE, level: float = 0.5, frequency: float = 440) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)


def encoded(waveform: np.ndarray, rate: int = RATE, file_format: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=file_format, subtype=subtype)
    return buffer.getvalue()


def wav_of_sizes(riff: int, data: int) -> bytes:
    """A one-second 16-bit WAV with these two sizes in its header of 44 bytes."""
    content = bytearray(encoded(tone(), subtype="PCM_16"))
    assert content[36:40] == b"data"
    content[4:8], content[40:44] = riff.to_bytes(4, "little"), data.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize("name, tolerance", [("a.wav", 1e-4), ("a.flac", 1e-4), ("a.ogg", 0.05), ("a.mp3", 0.05)])
def test_files_of_every_format(tmp_path, name, tolerance):
    write_audio(tmp_path / name, tone(), RATE)
    waveform, rate = read_audio(tmp_path / name)
    assert (rate, waveform.dtype, waveform.shape) == (RATE, np.float32, (RATE,))
    np.testing.assert_allclose(waveform[800:-800], tone()[800:-800], atol=tolerance)


def test_every_form_of_a_recording_gives_the_same_samples(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, tone(), RATE)
    content, expected = path.read_bytes(), load_audio(path)
    decoder = types.SimpleNamespace(
        get_all_samples=lambda: types.SimpleNamespace(data=torch.from_numpy(expected)[None], sample_rate=RATE)
    )
    forms = [
        str(path),
        content,
        bytearray(content),
        io.BytesIO(content),
        {"bytes": content, "path": "elsewhere/missing.wav"},
        {"bytes": None, "path": str(path)},
        {"array": expected, "sampling_rate": RATE},
        {"raw": expected.tolist(), "sampling_rate": RATE},
        decoder,
    ]
    for form in forms:
        np.testing.assert_array_equal(load_audio(form), expected)
    for array in (expected, torch.from_numpy(expected), expected.astype(np.float64), expected.tolist()):
        np.testing.assert_array_equal(load_audio(array, sampling_rate=RATE), expected)
    with open(path, "rb") as stream:
        np.testing.assert_array_equal(load_audio(stream), expected)


def test_a_pipe_can_be_read():
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as end:
        end.write(encoded(tone(2000)))
    with os.fdopen(reader, "rb") as end:
        assert len(load_audio(end)) == 2000


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_become_16_khz(rate):
    waveform = load_audio(encoded(tone(rate, rate), rate))
    assert waveform.shape == (RATE,)
    np.testing.assert_allclose(waveform[1600:-1600], tone()[1600:-1600], atol=2e-3)


def test_resampling_removes_what_the_new_rate_cannot_hold():
    too_high = tone(48_000, 48_000, frequency=12_000)
    assert np.abs(resample(too_high, 48_000, RATE)[500:-500]).max() < 1e-4


def test_channels_are_averaged():
    left, right = tone(level=0.4), tone(level=0.2, frequency=300)
    expected = (left + right) / 2
    np.testing.assert_allclose(load_audio(encoded(np.stack([left, right], axis=1))), expected, atol=1e-4)
    six = np.stack([left, right] * 3, axis=1)
    np.testing.assert_allclose(load_audio(encoded(six, file_format="FLAC")), expected, atol=1e-4)
    for array in (np.stack([left, right]), np.stack([left, right], axis=1)):
        np.testing.assert_allclose(load_audio(array, RATE), expected, atol=1e-6)
    for array in (left[None], left[:, None]):
        np.testing.assert_array_equal(load_audio(array, RATE), left)


def test_a_channel_can_be_chosen(tmp_path):
    left, right = tone(level=0.4), tone(level=0.2, frequency=300)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    for recording, rate in ((tmp_path / "a.wav", None), (np.stack([left, right]), RATE)):
        for channel, expected in (
            ("left", left),
            (1, left),
            ("right", right),
            ("2", right),
            ("mix", (left + right) / 2),
        ):
            np.testing.assert_allclose(load_audio(recording, rate, channel=channel), expected, atol=1e-6)
        np.testing.assert_allclose(load_audio(recording, rate, channel="each"), np.stack([left, right]), atol=1e-6)
    np.testing.assert_array_equal(load_audio(left, RATE, channel="left"), left)
    with pytest.raises(ValueError, match="has 1 channel; there is no channel 2"):
        load_audio(left, RATE, channel="right")
    for wrong in (0, -1, "both", "1.5", True, None):
        with pytest.raises(ValueError, match="expected one of mix, left, right, each, or a number from 1"):
            load_audio(left, RATE, channel=wrong)


def test_channels_of_opposite_polarity_are_not_mixed():
    voice = tone()
    with pytest.warns(UserWarning, match="cancel each other.*channel 2, the loudest, was used"):
        np.testing.assert_array_equal(load_audio(np.stack([-0.8 * voice, voice]), RATE), voice)


@pytest.mark.filterwarnings("error")
def test_independent_and_silent_channels_are_mixed_without_a_word():
    noises = np.random.default_rng(0).normal(0, 0.1, (16, RATE)).astype(np.float32)
    np.testing.assert_allclose(load_audio(noises, RATE), noises.mean(axis=0), atol=1e-6)
    for second in (0 * tone(), tone(frequency=300), tone(level=0.01)):
        np.testing.assert_allclose(load_audio(np.stack([tone(), second]), RATE), (tone() + second) / 2, atol=1e-6)
    assert not load_audio(np.zeros((2, RATE), np.float32), RATE).any()


@pytest.mark.parametrize("shape", [(2, 2), (20, 30), (500, 400), (2, 3, 4000)])
def test_an_unclear_channel_axis_is_an_error(shape):
    with pytest.raises(ValueError, match="shape"):
        load_audio(np.zeros(shape, np.float32), RATE)


@pytest.mark.parametrize(
    "dtype, values, expected",
    [
        (np.int16, [-32768, 0, 16384, 32767], [-1, 0, 0.5, 32767 / 32768]),
        (np.int32, [-(2**31), 0, 2**30], [-1, 0, 0.5]),
        (np.uint8, [0, 128, 192], [-1, 0, 0.5]),
        (np.int8, [-128, 0, 64], [-1, 0, 0.5]),
        (np.uint16, [0, 2**15, 2**15 + 2**14], [-1, 0, 0.5]),
        (np.float64, [-1, 0, 0.5], [-1, 0, 0.5]),
        (np.float16, [-1, 0, 0.5], [-1, 0, 0.5]),
    ],
)
def test_numbers_of_every_type_are_scaled_to_full_scale(dtype, values, expected):
    waveform, _ = read_audio(np.array(values, dtype), RATE)
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, np.array(expected, np.float32))


def test_bfloat16_tensors_with_gradients_are_read():
    tensor = torch.tensor([0.5, -0.25], dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(as_float32(tensor), [0.5, -0.25])


@pytest.mark.parametrize("data", [[0, 1, -3], [True, False], ["a", "b"], [1j, 0], [[0.1, 0.2], [0.3]]])
def test_what_has_no_full_scale_is_an_error(data):
    with pytest.raises(ValueError):
        load_audio(data, RATE)


@pytest.mark.parametrize(
    "recording, rate, complaint",
    [
        (np.zeros(100, np.float32), None, "sampling_rate"),
        ({"array": np.zeros(100, np.float32)}, None, "sampling_rate"),
        (np.zeros(100, np.float32), -1, "sampling rate of -1"),
        (np.zeros(100, np.float32), 22050.5, "whole number of Hz"),
        ({"array": np.zeros(100, np.float32), "sampling_rate": np.nan}, None, "whole number of Hz"),
        (np.zeros(100, np.float32), 2_000_000, "from 1000 to 1000000"),
        (encoded(np.zeros(100, np.float32), rate=1), None, "sampling rate of 1; .* from 1000"),
        (
            {"array": np.zeros(100, np.float32), "sampling_rate": 8000},
            16000,
            "at 8000 Hz, but `sampling_rate` is 16000",
        ),
        (np.zeros(0, np.float32), RATE, "empty"),
        (np.array([0.0, np.nan]), RATE, "NaN"),
        (np.array([0.0, np.inf]), RATE, "infinite"),
        (np.array([1e300]), RATE, "infinite"),
        (None, RATE, "NoneType"),
        (3.0, RATE, "float"),
        ({"file": "a.wav"}, None, "'file'"),
        ("https://example.org/a.wav", None, "is a URL"),
        (b"these are no samples", None, "Cannot decode"),
        (b"", None, "empty: 0 bytes"),
        (encoded(np.zeros(0, np.float32)), None, "empty"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_cannot_be_read_is_an_error_that_says_why(recording, rate, complaint):
    with pytest.raises(ValueError, match=complaint):
        load_audio(recording, rate)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.wav"):
        load_audio(tmp_path / "nowhere.wav")
    with pytest.raises(ValueError, match="is a folder"):
        load_audio(tmp_path)
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(ValueError, match="text.wav.*\n?.*ffmpeg"):
        load_audio(tmp_path / "text.wav")
    bad = encoded(np.array([0.1, np.nan], np.float32), subtype="FLOAT")
    with pytest.raises(ValueError, match="corpus/x.wav holds NaN"):
        load_audio({"bytes": bad, "path": "corpus/x.wav"})


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_an_error(tmp_path, file_format, share):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE)
    content = encoded(noise, file_format=file_format)
    path = tmp_path / f"cut.{file_format.lower()}"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="cut short"):
        load_audio(path)


def test_an_mp3_without_a_length_in_its_header_is_no_file_cut_short():
    """Variable bit rate, quiet first: the length that libsndfile guesses from the first frames is far too large."""
    waveform = np.concatenate([np.zeros(8 * RATE), np.random.default_rng(0).normal(0, 0.1, 12 * RATE)])
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    content = buffer.getvalue()
    second_frame = content.index(content[:2], content.index(b"Xing"))
    for whole in (content, content[second_frame:]):
        assert len(load_audio(whole)) == pytest.approx(20 * RATE, rel=0.01)


def test_a_wav_cut_short_says_how_much_is_missing():
    with pytest.raises(ValueError, match=r"promises 32000 bytes of audio, but it has 28800 \(0.10 s are missing"):
        load_audio(wav_of_sizes(36 + 32000, 32000)[:-3200])


@pytest.mark.parametrize("too_many", [1, 2, 8, 36, 44])
def test_a_header_that_promises_a_little_too_much_is_a_warning(too_many):
    with pytest.warns(UserWarning, match=f"promises {32000 + too_many} bytes of audio, but it has 32000"):
        assert len(load_audio(wav_of_sizes(36 + 32000, 32000 + too_many))) == RATE


@pytest.mark.parametrize(
    "riff, data", [(0, 0), (36, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (36 + 32000, 32000)]
)
def test_a_wav_whose_header_was_written_before_its_length_was_known(riff, data):
    np.testing.assert_allclose(load_audio(wav_of_sizes(riff, data)), tone(), atol=1e-4)


def test_chunks_after_the_audio_are_no_audio():
    content = wav_of_sizes(36 + 32000 + 12, 32000) + b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    assert len(load_audio(content)) == RATE
    silent = encoded(np.zeros(0, np.float32)) + b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    silent = silent[:4] + (len(silent) - 8).to_bytes(4, "little") + silent[8:]
    with pytest.raises(ValueError, match="empty"):
        load_audio(silent)


def test_16_bit_samples_come_back_exactly(tmp_path):
    samples = np.array([-32768, -32767, -1, 0, 1, 12345, 32767], np.int16)
    for name in ("a.wav", "a.flac"):
        write_audio(tmp_path / name, samples, RATE)
        assert soundfile.info(tmp_path / name).subtype == "PCM_16"
        np.testing.assert_array_equal(read_audio(tmp_path / name)[0] * 32768, samples)


def test_nothing_is_clipped(tmp_path):
    loud = tone(level=3.0)
    write_audio(tmp_path / "a.wav", loud, RATE)
    assert soundfile.info(tmp_path / "a.wav").subtype == "FLOAT"
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], loud)
    with pytest.raises(ValueError, match="FLAC would clip them"):
        write_audio(tmp_path / "a.flac", loud, RATE)


def test_a_minute_of_vorbis_at_48_khz_can_be_written(tmp_path):
    write_audio(tmp_path / "a.ogg", tone(60 * 48_000, 48_000), 48_000)
    assert soundfile.info(tmp_path / "a.ogg").frames == 60 * 48_000


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, tone(), RATE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="NaN"):
        write_audio(path, np.array([np.nan]), RATE)
    with pytest.raises((ValueError, RuntimeError)):
        write_audio(tmp_path / "a.mp3", tone(), 12_345)  # a rate that MP3 does not know
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.wav"]


def test_where_writing_is_impossible_the_error_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist. Create it"):
        write_audio(tmp_path / "missing" / "a.wav", tone(), RATE)
    with pytest.raises(ValueError, match=".wav, .flac, .ogg or .mp3"):
        write_audio(tmp_path / "a.txt", tone(), RATE)
