# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Dataset tables: what is written is what is read, alone or several together."""

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, DatasetInfo, Features, Value, load_dataset

from modeling_sparse_merit.data.datasets import (
    EMOTIONS,
    DatasetError,
    noise_features,
    read_dataset,
    read_datasets,
    speech_features,
)
from modeling_sparse_merit.data.prepare import write_dataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(8000) / 5), 16_000)
    return path


def make_table(recording, rows, features=None):
    """A table whose rows all point at one recording; `rows` gives their other columns."""
    features = features or speech_features()
    columns = [dict.fromkeys(features) | {"audio": {"bytes": None, "path": str(recording)}} | row for row in rows]
    info = DatasetInfo(features=features, license="CC BY 4.0", citation="Somebody (2026).", description="Two tones.")
    return Dataset(pa.Table.from_pylist(columns, schema=features.arrow_schema), info=info)


ROWS = [{"emotion": 1, "split": "train", "arousal": 2.5}, {"emotion": None, "split": "test"}]


@pytest.mark.parametrize("format", ["parquet", "disk"])
@pytest.mark.parametrize("embed", [True, False])
def test_a_table_comes_back_as_it_was_written(tmp_path, recording, format, embed):
    write_dataset(make_table(recording, ROWS), tmp_path / "table", format=format, embed=embed)

    table = read_dataset(tmp_path / "table")

    rows = {row["split"]: row for row in table}
    assert rows["train"]["emotion"] == 1 and rows["train"]["arousal"] == 2.5
    assert rows["test"]["emotion"] is None and rows["test"]["arousal"] is None
    assert table.features == speech_features()
    if embed or format == "disk":
        assert rows["test"]["audio"] == {"bytes": recording.read_bytes(), "path": "tone.wav"}
    else:
        assert rows["test"]["audio"] == {"bytes": None, "path": str(recording)}


@pytest.mark.parametrize("format", ["parquet", "disk"])
def test_licence_and_citation_survive(tmp_path, recording, format):
    write_dataset(make_table(recording, ROWS), tmp_path / "table", format=format)

    info = read_dataset(tmp_path / "table").info

    assert (info.license, info.citation, info.description) == ("CC BY 4.0", "Somebody (2026).", "Two tones.")


def test_datasets_reads_the_parquet_folder_by_itself(tmp_path, recording):
    write_dataset(make_table(recording, ROWS), tmp_path / "table", embed=True)

    splits = load_dataset(str(tmp_path / "table"))
    rows = load_dataset("parquet", data_files=str(tmp_path / "table" / "*.parquet"), split="train")

    assert {name: len(split) for name, split in splits.items()} == {"train": 1, "test": 1}
    assert len(rows) == 2
    assert rows.features["audio"] == Audio(sampling_rate=16_000, decode=False)
    assert rows[0]["audio"]["bytes"] == recording.read_bytes()


def test_a_replaced_dataset_is_read_again(tmp_path, recording):
    write_dataset(make_table(recording, ROWS), tmp_path / "table")
    read_dataset(tmp_path / "table")
    write_dataset(make_table(recording, [ROWS[0] | {"emotion": 3}]), tmp_path / "table", overwrite=True)

    assert [row["emotion"] for row in read_dataset(tmp_path / "table")] == [3]


def test_a_split_is_chosen_by_its_name(tmp_path, recording):
    write_dataset(make_table(recording, ROWS), tmp_path / "table")

    assert [row["emotion"] for row in read_dataset(tmp_path / "table", "test")] == [None]
    with pytest.raises(DatasetError, match="no row belongs to split 'dev'; the splits are test, train"):
        read_dataset(tmp_path / "table", "dev")


def test_an_audio_column_that_would_be_decoded_is_not(tmp_path, recording):
    features = speech_features()
    features["audio"] = Audio(sampling_rate=16_000)
    table = make_table(recording, ROWS)
    table = Dataset(table.data.table.replace_schema_metadata(features.arrow_schema.metadata))
    table.to_parquet(str(tmp_path / "decoded.parquet"))

    assert read_dataset(tmp_path / "decoded.parquet")[0]["audio"] == {"bytes": None, "path": str(recording)}


def test_a_folder_without_a_table_is_named(tmp_path):
    with pytest.raises(DatasetError, match="holds no dataset"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no dataset was given"):
        read_datasets([])


def test_tables_are_joined_with_missing_columns_as_none(tmp_path, recording):
    noise = make_table(recording, [{"category": "rain", "split": "train"}], noise_features())
    write_dataset(make_table(recording, ROWS), tmp_path / "speech")
    write_dataset(noise, tmp_path / "noise")

    joined = read_datasets([tmp_path / "speech", tmp_path / "noise"], "train")

    assert [(row["emotion"], row["category"]) for row in joined] == [(1, None), (None, "rain")]


def test_tables_without_sentences_go_together_with_others(tmp_path, recording):
    features = speech_features()
    write_dataset(make_table(recording, [ROWS[0] | {"sentence": "06"}]), tmp_path / "new")
    older = Features({name: feature for name, feature in features.items() if name != "sentence"})
    write_dataset(make_table(recording, ROWS[:1], older), tmp_path / "older")

    for paths, sentences in (["older", "new"], [None, "06"]), (["new", "older"], ["06", None]):
        joined = read_datasets(tmp_path / path for path in paths)
        assert joined["sentence"] == sentences and joined["emotion"] == [1, 1]


def test_a_split_may_be_missing_from_some_of_the_tables(tmp_path, recording):
    write_dataset(make_table(recording, ROWS), tmp_path / "both")
    write_dataset(make_table(recording, ROWS[:1]), tmp_path / "train_only")

    assert len(read_datasets([tmp_path / "both", tmp_path / "train_only"], "test")) == 1


def test_classes_are_matched_by_name(tmp_path, recording):
    private = speech_features(["bored", "neutral"])
    write_dataset(
        make_table(recording, [{"emotion": 0}, {"emotion": 1}, {"emotion": None}], private), tmp_path / "own"
    )
    write_dataset(make_table(recording, ROWS[:1]), tmp_path / "shared")

    joined = read_datasets([tmp_path / "own", tmp_path / "shared"])

    assert joined.features["emotion"] == ClassLabel(names=[*EMOTIONS, "bored"])
    names = joined.features["emotion"].names
    actual = [None if row["emotion"] is None else names[row["emotion"]] for row in joined]
    assert actual == ["bored", "neutral", None, "sad"]


def test_the_first_classes_are_those_of_the_published_model():
    assert EMOTIONS[:4] == ("angry", "sad", "happy", "neutral")


def test_columns_of_different_type_are_not_joined(tmp_path, recording):
    features = speech_features()
    features["arousal"] = Value("string")
    write_dataset(make_table(recording, [{"arousal": "high"}], features), tmp_path / "words")
    write_dataset(make_table(recording, ROWS), tmp_path / "numbers")

    with pytest.raises(DatasetError, match="column 'arousal'"):
        read_datasets([tmp_path / "words", tmp_path / "numbers"])
