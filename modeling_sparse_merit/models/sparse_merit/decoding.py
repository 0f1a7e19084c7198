# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Decodes audio files with libsndfile (through soundfile), and with ffmpeg if libsndfile does not read the format.

Files are decoded block by block (`open_blocks`), so that memory does not grow with their length. `decode` joins the
blocks: memory is that of the samples, once more while they are joined. No size that a header promises is allocated.
"""

import io
import math
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from .containers import layout_of
from .views import Layout, Part

try:  # only files and other rates need these, and a checkpoint must load without them
    import soundfile
    import soxr
except (ImportError, OSError):
    soundfile = soxr = None

BLOCK_SAMPLES = 1 << 17  # of all channels together
BUFFER = 1 << 16  # bytes
LOST_SECONDS = 0.05  # less is a difference of counting between encoders
UNKNOWN_SECONDS = 1e9  # durations above are libsndfile's value for an unknown length

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
        warnings: sentences about anything unusual in the file.
    """

    samples: np.ndarray
    sampling_rate: int
    warnings: list[str] = field(default_factory=list)


class Blocks:
    """A file that is decoded block by block, from its start each time it is iterated over; a new pass ends the last.

    Iteration yields float32 (samples, channels), full scale +-1, with at most about `BLOCK_SAMPLES` values. It raises
    what `decode` raises, after the blocks before a damage.

    Args:
        sampling_rate: in Hz.
        channels: their number.
        start: begins a pass.
        warnings: sentences about anything unusual in the file; complete once all blocks were read.
    """

    def __init__(
        self,
        sampling_rate: int,
        channels: int,
        start: Callable[[], Generator[np.ndarray, None, None]],
        warnings: list[str],
    ):
        self.sampling_rate, self.channels, self.warnings = sampling_rate, channels, warnings
        self._start = start
        self._pass: Generator[np.ndarray, None, None] | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        self.close()
        self._pass = self._start()
        return self._pass

    def close(self) -> None:
        """Ends the current pass."""
        if self._pass is not None:
            self._pass.close()


@cache
def audio_suffixes() -> tuple[str, ...]:
    """Suffixes of the files that the installed libsndfile reads."""
    require_codecs()
    formats = soundfile.available_formats()
    return tuple(suffix for name, suffixes in SUFFIXES.items() if name in formats for suffix in suffixes)


def is_recording(path: Path) -> bool:
    """Whether a file has the suffix of audio. Hidden files do not count: macOS writes `._x.wav` next to `x.wav`."""
    known = path.suffix.lower() in (*audio_suffixes(), *FFMPEG_SUFFIXES)
    return known and not path.name.startswith(".") and path.is_file()


def decode(stream: BinaryIO, name: str) -> Decoded:
    """Decodes a file completely.

    Args:
        stream: a binary file; one that cannot be rewound, such as a pipe, is copied to a temporary file.
        name: name of the recording in messages.

    Raises:
        ValueError: the file is not audio, is cut short or damaged, or needs ffmpeg, which is not installed.
        OSError: the file cannot be read.
    """
    with open_blocks(stream, name) as blocks:
        samples = list(blocks) or [np.empty((0, blocks.channels), np.float32)]
        return Decoded(np.concatenate(samples), blocks.sampling_rate, blocks.warnings)  # (samples, channels)


@contextmanager
def open_blocks(stream: BinaryIO, name: str) -> Iterator[Blocks]:
    """Opens a file that is decoded block by block, for the duration of the context.

    A concatenation of several files is decoded as one file: at the highest of their rates, with mono parts copied to
    all channels.

    Args:
        stream, name: as `decode` takes them.

    Raises:
        ValueError, OSError: as for `decode`. Damage within the file is raised by the iteration over the blocks.
    """
    require_codecs()
    with ExitStack() as stack:
        stream = stack.enter_context(rewindable(stream))
        layout = layout_of(stream, name)
        try:
            blocks = _blocks_of(layout, name)
        except soundfile.LibsndfileError as error:
            blocks = stack.enter_context(_open_ffmpeg(stream, name, error.error_string))
        yield stack.enter_context(closing(blocks))


