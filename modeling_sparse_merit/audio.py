# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The one gate for every recording: whatever its form, it becomes mono float32, or an error says what is wrong and how
to mend it. Files are decoded with soundfile (WAV, FLAC, OGG, MP3) and resampled with soxr.
"""

import io
import os
import re
import uuid
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

try:  # only files and other rates need these, and a checkpoint must load without them
    import soundfile
    import soxr
except (ImportError, OSError):
    soundfile = soxr = None

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
MAX_CHANNELS = 32
RATES = (1_000, 1_000_000)  # Hz; a few samples at 1 Hz would be hours
# What writers put for the size of a WAV that they stream: nothing, all ones, or the largest that their type holds.
STREAMED_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
WRITE_BLOCK = 1 << 16  # libsndfile crashes on Vorbis files that are written in one large piece


def load_audio(recording: Any, sampling_rate: int | None = None, target_sampling_rate: int = 16_000) -> np.ndarray:
    """Reads a recording, whatever its form, as mono float32 (samples,) at `target_sampling_rate` Hz, full scale +-1.

    Args:
        recording: a path; the bytes of a file; an open binary file; an array or tensor, (samples,) or with channels on
            either axis; {"array", "sampling_rate"} or {"raw", "sampling_rate"}; {"bytes", "path"} (bytes first); or a
            torchcodec decoder as `datasets` returns it. Integers are scaled by the range of their type.
        sampling_rate: rate of a bare array in Hz. Anything else brings its own.
        target_sampling_rate: rate of the result in Hz.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the recording is empty, cut short, undecodable, not finite, of an unknown form, without a rate, or
            at a rate below 1 kHz or above 1 MHz.
    """
    waveform, rate = read_audio(recording, sampling_rate)
    return resample(waveform, rate, target_sampling_rate)


def read_audio(recording: Any, sampling_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Like `load_audio`, at the recording's own rate: mono float32 (samples,) and that rate in Hz."""
    name = _name_of(recording)
    samples, rate = _samples_and_rate(recording, sampling_rate, name)
    if sampling_rate is not None and rate != sampling_rate:
        raise ValueError(f"{name} is at {rate} Hz, but `sampling_rate={sampling_rate}` was given. Leave it out.")
    waveform = _mono(as_float32(samples, name), name)
    if waveform.size == 0:
        raise ValueError(f"{name} is empty: it holds no samples.")
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name} holds NaN or infinite samples. Repair it, for example with `numpy.nan_to_num`.")
    return waveform, _checked_rate(rate, name)


