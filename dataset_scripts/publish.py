# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A table to the Hugging Face Hub: its licence is asked first, then the card and the data go up as Parquet."""

from pathlib import Path

from datasets import Dataset, DatasetDict
from huggingface_hub import CommitInfo

from dataset_scripts.card import licence_names, split_rows, table_card
from modeling_sparse_merit.hub import hub_errors, open_repository
from modeling_sparse_merit.tables import TableError, load_table


def push_table(
    table: Dataset | str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    confirmed_licence: str | None = None,
) -> CommitInfo:
    """Publishes a table with its recordings in it, so that `load_dataset(repo_id)` gives the same rows and splits.

    The card is committed first: recordings are never to be had without their licence. All data is one commit (up to 25
    GB; `datasets` makes several of more), so the repository holds all of it, or nothing. Pushing again is safe.

    Args:
        table: a table, or where one is.
        repo_id, private, revision, token: as for `modeling_sparse_merit.hub.push_checkpoint`.
        confirmed_licence: the table's licence, repeated by somebody who may pass it on; see `licence_to_state`.

    Raises:
        TableError: there is no such table, or its licence forbids it.
        HubError: the Hub could not be reached or refuses.
    """
    dataset = table if isinstance(table, Dataset) else load_table(table)
    licence = licence_to_state(dataset.info.license, confirmed_licence)
    splits = DatasetDict({name: dataset.select(rows) for name, rows in split_rows(dataset).items()})
    with hub_errors(repo_id):
        api, repo_id = open_repository(repo_id, "dataset", private, revision, token)
        api.upload_file(
            path_or_fileobj=str(table_card(dataset, repo_id, licence=licence)).encode(),
            path_in_repo="README.md",
            repo_id=repo_id,
            repo_type="dataset",
            revision=revision,
            commit_message="State licence and contents",
        )
        return splits.push_to_hub(repo_id, revision=revision, token=token, commit_message="Upload table")


def licence_to_state(licence: str, confirmed: str | None = None) -> str:
    """The licence that the published table states.

    A table whose licence lets nobody, or not everybody, pass it on is published only where that very licence was
    repeated; one without a licence, where one was named.

    Raises:
        TableError: it was not; the message says how.
    """
    if licence_names(licence) or (confirmed and _same(confirmed, licence or confirmed)):
        return licence or confirmed
    if not licence:
        raise TableError(
            "this table states no licence and is not pushed; if you may pass its recordings on, say under which one: "
            "--i-may-redistribute 'LICENCE'"
        )
    raise TableError(
        "this table is not pushed, since its licence does not let everybody pass it on; if you may, repeat the "
        f"licence: --i-may-redistribute '{licence}'"
    )


def _same(first: str, second: str) -> bool:
    """Whether two texts differ in blanks and capitals alone."""
    return first.split() != [] and first.casefold().split() == second.casefold().split()