@contextmanager
def rewindable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """The stream, or a temporary copy on disk of one that cannot seek."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile(prefix="sparse-merit-") as copy:
        shutil.copyfileobj(stream, copy)
        yield copy


def audio_seconds(path: str | os.PathLike) -> float:
    """Duration of a file in seconds, without decoding it; infinite if it requires decoding.

    Raises:
        ValueError, OSError: as for `decode`, if the structure of the file shows the problem.
    """
    with open(path, "rb") as stream:
        return stream_seconds(stream, str(path))


def stream_seconds(stream: BinaryIO, name: str) -> float:
    """Duration of an open file in seconds, without decoding it; infinite if it requires decoding.

    Args:
        stream: a binary file that can be rewound.
        name: name of the recording in messages.

    Raises:
        ValueError, OSError: as for `decode`, if the structure of the file shows the problem.
    """
    require_codecs()
    return sum(_part_seconds(part) for part in layout_of(stream, name).parts)


def _part_seconds(part: Part) -> float:
    try:
        head = _head_of(part)
    except soundfile.LibsndfileError:
        return math.inf
    samples = head.samples - part.skip
    seconds = (samples if part.samples is None else min(samples, part.samples)) / head.rate
    return seconds if seconds < UNKNOWN_SECONDS else math.inf


def require_codecs() -> None:
    """Checks that soundfile and soxr are installed.

    Raises:
        ImportError: one of them is missing.
    """
    if soundfile is None or soxr is None:
        raise ImportError("Audio files and resampling need soundfile and soxr: `pip install soundfile soxr`.")


def resampled_blocks(
    blocks: Iterable[np.ndarray], source_rate: int, target_rate: int, channels: int = 1
) -> Iterator[np.ndarray]:
    """Resamples consecutive blocks as one signal, with soxr's highest quality and the values of resampling the whole.

    Args:
        blocks: float32 (samples,) or (samples, channels).
        source_rate: their rate in Hz.
        target_rate: rate of the result in Hz.
        channels: number of channels.

    Yields:
        blocks of the same form, some of which may be empty.
    """
    if source_rate == target_rate:
        yield from blocks
        return
    stream, rest = soxr.ResampleStream(source_rate, target_rate, channels, quality="VHQ"), None
    for block in blocks:
        rest = block[:0]
        yield stream.resample_chunk(block)
    if rest is not None:
        yield stream.resample_chunk(rest, last=True)


# libsndfile ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Head:
    """Metadata of a part: sampling rate in Hz, number of channels, samples per channel."""

    rate: int
    channels: int
    samples: int


def _head_of(part: Part) -> _Head:
    """Reads the metadata of a part; raises LibsndfileError if libsndfile does not support the format."""
    with _opened(part) as file:
        return _Head(file.samplerate, file.channels, file.frames)


def _blocks_of(layout: Layout, name: str) -> Blocks:
    """The parts of a file as one recording.

    Raises:
        LibsndfileError: libsndfile does not support the format.
        ValueError: the number of channels changes.
    """
    heads = [_head_of(part) for part in layout.parts]
    rate, channels = max(head.rate for head in heads), max(head.channels for head in heads)
    for head in heads:
        if head.channels not in (1, channels):
            raise ValueError(
                f"{name} has parts with {head.channels} and with {channels} channels. Split it into one file per part."
            )
    start = partial(_joined, list(zip(layout.parts, heads, strict=True)), rate, channels, name)
    return Blocks(rate, channels, start, layout.warnings)


def _joined(parts: list[tuple[Part, _Head]], rate: int, channels: int, name: str) -> Generator[np.ndarray, None, None]:
    """Blocks of all parts, (samples, channels) at `rate`."""
    for part, head in parts:
        size = max(1, BLOCK_SAMPLES * head.rate // (channels * rate))
        for block in resampled_blocks(_part_blocks(part, head, size, name), head.rate, rate, head.channels):
            yield block if head.channels == channels else np.repeat(block, channels, axis=1)


def _part_blocks(part: Part, head: _Head, size: int, name: str) -> Iterator[np.ndarray]:
    """Blocks of a part, in the end checked against what its structure accounts for."""
    skip, count, error = part.skip, 0, None
    try:
        for block in _raw_blocks(part, size):
            block, skip = block[skip:], max(0, skip - len(block))
            block = block if part.samples is None else block[: part.samples - count]
            count += len(block)
            if len(block):
                yield block
    except soundfile.LibsndfileError as raised:
        error = raised
    seconds = count / head.rate
    _check_length(seconds, head.samples / head.rate if part.seconds is None else part.seconds, name)
    if error is not None:
        raise ValueError(f"{name} is damaged after {seconds:.2f} s: {error.error_string}") from error


def _raw_blocks(part: Part, size: int) -> Iterator[np.ndarray]:
    """All that libsndfile reads of a part, in blocks of `size` samples; a LibsndfileError comes behind it."""
    position = 0
    with _opened(part) as file:
        try:
            while len(block := _read(part, file, size)):
                position += len(block)
                yield block
        except soundfile.LibsndfileError:
            yield from _rest(part, position, size)
            raise


def _rest(part: Part, start: int, size: int) -> Iterator[np.ndarray]:
    """Samples from `start` to a damage, in small blocks: a block that meets the damage is lost."""
    position = 0
    with _opened(part) as file, suppress(soundfile.LibsndfileError):
        while len(block := _read(part, file, min(size, start - position) if position < start else 256)):
            position += len(block)
            if position > start:
                yield block


def _check_length(seconds: float, expected: float, name: str) -> None:
    if expected < UNKNOWN_SECONDS and seconds < expected - LOST_SECONDS:
        raise ValueError(
            f"{name} is cut short or damaged: {seconds:.2f} of {expected:.2f} s can be read. Get the whole file."
        )


@contextmanager
def _opened(part: Part) -> Iterator["soundfile.SoundFile"]:
    """A part that soundfile reads forward alone: it seeks after every block else, which GSM and others cannot."""
    part.stream.seek(0)
    reader = io.BufferedReader(part.stream, BUFFER)
    try:
        with _calling_libsndfile(part):
            file = soundfile.SoundFile(reader)
        with file:
            file.seekable = lambda: False
            yield file
    finally:
        reader.detach()  # it would close the stream, which is read again


def _read(part: Part, file: "soundfile.SoundFile", size: int) -> np.ndarray:
    """The next samples (at most `size`, channels), float32."""
    with _calling_libsndfile(part):
        return file.read(size, dtype="float32", always_2d=True)


@contextmanager
def _calling_libsndfile(part: Part) -> Iterator[None]:
    """For a call of libsndfile: libmpg123 prints nothing, and an OSError of the file is raised.

    It spans no `yield` of blocks: stderr belongs to the program between them.
    """
    with _libmpg123.silenced() if part.is_mpeg else nullcontext():
        try:
            yield
        finally:
            if part.stream.error is not None:
                raise part.stream.error


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


@contextmanager
def _open_ffmpeg(stream: BinaryIO, name: str, complaint: str) -> Iterator[Blocks]:
    """Has ffmpeg decode what libsndfile complained about.

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
            f"{what.rstrip('.')}. Install ffmpeg, or convert the file to WAV on another machine: "
            "`ffmpeg -i INPUT output.wav`."
        )
    _check_asf(head, stream, name)
    with _file_of(stream) as path, closing(_Ffmpeg(program, path, name, what.rstrip("."))) as ffmpeg:
        ffmpeg.start()
        yield Blocks(ffmpeg.rate, ffmpeg.channels, ffmpeg.blocks, ffmpeg.warnings)


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


