# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Datasets of texts: their schema, EmoBank, and the dialogues of MELD, IEMOCAP and CMU-MOSI with and without clips."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import corpus as corpus_named
from modeling_sparse_merit.data.dataset_card import render_dataset_card
from modeling_sparse_merit.data.datasets import (
    AUDIO,
    DatasetError,
    read_dataset,
    read_datasets,
    speech_features,
    text_features,
)

emobank = corpus_named("emobank")
folder = corpus_named("folder")
meld = corpus_named("meld")

MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
MELD_LINES = {
    "train": [
        "1,“You’re early!”,Ross,surprise,negative,0,0,1,1,x,x",
        '2,"Well, yes.",Rachel,neutral,neutral,0,2,1,1,x,x',
        "3,Hi!,Ross,joy,positive,7,0,1,1,x,x",
        "4,Hi!,Rachel,joy,positive,7,1,1,1,x,x",
    ],
    "dev": ["1,No!,Ross,anger,negative,0,0,1,2,x,x"],
    "test": ["1,Hi!,Phoebe,joy,positive,0,0,1,3,x,x", "2,Bye.,The Man,sadness,negative,0,1,1,3,x,x"],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def emobank_folder(tmp_path) -> Path:
    lines = [
        "id,split,V,A,D,text",
        'a_0_9,train,3.0,2.5,3.2,"Remember what she said? """',
        "b_0_9,dev,1.2,4.4,3,It’s over.",
        "c_0_9,test,4.6,1.8,3,Fine.",
    ]
    path = tmp_path / "EmoBank" / "corpus" / "emobank.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "EmoBank"


@pytest.fixture
def meld_folder(tmp_path) -> Path:
    (tmp_path / "MELD").mkdir()
    for split, lines in MELD_LINES.items():
        encoding = "cp1252" if split == "dev" else "utf-8-sig"
        path = tmp_path / "MELD" / f"{split}_sent_emo.csv"
        path.write_text("\n".join([MELD_HEADER, *lines]).replace("No!", "No—!"), encoding=encoding)
    return tmp_path / "MELD"


# The schema ----------------------------------------------------------------------------------------------------------


def test_texts_are_written_read_and_described(tmp_path, emobank_folder, capsys):
    app(["prepare", "emobank", str(emobank_folder), str(tmp_path / "out")], standalone_mode=False)

    assert "train              1 texts   without a class 1" in capsys.readouterr().out
    dataset = read_dataset(tmp_path / "out", "dev", required="text")
    assert dataset.features == text_features() and dataset["text"] == ["It’s over."]
    assert (dataset.info.license, "EACL 2017" in dataset.info.citation) == ("CC BY-SA 4.0", True)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "- cc-by-sa-4.0" in card and "- text-classification" in card and "load_audio" not in card
    with pytest.raises(DatasetError, match="has no column 'audio'; its columns are emotion, text"):
        read_dataset(tmp_path / "out")


def test_texts_and_speech_are_read_together(tmp_path, emobank_folder):
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "a.wav", 0.1 * np.sin(np.arange(8000) / 5), 16_000)
    (tmp_path / "speech" / "metadata.csv").write_text(
        "file_name,text,intent,split,valence\na.wav,A tall latte.,order,train,4\n"
    )
    prepare.write_dataset(folder.build(tmp_path / "speech"), tmp_path / "one")
    prepare.write_dataset(emobank.build(emobank_folder), tmp_path / "two")

    dataset = read_datasets([tmp_path / "one", tmp_path / "two"], "train", required="text")

    assert dataset["text"] == ["A tall latte.", 'Remember what she said? "'] and dataset["valence"] == [4, 3]
    assert dataset["intent"] == ["order", None] and dataset["source_file"] == ["a.wav", "a_0_9"]
    assert dataset.features["audio"] == AUDIO and dataset[1]["audio"] is None and dataset[1]["duration"] is None


def test_datasets_from_before_the_intent_are_read_alone_and_with_others(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(8000) / 5), 16_000)
    (tmp_path / "metadata.csv").write_text("file_name,intent\na.wav,order\n")
    now = folder.build(tmp_path)
    prepare.write_dataset(now, tmp_path / "now")
    prepare.write_dataset(now.remove_columns("intent"), tmp_path / "before")

    assert "intent" not in read_dataset(tmp_path / "before").features
    assert read_datasets([tmp_path / "before", tmp_path / "now"])["intent"] == [None, "order"]
    assert "intent" in speech_features() and "intent" not in text_features()


