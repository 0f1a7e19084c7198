# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Encoded audio to samples: libsndfile through soundfile, and ffmpeg for what libsndfile does not read.

Files are decoded block by block. Memory is that of the samples, once more while blocks are joined, and of a block; no
size that a header promises is allocated.
"""

import io
import math
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .containers import layout_of
from .views import Part

try:  # only files and other rates need these, and a checkpoint must load without them
    import soundfile
    import soxr
except (ImportError, OSError):
    soundfile = soxr = None

BLOCK_SAMPLES = 1 << 17  # of all channels together
BUFFER = 1 << 16  # bytes
LOST_SECONDS = 0.05  # less is a difference of counting between encoders
UNKNOWN_SECONDS = 1e9  # libsndfile's number of samples where it does not know it is larger

SUFFIXES = {
    "AIFF": (".aiff", ".aif", ".aifc"),
    "AU": (".au", ".snd"),
    "AVR": (".avr",),
    "CAF": (".caf",),
    "FLAC": (".flac", ".fla"),
    "HTK": (".htk",),
    "SVX": (".iff", ".8svx", ".svx"),
    "MP3": (".mp3", ".mp2", ".mp1", ".mpga"),
    "OGG": (".ogg", ".oga", ".opus"),
    "PAF": (".paf",),
    "PVF": (".pvf",),
    "RF64": (".rf64",),
    "IRCAM": (".sf", ".ircam"),
    "VOC": (".voc",),
    "W64": (".w64",),
    "WAV": (".wav", ".wave", ".bwf"),
    "NIST": (".sph", ".nist"),
}
"""Endings of libsndfile's formats. Without a header (RAW, SD2), or mostly of other data (MAT4, MAT5): none."""
FFMPEG_SUFFIXES = (
    *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".3g2", ".aac", ".ac3", ".eac3", ".amr", ".awb", ".gsm", ".spx"),
    *(".webm", ".weba", ".mka", ".mkv", ".wma", ".asf", ".avi", ".ape", ".wv", ".tta", ".mpc", ".ra", ".dsf"),
)
"""Endings of further audio files, which ffmpeg reads."""
FFMPEG_FORMATS = (
    "mov,matroska,webm,asf,aac,ac3,eac3,amr,amrnb,amrwb,gsm,avi,mpegts,mpeg,ape,wv,tta,mpc,mpc8,rm,dsf,"
    "wav,w64,aiff,au,caf,flac,mp3,ogg,loas,latm,dts,dtshd,flv,nut,nistsphere,voc"
)
"""Demuxers that may run. Playlists and scripts, which open other files, are not among them."""
_ASF = bytes.fromhex("3026b2758e66cf11")
_MAGIC = (
    (rb".{4}ftyp", "MP4 (M4A)"),
    (rb"\x1aE\xdf\xa3", "Matroska or WebM"),
    (re.escape(_ASF), "WMA"),
    (rb"#!AMR", "AMR"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "AAC"),
    (rb"wvpk", "WavPack"),
    (rb"MAC ", "Monkey's Audio"),
)


@dataclass
class Decoded:
    """Samples of a file.

    Args:
        samples: float32 (samples, channels), full scale +-1.
        sampling_rate: in Hz.
        warnings: sentences about what is unusual in the file.
    """

    samples: np.ndarray
    sampling_rate: int
    warnings: list[str] = field(default_factory=list)


@cache
def audio_suffixes() -> tuple[str, ...]:
    """Endings of the files that the installed libsndfile reads."""
    require_codecs()
    formats = soundfile.available_formats()
    return tuple(suffix for name, suffixes in SUFFIXES.items() if name in formats for suffix in suffixes)


def is_recording(path: Path) -> bool:
    """Whether a file is audio by its ending; hidden files (macOS leaves `._x.wav` next to each `x.wav`) are not."""
    known = path.suffix.lower() in (*audio_suffixes(), *FFMPEG_SUFFIXES)
    return known and not path.name.startswith(".") and path.is_file()


def decode(stream: BinaryIO, name: str) -> Decoded:
    """Decodes a file completely.

    Args:
        stream: a binary file; what cannot be rewound, such as a pipe, is read into memory.
        name: what messages call it.

    Raises:
        ValueError: it is no audio, cut short or damaged, or needs ffmpeg, which is not installed.
        OSError: it cannot be read.
    """
    require_codecs()
    if not stream.seekable():
        stream = io.BytesIO(stream.read())
    layout = layout_of(stream, name)
    try:
        decoded = [_decode_part(part, name) for part in layout.parts]
    except soundfile.LibsndfileError as error:
        return _decode_with_ffmpeg(stream, name, error.error_string)
    return Decoded(*_joined(decoded, name), layout.warnings)


