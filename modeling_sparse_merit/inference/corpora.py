# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings and results in folders and at URLs that fsspec reads, such as `s3://`, `gs://` and `hf://`.

Recordings are fetched to a temporary folder, processed as by `enhance`, and their files are stored under the target. A
manifest in Parquet then lists them, so that a killed run resumes.
"""

import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import pandas
import pyarrow
from pyarrow import parquet

from .. import BATCH_SECONDS
from ..files import one_line, output_errors, replacing
from ..models.sparse_merit.decoding import FFMPEG_SUFFIXES, audio_suffixes
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from .batching import enhance_recordings
from .files import ENHANCED_SUFFIX, Recording, free_target, stamp_of, target_for
from .results import MANIFEST, RESULTS, Results, Settings, settings_of
from .tracks import Treatment

VERSIONS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified", "updated")
"""Entries of fsspec that change with the content of a file, the most reliable first."""
SCHEMA = pyarrow.schema(
    {
        "path": pyarrow.string(),
        "bytes": pyarrow.int64(),
        "version": pyarrow.string(),
        "base": pyarrow.string(),
        "target": pyarrow.string(),
        "enhanced": pyarrow.string(),
        "seconds": pyarrow.float64(),
        "emotion": pyarrow.string(),
        "error": pyarrow.string(),
        "settings_hash": pyarrow.string(),
        "finished_ns": pyarrow.int64(),
        "record": pyarrow.string(),
    }
)
"""Columns of the manifest.

`path`, `bytes` and `version` identify a recording. `base` and `target` are the enhanced files of the recording and of
the row's channel, relative to the folder of the results, and `enhanced` is the path or URL of the latter. `record` is
the line of `results.jsonl`. A recording that is planned has a `base` only.
"""

Loaded = tuple[SpeechEnhancementAndEmotionPipeline, Treatment, Settings]


@dataclass(frozen=True)
class Source:
    """A recording in a folder or at a URL.

    Args:
        path: its absolute path or URL.
        base: the file of its enhanced speech, relative to the folder of the results.
        stamp: its size in bytes, and its version: an ETag, or the time of its last change.
    """

    path: str
    base: str
    stamp: tuple[int, str]

    @property
    def is_unchanged(self) -> bool:
        """Whether its file is as it was when it was listed."""
        try:
            return state_of(self.path) == self.stamp
        except OSError:
            return False


def is_url(argument: str | Path) -> bool:
    """Whether an argument of a command is a URL, not a path."""
    return "://" in str(argument)


def filesystem_of(place: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Args:
        place: a path or URL.

    Raises:
        ValueError: the protocol is unknown.
        ImportError: the protocol needs a package that is not installed.
    """
    try:
        return fsspec.url_to_fs(place if is_url(place) else str(Path(place).expanduser().absolute()))
    except ValueError as error:
        raise ValueError(
            f"{place} cannot be opened: {one_line(error)}. Give a folder, or a URL such as s3://."
        ) from error


def state_of(path: str) -> tuple[int, str]:
    """Size and version of a file.

    Args:
        path: its path or URL.

    Raises:
        OSError: there is no such file.
    """
    filesystem, name = filesystem_of(path)
    filesystem.invalidate_cache()
    return _state(filesystem.info(name))


def find_sources(arguments: Iterable[str]) -> list[Source]:
    """Finds the recordings in folders, globs and URLs, in order and without repetition.

    Subfolders of a given folder are kept. Hidden files and results (`*.enhanced.wav`) are left out.

    Args:
        arguments: files, folders and globs, as paths or URLs.

    Raises:
        FileNotFoundError: an argument names no recording.
        ValueError: the protocol of a URL is unknown.
    """
    sources: dict[str, Source] = {}
    problems: set[str] = set()
    for argument in arguments:
        matches = list(list_sources(argument, problems))
        if not matches:
            raise FileNotFoundError(
                " ".join([f"No recording found in {argument}: give audio files, folders or globs.", *sorted(problems)])
            )
        for source in matches:
            sources.setdefault(source.path, source)
    return list(sources.values())