def resample(waveform: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Resamples float32 (samples,) from `source_rate` to `target_rate`, both in Hz, with soxr's highest quality."""
    source_rate, target_rate = _checked_rate(source_rate, "The source"), _checked_rate(target_rate, "The target")
    if source_rate == target_rate:
        return waveform
    _require_codecs()
    resampled = soxr.resample(waveform, source_rate, target_rate, quality="VHQ")
    if len(resampled) == 0:
        raise ValueError(f"{len(waveform)} samples at {source_rate} Hz are less than one sample at {target_rate} Hz.")
    return resampled


def write_audio(path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int) -> None:
    """Writes mono (samples,) to `path`; its ending names the format (.wav, .flac, .ogg, .mp3).

    WAV and FLAC hold 16 bits. A WAV that exceeds full scale (+-1) is written in 32-bit float, so nothing is clipped.
    The file appears whole or not at all: it is written under another name in the same folder, then renamed.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: unknown ending; empty or not finite; beyond full scale in a format that would clip it (FLAC).
    """
    _require_codecs()
    path = Path(path)
    waveform, rate = read_audio(np.asarray(waveform), sampling_rate)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: the folder {path.parent} does not exist. Create it first.")
    samples, file_format, subtype = _encoded(waveform, path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with soundfile.SoundFile(partial, "w", rate, 1, subtype, format=file_format) as file:
            for start in range(0, len(samples), WRITE_BLOCK):
                file.write(samples[start : start + WRITE_BLOCK])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def as_float32(samples: Any, name: str = "The recording") -> np.ndarray:
    """Any array, tensor or list of numbers as float32 of the same shape; integers scaled to [-1, 1) by their type's
    range.

    Raises:
        ValueError: booleans, text, complex numbers or ragged lists; 64-bit integers, whose full scale nobody can know.
    """
    if hasattr(samples, "detach"):  # a tensor; numpy knows no bfloat16
        samples = samples.detach().cpu()
        samples = samples.float() if samples.is_floating_point() else samples
    try:
        samples = np.asarray(samples)
    except ValueError as error:
        raise ValueError(f"{name} is not one array: {error}") from error
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == "f" or samples.size == 0:
        return samples.astype(np.float32, copy=False)
    if kind not in "iu" or bits > 32:
        raise ValueError(
            f"{name} has samples of type {samples.dtype}; expected floats in [-1, 1], or integers of 8 to 32 bits, "
            "whose type tells full scale. Convert them first, for example `array.astype(numpy.int16)`."
        )
    half = 2.0 ** (bits - 1)
    return ((samples - (half if kind == "u" else 0.0)) / half).astype(np.float32)


def _name_of(recording: Any) -> str:
    """What errors call the recording: its path where it has one, else its form."""
    if isinstance(recording, str | os.PathLike):
        return str(recording)
    if isinstance(recording, dict):
        return str(recording.get("path") or "The recording")
    return str(getattr(recording, "name", None) or "The recording")


def _samples_and_rate(recording: Any, sampling_rate: int | None, name: str) -> tuple[Any, int]:
    """Samples as they come and their rate, by the form of the recording."""
    if isinstance(recording, str | os.PathLike):
        return _decode_path(recording)
    if isinstance(recording, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(recording), name)
    if isinstance(recording, dict):
        return _from_dict(recording, sampling_rate, name)
    if hasattr(recording, "get_all_samples"):  # torchcodec's AudioDecoder
        decoded = recording.get_all_samples()
        return decoded.data, decoded.sample_rate
    if hasattr(recording, "read"):
        return _decode(recording if recording.seekable() else io.BytesIO(recording.read()), name)
    if not (isinstance(recording, list | tuple) or hasattr(recording, "__array__")):
        raise ValueError(
            f"Cannot read a recording from {type(recording).__name__}; give a path, bytes, array or dict."
        )
    if sampling_rate is None:
        raise ValueError(f"{name} is a bare array: say its rate in Hz, `sampling_rate=...`.")
    return recording, sampling_rate


def _from_dict(recording: dict, sampling_rate: int | None, name: str) -> tuple[Any, int]:
    for key in ("array", "raw"):
        if recording.get(key) is not None:
            rate = recording.get("sampling_rate") or sampling_rate
            return _samples_and_rate(recording[key], rate, name)
    if recording.get("bytes") is not None:
        return _decode(io.BytesIO(recording["bytes"]), name)
    if recording.get("path") is not None:
        return _decode_path(recording["path"])
    raise ValueError(
        f"A dict must hold `array` (or `raw`) and `sampling_rate`, or `bytes`, or `path`; got {sorted(recording)}."
    )


def _decode_path(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", str(path)):
        raise ValueError(f"{path} is a URL, and nothing is fetched here. Download it and give the file's path.")
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {path}.")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder. Give the files in it one by one.")
    with open(path, "rb") as stream:
        return _decode(stream, str(path))


def _decode(stream: BinaryIO, name: str) -> tuple[np.ndarray, int]:
    """Samples (samples, channels) and rate of an encoded file, checked to be whole."""
    _require_codecs()
    stream.seek(0)
    if stream.read(4) == b"RIFF":
        stream = _whole_wav(stream, name)
    stream.seek(0)
    try:
        with soundfile.SoundFile(stream) as file:
            promised, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"Cannot decode {name}: {error.error_string} It is cut short, damaged or no WAV, FLAC, OGG or MP3; where "
            "it plays elsewhere, convert it: `ffmpeg -i INPUT output.wav`."
        ) from error
    if _ogg_is_cut(stream) or (len(samples) < promised and not _mp3_length_is_a_guess(stream)):
        raise ValueError(f"{name} is cut short: only {len(samples)} samples can be read. Get the whole file.")
    return samples, rate


def _whole_wav(stream: BinaryIO, name: str) -> BinaryIO:
    """The stream, checked to hold all the data that its header promises; libsndfile reads a truncated WAV silently
    short.

    A header that was written before the length was known is accepted; where it promises nothing, it is corrected.
    """
    end = stream.seek(0, os.SEEK_END)
    position = 12
    while position + 8 <= end:
        stream.seek(position)
        chunk, size = stream.read(4), int.from_bytes(stream.read(4), "little")
        position += 8
        if chunk != b"data":
            position += size + size % 2
            continue
        held = end - position
        if size > held and size not in STREAMED_SIZES:
            raise ValueError(f"{name} is cut short: its header promises {size} bytes of audio, it holds {held}.")
        return _with_data_size(stream, position - 4) if size == 0 and _is_streamed(stream, end) else stream
    return stream


def _is_streamed(stream: BinaryIO, end: int) -> bool:
    """Whether the length of the whole file was left open, so that an empty `data` chunk is one of unknown length."""
    stream.seek(4)
    size = int.from_bytes(stream.read(4), "little")
    return size in STREAMED_SIZES or size + 8 < end


def _with_data_size(stream: BinaryIO, position: int) -> BinaryIO:
    """A copy whose `data` chunk, its size written at `position`, reaches to the end of the file."""
    stream.seek(0)
    content = bytearray(stream.read())
    content[position : position + 4] = (len(content) - position - 4).to_bytes(4, "little")
    return io.BytesIO(content)


def _ogg_is_cut(stream: BinaryIO) -> bool:
    """Whether an OGG file ends within a page (27 bytes, a table of segment sizes, the segments; RFC 3533)."""
    stream.seek(0)
    if stream.read(4) != b"OggS":
        return False
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - 65_307))  # no page is longer
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _mp3_length_is_a_guess(stream: BinaryIO) -> bool:
    """Whether an MP3 file lacks the Xing or Info header that tells its length; libsndfile then guesses."""
    stream.seek(0)
    head = stream.read(10)
    if head[:3] == b"ID3":  # its length is four bytes of seven bits
        tag = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        stream.seek(10 + tag)
        head = stream.read(10)
    is_mpeg = len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0
    first_frame = head + stream.read(64)
    return is_mpeg and b"Xing" not in first_frame and b"Info" not in first_frame


