# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pushing a dataset to the Hugging Face Hub: its licence is checked first; card and data are uploaded as Parquet."""

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
    """Publishes a dataset with embedded recordings, so that `load_dataset(repo_id)` gives the same rows and splits.

    The card is committed first, so that recordings are never published without their licence. The data is a single
    commit (`datasets` splits more than 25 GB), so the repository holds either all of it or nothing. Pushing again is
    safe.

    Args:
        table: a dataset, or its path.
        repo_id, private, revision, token: as for `modeling_sparse_merit.hub.push.push_checkpoint`.
        confirmed_licence: the licence of the dataset, repeated by somebody who may redistribute it; see
            `licence_to_state`.

    Raises:
        DatasetError: the dataset is missing, or its licence forbids publication.
        HubError: the Hub is unreachable or refuses.
    """
    dataset = table if isinstance(table, Dataset) else read_dataset(table, required=None)
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
        return splits.push_to_hub(repo_id, revision=revision, token=token, commit_message="Upload dataset")
