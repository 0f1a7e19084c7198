# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit prepare`: converts corpora and other sources to datasets."""

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..data.corpora import CORPORA, corpus
from .mix import transmission_names
from .options import errors_in_one_line, needing_datasets, printable, quieten_datasets, quieten_hub_client

if TYPE_CHECKING:
    from datasets import Dataset, DatasetInfo

prepare = typer.Typer(help="Convert a corpus to a dataset for training or publication.", no_args_is_help=True)

FolderArgument = Annotated[Path, typer.Argument(help="The corpus, as it was unpacked.")]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out with a warning.")]
DevOption = Annotated[
    str | None, typer.Option(help="What is in the dev split, separated by commas; a choice of the corpus by default.")
]
TestOption = Annotated[
    str | None, typer.Option(help="What is in the test split, separated by commas; a choice of the corpus by default.")
]
SpeechArgument = Annotated[str, typer.Argument(help="The speech dataset.")]
ProcessesOption = Annotated[int | None, typer.Option(help="Number of processes; one a core by default.")]
LicenseOption = Annotated[str, typer.Option(help="Licence to store with the dataset.")]
CitationOption = Annotated[str, typer.Option(help="Citation to store with the dataset.")]
DescriptionOption = Annotated[str, typer.Option(help="Description to store with the dataset.")]


class Format(StrEnum):
    """Formats of a written dataset."""

    PARQUET = "parquet"
    DISK = "disk"


class Unlabelled(StrEnum):
    """What to do with clips without agreement."""

    UNLABELLED = "unlabelled"
    DROP = "drop"


class Other(StrEnum):
    """What to do with clips of another emotion."""

    UNLABELLED = "unlabelled"
    DROP = "drop"
    KEEP = "keep"


class ListsCommand(TyperCommand):
    """A command whose lists take several values after one option: `--snr-db -5 0 5`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the command line.

        Args:
            ctx: the context of click.
            args: the arguments after the name of the command.
        """
        lists = {name for parameter in self.params if getattr(parameter, "multiple", False) for name in parameter.opts}
        return super().parse_args(ctx, list(_repeat(args, lists)))


def _repeat(arguments: list[str], lists: set[str]) -> Iterator[str]:
    """`--snr-db -5 0` as `--snr-db -5 --snr-db 0`."""
    option = previous = None
    for argument in arguments:
        if re.match("--|-[a-zA-Z]", argument):
            option = argument if argument in lists else None
        elif option is not None and previous != option:
            yield option
        yield argument
        previous = argument


# Corpora -------------------------------------------------------------------------------------------------------------


def _speakers(name: str) -> Callable[..., "Dataset"]:
    """Builds a corpus that is split by speaker."""

    def build(
        folder: FolderArgument, skip_bad: SkipBadOption = False, dev: DevOption = None, test: TestOption = None
    ) -> "Dataset":
        return corpus(name).build(folder, skip_bad=skip_bad, **_lists(dev=dev, test=test))

    return build


def _ravdess(
    folder: FolderArgument,
    skip_bad: SkipBadOption = False,
    dev: DevOption = None,
    test: TestOption = None,
    songs: Annotated[bool, typer.Option("--songs", help="Take the sung recordings too.")] = False,
) -> "Dataset":
    return corpus("ravdess").build(folder, skip_bad=skip_bad, songs=songs, **_lists(dev=dev, test=test))


def _emobank(folder: FolderArgument, skip_bad: SkipBadOption = False) -> "Dataset":
    return corpus("emobank").build(folder, skip_bad=skip_bad)


def _meld(
    folder: FolderArgument,
    skip_bad: SkipBadOption = False,
    audio: Annotated[
        Path | None,
        typer.Option(help="The folder of the clips, with a folder for each split; without it, texts only."),
    ] = None,
) -> "Dataset":
    return corpus("meld").build(folder, skip_bad=skip_bad, audio=audio)


def _iemocap(
    folder: FolderArgument,
    skip_bad: SkipBadOption = False,
    classes: Annotated[
        int, typer.Option(help="6, or 4, in which excited counts as happy and frustrated as none.")
    ] = 6,
    fold: Annotated[
        int | None, typer.Option(help="Session of the test split, 1 to 5; the one before it is the dev split.")
    ] = None,
) -> "Dataset":
    return corpus("iemocap").build(folder, skip_bad=skip_bad, classes=classes, fold=fold)


