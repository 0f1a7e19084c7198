# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A frozen noisy test set: every clip of a speech table in every condition, with its clean speech, as a speech table.

The mixtures are the very ones that `sparse-merit evaluate` makes of the same tables with the same seed and the same
name of the noise pool, so others can compare on identical samples. They are kept as 24-bit FLAC at 16 kHz.
"""

import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from datasets import Dataset, DatasetInfo, Features, Value
from tqdm import tqdm

from dataset_scripts import table
from modeling_sparse_merit.evaluation.conditions import Clips, Condition, Listener, list_conditions, load_noise
from modeling_sparse_merit.evaluation.configuration import EvaluationConfig
from modeling_sparse_merit.mixing import SAMPLING_RATE
from modeling_sparse_merit.tables import AUDIO, TableError

SOURCES = {"speech": "the speech table", "noise": "the noise table"}
NOT_STATED = "a licence that is not stated"


def rows(config: EvaluationConfig, clips: Clips, noises: dict[str, Dataset]) -> Iterator[dict[str, Any]]:
    """One row for each condition and clip; `audio` and `clean` are FLAC files."""
    for condition in list_conditions(config):
        listener = Listener(clips, condition, noises.get(condition.pool), config.seed)
        for row in tqdm(clips.rows, desc=condition.name, unit="clips", disable=None):
            yield _row(clips.table[row], listener, condition, row)


def _row(speech: dict[str, Any], listener: Listener, condition: Condition, row: int) -> dict[str, Any]:
    example = listener.example(row)
    name = f"{Path(speech.get('source_file') or f'{row:06d}').stem}.{condition.name}.flac"
    return speech | {
        "audio": {"bytes": _flac(example.noisy), "path": name},
        "clean": {"bytes": _flac(example.clean), "path": name},
        "duration": len(example.noisy) / SAMPLING_RATE,
        "condition": condition.name,
        "snr_db": condition.snr_db,
        "mixture": example.mixture,
    }


def _flac(waveform: np.ndarray) -> bytes:
    """(samples,) at 16 kHz as a FLAC file."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLING_RATE, format="FLAC", subtype="PCM_24")
    return file.getvalue()


def build(
    speech: str | Path,
    noise: str | Path,
    scratch: str | Path,
    snr_db: Sequence[float] = (-5, 0, 5, 10),
    seed: int = 0,
    split: str = "test",
    pool: str | None = None,
    clean: bool = True,
) -> Dataset:
    """The noisy table of a speech table and a noise table.

    Args:
        speech: the speech table.
        noise: the noise table.
        scratch: a folder that holds the mixtures for as long as the table is used; they may not fit into memory.
        snr_db: signal-to-noise ratios over the whole clip, in dB.
        seed: another seed is another set of mixtures.
        split: the split of both tables.
        pool: the name of the noise in the conditions; the last part of `noise` by default.
        clean: keep every clip as it is, too.

    Raises:
        TableError: a table is missing, or the settings are not usable.
        ValueError: a recording is silent or damaged.
    """
    pool = pool or Path(noise).resolve().name
    config = _configuration(str(speech), {pool: str(noise)}, split, list(snr_db), seed, clean)
    clips, noises = Clips(config, []), load_noise(config)
    path, schema = Path(scratch) / f"{pool}.arrow", _features(clips.table).arrow_schema
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for row in rows(config, clips, noises):
            writer.write_batch(pa.RecordBatch.from_pylist([row], schema))
    return Dataset.from_file(str(path), info=_origin(clips.table.info, noises[pool].info, pool, seed))


def _configuration(
    speech: str, noise: dict[str, str], split: str, snr_db: list[float], seed: int, clean: bool
) -> EvaluationConfig:
    try:
        return EvaluationConfig(
            speech=[speech],
            noise=noise,
            speech_split=split,
            noise_split=split,
            snr_db=snr_db,
            seed=seed,
            clean=clean,
            clips="all",
        )
    except ValueError as error:
        raise TableError(str(error)) from error


def _features(speech: Dataset) -> Features:
    """The columns of the speech table, and what was done to it."""
    text, numbers = ("condition", "mixture"), ("snr_db",)
    columns = {name: Value("string") for name in text} | {name: Value("float32") for name in numbers}
    return Features({**speech.features, "clean": AUDIO, **columns})


def _origin(speech: DatasetInfo, noise: DatasetInfo, pool: str, seed: int) -> DatasetInfo:
    """What both tables remember, and how they were mixed."""
    mixing = f"Speech in noise ({pool}), mixed once and for all with seed {seed}."
    licences = (speech.license or NOT_STATED, noise.license or NOT_STATED)
    return DatasetInfo(
        description=_join(mixing, _join(speech.description, noise.description, " "), " "),
        license=_join(*licences, " + ") if speech.license or noise.license else "",
        citation=_join(speech.citation, noise.citation, "\n\n"),
    )


def _join(first: str, second: str, sign: str) -> str:
    """Both texts, or the one that there is."""
    return sign.join(dict.fromkeys(text for text in (first, second) if text))


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = table.command_line("A frozen noisy test set of a speech table and a noise table.", prog, SOURCES)
    parser.add_argument("--snr-db", type=float, nargs="+", default=[-5, 0, 5, 10], help="signal-to-noise ratios in dB")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another set of mixtures")
    parser.add_argument("--split", default="test", help="the split of both tables")
    parser.add_argument("--pool", help="the name of the noise in the conditions; its folder's by default")
    parser.add_argument("--no-clean", action="store_true", help="leave out the clips without noise")
    options = parser.parse_args(arguments)
    with table.messages():
        table.check_destination(options.out, options.overwrite)
        mixing = (options.snr_db, options.seed, options.split, options.pool, not options.no_clean)
        with tempfile.TemporaryDirectory() as scratch:
            table.finish(build(options.speech, options.noise, scratch, *mixing), options)


if __name__ == "__main__":
    main()
