# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Results of `sparse-merit enhance`: a folder with `results.jsonl`, which later runs extend.

A line is appended as soon as a recording is done, and the enhanced file is renamed to its final name right afterwards,
so interrupted runs can resume. At the end, the lines are sorted in the order of the recordings.
"""

import getpass
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..files import OutputError, append_line, output_errors, remove_unfinished, replacing, sha256_of_files
from ..models.sparse_merit.sources import embedded_name
from .files import Recording, free_target

if TYPE_CHECKING:
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline

SCHEMA_VERSION = 1
RESULTS = "results.jsonl"
MANIFEST = "results.parquet"
"""Folder of the manifest of a corpus, which `corpora` writes."""
LOCK, OWNER = ".sparse-merit.lock", ".sparse-merit.owner.json"


@dataclass(frozen=True)
class Settings:
    """Everything that the records depend on except the recordings.

    Args:
        model: name of the model for display.
        facts: digest of the weights, dtypes and options; JSON-serializable.
    """

    model: str
    facts: dict[str, Any]

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of `facts`."""
        return hashlib.sha256(json.dumps([SCHEMA_VERSION, self.facts], sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Line:
    """A line of `results.jsonl`: its position, and the facts that show whether it is up to date.

    Args:
        position: the offset of its first byte.
        source: path of the recording; None for a pipe.
        base: target of the whole recording, relative to the folder.
        target: its enhanced file, possibly of one channel, relative to the folder; None if the recording failed.
        has_audio: whether an enhanced file was written; a model may lack the enhancement task.
        state: settings, size and modification time of the recording.
        lines: number of lines of the recording.
    """

    position: int
    source: str | None
    base: str | None
    target: str | None
    has_audio: bool
    state: tuple[Any, ...]
    lines: int


class Results:
    """The results in a folder, locked by one run at a time.

    Args:
        folder: the folder of the results; created if missing.
        settings: settings of this run.
        overwrite: process finished recordings again, and replace files that belong to no line.

    Raises (on entering):
        OSError: another run uses the folder, it holds the results of a corpus, or it cannot be written.

    Usage:
        >>> from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
        >>> from modeling_sparse_merit.inference.batching import enhance_recordings
        >>> from modeling_sparse_merit.inference.files import find_recordings
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("tiny")
        >>> recordings, _ = find_recordings(["calls/"], output=Path("clean"))
        >>> with Results(Path("clean"), Settings("tiny", {})) as results:
        ...     recordings = results.placed(recordings)
        ...     left = [recording for recording in recordings if not results.is_done(recording)]
        ...     records = list(enhance_recordings(pipe, left, results=results))
        ...     results.sort(recordings)
    """

    def __init__(self, folder: Path, settings: Settings, overwrite: bool = False):
        self.folder, self.settings, self.overwrite = folder, settings, overwrite
        self._journal = folder / RESULTS
        self._lines: dict[str | None, list[Line]] = {}  # by source, the oldest first
        self._writing = threading.Lock()
        self._is_open = True
        self._lock = FileLock(folder / LOCK, blocking=False)

    def __enter__(self) -> "Results":
        if (self.folder / MANIFEST).exists():
            raise FileExistsError(
                f"{self.folder} holds results of a run with --ray or URLs: run it again, or give another folder with "
                "--output."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take()
        self._read()
        return self

    def close(self) -> None:
        """Accepts no more records; unfinished work of threads is discarded and repeated by the next run."""
        with self._writing:
            self._is_open = False

    def __exit__(self, *error: object) -> None:
        self.close()
        with suppress(OSError):
            (self.folder / OWNER).unlink(missing_ok=True)
        self._lock.release()

    def placed(self, recordings: Sequence[Recording]) -> list[Recording]:
        """The recordings with targets that are unique among this run and earlier ones.

        A recording from an earlier run keeps its target.
        """
        every = [line for lines in self._lines.values() for line in lines]
        taken = {name.casefold() for line in every for name in (line.base, line.target) if name is not None}
        placed = []
        for recording in recordings:
            earlier = [line.base for line in self._lines.get(recording.source, ()) if line.base and line.source]
            name = earlier[-1] if earlier else self._free_name(recording.target, taken)
            taken.add(name.casefold())
            placed.append(replace(recording, target=self.folder / name))
        return placed

    def is_done(self, recording: Recording, further_files: Sequence[Callable[[Path], Path]] = ()) -> bool:
        """Whether the folder holds all files of a recording, made with the same model and settings.

        Args:
            recording: the recording.
            further_files: functions from the path of an enhanced file to those of further files.
        """
        if self.overwrite or recording.source is None:
            return False
        state = (self.settings.hash, *recording.stamp)
        lines = [line for line in self._lines.get(recording.source, ()) if line.state == state]
        return (
            bool(lines) and len(lines) == lines[0].lines and all(self._is_there(line, further_files) for line in lines)
        )

    def has_lines(self, recording: Recording) -> bool:
        """Whether there are lines of a recording, made with any file and settings."""
        return bool(self._lines.get(recording.source))

    def add(self, recording: Recording, record: dict[str, Any], target: Path | None = None, lines: int = 1) -> None:
        """Appends the record of a recording.

        Args:
            recording: the recording.
            record: the record, a line of `results.jsonl`.
            target: file of the enhanced speech; None if the recording failed.
            lines: number of lines of the recording, one per processed channel.

        Raises:
            OutputError: nothing more can be written.
        """
        size, modified = recording.stamp
        resume = {
            "path": recording.source,
            "bytes": size,
            "modified_ns": modified,
            "base": self._relative(recording.target),
            "target": None if target is None else self._relative(target),
            "lines": lines,
        }
        facts = {"schema_version": SCHEMA_VERSION, "model": self.settings.model, "settings_hash": self.settings.hash}
        with self._writing, output_errors():
            if not self._is_open:
                raise OutputError("the run has ended")
            position = append_line(self._journal, json.dumps({**record, **facts, "resume": resume}))
            self._keep(position, {**record, **facts, "resume": resume})

    def owns(self, recording: Recording, target: Path) -> bool:
        """Whether a target belongs to a recording or is free.

        Args:
            recording: the recording.
            target: path of an enhanced file.
        """
        name = self._relative(target)
        with self._writing:
            lines = [line for line in self._lines.get(recording.source, ()) if line.target == name]
            return bool(lines) or self.overwrite or not target.exists()

    def records(self, recordings: Iterable[Recording]) -> Iterator[dict[str, Any]]:
        """Yields the records of finished recordings, in their order."""
        return self._read_records(line for recording in recordings for line in self._lines_of(recording))

    def sort(self, recordings: Sequence[Recording]) -> None:
        """Sorts the lines: first those of earlier runs, then those of the recordings.

        Raises:
            OutputError: the disk is full; the lines are kept in the order of completion.
        """
        self._read()
        ordered = {id(line): line for recording in recordings for line in self._lines_of(recording)}
        others = [line for lines in self._lines.values() for line in lines if id(line) not in ordered]
        with output_errors(), replacing(self._journal) as temporary:
            with temporary.open("w", encoding="utf-8") as file:
                for record in self._read_records([*others, *ordered.values()]):
                    file.write(json.dumps(record) + "\n")
        self._read()

    def _take(self) -> None:
        """Locks the folder and removes unfinished files of a killed run."""
        try:
            self._lock.acquire()
        except Timeout as error:
            raise BlockingIOError(f"{self.folder} is in use{_owner(self.folder / OWNER)}: {_WAIT}") from error
        owner = {"user": _user(), "process": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        with output_errors():
            (self.folder / OWNER).write_text(json.dumps(owner))
        remove_unfinished(self.folder)

    def _read(self) -> None:
        """Reads all lines, except an unfinished one of a killed process."""
        self._lines = {}
        content, position = b"\n", 0
        with self._journal.open("ab+") as file:
            file.seek(0)
            for content in file:
                with suppress(ValueError):
                    if isinstance(record := json.loads(content), dict) and "file" in record:
                        self._keep(position, record)
                position += len(content)
            if not content.endswith(b"\n"):  # start the next line on a new line
                file.write(b"\n")

    def _keep(self, position: int, record: dict[str, Any]) -> None:
        """Registers a line; it replaces older ones of the same recording and target, and its failures."""
        resume = record.get("resume") or {}
        source = resume.get("path", os.path.abspath(record["file"]))
        state = (record.get("settings_hash"), resume.get("bytes"), resume.get("modified_ns"))
        base, target, lines = resume.get("base"), resume.get("target"), resume.get("lines", 1)
        line = Line(position, source, base, target, record.get("enhanced") is not None, state, lines)
        self._lines[source] = [other for other in self._lines.get(source, ()) if not _replaces(line, other)]
        self._lines[source].append(line)

    def _lines_of(self, recording: Recording) -> list[Line]:
        """Lines of a recording made with the settings of this run."""
        lines = [line for line in self._lines.get(recording.source, ()) if line.state[0] == self.settings.hash]
        if recording.source is None:
            lines = [line for line in lines if line.base == self._relative(recording.target)]
        return [line for line in lines if line.state == lines[-1].state]

    def _read_records(self, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        with self._journal.open("rb") as file:
            for line in lines:
                file.seek(line.position)
                yield json.loads(file.readline())

    def _is_there(self, line: Line, further_files: Sequence[Callable[[Path], Path]]) -> bool:
        if line.target is None:
            return False
        target = self.folder / line.target
        files = [target] * line.has_audio + [path_of(target) for path_of in further_files]
        return all(file.is_file() for file in files)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _free_name(self, target: Path, taken: set[str]) -> str:
        """A name that no line uses and, without `overwrite`, no file has."""

        def is_free(path: Path) -> bool:
            return self._relative(path).casefold() not in taken and (self.overwrite or not path.exists())

        return self._relative(free_target(target, is_free))


_WAIT = "wait until this run has finished, or give another folder with --output."


def _replaces(line: Line, other: Line) -> bool:
    """Whether a line replaces an older one of the same recording; every pipe is a new recording."""
    is_same = line.source is not None or line.base == other.base
    return is_same and (other.target is None or other.target == line.target)


def _owner(path: Path) -> str:
    """Who uses the folder, and for how long; empty if unknown."""
    try:
        owner = json.loads(path.read_text())
        minutes = (time.time() - owner["started"]) / 60
        return f" by {owner['user']} (process {owner['process']} on {owner['host']}, for {minutes:.0f} min)"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a system without accounts, or an unknown account
        return "unknown"


def settings_of(pipe: "SpeechEnhancementAndEmotionPipeline", **options: Any) -> Settings:
    """Settings of a run: the model, identified by the digest of its folder or its commit on the Hub, its calibration,
    and options.

    Args:
        pipe: a pipeline with a model from a folder or the Hub.
        options: further options that the records depend on, JSON-serializable.
    """
    model = pipe.model
    source, commit = str(model.name_or_path), getattr(model.config, "_commit_hash", None)
    folder, weights = Path(source), commit
    if folder.is_dir():
        weights = sha256_of_files(_model_files(folder))
    name = embedded_name(folder) or (f"{source}@{commit[:12]}" if commit else source)
    dtypes = sorted({str(values.dtype) for values in model.state_dict().values()})
    calibration = {"temperature": pipe.temperature} if pipe.calibration else {}
    added = {"tasks": model.added_tasks} if model.added_tasks else {}
    return Settings(name, {"weights": weights or name, "dtypes": dtypes, **calibration, **added, **options})


def _model_files(folder: Path) -> list[Path]:
    """The files of a model; with adapters, also those of the adapted checkpoint if it is local."""
    from ..models.sparse_merit.adapters import base_of, read_adapter_config

    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")])
    adapters = read_adapter_config(folder)
    if adapters is not None and (base := Path(base_of(adapters, folder))).is_dir():
        files += sorted(base.glob("*.safetensors"))
    return files
