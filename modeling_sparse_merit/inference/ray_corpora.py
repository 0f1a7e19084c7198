# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Corpora on Ray Data: a pool of actors, each with a model, on one machine or a cluster."""

import math
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import ray
from ray.data import ActorPoolStrategy, Dataset

from .. import BATCH_SECONDS
from .corpora import SCHEMA, CorpusResults, CorpusWorker, Loaded, Source, find_sources, inside, state_of
from .files import target_for

PART_RECORDINGS = 64  # at most, in a task of an actor and in a file of the manifest: a kill repeats these
PART_BYTES = 1 << 28  # of a part with several recordings, which are fetched together
PARTS = 4  # per actor, at least, so that actors finish at about the same time
SOURCES = pyarrow.schema({"path": "string", "base": "string", "bytes": "int64", "version": "string"})


def read_sources(arguments: Sequence[str]) -> Dataset:
    """The recordings in folders, globs and URLs, as a dataset with the columns of `SOURCES`.

    Args:
        arguments: files, folders and globs, as paths or URLs.

    Raises:
        FileNotFoundError: an argument names no recording.
        ValueError: the protocol of a URL is unknown.
    """
    return ray.data.from_arrow(_table(find_sources(arguments)))


def enhance_dataset(
    dataset: Dataset,
    target: str | Path,
    load: Callable[[], Loaded],
    *,
    actors: int = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    batch_seconds: float = BATCH_SECONDS,
    overwrite: bool = False,
    progress: Callable[[float, float], object] | None = None,
) -> Dataset:
    """Enhances the recordings of a dataset on a pool of actors, and writes what `sparse-merit enhance` writes.

    Every actor loads the model once. It processes up to 64 recordings at a time, in batches by seconds of audio,
    stores their files, and then their rows in the manifest, `results.parquet`. Ray Data repeats the work of actors
    and nodes that die; a later call does what a killed one has left. `results.jsonl` is written at the end.

    Args:
        dataset: rows with `path`, the absolute path or URL of a recording, which every node can read, and optionally
            `name`, the name of its results within the target without suffix, by default that of the recording; or the
            rows of `read_sources`.
        target: folder, which every node can write, or URL of the results.
        load: returns the pipeline, the treatment and the settings; called once by each actor, and once here.
            Usually a `partial` of `corpora.load_model`.
        actors: number of actors.
        num_cpus, num_gpus: CPUs and GPUs of each actor; several actors share a GPU if this is a fraction.
        batch_seconds: seconds of audio in one batch, including padding.
        overwrite: process finished recordings again.
        progress: called with the seconds of audio that are done and their estimated total.

    Returns:
        The rows of these recordings in the manifest, including those of earlier runs.

    Raises:
        ValueError: the dataset has no column `path`.
        OSError: a recording of the dataset does not exist, or the target cannot be used.
        ray.exceptions.RayError: results cannot be stored, or actors cannot start.

    Usage:
        >>> dataset = read_sources(["s3://calls/2026/"])  # doctest: +SKIP
        >>> results = enhance_dataset(dataset, "s3://calls/clean", partial(load_model, "base"))  # doctest: +SKIP
    """
    corpus, sources = CorpusResults(target), _sources_of(dataset)
    treatment, settings = load()[1:]
    left = corpus.plan(sources, settings, treatment.further_files, overwrite)
    if left:
        tasks = ray.data.from_arrow(_parts(left, actors)).map_batches(
            _Actor,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=actors),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            fn_constructor_kwargs={"target": corpus.target, "load": load, "batch_seconds": batch_seconds},
        )
        size = sum(source.stamp[0] for source in left)
        done_bytes = done_seconds = 0.0
        for batch in tasks.iter_batches(batch_size=None, batch_format="pyarrow"):
            rows = batch.to_pandas()
            done_seconds += rows["seconds"].sum()
            done_bytes += rows.drop_duplicates("path")["bytes"].sum()
            if progress is not None and done_bytes:
                progress(done_seconds, done_seconds * max(1.0, size / done_bytes))
    corpus.finish()
    manifest = corpus.manifest()
    rows = manifest[manifest["path"].isin({source.path for source in sources})]
    return ray.data.from_arrow(pyarrow.Table.from_pandas(rows, SCHEMA, preserve_index=False))


class _Actor:
    """A model on a node."""

    def __init__(self, target: str, load: Callable[[], Loaded], batch_seconds: float):
        self._worker = CorpusWorker(CorpusResults(target), load(), batch_seconds)

    def __call__(self, part: pyarrow.Table) -> pyarrow.Table:
        rows = self._worker.process(_from_table(part), part["part"][0].as_py())
        return pyarrow.Table.from_pylist(rows, SCHEMA)


def _sources_of(dataset: Dataset) -> list[Source]:
    """The recordings of a dataset; those of `read_sources` were listed already."""
    columns = dataset.schema().names
    if "path" not in columns:
        raise ValueError(f"The dataset has the columns {', '.join(columns)}; expected path, and optionally name.")
    if not set(SOURCES.names) <= set(columns):
        dataset = dataset.map_batches(_described, batch_format="pyarrow")
    tables = [pyarrow.table(table).select(SOURCES.names) for table in ray.get(dataset.to_arrow_refs())]
    return list({source.path: source for table in tables for source in _from_table(table)}.values())


def _described(rows: pyarrow.Table) -> pyarrow.Table:
    """Adds names, sizes and versions to the paths of recordings."""
    paths = rows["path"].to_pylist()
    names = rows["name"].to_pylist() if "name" in rows.column_names else [Path(path).stem for path in paths]
    sources = []
    for path, name in zip(paths, names, strict=True):
        named = Path(inside(name))
        sources.append(Source(path, target_for(named.parent, named.name).as_posix(), state_of(path)))
    return _table(sources)


def _parts(sources: Sequence[Source], actors: int) -> list[pyarrow.Table]:
    """Cuts recordings into parts of limited number and size, each with a name."""
    most = min(PART_RECORDINGS, math.ceil(len(sources) / (PARTS * actors)))
    parts: list[list[Source]] = []
    size = 0
    for source in sources:
        size += source.stamp[0]
        if not parts or len(parts[-1]) == most or size > PART_BYTES:
            parts.append([])
            size = source.stamp[0]
        parts[-1].append(source)
    return [_table(part).append_column("part", pyarrow.array([uuid.uuid4().hex] * len(part))) for part in parts]


def _table(sources: Sequence[Source]) -> pyarrow.Table:
    rows = [(source.path, source.base, *source.stamp) for source in sources]
    return pyarrow.Table.from_pylist([dict(zip(SOURCES.names, row, strict=True)) for row in rows], SOURCES)


def _from_table(rows: pyarrow.Table) -> list[Source]:
    return [Source(row["path"], row["base"], (row["bytes"], row["version"])) for row in rows.to_pylist()]