def list_sources(argument: str, problems: set[str]) -> Iterator[Source]:
    """Yields the recordings that an argument names.

    Args:
        argument: a file, folder or glob, as a path or URL.
        problems: sentences about links that are not followed are added here.
    """
    filesystem, path = filesystem_of(argument)
    filesystem.invalidate_cache()
    for root in [path] if filesystem.exists(path) else sorted(filesystem.glob(path)):
        for name, info in sorted(filesystem.find(root, detail=True).items()):
            subfolder = inside(name.removeprefix(root)).rpartition("/")[0]
            file = PurePosixPath(name)
            if name != path and not _is_recording(file, subfolder):
                continue
            if _is_local(filesystem) and not Path(name).resolve().is_relative_to(Path(root).resolve()):
                problems.add(f"{name} is a link to a file outside the folder, which is not followed.")
                continue
            base = target_for(Path(subfolder), inside(file.stem)).as_posix()
            yield Source(_named(filesystem, name), base, _state(info))


def inside(name: str) -> str:
    """A relative path that stays within its folder: parts such as `..` are left out.

    Args:
        name: a relative path, possibly from a dataset or from a store whose names may contain `..`.
    """
    parts = [part for part in re.split(r"[/\\]", name.replace("\0", "")) if part not in ("", ".", "..")]
    return "/".join(parts) or "recording"