def test_rows_without_text_and_repeated_rows_are_problems(emobank_folder):
    with open(emobank_folder / "corpus" / "emobank.csv", "a", encoding="utf-8") as lines:
        lines.write("\nd_0_9,test,3,3,3, \nc_0_9,test,3,3,3,Again.\ne_0_9,test,high,3,3,Rated.")

    with pytest.raises(DatasetError, match="3 problems") as error:
        emobank.build(emobank_folder)

    for problem in ("1 rows without text: d_0_9", "1 duplicate rows: c_0_9", "e_0_9: valence 'high'"):
        assert problem in str(error.value)
    with pytest.warns(UserWarning, match="3 problems"):
        assert len(emobank.build(emobank_folder, skip_bad=True)) == 3


# EmoBank -------------------------------------------------------------------------------------------------------------


def test_emobank_has_ratings_by_name_and_the_official_splits(emobank_folder):
    rows = list(emobank.build(emobank_folder))

    assert [(row["split"], row["valence"], row["arousal"]) for row in rows] == [
        ("train", 3.0, 2.5),
        ("dev", pytest.approx(1.2), pytest.approx(4.4)),
        ("test", pytest.approx(4.6), pytest.approx(1.8)),
    ]
    assert rows[0]["dominance"] == pytest.approx(3.2) and rows[0]["emotion"] is None
    assert (rows[0]["source_file"], rows[0]["language"]) == ("a_0_9", "en")


def test_a_folder_without_the_list_of_emobank_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="emobank.csv is missing; looked for"):
        emobank.build(tmp_path)
    (tmp_path / "emobank.csv").write_text("id,split,V,A,text\n")
    with pytest.raises(DatasetError, match="lacks 1 columns: D"):
        emobank.build(tmp_path)


def test_real_emobank_has_the_counts_of_its_authors(reference_data):
    dataset = emobank.build(reference_data / "data" / "text" / "emobank")

    assert Counter(dataset["split"]) == {"train": 8062, "dev": 1000, "test": 1000}
    ratings = np.array([dataset[name] for name in ("valence", "arousal", "dominance")])
    assert np.isfinite(ratings).all() and ratings.min() >= 1 and ratings.max() <= 5


# MELD ----------------------------------------------------------------------------------------------------------------


def test_meld_is_read_with_dialogues_of_each_split_and_turns_in_order(meld_folder):
    dataset = meld.build(meld_folder)

    names = dataset.features["emotion"].names
    columns = ["split", "dialogue", "turn", "speaker", "sentiment", "text"]
    assert [(names[row["emotion"]], *(row[column] for column in columns)) for row in dataset] == [
        ("surprise", "train", "meld_train_0", 0, "meld_Ross", "negative", "“You’re early!”"),
        ("neutral", "train", "meld_train_0", 2, "meld_Rachel", "neutral", "Well, yes."),
        ("joy", "train", "meld_train_7", 0, "meld_Ross", "positive", "Hi!"),
        ("joy", "train", "meld_train_7", 1, "meld_Rachel", "positive", "Hi!"),
        ("anger", "dev", "meld_dev_0", 0, "meld_Ross", "negative", "No—!"),
        ("joy", "test", "meld_test_0", 0, "meld_Phoebe", "positive", "Hi!"),
        ("sadness", "test", "meld_test_0", 1, "meld_The Man", "negative", "Bye."),
    ]
    for note in (
        "1 dialogues lack numbers of utterances.",
        "1 lines repeat another one of their dialogue.",
        "1 lines of the test split are lines of the train split.",
    ):
        assert note in dataset.info.description
    assert "audio" not in dataset.features and "no clip" not in dataset.info.description
    assert "| train | 4 | 2 | 2 | joy 2, surprise 1, neutral 1 |" in str(render_dataset_card(dataset, "meld"))


