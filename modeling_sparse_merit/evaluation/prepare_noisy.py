# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Creates a frozen noisy test set: every clip of speech datasets in every condition, with its clean speech.

`sparse-merit evaluate` takes it as its `test_set`. With the same datasets, seed and names of the noise pools it also
creates identical mixtures, so others can compare on the same samples. They are stored as 24-bit FLAC at 16 kHz, each
with file and offset of the noise, both gains, and the SHA-256 of the samples.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetInfo

from ..data import prepare
from ..data.dataset_card import NOT_STATED
from ..data.datasets import DatasetError, read_dataset
from ..data.transmission import TRANSMISSIONS
from .conditions import Clips, Listener, list_conditions, load_noise
from .configuration import EvaluationConfig
from .noisy_set import frozen_features, frozen_rows

SOURCES = {
    "speech": "the speech datasets, separated by commas",
    "noise": "the noise datasets (one pool each), separated by commas",
}


def build(
    speech: str | Path | Sequence[str | Path],
    noise: str | Path | Mapping[str, str | Path],
    scratch: str | Path,
    snr_db: Sequence[float] = (-5, 0, 5, 10),
    seed: int = 0,
    split: str = "test",
    clean: bool = True,
    transmissions: Sequence[str] = (),
) -> Dataset:
    """Mixes speech datasets with noise datasets.

    Args:
        speech: a speech dataset, or several.
        noise: `{name of the pool: noise dataset}`; or one noise dataset, whose pool is named after the last part of
            its path.
        scratch: a folder for the mixtures, which may not fit into memory; keep it as long as the dataset is used.
        snr_db: signal-to-noise ratios over the whole clip, in dB.
        seed: seed of the mixtures.
        split: the split of all datasets.
        clean: include every clip without noise.
        transmissions: names in `data.transmission.TRANSMISSIONS`; every condition is included with each of them too.

    Raises:
        DatasetError: a dataset is missing, or a setting is invalid.
        ValueError: a recording is silent or damaged.
    """
    speech = [speech] if isinstance(speech, str | Path) else list(speech)
    noise = noise if isinstance(noise, Mapping) else name_pools([noise])
    config = _configuration(speech, noise, split, list(snr_db), seed, clean, list(transmissions))
    clips, noises = Clips(config, []), load_noise(config)
    path, schema = Path(scratch) / "mixtures.arrow", frozen_features(clips.dataset.features).arrow_schema
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for condition in list_conditions(config):
            listener = Listener(clips, condition, noises.get(condition.pool), config.seed)
            rows = frozen_rows(clips, condition, listener)
            while some := list(islice(rows, 100)):
                writer.write_batch(pa.RecordBatch.from_pylist(some, schema))
    origins = [read_dataset(one).info for one in speech], [dataset.info for dataset in noises.values()]
    return Dataset.from_file(str(path), info=_origin(*origins, ", ".join(noises), seed))


def name_pools(datasets: Sequence[str | Path], names: Sequence[str] = ()) -> dict[str, str | Path]:
    """Maps names of noise pools to their datasets.

    Args:
        datasets: paths of the noise datasets.
        names: names of the pools; by default the last parts of the paths.

    Raises:
        DatasetError: the number of names differs from that of the datasets, or two names are equal.
    """
    names = list(names) or [Path(path).resolve().name for path in datasets]
    if len(names) != len(datasets) or len(set(names)) != len(names):
        raise DatasetError(f"each of the {len(datasets)} noise datasets needs its own name (--pool); got {names}")
    return dict(zip(names, datasets, strict=True))


def _configuration(
    speech: list[str | Path],
    noise: Mapping[str, str | Path],
    split: str,
    snr_db: list[float],
    seed: int,
    clean: bool,
    transmissions: list[str],
) -> EvaluationConfig:
    try:
        return EvaluationConfig(
            speech=speech,
            noise=dict(noise),
            speech_split=split,
            noise_split=split,
            snr_db=snr_db,
            seed=seed,
            clean=clean,
            transmissions=transmissions,
            clips="all",
        )
    except ValueError as error:
        raise DatasetError(str(error)) from error


def _origin(speech: Sequence[DatasetInfo], noise: Sequence[DatasetInfo], pools: str, seed: int) -> DatasetInfo:
    """Metadata of all datasets, and how they were mixed."""
    infos = [*speech, *noise]
    mixing = f"Speech in noise ({pools}), mixed with seed {seed}."
    licences = [info.license or NOT_STATED for info in infos] if any(info.license for info in infos) else []
    return DatasetInfo(
        description=_join([mixing, *(info.description for info in infos)], " "),
        license=_join(licences, " + "),
        citation=_join([info.citation for info in infos], "\n\n"),
    )


def _join(texts: Sequence[str], sign: str) -> str:
    """Joins texts without repetition."""
    return sign.join(dict.fromkeys(text for text in texts if text))


def main(
    arguments: Sequence[str] | None = None, prog: str | None = None, publish: prepare.Publish | None = None
) -> None:
    """Builds and writes a frozen noisy test set, with the options of the command line.

    Args:
        arguments: command line to parse; that of the process by default.
        prog: name of the command in the help; the script's file name by default.
        publish: function that pushes the dataset to the Hub (`hub.datasets.push_dataset`), for `--push`.
    """
    parser = prepare.command_line("A frozen noisy test set of speech datasets and noise datasets.", prog, SOURCES)
    parser.add_argument("--snr-db", type=float, nargs="+", default=[-5, 0, 5, 10], help="signal-to-noise ratios in dB")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mixtures")
    parser.add_argument("--split", default="test", help="the split of all datasets")
    parser.add_argument("--pool", help="names of the noise datasets; those of their folders by default")
    parser.add_argument("--no-clean", action="store_true", help="leave out the clips without noise")
    parser.add_argument(
        "--transmissions",
        nargs="+",
        choices=list(TRANSMISSIONS),
        default=[],
        metavar="NAME",
        help=f"include every condition with each of these too: {', '.join(TRANSMISSIONS)}",
    )
    with tempfile.TemporaryDirectory() as scratch:

        def build_noisy(options: argparse.Namespace) -> Dataset:
            pools = name_pools(prepare.names(options.noise), prepare.names(options.pool or ""))
            mixing = (options.snr_db, options.seed, options.split, not options.no_clean, options.transmissions)
            return build(prepare.names(options.speech), pools, scratch, *mixing)

        prepare.run(parser, build_noisy, arguments, publish)