def _mosi(
    folder: FolderArgument,
    skip_bad: SkipBadOption = False,
    audio: Annotated[Path | None, typer.Option(help="The folder of the clips; without it, texts only.")] = None,
    zero: Annotated[str, typer.Option(help="Sentiment of 0: positive, or drop for none.")] = "positive",
) -> "Dataset":
    return corpus("mosi").build(folder, skip_bad=skip_bad, audio=audio, zero=zero)


def _msp_podcast(
    folder: FolderArgument,
    skip_bad: SkipBadOption = False,
    audio: Annotated[
        Path | None, typer.Option(help="The folder of the recordings, if it is not inside the corpus.")
    ] = None,
    other: Annotated[Other, typer.Option(help="Class O.")] = Other.UNLABELLED,
    no_agreement: Annotated[Unlabelled, typer.Option(help="Class X.")] = Unlabelled.UNLABELLED,
    transcripts: Annotated[
        Path | None,
        typer.Option(
            help="A folder of files NAME.txt, the transcripts of the dev and test splits in place of its own."
        ),
    ] = None,
) -> "Dataset":
    return corpus("msp_podcast").build(
        folder, skip_bad=skip_bad, audio=audio, other=other, no_agreement=no_agreement, transcripts=transcripts
    )


def _icbhi(
    folder: FolderArgument,
    skip_bad: SkipBadOption = False,
    recordings: Annotated[
        bool, typer.Option("--recordings", help="One row for each recording, not for each breathing cycle.")
    ] = False,
    drop_shared_patients: Annotated[
        bool,
        typer.Option("--drop-shared-patients", help="Do not train on patients who are in the official test split."),
    ] = False,
    dev: Annotated[
        str | None,
        typer.Option(help="Patients of the dev split, separated by commas; 15 % of the official train part."),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Patients of the test split, separated by commas; the official one by default.")
    ] = None,
) -> "Dataset":
    return corpus("icbhi").build(
        folder,
        skip_bad=skip_bad,
        recordings=recordings,
        drop_shared_patients=drop_shared_patients,
        **_lists(dev=dev, test=test),
    )


def _moodist(folder: FolderArgument, skip_bad: SkipBadOption = False, dev: DevOption = None) -> "Dataset":
    return corpus("moodist").build(folder, skip_bad=skip_bad, **_lists(dev=dev))


def _folder(
    folder: FolderArgument,
    skip_bad: SkipBadOption = False,
    license: LicenseOption = "",
    citation: CitationOption = "",
    description: DescriptionOption = "",
    labels: Annotated[
        str | None,
        typer.Option(help="The emotions that are expected, separated by commas; those of metadata.csv by default."),
    ] = None,
    column: Annotated[list[str] | None, typer.Option(metavar="NAME=COLUMN", help="Such as emotion=label.")] = None,
    min_dynamic_range: Annotated[
        float | None,
        typer.Option(
            metavar="DB", help="Leave out recordings with a smaller difference between loud and quiet parts, in dB."
        ),
    ] = None,
    dev: Annotated[
        str | None, typer.Option(help="Speakers of the dev split, separated by commas, if metadata.csv has no splits.")
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(help="Speakers of the test split, separated by commas, if metadata.csv has no splits."),
    ] = None,
) -> "Dataset":
    return corpus("folder").build(
        folder,
        skip_bad=skip_bad,
        info=_info(license, citation, description),
        columns=dict(map(_column, column or ())),
        min_dynamic_range=min_dynamic_range,
        **_lists(labels=labels, dev=dev, test=test),
    )


def _noise(
    folder: FolderArgument,
    skip_bad: SkipBadOption = False,
    license: LicenseOption = "",
    citation: CitationOption = "",
    description: DescriptionOption = "",
    split: Annotated[str | None, typer.Option(help="The split of rows that name none, such as train.")] = None,
) -> "Dataset":
    info = _info(license, citation, description)
    return corpus("noise").build(folder, skip_bad=skip_bad, info=info, split=split)


