# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit embed`: adds embeddings of speech and text to a dataset of conversations."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from .options import DeviceOption, errors_in_one_line, needing_datasets, quieten_datasets, quieten_hub_client


def embed(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder, a Parquet file or a Hub id.")],
    out: Annotated[Path, typer.Argument(help="The dataset to write.")],
    speech: Annotated[
        str | None, typer.Option(help="Model of speech alone, of `train speech_text`: a folder or a Hub id.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The same of text alone.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder to keep the outputs of the encoders in; by default it is deleted at the end."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset.")] = False,
    device: DeviceOption = None,
) -> None:
    """Add embeddings of speech and text to a dataset, the input of a conversation model.

    An interrupted run resumes: outputs of the encoders are kept by the hashes of weights and clips.

    Example: sparse-merit embed datasets/meld datasets/meld_embedded --text runs/conversation/text/best
    """
    with errors_in_one_line():
        quieten_hub_client()
        quieten_datasets()
        with needing_datasets():
            from ..data.prepare import check_destination, write_dataset
            from ..training.embed_dataset import embed_dataset
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()
        out = out.expanduser().resolve()
        check_destination(out, overwrite)
        kept = cache or out.with_name(f"{out.name}.embeddings")
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        embedded = embed_dataset(dataset, kept, speech, text, chosen)
        write_dataset(embedded, out, overwrite=overwrite)
        if cache is None:
            shutil.rmtree(kept, ignore_errors=True)
    typer.echo(f"{embedded.info.description}\nWritten to {out}")