def audio_seconds(path: str | os.PathLike) -> float:
    """Duration of a file in seconds, without decoding it; infinite where only decoding tells.

    Raises:
        ValueError, OSError: as `decode`, as far as the structure of the file tells.
    """
    require_codecs()
    with open(path, "rb") as stream:
        return sum(_part_seconds(part) for part in layout_of(stream, str(path)).parts)


def _part_seconds(part: Part) -> float:
    with _libmpg123.silenced() if part.is_mpeg else nullcontext():
        try:
            with _open_forward(part.stream) as file:
                samples, rate = file.frames - part.skip, file.samplerate
        except soundfile.LibsndfileError:
            return math.inf
    seconds = (samples if part.samples is None else min(samples, part.samples)) / rate
    return seconds if seconds < UNKNOWN_SECONDS else math.inf


def require_codecs() -> None:
    """Raises ImportError where soundfile or soxr is not installed."""
    if soundfile is None or soxr is None:
        raise ImportError("Audio files and resampling need soundfile and soxr: `pip install soundfile soxr`.")


def _decode_part(part: Part, name: str) -> tuple[np.ndarray, int]:
    """Samples (samples, channels) and rate of a part, checked against what its structure accounts for.

    Raises:
        LibsndfileError: libsndfile does not know the format.
    """
    blocks: list[np.ndarray] = []
    error: soundfile.LibsndfileError | None = None
    with _libmpg123.silenced() if part.is_mpeg else nullcontext(), _open_forward(part.stream) as file:
        rate, channels, promised = file.samplerate, file.channels, file.frames
        try:
            while len(block := file.read(max(1, BLOCK_SAMPLES // channels), dtype="float32", always_2d=True)):
                blocks.append(block)
        except soundfile.LibsndfileError as raised:
            error = raised
            blocks.append(_rest(part, sum(map(len, blocks))))
    if part.stream.error is not None:
        raise part.stream.error
    samples = np.concatenate(blocks) if blocks else np.empty((0, channels), np.float32)  # (samples, channels)
    samples = samples[part.skip :][: part.samples]
    seconds = len(samples) / rate
    _check_length(seconds, promised / rate if part.seconds is None else part.seconds, name)
    if error is not None:
        raise ValueError(f"{name} is damaged after {seconds:.2f} s: {error.error_string}") from error
    return samples, rate


def _rest(part: Part, start: int) -> np.ndarray:
    """Samples from `start` to a damage, read in small blocks: a block that meets the damage is lost."""
    part.stream.seek(0)
    blocks = []
    with _open_forward(part.stream) as file, suppress(soundfile.LibsndfileError):
        while len(block := file.read(256, dtype="float32", always_2d=True)):
            blocks.append(block)
    return np.concatenate(blocks)[start:] if blocks else np.empty((0, file.channels), np.float32)


def _check_length(seconds: float, expected: float, name: str) -> None:
    if expected < UNKNOWN_SECONDS and seconds < expected - LOST_SECONDS:
        raise ValueError(
            f"{name} is cut short or damaged: {seconds:.2f} of {expected:.2f} s can be read. Get the whole file."
        )


def _open_forward(stream: io.RawIOBase) -> "soundfile.SoundFile":
    """A file that soundfile reads forward alone: it seeks after every block else, which GSM and others cannot."""
    file = soundfile.SoundFile(io.BufferedReader(stream, BUFFER))
    file.seekable = lambda: False
    return file


def _joined(decoded: list[tuple[np.ndarray, int]], name: str) -> tuple[np.ndarray, int]:
    """One recording out of its parts, at the highest of their rates; mono parts go to all channels."""
    rate = max(part_rate for _, part_rate in decoded)
    channels = max(samples.shape[1] for samples, _ in decoded)
    parts = []
    for samples, part_rate in decoded:
        if samples.shape[1] not in (1, channels):
            raise ValueError(
                f"{name} changes from {samples.shape[1]} to {channels} channels. Cut it into files of one kind first."
            )
        if part_rate != rate and len(samples):
            samples = soxr.resample(samples, part_rate, rate, quality="VHQ")
        parts.append(samples if samples.shape[1] == channels else np.repeat(samples, channels, axis=1))
    return parts[0] if len(parts) == 1 else np.concatenate(parts), rate


# libmpg123 -----------------------------------------------------------------------------------------------------------


class _StderrFilter:
    """Keeps the lines of libmpg123, which name no file, off stderr; those of others appear when decoding is over.

    libsndfile offers no way to turn them off, so the file descriptor itself is redirected, once for all threads.
    """

    LINES = rb"Note: |Warning: Xing|.*libmpg123|\s*$"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._original = -1
        self._file: BinaryIO | None = None

    @contextmanager
    def silenced(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._start()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._file is not None:
                    self._stop(self._file)

    def _start(self) -> None:
        try:
            self._original, self._file = os.dup(2), tempfile.TemporaryFile()
            os.dup2(self._file.fileno(), 2)
        except OSError:  # a program without stderr, or a full disk
            self._file = None

    def _stop(self, file: BinaryIO) -> None:
        os.dup2(self._original, 2)
        file.seek(0)
        if kept := [line for line in file if not re.match(self.LINES, line)]:
            os.write(self._original, b"".join(kept))
        os.close(self._original)
        file.close()
        self._file = None


_libmpg123 = _StderrFilter()


# ffmpeg --------------------------------------------------------------------------------------------------------------


def _decode_with_ffmpeg(stream: BinaryIO, name: str, complaint: str) -> Decoded:
    """Decodes with ffmpeg what libsndfile complained about.

    Raises:
        ValueError: ffmpeg is not installed, or does not read it either, or finds it cut short.
    """
    stream.seek(0)
    head = stream.read(16)
    kind = next((kind for magic, kind in _MAGIC if re.match(magic, head, re.DOTALL)), None)
    what = f"{name} is {kind}, which libsndfile does not read" if kind else f"Cannot decode {name}: {complaint}"
    program = shutil.which("ffmpeg")
    if program is None:
        raise ValueError(
            f"{what.rstrip('.')}. Install ffmpeg, or convert the file where it plays: `ffmpeg -i INPUT output.wav`."
        )
    _check_asf(head, stream, name)
    with _file_of(stream) as path:
        wav, log = _run_ffmpeg(program, path)
        errors = [re.sub(r"^\[[^\]]*\] *", "", line) for line in log.splitlines() if re.search(FFMPEG_ERRORS, line)]
        said = errors[0].replace(f"file:{path}", name).rstrip(".") if errors else "it holds no audio"
    if not wav:
        raise ValueError(f"{what.rstrip('.')}; ffmpeg says: {said}. It is cut short, damaged or no audio file.")
    samples, rate = _decode_part(layout_of(io.BytesIO(wav), name).parts[0], name)
    _check_length(len(samples) / rate, _ffmpeg_seconds(log), name)
    if re.search(FFMPEG_CUT, log):
        raise ValueError(f"{name} is cut short after {len(samples) / rate:.2f} s; ffmpeg says: {said}.")
    return Decoded(samples, rate, [f"{name} is damaged; ffmpeg says: {said}."] if errors else [])


FFMPEG_CUT = "(?i)partial file|ended prematurely|truncated"
FFMPEG_ERRORS = f"{FFMPEG_CUT}|(?i:invalid|error|fail|not found|corrupt|denied)"


def _check_asf(head: bytes, stream: BinaryIO, name: str) -> None:
    """A WMA file states its size in its File Properties Object (ASF specification 01.20.05, section 3.2)."""
    if not head.startswith(_ASF):
        return
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    header = stream.read(BUFFER)
    at = header.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")) + 40
    promised = int.from_bytes(header[at : at + 8], "little") if at >= 40 else 0
    if promised > size:
        raise ValueError(f"{name} is cut short: its header promises {promised} bytes, it holds {size}.")


def _run_ffmpeg(program: str, path: Path) -> tuple[bytes, str]:
    """A WAV of the first audio track in 32-bit float, and what ffmpeg says."""
    command = [program, "-nostdin", "-hide_banner", "-nostats", "-protocol_whitelist", "file,pipe"]
    command += ["-format_whitelist", FFMPEG_FORMATS, "-i", f"file:{path}", "-map", "0:a:0"]
    done = subprocess.run([*command, "-f", "wav", "-c:a", "pcm_f32le", "pipe:1"], capture_output=True)
    return done.stdout if done.returncode == 0 else b"", done.stderr.decode(errors="replace")


def _ffmpeg_seconds(log: str) -> float:
    """Duration that the container states, 0 where it states none for its audio."""
    found = re.search(r"Duration: (\d+):(\d+):([\d.]+)", log)
    if found is None or "Estimating duration" in log or re.search(r"Stream #0:\d.*: Video", log):
        return 0.0
    hours, minutes, seconds = map(float, found.groups())
    return 3600 * hours + 60 * minutes + seconds


@contextmanager
def _file_of(stream: BinaryIO) -> Iterator[Path]:
    """The path of an open file; of a stream in memory a temporary copy, as many formats need a file."""
    path = getattr(stream, "name", None)
    if isinstance(path, str | bytes) and os.path.isfile(path):
        yield Path(os.fsdecode(path)).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="sparse-merit-") as folder:
        copy = Path(folder) / "recording"
        stream.seek(0)
        with copy.open("wb") as file:
            shutil.copyfileobj(stream, file)
        yield copy
