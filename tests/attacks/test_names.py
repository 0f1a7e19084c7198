# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Names in the tables and folders of somebody else, which lead to files that are none of theirs."""

import csv
from pathlib import Path

import pytest
from conftest import TINY, make_speech

from modeling_sparse_merit.data.corpora import corpus
from modeling_sparse_merit.data.datasets import DatasetError
from modeling_sparse_merit.models.sparse_merit.audio import write_audio
from modeling_sparse_merit.models.sparse_merit.task_files import find_task

NAMES = [
    "../secret.wav",
    "inner/../../secret.wav",
    "./../secret.wav",
    "inner/../../outer/../secret.wav",
    "..\\secret.wav",
    "%2e%2e/secret.wav",
    "link.wav",
    "linked/secret.wav",
    "file:///secret.wav",
    "~/secret.wav",
    "",
    ".",
    "..",
]


@pytest.fixture
def home(tmp_path) -> Path:
    """A folder with a recording that is no part of the corpus below it, and links to it."""
    write_audio(tmp_path / "secret.wav", make_speech(0.5), 16_000)
    (folder := tmp_path / "corpus").mkdir()
    (folder / "inner").mkdir()
    write_audio(folder / "own.wav", make_speech(0.5, seed=1), 16_000)
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    (folder / "linked").symlink_to(tmp_path)
    return folder


@pytest.mark.parametrize("name", [*NAMES, "ABSOLUTE"])
def test_a_table_reads_no_recording_outside_its_folder(home, name):
    name = str(home.parent / "secret.wav") if name == "ABSOLUTE" else name
    with open(home / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        rows = [("file_name", "emotion", "speaker", "split"), ("own.wav", "sad", "a", "train")]
        csv.writer(file).writerows([*rows, (name, "angry", "b", "train")])
    with pytest.raises(DatasetError, match="metadata.csv|outside|missing|not"):
        corpus("folder").build(home)


@pytest.mark.parametrize("name", ["../../tiny/model", "../model", "/etc/passwd", "..", "", "."])
def test_the_name_of_a_task_stays_in_its_folder(name):
    with pytest.raises((OSError, ValueError)):
        find_task(TINY, name)