def _lists(**texts: str | None) -> dict[str, tuple[str, ...]]:
    """Lists separated by commas; those that are not given are left to the corpus."""
    return {name: _split(text) for name, text in texts.items() if text is not None}


def _split(text: str) -> tuple[str, ...]:
    """`"a,b, c"` as a tuple."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _column(text: str) -> tuple[str, str]:
    """`"emotion=label"` as a pair."""
    name, _, own = text.partition("=")
    if not (name and own):
        raise typer.BadParameter(f"{text!r} is not NAME=COLUMN, such as emotion=label", param_hint="--column")
    return name, own


def _info(license: str, citation: str, description: str) -> "DatasetInfo":
    from datasets import DatasetInfo

    return DatasetInfo(license=license, citation=citation, description=description)


# Other sources -------------------------------------------------------------------------------------------------------


def _noisy(
    context: typer.Context,
    speech: Annotated[str, typer.Argument(help="The speech datasets, separated by commas.")],
    noise: Annotated[str, typer.Argument(help="The noise datasets (one pool each), separated by commas.")],
    snr_db: Annotated[
        list[float] | None, typer.Option(help="Signal-to-noise ratios in dB; -5 0 5 10 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the mixtures.")] = 0,
    split: Annotated[str, typer.Option(help="The split of all datasets.")] = "test",
    pool: Annotated[str, typer.Option(help="Names of the noise datasets; those of their folders by default.")] = "",
    no_clean: Annotated[bool, typer.Option("--no-clean", help="Leave out the clips without noise.")] = False,
    transmissions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=transmission_names,
            help="Include every condition with each of these too, such as telephone, gsm or mp3.",
        ),
    ] = None,
) -> "Dataset":
    from ..evaluation.prepare_noisy import build, name_pools

    return build(
        _split(speech),
        name_pools(_split(noise), _split(pool)),
        context.with_resource(TemporaryDirectory()),
        snr_db or (-5, 0, 5, 10),
        seed,
        split,
        not no_clean,
        transmissions or (),
    )


def _descriptors(
    context: typer.Context,
    speech: SpeechArgument,
    speeds: Annotated[
        list[float] | None, typer.Option(help="Speed factors of train clips; 1 0.87 1.07 1.15 by default.")
    ] = None,
    processes: ProcessesOption = None,
) -> "Dataset":
    from ..data.acoustic_features import SPEEDS, build

    scratch = context.with_resource(TemporaryDirectory())
    return build(speech, scratch, speeds or SPEEDS, processes or os.cpu_count() or 1)


def _prosody(speech: SpeechArgument, processes: ProcessesOption = None) -> "Dataset":
    from ..data.prosody import build

    return build(speech, processes or os.cpu_count() or 1)


def _clean(
    dataset: Annotated[str, typer.Argument(help="The dataset.")],
    classifier: Annotated[
        str | None,
        typer.Option(
            help="Model for audio classification: a folder or a Hub id. By default, the score is the difference "
            "between loud and quiet parts in dB."
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="Its label for clean recordings.")] = "clean",
    threshold: Annotated[float | None, typer.Option(help="Leave out recordings with a lower score.")] = None,
) -> "Dataset":
    from ..inference.cleanliness import build

    return build(dataset, classifier, label, threshold)


def _synthetic_noise(
    clips: Annotated[int, typer.Option(help="Number of clips.")] = 600,
    seconds: Annotated[float, typer.Option(help="Length of each clip in seconds.")] = 6.0,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    babble: Annotated[
        list[str] | None, typer.Option(metavar="SPEECH_DATASET", help="Datasets to mix to babble.")
    ] = None,
) -> "Dataset":
    from ..data.synthetic_noise import build

    return build(clips, seconds, seed, babble or ())


# Writing and publishing ----------------------------------------------------------------------------------------------


def _write(
    build: Callable[[], "Dataset"],
    out: Annotated[Path, typer.Argument(help="The dataset to write.")],
    format: Annotated[Format, typer.Option(help="disk always embeds.")] = Format.PARQUET,
    embed: Annotated[
        bool, typer.Option("--embed", help="Store the recordings in the dataset, not their paths.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset.")] = False,
    push: Annotated[
        str | None, typer.Option(metavar="NAME/REPOSITORY", help="Publish the dataset with embedded recordings.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    token: Annotated[
        str | None, typer.Option(help="Token with write access; by default that of HF_TOKEN or `hf auth login`.")
    ] = None,
    i_may_redistribute: Annotated[
        str | None,
        typer.Option(
            metavar="LICENCE", help="The licence of the dataset, if it does not let everybody redistribute it."
        ),
    ] = None,
) -> None:
    """Builds a dataset, writes it, prints a summary, and publishes it if requested."""
    from ..data.dataset_card import licence_to_state
    from ..data.prepare import check_destination, summary, write_dataset
    from ..hub.datasets import push_dataset

    quieten_hub_client()
    quieten_datasets()
    out = out.expanduser().resolve()
    check_destination(out, overwrite)
    dataset = build()
    if push is not None:
        licence_to_state(dataset.info.license, i_may_redistribute)
    write_dataset(dataset, out, format, embed, overwrite)
    typer.echo(summary(dataset))
    typer.echo(f"{dataset.info.description}\nLicence: {dataset.info.license or 'not stated'}\nWritten to {out}")
    if push is None:
        return
    try:
        commit = push_dataset(dataset, push, private, revision, token, i_may_redistribute)
    except OSError as error:
        raise OSError(
            f"{error} The dataset itself is written; push it later with: sparse-merit push {out} {push}"
        ) from error
    typer.echo(f"Pushed to {commit.repo_url}, revision {commit.oid}")


@contextmanager
def _messages() -> Iterator[None]:
    """Shows the warnings about a corpus as plain text, and the report of its problems in several lines."""
    with errors_in_one_line(), warnings.catch_warnings():
        with needing_datasets():
            from ..data.datasets import DatasetError
        warnings.simplefilter("ignore")  # warnings of libraries to programmers
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        try:
            yield
        except DatasetError as error:
            typer.secho(printable(f"Error: {error}"), fg="red", err=True)
            raise typer.Exit(2) from error


def _add(name: str, help: str, build: Callable[..., "Dataset"], cls: type[TyperCommand] = TyperCommand) -> None:
    """Adds `sparse-merit prepare NAME`, which has the parameters of `build`, then those of `_write`."""
    own = signature(build).parameters
    _, *shared = signature(_write).parameters.values()

    def command(**given: Any) -> None:
        with _messages():
            _write(partial(build, **{parameter: given.pop(parameter) for parameter in own}), **given)

    parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in (*own.values(), *shared)]
    command.__dict__["__signature__"] = Signature(parameters)
    example = " ".join(["Example: sparse-merit prepare", name, *EXAMPLES.get(name, ["FOLDER"]), f"datasets/{name}"])
    prepare.command(name, help=help, epilog=example, cls=cls)(command)


OWN: dict[str, Callable[..., "Dataset"]] = {
    "ravdess": _ravdess,
    "msp_podcast": _msp_podcast,
    "emobank": _emobank,
    "meld": _meld,
    "icbhi": _icbhi,
    "iemocap": _iemocap,
    "mosi": _mosi,
    "moodist": _moodist,
    "folder": _folder,
    "noise": _noise,
}
"""Corpora with options of their own."""
COMMANDS: dict[str, tuple[str, Callable[..., "Dataset"]]] = {
    "noisy": ("A frozen noisy test set of speech datasets and noise datasets.", _noisy),
    "descriptors": ("A speech dataset with acoustic descriptors, at several speeds.", _descriptors),
    "prosody": ("A speech dataset with pitch and active speech of each clip.", _prosody),
    "clean": ("The clean recordings of a dataset, by their dynamic range or a classifier.", _clean),
    "synthetic_noise": ("Synthetic noises, and babble of speech datasets.", _synthetic_noise),
}
"""Other sources: help, and what builds their dataset."""
EXAMPLES = {
    "noisy": ["datasets/calls", "datasets/noise"],
    "descriptors": ["datasets/calls"],
    "prosody": ["datasets/calls"],
    "clean": ["datasets/calls"],
    "synthetic_noise": [],
}
"""Arguments in the examples of the help; a folder by default."""

for _name, _help in CORPORA.items():
    _add(_name, _help, OWN.get(_name) or _speakers(_name))
for _name, (_help, _build) in COMMANDS.items():
    _add(_name, _help, _build, ListsCommand)
