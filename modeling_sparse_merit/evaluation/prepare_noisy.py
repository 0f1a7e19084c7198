# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A frozen noisy test set: every clip of speech datasets in every condition, with its clean speech.

`sparse-merit evaluate` takes it as its `test_set`, and makes the very same mixtures of the same datasets with the same
seed and the same names of the noise pools, so others can compare on identical samples. They are kept as 24-bit FLAC at
16 kHz, each with the noise's file and offset, both gains, and the SHA-256 of the samples.
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
    "noise": "the noise datasets, separated by commas, each a pool of noise",
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
    """The noisy dataset of speech datasets and noise datasets.

    Args:
        speech: a speech dataset, or several.
        noise: `{name: noise dataset}`, each a pool of noise, with its name in the conditions; or one noise dataset,
            whose name is the last part of its path.
        scratch: a folder that holds the mixtures for as long as the dataset is used; they may not fit into memory.
        snr_db: signal-to-noise ratios over the whole clip, in dB.
        seed: another seed is another set of mixtures.
        split: the split of all datasets.
        clean: keep every clip as it is, too.
        transmissions: names in `data.transmission.TRANSMISSIONS`; everything is kept after each of them, too.

    Raises:
        DatasetError: a dataset is missing, or the settings are not usable.
        ValueError: a recording is silent or damaged.
    """
    speech = [speech] if isinstance(speech, str | Path) else list(speech)
    noise = noise if isinstance(noise, Mapping) else name_pools([noise])
    config = _configuration(speech, noise, split, list(snr_db), seed, clean, list(transmissions))
    clips, noises = Clips(config, []), load_noise(config)
    path, schema = Path(scratch) / "mixtures.arrow", frozen_features(clips.table.features).arrow_schema
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for condition in list_conditions(config):
            listener = Listener(clips, condition, noises.get(condition.pool), config.seed)
            rows = frozen_rows(clips, condition, listener)
            while some := list(islice(rows, 100)):
                writer.write_batch(pa.RecordBatch.from_pylist(some, schema))
    origins = [read_dataset(one).info for one in speech], [table.info for table in noises.values()]
    return Dataset.from_file(str(path), info=_origin(*origins, ", ".join(noises), seed))


def name_pools(tables: Sequence[str | Path], names: Sequence[str] = ()) -> dict[str, str | Path]:
    """Noise datasets by the names of their pools, which are the last parts of their paths where none are given.

    Raises:
        DatasetError: there are not as many names as tables, or two are alike.
    """
    names = list(names) or [Path(path).resolve().name for path in tables]
    if len(names) != len(tables) or len(set(names)) != len(names):
        raise DatasetError(f"each of the {len(tables)} noise datasets needs a name of its own (--pool), not {names}")
    return dict(zip(names, tables, strict=True))


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
    """What all datasets remember, and how they were mixed."""
    infos = [*speech, *noise]
    mixing = f"Speech in noise ({pools}), mixed once and for all with seed {seed}."
    licences = [info.license or NOT_STATED for info in infos] if any(info.license for info in infos) else []
    return DatasetInfo(
        description=_join([mixing, *(info.description for info in infos)], " "),
        license=_join(licences, " + "),
        citation=_join([info.citation for info in infos], "\n\n"),
    )


def _join(texts: Sequence[str], sign: str) -> str:
    """All different texts that there are."""
    return sign.join(dict.fromkeys(text for text in texts if text))


def main(
    arguments: Sequence[str] | None = None, prog: str | None = None, publish: prepare.Publish | None = None
) -> None:
    """Builds and writes a frozen noisy test set, as the command line says.

    Args:
        arguments: command line to parse; that of the process by default.
        prog: name of the command in the help; the script's file name by default.
        publish: function that pushes the dataset to the Hub (`hub.datasets.push_dataset`), for `--push`.
    """
    parser = prepare.command_line("A frozen noisy test set of speech datasets and noise datasets.", prog, SOURCES)
    parser.add_argument("--snr-db", type=float, nargs="+", default=[-5, 0, 5, 10], help="signal-to-noise ratios in dB")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another set of mixtures")
    parser.add_argument("--split", default="test", help="the split of all datasets")
    parser.add_argument("--pool", help="names of the noise datasets; those of their folders by default")
    parser.add_argument("--no-clean", action="store_true", help="leave out the clips without noise")
    parser.add_argument(
        "--transmissions",
        nargs="+",
        choices=list(TRANSMISSIONS),
        default=[],
        metavar="NAME",
        help=f"keep everything after each of these, too: {', '.join(TRANSMISSIONS)}",
    )
    with tempfile.TemporaryDirectory() as scratch:

        def build_noisy(options: argparse.Namespace) -> Dataset:
            pools = name_pools(prepare.names(options.noise), prepare.names(options.pool or ""))
            mixing = (options.snr_db, options.seed, options.split, not options.no_clean, options.transmissions)
            return build(prepare.names(options.speech), pools, scratch, *mixing)

        prepare.run(parser, build_noisy, arguments, publish)