class _Ffmpeg:
    """ffmpeg as it decodes the first audio track of a file to 32-bit float; `close` kills it where it still runs.

    Args:
        program: its path.
        path: of the file, which messages call `name`.
        what: what libsndfile said of the file.
    """

    def __init__(self, program: str, path: Path, name: str, what: str) -> None:
        self._path, self._name, self._what = path, name, what
        self._command = [program, "-nostdin", "-hide_banner", "-nostats", "-protocol_whitelist", "file,pipe"]
        self._command += ["-format_whitelist", FFMPEG_FORMATS, "-i", f"file:{path}", "-map", "0:a:0"]
        self._command += ["-f", "wav", "-c:a", "pcm_f32le", "pipe:1"]
        self._stack = ExitStack()
        self._is_used = False
        self.rate = self.channels = 0
        self.warnings: list[str] = []

    def start(self) -> None:
        """Starts it, and reads rate and channels.

        Raises:
            ValueError: it finds no audio.
        """
        self._log = self._stack.enter_context(tempfile.TemporaryFile())  # a pipe that nobody reads would stop it
        process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=self._log)
        self._process = self._stack.enter_context(process)
        self._stack.callback(process.kill)
        assert process.stdout is not None  # it is a pipe
        self._output = process.stdout
        head = _wav_head(self._output)
        if head is None:
            raise self._refusal(self._finish()[1])
        (self.rate, self.channels), self._is_used = head, False

    def close(self) -> None:
        self._stack.close()

    def blocks(self) -> Generator[np.ndarray, None, None]:
        """Blocks (samples, channels), float32; the log of ffmpeg is checked in the end."""
        if self._is_used:
            self.close()
            self.start()
        self._is_used = True
        size, count = 4 * self.channels, 0  # bytes of a sample of all channels
        while content := self._output.read(max(1, BLOCK_SAMPLES // self.channels) * size):
            whole = len(content) // size
            count += whole
            yield np.frombuffer(content, "<f4", whole * self.channels).reshape(whole, -1).astype(np.float32)
        self._check(count / self.rate)

    def _finish(self) -> tuple[int, str]:
        """Waits for the end; returns the return code and the log."""
        code = self._process.wait()
        self._log.seek(0)
        return code, self._log.read().decode(errors="replace")

    def _check(self, seconds: float) -> None:
        code, log = self._finish()
        if code != 0:
            raise self._refusal(log)
        _check_length(seconds, _ffmpeg_seconds(log), self._name)
        said = self._complaint(log)
        if re.search(FFMPEG_CUT, log):
            raise ValueError(f"{self._name} is cut short after {seconds:.2f} s; ffmpeg says: {said}.")
        self.warnings[:] = [f"{self._name} is damaged; ffmpeg says: {said}."] if said else []

    def _refusal(self, log: str) -> ValueError:
        said = self._complaint(log) or "it holds no audio"
        return ValueError(f"{self._what}; ffmpeg says: {said}. It is cut short, damaged or no audio file.")

    def _complaint(self, log: str) -> str:
        """The first error in a log, without its prefix and full stop; empty where there is none."""
        errors = (re.sub(r"^\[[^\]]*\] *", "", line) for line in log.splitlines() if re.search(FFMPEG_ERRORS, line))
        return next(errors, "").replace(f"file:{self._path}", self._name).rstrip(".")


def _wav_head(stream: IO[bytes]) -> tuple[int, int] | None:
    """Rate and channels of a WAV, which is read up to its samples; None where it ends before them."""
    stream.read(12)
    fmt = b""
    while len(head := stream.read(8)) == 8 and head[:4] != b"data":
        size = int.from_bytes(head[4:], "little")
        content = stream.read(size + size % 2)
        fmt = content if head[:4] == b"fmt " else fmt
    if len(head) < 8 or len(fmt) < 16:
        return None
    return int.from_bytes(fmt[4:8], "little"), int.from_bytes(fmt[2:4], "little")


def _ffmpeg_seconds(log: str) -> float:
    """Duration that the container states, 0 where it states none for its audio."""
    match = re.search(r"Duration: (\d+):(\d+):([\d.]+)", log)
    if match is None or "Estimating duration" in log or re.search(r"Stream #0:\d.*: Video", log):
        return 0.0
    hours, minutes, seconds = map(float, match.groups())
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
