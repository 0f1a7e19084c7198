# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Dataset scripts: from a corpus as it is distributed to a dataset that a user can trust."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import DatasetInfo

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import corpus as corpus_named
from modeling_sparse_merit.data.datasets import EMOTIONS, DatasetError, read_dataset

ased = corpus_named("ased")
baved = corpus_named("baved")
emodb = corpus_named("emodb")
emospeech_commands = corpus_named("emospeech_commands")
folder = corpus_named("folder")
moodist = corpus_named("moodist")
msp_podcast = corpus_named("msp_podcast")
nemo = corpus_named("nemo")
noise = corpus_named("noise")
ravdess = corpus_named("ravdess")
speechocean762 = corpus_named("speechocean762")
picovoice = corpus_named("picovoice")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def record(corpus: Path, *files: str, seconds: float = 0.5) -> Path:
    """Synthesises a tone in each of these files."""
    tone = 0.1 * np.sin(np.arange(int(seconds * 16_000)) / 5)
    for file in files:
        (corpus / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(corpus / file, tone, 16_000)
    return corpus


def list_files(corpus: Path, header: str, *lines: str, name: str = "metadata.csv") -> Path:
    (corpus / name).parent.mkdir(parents=True, exist_ok=True)
    (corpus / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return corpus


def by_file(dataset) -> dict[str, dict]:
    """Rows under their file's stem, with the emotion by name."""
    names = dataset.features["emotion"].names
    return {
        Path(row["audio"]["path"]).stem: row | {"emotion": None if row["emotion"] is None else names[row["emotion"]]}
        for row in dataset
    }


# Corpora in their own layout -----------------------------------------------------------------------------------------


def test_ravdess_is_read_from_its_file_names(tmp_path):
    files = [f"Actor_01/03-01-{emotion:02}-01-02-01-01.wav" for emotion in range(1, 9)]
    record(tmp_path, *files, "Actor_16/03-01-05-02-01-02-16.wav", "Actor_18/03-01-03-01-01-01-18.wav")

    with pytest.warns(UserWarning, match="speakers 15, 17, 19, 20 are to be held out but are not in the corpus"):
        rows = by_file(ravdess.build(tmp_path))

    emotions = [rows[Path(file).stem]["emotion"] for file in files]
    assert emotions == ["neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"]
    row = rows["03-01-05-02-01-02-16"]
    assert (row["speaker"], row["gender"], row["split"], row["language"]) == ("ravdess_16", "female", "dev", "en")
    assert row["text"] == "Kids are talking by the door"
    assert row["source_file"] == "Actor_16/03-01-05-02-01-02-16.wav"
    assert row["duration"] == pytest.approx(0.5)
    assert rows["03-01-01-01-02-01-01"]["gender"] == "male"
    assert rows["03-01-01-01-02-01-01"]["text"] == "Dogs are sitting by the door"
    assert (row["sentence"], rows["03-01-01-01-02-01-01"]["sentence"]) == ("01", "02")
    assert rows["03-01-03-01-01-01-18"]["split"] == "test"


def test_ravdess_songs_are_left_out_and_counted_unless_asked_for(tmp_path):
    record(tmp_path, "Actor_01/03-01-01-01-01-01-01.wav", "Actor_01/03-02-01-01-01-01-01.wav")

    spoken = ravdess.build(tmp_path, dev=(), test=())

    assert len(spoken) == 1 and "1 songs were left out" in spoken.info.description
    assert len(ravdess.build(tmp_path, dev=(), test=(), songs=True)) == 2


def test_ravdess_unpacked_twice_is_noticed(tmp_path):
    record(tmp_path, "Actor_01/03-01-01-01-01-01-01.wav", "copy/Actor_01/03-01-01-01-01-01-01.wav")

    with pytest.raises(DatasetError, match="1 duplicate files: copy/Actor_01/03-01-01-01-01-01-01.wav"):
        ravdess.build(tmp_path)


def test_emodb_is_read_from_its_file_names_and_boredom_stays_unlabelled(tmp_path):
    letters = {"W": "angry", "L": None, "E": "disgust", "A": "fear", "F": "happy", "T": "sad", "N": "neutral"}
    record(tmp_path, *(f"wav/03a01{letter}a.wav" for letter in letters), "wav/13b10Na.wav", "wav/12a02Wb.wav")

    with pytest.warns(UserWarning, match="speakers 10, 14 are to be held out"):
        dataset = emodb.build(tmp_path)
    rows = by_file(dataset)

    assert {letter: rows[f"03a01{letter}a"]["emotion"] for letter in letters} == letters
    assert "1 clips of boredom were kept unlabelled" in dataset.info.description
    assert rows["03a01Fa"]["text"] == "Der Lappen liegt auf dem Eisschrank."
    assert (rows["03a01Fa"]["sentence"], rows["13b10Na"]["sentence"]) == ("a01", "b10")
    actual = {name: (row["speaker"], row["gender"], row["split"]) for name, row in rows.items()}
    assert actual["03a01Fa"] == ("emodb_03", "male", "train")
    assert actual["13b10Na"] == ("emodb_13", "female", "dev")
    assert actual["12a02Wb"] == ("emodb_12", "male", "test")


NEMO_HEADER = "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"
NEMO_LINES = [
    'EB0_anger_1.wav\tanger\tTo „żart" .\tto żart\t        EB0\tfemale\t27',
    "MP0_surprised_2.wav\tsurprised\tDobrze.\tdobrze\t        MP0\tmale\t24",
    "KD0_sadness_3.wav\tsadness\tNie.\tnie\t        KD0\tfemale\t28",
    "SM0_happiness_4.wav\thappiness\tTak.\ttak\t        SM0\tmale\t24",
]


@pytest.mark.parametrize("listed", [True, False])
def test_nemo_is_read_from_its_list_or_its_file_names(tmp_path, listed):
    record(tmp_path, *(f"samples/{line.split()[0]}" for line in NEMO_LINES))
    if listed:
        list_files(tmp_path, NEMO_HEADER, *NEMO_LINES, name="data.tsv")

    rows = by_file(nemo.build(tmp_path))

    actual = {name: (row["emotion"], row["speaker"], row["gender"], row["split"]) for name, row in rows.items()}
    assert actual == {
        "EB0_anger_1": ("angry", "nemo_EB0", "female", "train"),
        "MP0_surprised_2": ("surprise", "nemo_MP0", "male", "dev"),
        "KD0_sadness_3": ("sad", "nemo_KD0", "female", "test"),
        "SM0_happiness_4": ("happy", "nemo_SM0", "male", "train"),
    }
    assert rows["EB0_anger_1"]["text"] == ('To „żart" .' if listed else None)
    assert all(row["sentence"] == name[-1] for name, row in rows.items())


def test_nemo_recordings_that_are_not_listed_are_counted(tmp_path):
    record(tmp_path, "samples/EB0_anger_1.wav", "samples/EB0_anger_9.wav")
    list_files(tmp_path, NEMO_HEADER, NEMO_LINES[0], name="data.tsv")

    assert "1 recordings without a line in data.tsv" in nemo.build(tmp_path, dev=(), test=()).info.description


def test_ased_is_read_from_its_file_names_and_common_sentences_keep_their_number(tmp_path):
    letters = {"n1": "neutral", "f2": "fear", "h3": "happy", "S4": "sad", "a5": "angry"}
    files = [f"folder/{code}-02-01-01-01.wav" for code in letters]
    record(tmp_path, *files, "05Angry/a5-06-02-02-04.wav", "01Neutral/n1-07-01-02-10.wav")

    with pytest.warns(UserWarning, match="speakers 08, 20, 23, 25, 27, 31, 32, 33, 46, 49, 56, 63 are to be held out"):
        rows = by_file(ased.build(tmp_path))

    assert [rows[Path(file).stem]["emotion"] for file in files] == list(letters.values())
    columns = ["emotion", "speaker", "gender", "split", "sentence", "language"]
    assert [rows["a5-02-01-01-01"][name] for name in columns] == [
        *("angry", "ased_01", "female", "train", "angry02", "am")
    ]
    assert [rows["a5-06-02-02-04"][name] for name in columns] == ["angry", "ased_04", "male", "test", "06", "am"]
    assert [rows["n1-07-01-02-10"][name] for name in columns] == ["neutral", "ased_10", "male", "dev", "07", "am"]


def test_emospeech_commands_are_those_of_known_users(tmp_path):
    users = {name: name + 48 * "0" for name in ("016294ed", "d14a028c", "b85700a6", "da09e319")}
    files = {
        f"webservice/bacho-safe-angry-1563000375725-{users['016294ed']}.wav": ("angry", "016294ed", "train", "hi"),
        f"webservice/help-scream-fearful-12312-{users['b85700a6']}.wav": ("fear", "b85700a6", "test", "en"),
        f"webservice/unknown-glass break-calm-1-{users['da09e319']}.wav": ("calm", "da09e319", "dev", "en"),
        f"webservice/yes-safe-None-1-{users['da09e319']}.wav": (None, "da09e319", "dev", "en"),
    }
    unknown = f"help-safe-calm-1-{users['d14a028c']}.wav"
    record(tmp_path, *files, f"webservice/{unknown}", f"Roads/background-safe-None-1-{users['016294ed']}.wav")

    with pytest.warns(UserWarning, match="to be held out but are not in the corpus"):
        dataset = emospeech_commands.build(tmp_path)

    rows = by_file(dataset)
    assert "2 clips without a word, or of an unknown user, were left out" in dataset.info.description
    for file, (emotion, user, split, language) in files.items():
        row = rows.pop(Path(file).stem)
        actual = (row["emotion"], row["speaker"], row["split"], row["language"], row["gender"])
        assert actual == (emotion, f"emospeech_{user}", split, language, None)
        assert row["text"] == {"bacho": "bacho", "help": "help", "yes": "yes"}.get(Path(file).name.split("-")[0])
    assert not rows


def test_baved_has_no_emotions_and_its_levels_become_arousal(tmp_path):
    record(tmp_path, "1/1-m-20-1-2-376.wav", "0/100-f-6-0-0-0.wav", "6/4-m-20-6-1-9.wav")

    rows = by_file(baved.build(tmp_path, dev=("100",), test=("04",)))

    actual = {name: (row["emotion"], row["speaker"], row["gender"], row["split"]) for name, row in rows.items()}
    assert actual == {
        "1-m-20-1-2-376": (None, "baved_01", "male", "train"),
        "100-f-6-0-0-0": (None, "baved_100", "female", "dev"),
        "4-m-20-6-1-9": (None, "baved_04", "male", "test"),
    }
    assert [row["arousal"] for row in rows.values()] == [0, 2, 1]
    assert rows["1-m-20-1-2-376"]["text"] == "لم يعجبني" and rows["1-m-20-1-2-376"]["sentence"] == "1"


def test_picovoice_orders_are_joined_with_their_labels(tmp_path):
    names = [f"order{number}" for number in range(40)]
    record(tmp_path, *(f"speech/{name}.wav" for name in [*names, "other"]))
    labels = {f"{name}.wav": {"intent": "orderDrink", "slots": {"coffeeDrink": "latte"}} for name in names}
    labels["order0.wav"]["slots"] |= {"milkAmount": " soy  milk", "numberOfShots": "double shot"}
    (tmp_path / "label.json").write_text(json.dumps(labels))
    dataset = picovoice.build(tmp_path)
    assert len(dataset) == 40 and "1 recordings without a label were left out" in dataset.info.description
    first = by_file(dataset)["order0"]
    slots = ("intent", "coffee_drink", "milk_amount", "number_of_shots", "roast", "size", "sugar_amount")
    assert [first[slot] for slot in slots] == [
        "orderDrink",
        "latte",
        "soy milk",
        "double shot",
        "none",
        "none",
        "none",
    ]
    assert set(dataset["split"]) == {"train", "dev", "test"}
    (tmp_path / "label.json").write_text("[]")
    with pytest.raises(DatasetError, match="is no list of intents and slots"):
        picovoice.build(tmp_path)
    (tmp_path / "label.json").unlink()
    with pytest.raises(DatasetError, match="has no label.json"):
        picovoice.build(tmp_path)


def test_speechocean762_is_read_from_its_lists(tmp_path):
    record(tmp_path, "WAVE/SPEAKER0001/000010011.WAV", "WAVE/SPEAKER0306/003060004.WAV", "WAVE/x/unlisted.WAV")
    for part, speaker, utterance, text, letter in (
        ("train", "0001", "000010011", "WE CALL IT BEAR", "m"),
        ("test", "0306", "003060004", "IT RAINS", "f"),
    ):
        list_files(tmp_path, f"{utterance}\tWAVE/SPEAKER{speaker}/{utterance}.WAV", name=f"{part}/wav.scp")
        list_files(tmp_path, f"{utterance} {speaker}", name=f"{part}/utt2spk")
        list_files(tmp_path, f"{utterance}\t{text}", name=f"{part}/text")
        list_files(tmp_path, f"{speaker}\t{letter}", name=f"{part}/spk2gender")

    rows = by_file(speechocean762.build(tmp_path, dev=("0306",), test=()))

    columns = ["speaker", "gender", "split", "text", "emotion", "source_file"]
    assert {name: [row[column] for column in columns] for name, row in rows.items()} == {
        "000010011": ["speechocean_0001", "male", "train", "WE CALL IT BEAR", None, "WAVE/SPEAKER0001/000010011.WAV"],
        "003060004": ["speechocean_0306", "female", "dev", "IT RAINS", None, "WAVE/SPEAKER0306/003060004.WAV"],
    }
    list_files(tmp_path, "000010011 0001", name="test/utt2spk")
    with pytest.raises(DatasetError, match=r"utterances without a speaker in test/utt2spk[^\n]*003060004"):
        speechocean762.build(tmp_path, dev=(), test=())
    with pytest.raises(DatasetError, match="utt2spk is missing; give the folder of speechocean762"):
        speechocean762.build(tmp_path / "WAVE")


@pytest.mark.parametrize("inside", ["", "public/sounds"])
def test_moodist_sounds_are_their_own_category(tmp_path, inside):
    record(tmp_path / inside, "rain/light-rain.wav", "urban/road.wav", "noise/pink-noise.wav", "alarm.wav")

    dataset = moodist.build(tmp_path)

    assert [(row["category"], row["split"]) for row in dataset] == [("light-rain", "train"), ("road", "dev")]
    assert "2 synthetic sounds and signals were left out" in dataset.info.description
    assert moodist.build(tmp_path, dev=("light-rain",))["split"] == ["dev", "train"]


MSP_HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
MSP_CODES = {"A": "angry", "S": "sad", "H": "happy", "U": "surprise", "F": "fear", "D": "disgust"}
MSP_CODES |= {"C": "contempt", "N": "neutral", "O": None, "X": None}


def make_msp_podcast(root: Path, audio: str = "Audios", labels: str = "Labels") -> Path:
    """A clip of every class, numbered like the classes; and a clip of the secret test set."""
    sets = ["Train", "Development", "Test1", "Test2", "Train", "Train", "Train", "Train", "Train", "Train"]
    names = [f"MSP-PODCAST_0001_{number:04}.wav" for number in range(11)]
    lines = [
        f"{name},{code},3.4,2.25,5,{'Unknown' if code in 'AS' else code},Male,{split}"
        for name, code, split in zip(names, MSP_CODES, sets, strict=False)
    ]
    record(root, *(f"{audio}/{name}" for name in names))
    return list_files(
        root, MSP_HEADER, *lines, f"{names[10]},,,,,Unknown,Unknown,Test3", name=f"{labels}/labels_consensus.csv"
    )


def test_msp_podcast_keeps_classes_ratings_speakers_and_official_splits(tmp_path):
    corpus = make_msp_podcast(tmp_path)
    (corpus / "Transcripts").mkdir()
    (corpus / "Transcripts" / "MSP-PODCAST_0001_0000.txt").write_text("Well, no.\n", encoding="utf-8")

    dataset = msp_podcast.build(corpus)
    rows = list(by_file(dataset).values())

    assert [row["emotion"] for row in rows] == [*MSP_CODES.values(), None]
    assert [row["split"] for row in rows][:4] == ["train", "dev", "test1", "test2"] and rows[10]["split"] == "test3"
    assert rows[0]["arousal"] == pytest.approx(3.4)
    assert (rows[0]["valence"], rows[0]["dominance"], rows[10]["arousal"]) == (2.25, 5.0, None)
    assert rows[0]["text"] == "Well, no." and rows[1]["text"] is None
    assert (rows[2]["speaker"], rows[0]["speaker"]) == ("msp_podcast_H", None)  # the unknown are not one person
    assert (rows[0]["gender"], rows[10]["gender"]) == ("male", None)
    assert "not to be passed on" in dataset.info.license


def test_msp_podcast_takes_recognized_transcripts_for_all_splits_but_train(tmp_path):
    corpus = make_msp_podcast(tmp_path / "corpus")
    for number in range(11):
        for folder, words in (("corpus/Transcripts", "said"), ("whisper", "recognized")):
            path = tmp_path / folder / f"MSP-PODCAST_0001_{number:04}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f" {words} {number}\n", encoding="utf-8")
    (tmp_path / "whisper" / "MSP-PODCAST_0001_0002.txt").unlink()
    (tmp_path / "corpus" / "Transcripts" / "MSP-PODCAST_0001_0004.txt").unlink()

    arguments = ["--transcripts", str(tmp_path / "whisper")]
    app(["prepare", "msp_podcast", str(corpus), str(tmp_path / "out"), *arguments], standalone_mode=False)

    dataset = read_dataset(tmp_path / "out")
    texts = {row["split"]: row["text"] for row in dataset if row["split"] != "train"}
    assert texts == {"dev": "recognized 1", "test1": None, "test2": "recognized 3", "test3": "recognized 10"}
    assert sorted(row["text"] or "" for row in dataset if row["split"] == "train") == ["", "said 0"] + [
        f"said {number}" for number in range(5, 10)
    ]
    assert "2 clips have no transcript." in dataset.info.description
    assert msp_podcast.build(corpus)["text"][1:4] == ["said 1", "said 2", "said 3"]
    with pytest.raises(DatasetError, match="holds no transcript; expected files NAME.txt"):
        msp_podcast.build(corpus, transcripts=corpus / "Audios")


def test_msp_podcast_clips_without_a_class_can_be_left_out_or_kept_as_other(tmp_path):
    corpus = make_msp_podcast(tmp_path)

    assert len(msp_podcast.build(corpus, other="drop", no_agreement="drop")) == 9
    kept = msp_podcast.build(corpus, other="keep")
    assert kept.features["emotion"].names == [*EMOTIONS, "other"]
    assert [row["emotion"] for row in by_file(kept).values()][8:] == ["other", None, None]


@pytest.mark.parametrize("audio", ["Audios", "Audio", "Audios/Audio", "Audios/Audios"])
@pytest.mark.parametrize("labels", ["Labels", "Labels/Labels"])
def test_msp_podcast_is_found_in_the_layout_of_each_release(tmp_path, audio, labels):
    assert len(msp_podcast.build(make_msp_podcast(tmp_path, audio, labels))) == 11


def test_msp_podcast_audio_elsewhere_has_to_be_named(tmp_path):
    corpus = make_msp_podcast(tmp_path, audio="elsewhere")

    with pytest.raises(DatasetError, match="--audio"):
        msp_podcast.build(corpus)
    assert len(msp_podcast.build(corpus, audio=corpus / "elsewhere")) == 11


def test_msp_podcast_labels_as_the_laboratory_writes_them(reference_data, tmp_path):
    labels = reference_data / "data" / "msp_podcast_layout" / "Labels" / "labels_consensus.csv"
    (tmp_path / "Labels").mkdir()
    (tmp_path / "Labels" / "labels_consensus.csv").symlink_to(labels)
    with open(labels, newline="") as lines:
        record(tmp_path, *(f"Audios/{line['FileName']}" for line in csv.DictReader(lines)), seconds=0.02)

    rows = by_file(msp_podcast.build(tmp_path)).values()

    counts = Counter(row["emotion"] for row in rows)
    assert counts == {None: 16, "fear": 6, "disgust": 1} | dict.fromkeys(
        ("angry", "sad", "happy", "neutral", "surprise", "contempt"), 8
    )
    assert {row["speaker"] for row in rows} == {None} and {row["split"] for row in rows} == {None}
    assert all(1 <= row[name] <= 7 for row in rows for name in ("arousal", "valence", "dominance"))


# Any folder ----------------------------------------------------------------------------------------------------------


def test_a_folder_with_metadata_may_leave_most_of_it_out(tmp_path):
    record(tmp_path, "a/1.wav", "b/1.wav")
    header = "file_name,emotion,speaker,split,sentence"
    list_files(tmp_path, header, "a/1.wav,sad,Unknown,validation,06", "b/1.wav,,anna,train,")

    first, second = folder.build(tmp_path)

    assert (first["emotion"], first["speaker"], first["split"]) == (EMOTIONS.index("sad"), None, "dev")
    assert (second["emotion"], second["speaker"], second["text"]) == (None, "anna", None)
    assert (first["sentence"], second["sentence"]) == ("06", None)
    assert first["audio"] == {"bytes": None, "path": str(tmp_path / "a" / "1.wav")}


def test_a_folder_may_have_its_own_classes_and_column_names(tmp_path):
    record(tmp_path, "1.wav")
    list_files(tmp_path, "path,label,v", "1.wav,bored,0.5")
    columns = {"file_name": "path", "emotion": "label", "valence": "v"}

    dataset = folder.build(tmp_path, labels=["calm", "bored"], columns=columns)

    assert dataset.features["emotion"].names == ["calm", "bored"]
    assert (dataset[0]["emotion"], dataset[0]["valence"]) == (1, 0.5)
    with pytest.raises(DatasetError, match="lacks 1 columns: label; it has path"):
        folder.build(list_files(tmp_path, "path", "1.wav"), columns={"file_name": "path", "emotion": "label"})
    with pytest.raises(DatasetError, match="mood=... is not a column of a speech dataset"):
        folder.build(tmp_path, columns={"mood": "label"})


@pytest.mark.parametrize(
    ("labels", "vocabulary"),
    [
        (["sad", "angry"], list(EMOTIONS)),
        (["upset", "calm", "", "down"], ["calm", "down", "upset"]),  # of the shared vocabulary first
    ],
)
def test_the_labels_of_a_folder_are_those_of_its_list(tmp_path, labels, vocabulary):
    files = [f"{number}.wav" for number in range(len(labels))]
    lines = [f"{file},{label},train" for file, label in zip(files, labels, strict=True)]
    list_files(record(tmp_path, *files), "file_name,emotion,split", *lines)

    dataset = folder.build(tmp_path)

    names = dataset.features["emotion"].names
    assert names == vocabulary
    assert [number if number is None else names[number] for number in dataset["emotion"]] == [
        label or None for label in labels
    ]


def test_speakers_can_be_assigned_to_splits(tmp_path):
    list_files(record(tmp_path, "1.wav", "2.wav", "3.wav"), "file_name,speaker", "1.wav,ann", "2.wav,bob", "3.wav,cem")
    with pytest.warns(UserWarning, match="no recording has a split.*--dev"):
        folder.build(tmp_path)
    with pytest.warns(UserWarning, match="dan are to be held out but are not in the corpus"):
        assert folder.build(tmp_path, dev=["bob"], test=["cem", "dan"])["split"][:] == ["train", "dev", "test"]
    list_files(tmp_path, "file_name,speaker,split", "1.wav,ann,train")
    with pytest.raises(DatasetError, match="has a column 'split', so --dev and --test do not apply"):
        folder.build(tmp_path, dev=["ann"])


def test_a_list_is_needed_and_so_is_its_file_name(tmp_path):
    with pytest.raises(DatasetError, match=r"metadata\.csv is missing"):
        folder.build(tmp_path)
    with pytest.raises(DatasetError, match="lacks 1 columns: file_name"):
        folder.build(list_files(tmp_path, "name,emotion", "1.wav,sad"))
    with pytest.raises(DatasetError, match="2 missing files: , "):
        folder.build(list_files(tmp_path, "text,file_name", "Hello.,", "Nobody."))
    with pytest.raises(DatasetError, match="is not a folder"):
        folder.build(tmp_path / "absent")


def test_noises_are_taken_with_or_without_a_list(tmp_path):
    record(tmp_path, "rain/1.wav", "2.wav")

    actual = noise.build(tmp_path, split="train")
    listed = noise.build(
        list_files(tmp_path, "file_name,split,rt60_s", "2.wav,test,0.4", "rain/1.wav,,"), split="train"
    )

    assert [(row["category"], row["split"]) for row in actual] == [(None, "train"), ("rain", "train")]
    assert [(row["category"], row["split"]) for row in listed] == [(None, "test"), (None, "train")]
    assert listed[0]["rt60_s"] == pytest.approx(0.4)


def test_folders_of_noise_with_a_list_each_become_one_dataset(tmp_path):
    for name, seconds in (("halls", 1.2), ("offices", 0.4)):
        list_files(record(tmp_path / name, "1.wav"), "file_name,split,rt60_s", f"1.wav,train,{seconds}")
    record(tmp_path, "0.wav", "unlisted/1.wav")

    actual = noise.build(tmp_path)

    assert [(row["source_file"], row["split"]) for row in actual] == [
        ("halls/1.wav", "train"),
        ("offices/1.wav", "train"),
    ]
    assert actual["rt60_s"] == pytest.approx([1.2, 0.4])
    assert "2 recordings outside the subfolders with a metadata.csv were left out" in actual.info.description


def test_recordings_with_a_loud_background_can_be_left_out(tmp_path):
    tone = np.sin(np.arange(8_000) * np.pi / 2 + np.pi / 4)  # the same power in every frame
    for name, background in (("quiet", 0.005), ("noisy", 0.05)):  # 40 and 20 dB below 0.5
        samples = np.concatenate([background * tone, 0.5 * tone])
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no audio")
    list_files(tmp_path, "file_name,speaker", "quiet.wav,anna", "noisy.wav,otto")

    dataset = folder.build(tmp_path, min_dynamic_range=39.9)

    assert dataset["speaker"] == ["anna"]
    assert "1 recordings with a dynamic range below 39.9 dB were left out" in dataset.info.description
    assert len(folder.build(tmp_path, min_dynamic_range=19.9)) == 2
    with pytest.raises(DatasetError, match="1 unreadable recordings: text.wav"):
        folder.build(list_files(tmp_path, "file_name", "text.wav"), min_dynamic_range=30)


# What is wrong with a corpus -----------------------------------------------------------------------------------------


@pytest.fixture
def bad_corpus(tmp_path):
    """One good row, and every kind of bad one."""
    corpus = record(tmp_path / "corpus", "good.wav", "rated.wav", "named.wav", "split.wav")
    record(tmp_path, "secret.wav")
    (corpus / "link.wav").symlink_to(tmp_path / "secret.wav")
    (corpus / "text.wav").write_text("no audio")
    soundfile.write(corpus / "empty.wav", np.zeros(0), 16_000)
    missing = [f"missing{number}.wav,,," for number in range(7)]
    outside = ["../secret.wav,,,", f"{tmp_path}/secret.wav,,,", "link.wav,,,"]
    others = ["text.wav,,,", "empty.wav,,,", "good.wav,,,", "rated.wav,,high,", "named.wav,bored,,", "split.wav,,,a/b"]
    return list_files(corpus, "file_name,emotion,valence,split", "good.wav,sad,1,train", *missing, *outside, *others)


def test_all_problems_are_told_at_once_with_counts_and_the_first_five(bad_corpus):
    with pytest.raises(DatasetError) as error:
        folder.build(bad_corpus, labels=EMOTIONS)

    message = str(error.value)
    assert "16 problems in" in message and "--skip-bad" in message
    assert "7 missing files: missing0.wav, missing1.wav, missing2.wav, missing3.wav, missing4.wav, ...\n" in message
    assert "3 files outside the corpus folder: ../secret.wav, /" in message and "link.wav\n" in message
    assert "1 unreadable recordings: text.wav" in message
    assert "1 empty recordings: empty.wav" in message
    assert "1 duplicate files: good.wav" in message
    assert "1 values that are not numbers: rated.wav: valence 'high'" in message
    assert "1 unknown labels (the vocabulary is angry, sad," in message and "named.wav: 'bored'" in message
    assert "1 split names that are not one word: split.wav: 'a/b'" in message


def test_bad_rows_can_be_left_out_with_the_same_report(bad_corpus):
    with pytest.warns(UserWarning, match="(?s)16 problems.*7 missing files"):
        dataset = folder.build(bad_corpus, skip_bad=True, labels=EMOTIONS)

    assert [row["source_file"] for row in dataset] == ["good.wav"]


def test_a_folder_of_another_corpus_is_refused(tmp_path):
    record(tmp_path, "Actor_01/03-01-01-01-01-01-01.wav")

    with pytest.raises(DatasetError, match="1 file names that are not of EmoDB: Actor_01"):
        emodb.build(tmp_path)
    with pytest.raises(DatasetError, match="contains no row of this corpus"):
        ravdess.build(list_files(tmp_path / "empty", "file_name"))


def test_a_code_that_the_corpus_does_not_have_is_an_unknown_label(tmp_path):
    with pytest.raises(DatasetError, match="1 unknown labels .*03-01-09-01-01-01-01.wav: '09'"):
        ravdess.build(record(tmp_path, "03-01-09-01-01-01-01.wav"))


def test_speakers_in_two_splits_are_named(tmp_path):
    record(tmp_path, "1.wav", "2.wav", "3.wav", "4.wav")
    lines = ["1.wav,anna,train", "2.wav,anna,test", "3.wav,unknown,train", "4.wav,unknown,test"]
    list_files(tmp_path, "file_name,speaker,split", *lines)

    with pytest.warns(UserWarning, match=r"1 values of 'speaker' are in more than one split: anna \(test, train\)"):
        folder.build(tmp_path)


def test_a_speaker_cannot_be_held_out_twice(tmp_path):
    with pytest.raises(DatasetError, match="speakers 01 are in both dev and test"):
        ravdess.build(tmp_path, dev=("01",), test=("01", "02"))


# Writing -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    return record(tmp_path / "raw", *(f"Actor_01/03-01-{emotion:02}-01-02-01-01.wav" for emotion in range(1, 9)))


def test_a_table_is_never_replaced_by_accident(tmp_path, corpus):
    dataset = ravdess.build(corpus, dev=(), test=())
    prepare.write_dataset(dataset, tmp_path / "out")

    with pytest.raises(DatasetError, match="--overwrite"):
        prepare.write_dataset(dataset, tmp_path / "out")
    prepare.write_dataset(dataset.select([0]), tmp_path / "out", overwrite=True)
    assert len(read_dataset(tmp_path / "out")) == 1
    with pytest.raises(DatasetError, match="it is not a dataset, since it holds Actor_01"):
        prepare.write_dataset(dataset, corpus, overwrite=True)
    assert len(prepare.audio_files(corpus)) == 8


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, corpus):
    dataset = ravdess.build(corpus, dev=(), test=())
    prepare.audio_files(corpus)[-1].unlink()

    with pytest.raises(FileNotFoundError):
        prepare.write_dataset(dataset, tmp_path / "out", embed=True)
    assert os.listdir(tmp_path) == ["raw"]


def test_large_tables_are_written_in_shards(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_BYTES", 50_000)  # a clip is 16 kB

    prepare.write_dataset(ravdess.build(corpus, dev=(), test=()), tmp_path / "out", embed=True)

    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        f"train-0000{number}-of-00003.parquet" for number in range(3)
    ]
    assert len(read_dataset(tmp_path / "out")) == 8


def test_the_command_line_writes_a_table_and_says_what_is_in_it(tmp_path, corpus, capsys):
    options = ["--dev", "", "--test", "01", "--format", "disk"]
    app(["prepare", "ravdess", str(corpus), str(tmp_path / "out"), *options], standalone_mode=False)

    printed = capsys.readouterr().out
    assert "test               8 clips" in printed and "calm 1" in printed and "CC BY-NC-SA 4.0" in printed
    assert len(read_dataset(tmp_path / "out", "test")) == 8


def test_on_the_command_line_an_error_is_a_message(tmp_path, bad_corpus):
    command = [sys.executable, "-m", "dataset_scripts.folder", str(bad_corpus), str(tmp_path / "out")]

    result = subprocess.run([*command, "--labels", "sad"], cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == 2 and not (tmp_path / "out").exists()
    assert result.stderr.startswith("Error: 16 problems in") and "Traceback" not in result.stderr


def test_a_private_corpus_keeps_the_licence_it_was_given(tmp_path):
    list_files(record(tmp_path / "raw", "1.wav"), "file_name,label", "1.wav,bored")
    arguments = ["--labels", "bored, keen", "--column", "emotion=label", "--license", "private", "--embed"]

    app(["prepare", "folder", str(tmp_path / "raw"), str(tmp_path / "out"), *arguments], standalone_mode=False)

    read = read_dataset(tmp_path / "out")
    assert read.info.license == "private" and read.features["emotion"].names == ["bored", "keen"]
    assert read[0]["audio"]["bytes"] == (tmp_path / "raw" / "1.wav").read_bytes()


# Real recordings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "corpus, clips, emotions, splits",
    [
        (
            "emotion/ravdess",
            1199,
            {"happy": 159, "neutral": 80}
            | dict.fromkeys(("calm", "sad", "angry", "fear", "disgust", "surprise"), 160),
            {"train": 839, "dev": 120, "test": 240},
        ),
        (
            "emotion/emodb",
            266,
            {"angry": 100, "neutral": 63, "happy": 54, "sad": 49},
            {"train": 146, "dev": 57, "test": 63},
        ),
        (
            "emotion/nemo",
            1066,
            {"happy": 180, "neutral": 180, "sad": 180, "surprise": 180, "angry": 179, "fear": 167},
            {"train": 720, "dev": 166, "test": 180},
        ),
        ("speech/picovoice_commands", 193, {None: 193}, {"train": 154, "dev": 20, "test": 19}),
        (
            "emotion/ased",
            1626,
            {"neutral": 341, "fear": 334, "angry": 322, "happy": 322, "sad": 307},
            {"train": 1069, "dev": 180, "test": 377},
        ),
        (
            "emotion/emospeech_commands",
            976,
            {"calm": 347, "angry": 228, "happy": 206, "fear": 195},
            {"train": 714, "dev": 86, "test": 176},
        ),
        ("emotion/emodb_more", 28, {"fear": 25, "disgust": 3}, {"train": 11, "dev": 10, "test": 7}),
        (
            "emotion_attributes/emodb_rated",
            31,
            {"happy": 8, None: 7, "sad": 6, "angry": 4, "fear": 4, "neutral": 2},
            {"train": 14, "dev": 9, "test": 8},
        ),
        ("emotion_level/baved", 392, {None: 392}, {"train": 300, "dev": 28, "test": 64}),
        ("speech/speechocean762", 1541, {None: 1541}, {"train": 1313, "dev": 78, "test": 150}),
    ],
)
def test_real_speech_has_the_counts_of_its_readme(reference_data, corpus, clips, emotions, splits):
    dataset = folder.build(reference_data / "data" / corpus, info=DatasetInfo(license="see the corpus"))
    names = dict(enumerate(dataset.features["emotion"].names))

    assert len(dataset) == clips
    assert Counter(map(names.get, dataset["emotion"])) == emotions
    assert Counter(dataset["split"]) == splits
    assert not prepare.overlap(dataset, "speaker")
    assert not {"unknown", "Unknown"} & {*dataset["speaker"], *dataset["gender"]}


def test_real_ratings_keep_the_scale_of_their_corpus(reference_data):
    rated = folder.build(reference_data / "data" / "emotion_attributes" / "emodb_rated")
    levels = baved.build(reference_data / "data" / "emotion_level" / "baved")

    assert all(-1 <= row[name] <= 1 for row in rated for name in ("arousal", "valence"))
    assert set(rated["dominance"]) == {None}
    assert Counter(levels["arousal"]) == {0: 109, 1: 143, 2: 140}  # low, neutral, high


@pytest.mark.parametrize(
    "corpus, splits",
    [
        ("noise/esc10", {"train": 160, "dev": 40, "test": 40}),
        ("noise/speech_commands_background", {"train": 24}),
        ("noise/urbansound8k", {"test": 81, "dev": 27}),
        ("noise/nonspeech_noisex", {"test": 59, "dev": 19}),
        ("noise/moodist", {"train": 124, "dev": 21}),
        ("noise/emospeech_background", {"train": 39, "dev": 51}),
        ("rir", {"train": 20, "test": 6}),
    ],
)
def test_real_noise_has_the_counts_of_its_readme(reference_data, corpus, splits):
    dataset = noise.build(reference_data / "data" / corpus)

    assert Counter(dataset["split"]) == splits
    assert all(seconds > 0 for seconds in dataset["duration"])


@pytest.mark.parametrize("script, corpus", [(ased, "emotion/ased"), (baved, "emotion_level/baved")])
def test_original_file_names_agree_with_the_list_of_converted_recordings(reference_data, tmp_path, script, corpus):
    listed = {row["source_file"]: row for row in folder.build(reference_data / "data" / corpus)}

    named = list(script.build(record(tmp_path, *listed, seconds=0.02)))

    columns = ["emotion", "speaker", "split", "gender", "language", "text"]
    columns += ["sentence"] * (script is ased)
    assert len(named) == len(listed)
    for row in named:
        expected = listed[row["source_file"]]
        assert [row[name] for name in columns] == [expected[name] for name in columns], row["source_file"]


@pytest.mark.parametrize("script, corpus", [(ravdess, "ravdess"), (emodb, "emodb"), (nemo, "nemo")])
def test_what_file_names_say_agrees_with_the_list_of_real_recordings(reference_data, script, corpus):
    recordings = reference_data / "data" / "emotion" / corpus
    columns = ["emotion", "speaker", "split", "gender", "language"] + ["text"] * (corpus != "nemo")

    listed = by_file(folder.build(recordings))
    named = by_file(script.build(recordings))

    assert named.keys() == listed.keys()
    for file, row in named.items():
        assert [row[name] for name in columns] == [listed[file][name] for name in columns], file
