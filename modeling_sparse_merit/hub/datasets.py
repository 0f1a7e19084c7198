# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A table to the Hugging Face Hub: its licence is asked first, then the card and the data go up as Parquet."""

from pathlib import Path

from datasets import Dataset, DatasetDict
from huggingface_hub import CommitInfo

from ..data.dataset_card import licence_to_state, render_dataset_card, split_rows
from ..data.datasets import read_dataset
from .client import hub_errors, open_repository


def push_dataset(
    table: Dataset | str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    confirmed_licence: str | None = None,
) -> CommitInfo:
    """Publishes a dataset with its recordings in it, so that `load_dataset(repo_id)` gives the same rows and splits.

    The card is committed first: recordings are never to be had without their licence. All data is one commit (up to 25
    GB; `datasets` makes several of more), so the repository holds all of it, or nothing. Pushing again is safe.

    Args:
        table: a dataset, or where one is.
        repo_id, private, revision, token: as for `modeling_sparse_merit.hub.push.push_checkpoint`.
        confirmed_licence: the dataset's licence, repeated by somebody who may pass it on; see `licence_to_state`.

    Raises:
        DatasetError: there is no such table, or its licence forbids it.
        HubError: the Hub could not be reached or refuses.
    """
    dataset = table if isinstance(table, Dataset) else read_dataset(table)
    licence = licence_to_state(dataset.info.license, confirmed_licence)
    splits = DatasetDict({name: dataset.select(rows) for name, rows in split_rows(dataset).items()})
    with hub_errors(repo_id):
        api, repo_id = open_repository(repo_id, "dataset", private, revision, token)
        api.upload_file(
            path_or_fileobj=str(render_dataset_card(dataset, repo_id, licence=licence)).encode(),
            path_in_repo="README.md",
            repo_id=repo_id,
            repo_type="dataset",
            revision=revision,
            commit_message="State licence and contents",
        )
        return splits.push_to_hub(repo_id, revision=revision, token=token, commit_message="Upload table")