def _mono(samples: np.ndarray, name: str) -> np.ndarray:
    """(samples,) from (samples,), (channels, samples) or (samples, channels): the mean of the channels."""
    if samples.ndim == 1:
        return samples
    if samples.ndim != 2:
        raise ValueError(f"{name} has shape {samples.shape}; expected (samples,), or channels and samples.")
    if 1 in samples.shape or samples.size == 0:
        return samples.reshape(-1)  # (samples,)
    fewer, more = sorted(samples.shape)
    if fewer > MAX_CHANNELS or more <= MAX_CHANNELS:
        raise ValueError(
            f"{name} has shape {samples.shape}, and which axis holds the channels (at most {MAX_CHANNELS}) is not "
            "clear. Average the channels first, `array.mean(axis=...)`."
        )
    channels = samples if samples.shape[0] == fewer else samples.T
    return sum(channels) / fewer  # several times faster than a mean over the short axis


def _checked_rate(rate: Any, name: str) -> int:
    lowest, highest = RATES
    is_number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not is_number or not lowest <= rate <= highest or rate != int(rate):
        raise ValueError(
            f"{name} has a sampling rate of {rate!r}; expected a whole number of Hz from {lowest} to {highest}."
        )
    return int(rate)


def _encoded(waveform: np.ndarray, path: Path) -> tuple[np.ndarray, str, str]:
    """Samples, format and subtype to write; rounded to 16 bits here, so that reading gives them back exactly."""
    file_format = path.suffix[1:].upper()
    if file_format in ("OGG", "MP3"):
        return waveform, file_format, soundfile.default_subtype(file_format)
    if file_format not in ("WAV", "FLAC"):
        raise ValueError(f"Cannot write {path}: its ending must be .wav, .flac, .ogg or .mp3.")
    if np.abs(waveform).max() <= 1:
        return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16), file_format, "PCM_16"
    if file_format == "FLAC":
        raise ValueError(f"{path} would be clipped: FLAC ends at full scale (+-1). Write a .wav, or scale it down.")
    return waveform, file_format, "FLOAT"


def _require_codecs() -> None:
    if soundfile is None or soxr is None:
        raise ImportError("Audio files and resampling need soundfile and soxr: `pip install soundfile soxr`.")