class CorpusResults:
    """Results of a corpus in a folder or at a URL: enhanced files, and a manifest of Parquet files.

    Files of the manifest are written aside and renamed, or put as a whole, so each is complete or absent. Later rows
    replace earlier ones of the same recording.

    Args:
        target: the folder or URL.

    Raises:
        FileExistsError: the folder holds results without a manifest.

    Usage:
        >>> corpus = CorpusResults("clean_corpus")
        >>> len(corpus.manifest())
        0
    """

    def __init__(self, target: str | Path):
        self._filesystem, folder = filesystem_of(str(target))
        self._folder = folder.rstrip("/")
        self.target = _named(self._filesystem, self._folder)
        self._filesystem.invalidate_cache()
        if self._filesystem.exists(self._path(RESULTS)) and not self._filesystem.exists(self._path(MANIFEST)):
            raise FileExistsError(
                f"{target} holds results of a run without --ray and without URLs: give another folder with --output."
            )

    def manifest(self) -> pandas.DataFrame:
        """The latest rows of each recording, in the order of their paths; columns as in `SCHEMA`."""
        return self._latest(self._parts())

    def plan(
        self,
        sources: Sequence[Source],
        settings: Settings,
        further_files: Sequence[Callable[[Path], Path]] = (),
        overwrite: bool = False,
    ) -> list[Source]:
        """The recordings that are left to do, by an anti-join with the manifest, with the names of their results.

        A recording keeps the name that it has in the manifest. Names of others are entered into the manifest; those
        that are taken are numbered: `x-2.enhanced.wav`.

        Args:
            sources: the recordings.
            settings: settings of this run; results of other settings do not count.
            further_files: functions from the path of an enhanced file to those of further files.
            overwrite: process finished recordings again.
        """
        manifest = self.manifest()
        names = dict(zip(manifest["path"], manifest["base"], strict=True))
        taken = {name.casefold() for name in [*manifest["base"], *manifest["target"].dropna()]}
        new = []
        for source in sources:
            if source.path not in names:
                free = free_target(Path(inside(source.base)), lambda path: path.as_posix().casefold() not in taken)
                names[source.path] = free.as_posix()
                taken.add(free.as_posix().casefold())
                new.append(replace(source, base=free.as_posix()))
        if new:  # a killed run may leave files of these names, which the next run replaces
            self.add([_keys(source) | {"finished_ns": 0} for source in new])
        placed = [replace(source, base=names[source.path]) for source in sources]
        return placed if overwrite else _anti_join(placed, self._done(manifest, settings, further_files))

    def add(self, rows: Sequence[Mapping[str, Any]], name: str | None = None) -> None:
        """Adds rows as a file of the manifest.

        Args:
            rows: the rows; missing columns are null.
            name: name of the file without suffix; a new one by default.
        """
        self._write(pyarrow.Table.from_pylist(list(rows), SCHEMA), name or uuid.uuid4().hex)

    def rows_of(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file of the manifest; none if there is no such file.

        Args:
            name: name of the file without suffix.
        """
        self._filesystem.invalidate_cache()
        return self._read([self._path(f"{MANIFEST}/{name}.parquet")]).to_pylist()

    def put(self, local: Path, name: str) -> str:
        """Stores a file under the target, completely or not at all; returns its path or URL.

        Args:
            local: the file.
            name: its path relative to the target.
        """
        path = self._path(name)
        if _is_local(self._filesystem):
            with output_errors():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                with replacing(Path(path)) as temporary:
                    shutil.copyfile(local, temporary)
        else:
            self._filesystem.put_file(str(local), path)  # object stores show a file when it is complete
        return _named(self._filesystem, path)

    def finish(self) -> None:
        """Writes `results.jsonl` from the manifest, and merges the files of the manifest into one."""
        parts = self._parts()
        if not parts:
            return
        latest = self._latest(parts)
        with TemporaryDirectory() as folder:
            local = Path(folder, RESULTS)
            local.write_text("".join(f"{record}\n" for record in latest["record"].dropna()), encoding="utf-8")
            self.put(local, RESULTS)
        if len(parts) > 1:
            self._write(pyarrow.Table.from_pandas(latest, SCHEMA, preserve_index=False), uuid.uuid4().hex)
            for path in parts:  # a kill leaves the same rows in two files, of which one counts
                with suppress(FileNotFoundError):
                    self._filesystem.rm_file(path)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _parts(self) -> list[str]:
        self._filesystem.invalidate_cache()
        files = self._filesystem.find(self._path(MANIFEST))
        return [path for path in files if path.endswith(".parquet") and not PurePosixPath(path).name.startswith(".")]

    def _read(self, paths: Iterable[str]) -> pyarrow.Table:
        tables = [SCHEMA.empty_table()]
        for path in paths:
            with suppress(FileNotFoundError), self._filesystem.open(path, "rb") as file:
                tables.append(parquet.read_table(file, schema=SCHEMA))
        return pyarrow.concat_tables(tables)

    def _write(self, rows: pyarrow.Table, name: str) -> None:
        with TemporaryDirectory() as folder:
            local = Path(folder, "rows.parquet")
            parquet.write_table(rows, local)
            self.put(local, f"{MANIFEST}/{name}.parquet")

    def _latest(self, parts: Sequence[str]) -> pandas.DataFrame:
        rows = self._read(parts).to_pandas()
        rows = rows[rows["finished_ns"] == rows.groupby("path")["finished_ns"].transform("max")]
        return rows.sort_values(["path", "target"]).drop_duplicates(["path", "target"]).reset_index(drop=True)

    def _done(
        self, manifest: pandas.DataFrame, settings: Settings, further_files: Sequence[Callable[[Path], Path]]
    ) -> pandas.DataFrame:
        """Rows of finished recordings, all files of which are stored."""
        done = manifest[manifest["settings_hash"].eq(settings.hash) & manifest["error"].isna()]
        stored = set(self._filesystem.find(self._folder)) if len(done) else set()

        def is_stored(target: str, enhanced: str | None) -> bool:
            files = [Path(target)] if enhanced else []
            files += [path_of(Path(target)) for path_of in further_files]
            return all(self._path(file.as_posix()) in stored for file in files)

        complete = [is_stored(*names) for names in zip(done["target"], done["enhanced"], strict=True)]
        return done[~done["path"].isin(done["path"][[not whole for whole in complete]])]


class CorpusWorker:
    """Processes recordings and stores their results and rows.

    Args:
        corpus: where results are stored.
        loaded: the pipeline, how it treats recordings, and the settings that identify the results.
        batch_seconds: seconds of audio in one batch, including padding.
    """

    def __init__(self, corpus: CorpusResults, loaded: Loaded, batch_seconds: float = BATCH_SECONDS):
        self._corpus, self._batch_seconds = corpus, batch_seconds
        self._pipe, self._treatment, self._settings = loaded

    def process(self, sources: Sequence[Source], name: str | None = None) -> list[dict[str, Any]]:
        """Processes recordings; returns their rows of the manifest, which are stored after all other files.

        Args:
            sources: the recordings, from `CorpusResults.plan`.
            name: name of the file of the manifest; if it exists already, its rows are returned and nothing is done.

        Raises:
            OutputError: nothing more can be written.
            OSError: results cannot be stored.
        """
        if name is not None and (rows := self._corpus.rows_of(name)):
            return rows
        rows = []
        with TemporaryDirectory() as folder, Results(Path(folder, "results"), self._settings) as results:
            places = enumerate(sources)
            recordings = [_fetched(source, Path(folder, str(n)), results.folder / source.base) for n, source in places]
            treatment = vars(self._treatment)
            for _ in enhance_recordings(self._pipe, recordings, self._batch_seconds, results, **treatment):
                pass  # its line is in the folder
            urls = {name: self._corpus.put(path, name) for name, path in _files_in(results.folder)}
            finished = {"finished_ns": time.time_ns()}
            for source, recording in zip(sources, recordings, strict=True):
                rows += [_row(source, recording, record, urls) | finished for record in results.records([recording])]
        self._corpus.add(rows, name)
        return rows


def load_model(model: str | Path, dtype: str = "fp32", device: str | None = None, **treatment: Any) -> Loaded:
    """Loads what a worker needs.

    Args:
        model: name of an embedded checkpoint, folder or Hub id.
        dtype: "fp32", "bf16" or "int8".
        device: torch device; None is the fastest available.
        treatment: fields of `tracks.Treatment`, as for `enhance_recordings`.

    Returns:
        The pipeline, how it treats recordings, and the settings that identify the results.
    """
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(model, device=device, dtype=dtype)
    chosen = Treatment(**treatment)
    return pipe, chosen, settings_of(pipe, **chosen.facts)


def _is_recording(file: PurePosixPath, subfolder: str) -> bool:
    """Whether a file has the suffix of audio, is neither hidden nor in a hidden folder, and is no result."""
    is_hidden = any(part.startswith(".") for part in (*subfolder.split("/"), file.name))
    is_audio = file.suffix.lower() in (*audio_suffixes(), *FFMPEG_SUFFIXES)
    return is_audio and not is_hidden and not file.name.lower().endswith(ENHANCED_SUFFIX)


def _state(info: Mapping[str, Any]) -> tuple[int, str]:
    version = next((info[name] for name in VERSIONS if info.get(name)), "")
    return int(info.get("size") or 0), str(version)


def _is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    return "file" in filesystem.protocol


def _named(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    return path if _is_local(filesystem) else filesystem.unstrip_protocol(path)


def _fetched(source: Source, folder: Path, target: Path) -> Recording:
    """The recording of a source, fetched to a folder unless it is on this computer, or with the reason why not."""
    filesystem, path = filesystem_of(source.path)
    local = Path(path)
    if not _is_local(filesystem):
        local = folder / inside(PurePosixPath(path).name)
        folder.mkdir()
        try:
            filesystem.get_file(path, str(local))
        except Exception as error:  # libraries of object stores have errors of their own
            return Recording(local, target, f"cannot be fetched: {one_line(error)}")
    return Recording(local, target, stamp=stamp_of(local))


def _files_in(folder: Path) -> list[tuple[str, Path]]:
    """The files that a run has written, by their names in the folder; its lines become rows."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(files) if path != folder / RESULTS]


def _keys(source: Source) -> dict[str, Any]:
    return {"path": source.path, "bytes": source.stamp[0], "version": source.stamp[1], "base": source.base}


def _row(source: Source, recording: Recording, record: dict[str, Any], urls: Mapping[str, str]) -> dict[str, Any]:
    """The row of a record, in which local paths become those of the source and of the target."""
    target = record["resume"]["target"]
    record = {**record, "file": source.path, "resume": {**record["resume"], "path": source.path}}
    if "error" in record:
        record["error"] = record["error"].replace(str(recording.path), source.path)
    elif record["enhanced"] is not None:
        record["enhanced"] = urls[target]
    return {
        **_keys(source),
        "target": target,
        **{name: record.get(name) for name in ("enhanced", "seconds", "emotion", "error", "settings_hash")},
        "record": json.dumps(record),
    }


def _anti_join(sources: Sequence[Source], done: pandas.DataFrame) -> list[Source]:
    """The sources that have no row of the same path, size and version."""
    keys = ["path", "bytes", "version"]
    places = pyarrow.Table.from_pylist([{**_keys(source), "place": n} for n, source in enumerate(sources)])
    if not len(done) or not sources:
        return list(sources)
    rows = pyarrow.Table.from_pandas(done, SCHEMA, preserve_index=False)
    left = places.join(rows.select(keys), keys, join_type="left anti")
    return [sources[place] for place in sorted(left["place"].to_pylist())]