def test_meld_clips_belong_to_their_split_and_missing_ones_leave_the_text(tmp_path, meld_folder):
    clips = tmp_path / "clips"
    for seconds, file in (
        (0.1, "train/train_splits/dia0_utt0.wav"),
        (0.2, "dev_splits_complete/dia0_utt0.wav"),
        (0.3, "output_repeated_splits_test/dia0_utt0.flac"),
        (0.4, "output_repeated_splits_test/final_videos_testdia0_utt1.flac"),
    ):
        (clips / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(clips / file, 0.1 * np.sin(np.arange(round(seconds * 16_000)) / 5), 16_000)
    (clips / "output_repeated_splits_test" / "dia0_utt1.wav").write_text("broken")

    arguments = ["prepare", "meld", str(meld_folder), str(tmp_path / "out"), "--audio", str(clips), "--embed"]
    app(arguments, standalone_mode=False)

    dataset = read_dataset(tmp_path / "out")
    durations = {(row["split"], row["turn"]): row["duration"] for row in dataset if row["audio"] is not None}
    assert durations == pytest.approx({("train", 0): 0.1, ("dev", 0): 0.2, ("test", 0): 0.3})
    assert len(dataset) == 7 and "4 lines have no clip that can be read." in dataset.info.description
    assert {*speech_features(), *text_features()} == {*dataset.features}


def test_meld_lists_that_are_incomplete_are_refused(meld_folder):
    path = meld_folder / "dev_sent_emo.csv"
    path.write_text("\n".join([MELD_HEADER, "1,No!,Ross,rage,negative,0,0", "2,No!,Ross,anger,negative,,1"]))
    with pytest.raises(DatasetError, match="(?s)without numbers.*dev/dia_utt1.*dev/dia0_utt0: 'rage'|rage.*dia_utt1"):
        meld.build(meld_folder)
    path.unlink()
    with pytest.raises(DatasetError, match="dev_sent_emo.csv is missing; looked for"):
        meld.build(meld_folder)


def test_real_meld_has_the_counts_of_its_readme(reference_data):
    dataset = meld.build(reference_data / "data" / "conversation" / "meld")

    names = dict(enumerate(dataset.features["emotion"].names))
    counts = defaultdict(Counter)
    dialogues = defaultdict(lambda: defaultdict(list))
    for row in dataset:
        counts[row["split"]][names[row["emotion"]]] += 1
        dialogues[row["split"]][row["dialogue"]].append(row["turn"])
    order = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
    assert {split: [counts[split][name] for name in order] for split in counts} == {
        "train": [4710, 1743, 1205, 1109, 683, 271, 268],
        "dev": [470, 163, 150, 153, 111, 22, 40],
        "test": [1256, 402, 281, 345, 208, 68, 50],
    }
    gaps = {
        split: sum(turns != [*range(len(turns))] for turns in named.values()) for split, named in dialogues.items()
    }
    assert {split: len(named) for split, named in dialogues.items()} == {"train": 1038, "dev": 114, "test": 280}
    assert gaps == {"train": 72, "dev": 2, "test": 2} and "meld_train_60" not in dialogues["train"]
    turns = [len(turns) for named in dialogues.values() for turns in named.values()]
    assert max(turns) == 33 and turns.count(1) == 88
    assert "331 lines of the test split are lines of the train split." in dataset.info.description  # 12.7 %


# IEMOCAP -------------------------------------------------------------------------------------------------------------


IEMOCAP_UTTERANCES = ((6.2, "F000", "exc"), (1.5, "M000", "xxx"), (9.0, "M001", "fru"), (9.0, "F001", "ang"))
"""Start, name and emotion of each utterance of a dialogue."""


@pytest.fixture
def iemocap_folder(tmp_path) -> Path:
    """A dialogue of each session with four utterances, of which the second in the file starts first."""
    root = tmp_path / "IEMOCAP"
    for session in range(1, 6):
        dialogue = f"Ses0{session}F_impro01"
        folder = root / f"Session{session}"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for start, name, emotion in IEMOCAP_UTTERANCES:
            times = f"[{start:.4f} - {start + 1:.4f}]"
            lines += [f"{times}\t{dialogue}_{name}\t{emotion}\t[4.5000, 3.0000, 2.5000]", "C-E2:\tx;\t()"]
        (folder / "dialog" / "EmoEvaluation").mkdir(parents=True)
        (folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt").write_text("\n".join(lines))
        (folder / "dialog" / "transcriptions").mkdir()
        spoken = [f"{dialogue}_F000 [006.2000-007.2000]: That's great!", "M: [LAUGHTER]"]
        spoken.append(f"{dialogue}_M000 [001.5000-002.5000]: Hm.")
        (folder / "dialog" / "transcriptions" / f"{dialogue}.txt").write_text("\n".join(spoken))
        clips = folder / "sentences" / "wav" / dialogue
        clips.mkdir(parents=True)
        for name in ("F000", "M000", "M001", "F001"):
            soundfile.write(clips / f"{dialogue}_{name}.wav", 0.1 * np.sin(np.arange(1600) / 5), 16_000)
    return root


def emotions_of(dataset) -> list:
    names = dataset.features["emotion"].names
    return [None if value is None else names[value] for value in dataset["emotion"]]


def test_iemocap_keeps_every_utterance_in_the_order_of_its_start(iemocap_folder):
    dataset = corpus_named("iemocap").build(iemocap_folder)
    first = dataset.select(range(4))
    assert first["turn"] == [0, 1, 2, 3] and set(first["dialogue"]) == {"iemocap_Ses01F_impro01"}
    assert emotions_of(first) == [None, "excited", "angry", "frustrated"]
    assert first["text"] == ["Hm.", "That's great!", None, None]
    assert first["speaker"] == ["iemocap_1M", "iemocap_1F", "iemocap_1F", "iemocap_1M"]
    assert (first[1]["valence"], first[1]["arousal"], first[1]["dominance"]) == (4.5, 3.0, 2.5)
    assert dataset["split"] == ["train"] * 12 + ["dev"] * 4 + ["test"] * 4
    assert "5 utterances have none of the chosen emotions." in dataset.info.description


def test_iemocap_has_four_classes_and_folds(tmp_path, iemocap_folder):
    (iemocap_folder / "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_F000.wav").unlink()
    app(
        ["prepare", "iemocap", str(iemocap_folder), str(tmp_path / "out"), "--classes", "4", "--fold", "1"],
        standalone_mode=False,
    )
    dataset = read_dataset(tmp_path / "out", required=None)
    rows = {row["source_file"].split("/")[1]: row for row in dataset}
    names = dataset.features["emotion"].names
    assert names == ["happy", "sad", "neutral", "angry"]
    assert names[rows["Ses01F_impro01_F000"]["emotion"]] == "happy"
    assert rows["Ses01F_impro01_M001"]["emotion"] is None
    assert {rows[f"Ses0{session}F_impro01_F001"]["split"] for session in (2, 3, 4)} == {"train"}
    assert (rows["Ses01F_impro01_F001"]["split"], rows["Ses05F_impro01_F001"]["split"]) == ("test", "dev")
    assert rows["Ses02F_impro01_F000"]["audio"] is None and "1 utterances have no clip." in dataset.info.description


def test_iemocap_refuses_other_folders_classes_and_folds(tmp_path, iemocap_folder):
    iemocap = corpus_named("iemocap")
    for options, message in (({"classes": 5}, "`classes` is 5; expected one of"), ({"fold": 6}, "`fold` is 6")):
        with pytest.raises(DatasetError, match=message):
            iemocap.build(iemocap_folder, **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="has no Session"):
        iemocap.build(tmp_path / "empty")


# CMU-MOSI ------------------------------------------------------------------------------------------------------------


MOSI_LINES = (
    "a_b,1,GREAT MOVIE,2.4,Positive,train",
    "a_b,10,IT WAS OKAY,0.0,Neutral,train",
    "a_b,2,I LOVED IT,3,Positive,train",
    "c,1,BORING,-1.8,Negative,valid",
    "-d,1,BAD,-3.0,Negative,test",
)


@pytest.fixture
def mosi_folder(tmp_path) -> Path:
    (tmp_path / "MOSI").mkdir()
    header = "video_id,clip_id,text,label,annotation,mode"
    (tmp_path / "MOSI" / "label.csv").write_text("\n".join([header, *MOSI_LINES]))
    return tmp_path / "MOSI"


def test_mosi_is_read_as_classes_and_as_a_rating(mosi_folder):
    dataset = corpus_named("mosi").build(mosi_folder)
    assert emotions_of(dataset) == ["positive", "positive", "positive", "negative", "negative"]
    assert dataset["valence"][:] == pytest.approx([2.4, 0, 3, -1.8, -3])
    assert dataset["split"][:] == ["train"] * 3 + ["dev", "test"]
    assert dataset["turn"][:3] == [1, 10, 2] and set(dataset["dialogue"][:3]) == {"mosi_a_b"}
    assert dataset["sentiment"][1] == "neutral" and "1 segments have a sentiment of 0." in dataset.info.description
    assert emotions_of(corpus_named("mosi").build(mosi_folder, zero="drop"))[1] is None


def test_mosi_clips_have_either_name_and_missing_ones_leave_the_text(tmp_path, mosi_folder, speech_clip):
    clips = tmp_path / "clips"
    for name in ("a_b/1.wav", "c_1.wav"):
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(clips / name, speech_clip(0.5), 16_000)
    arguments = ["prepare", "mosi", str(mosi_folder), str(tmp_path / "out"), "--audio", str(clips)]
    app(arguments, standalone_mode=False)
    dataset = read_dataset(tmp_path / "out", required=None)
    spoken = {row["source_file"] for row in dataset if row["audio"] is not None}
    assert spoken == {"a_b/1", "c/1"} and "3 segments have no clip." in dataset.info.description


def test_mosi_refuses_other_lists_and_options(tmp_path, mosi_folder):
    mosi = corpus_named("mosi")
    with pytest.raises(DatasetError, match="`zero` is 'negative'; expected one of"):
        mosi.build(mosi_folder, zero="negative")
    with pytest.raises(DatasetError, match="label.csv is missing"):
        mosi.build(tmp_path)
    list_of = mosi_folder / "label.csv"
    list_of.write_text(
        "\n".join(["video_id,clip_id,text,label,mode", "a,1,x,7,train", "a,2,x,nan,train", "a,3,x,1,all"])
    )
    with pytest.raises(DatasetError, match="labels that are no numbers from -3 to 3"):
        mosi.build(mosi_folder)
