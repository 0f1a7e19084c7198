# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit prepare`: corpora to tables by one command, tables to the Hub and back, and never a licence broken."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import DatasetDict, DatasetInfo
from hub_server import TOKEN, Cut
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from modeling_sparse_merit import load_audio
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.cli.prepare import COMMANDS
from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import CORPORA
from modeling_sparse_merit.data.corpora import corpus as corpus_named
from modeling_sparse_merit.data.dataset_card import render_dataset_card
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset, read_datasets
from modeling_sparse_merit.data.licences import licence_names
from modeling_sparse_merit.evaluation import prepare_noisy
from modeling_sparse_merit.evaluation.conditions import Clips, Condition, Listener
from modeling_sparse_merit.evaluation.configuration import EvaluationConfig
from modeling_sparse_merit.hub.datasets import licence_to_state, push_dataset

folder, noise = corpus_named("folder"), corpus_named("noise")

ROOT = Path(__file__).parents[1]
OPEN = DatasetInfo(license="CC BY 4.0", description="Three people.", citation="Nobody (2026).")
MSP_LICENCE = "MSP-Podcast academic licence of the MSP laboratory; not to be passed on."


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def hub(hub, monkeypatch):
    """The Hub, where this process is known; its client does not wait between its attempts."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def corpus(tmp_path, speech_clip) -> Path:
    """A private corpus: three people, five clips, one of them unlabelled."""
    raw = tmp_path / "corpus"
    raw.mkdir()
    lines = ["a1,happy,ann,train", "a2,sad,ann,train", "b1,happy,bea,dev", "c1,,cem,test", "c2,sad,cem,test"]
    for number, line in enumerate(lines):
        clip = speech_clip(seconds=0.5 + 0.1 * number, seed=number)
        soundfile.write(raw / f"{line.split(',')[0]}.wav", clip, 16_000, subtype="FLOAT")
    rows = [f"{line.split(',')[0]}.wav,{line.split(',', 1)[1]}" for line in lines]
    (raw / "metadata.csv").write_text("\n".join(["file_name,emotion,speaker,split", *rows]) + "\n")
    return raw


@pytest.fixture
def noises(tmp_path) -> Path:
    """A noise dataset, of which each split has a recording."""
    raw, generator = tmp_path / "noises", np.random.default_rng(0)
    for split in ("train", "test"):
        (raw / split).mkdir(parents=True)
        soundfile.write(raw / split / "hiss.wav", 0.1 * generator.standard_normal(16_000), 16_000)
        written = noise.build(raw / split, split=split, info=DatasetInfo(license="CC0 1.0"))
        prepare.write_dataset(written, tmp_path / f"hiss_{split}")
    return tmp_path / "hiss_test"


def sparse_merit(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


# The command ---------------------------------------------------------------------------------------------------------


def test_prepare_writes_what_the_script_writes(corpus, tmp_path):
    result = sparse_merit("prepare", "folder", corpus, tmp_path / "one", "--license", "CC BY 4.0", "--embed")
    script = [sys.executable, "-m", "dataset_scripts.folder", str(corpus), str(tmp_path / "two")]
    subprocess.run([*script, "--license", "CC BY 4.0", "--embed"], cwd=ROOT, check=True)

    assert result.exit_code == 0 and "train              2 clips" in result.stdout
    one, two = read_dataset(tmp_path / "one"), read_dataset(tmp_path / "two")
    assert list(one) == list(two) and one.info.license == "CC BY 4.0"


def test_every_corpus_has_its_help(corpus):
    listed = sparse_merit("prepare", "--help").stdout
    assert all(name in listed for name in (*CORPORA, *COMMANDS))
    for name in (*CORPORA, *COMMANDS):
        result = sparse_merit("prepare", name, "--help")
        assert result.exit_code == 0 and f"Usage: sparse-merit prepare {name}" in result.stdout
        assert "--push" in result.stdout and "--i-may-redistribute" in result.stdout


def test_an_error_is_one_line_and_exit_code_2(tmp_path):
    result = sparse_merit("prepare", "ravdess", tmp_path / "nowhere", tmp_path / "out")
    assert result.exit_code == 2 and result.stderr.startswith("Error: ") and len(result.stderr.splitlines()) == 1
    assert sparse_merit("prepare", "ravdess").exit_code == 2


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("prepare no", ["noise", "noisy"]),
        ("prepare folder --l", ["--license", "--labels"]),
        ("prepare noisy --transmissions g", ["gsm"]),
        ("prepare msp_podcast --other d", ["drop"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(words, completions):
    asked = {"_SPARSE_MERIT_COMPLETE": "complete_bash", "COMP_WORDS": f"sparse-merit {words}"}
    result = CliRunner().invoke(app, env={**asked, "COMP_CWORD": str(len(words.split()))})
    assert result.stdout.split() == completions


@pytest.mark.parametrize("values", [[], ["loud"], ["-5", "loud"]])
def test_a_list_needs_values_of_its_type(values):
    result = sparse_merit("prepare", "noisy", "speech", "noise", "out", "--snr-db", *values, "--seed", "1")
    assert result.exit_code == 2 and "--snr-db" in result.stderr


# Round trip ----------------------------------------------------------------------------------------------------------

ELSEWHERE = """
import sys, numpy as np
sys.modules["torchcodec"] = None  # as where it is not installed
from datasets import load_dataset
from modeling_sparse_merit import SparseMeritFeatureExtractor, load_audio
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.training.dataset import Collator

recipe = MixingRecipe(load_dataset("someone/hiss", split="train"), snr_db=5.0, seed=0)
examples, arrays = [], {}
for index, row in enumerate(load_dataset("someone/corpus", split="train", streaming=True)):
    speech = load_audio(row["audio"])
    arrays[row["source_file"]] = speech
    mixture = recipe.apply(speech, recipe.draw(index))
    examples.append({"noisy": mixture.noisy, "clean": mixture.clean, "targets": {"emotion": row["emotion"]}})
batch = Collator(SparseMeritFeatureExtractor())(examples)
splits = load_dataset("someone/corpus")
rows = {f"rows_{name}": np.array(split["speaker"]) for name, split in splits.items()}
names = splits["train"].features["emotion"].names
arrays |= {"labels": [names[label] for label in batch["labels"]], "shape": batch["input_values"].shape}
np.savez(sys.argv[1], **rows, **arrays)
"""


@pytest.mark.slow
def test_a_pushed_table_streams_into_training(hub, corpus, noises, tmp_path):
    options = ["--license", "CC BY 4.0", "--push", "someone/corpus", "--private"]
    pushed = sparse_merit("prepare", "folder", corpus, tmp_path / "table", *options)
    push_dataset(noises.with_name("hiss_train"), "someone/hiss")

    assert pushed.exit_code == 0, pushed.output
    assert f"Pushed to {hub.url}/datasets/someone/corpus" in pushed.stdout
    assert hub.dataset("someone/corpus").private and not hub.dataset("someone/hiss").private
    elsewhere = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "arrays.npz")],
        env=hub.environment(tmp_path / "theirs") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert elsewhere.returncode == 0, elsewhere.stderr
    actual = np.load(tmp_path / "arrays.npz")
    assert {split: sorted(actual[f"rows_{split}"]) for split in ("train", "dev", "test")} == {
        "train": ["ann", "ann"],
        "dev": ["bea"],
        "test": ["cem", "cem"],
    }
    assert list(actual["labels"]) == ["happy", "sad"] and list(actual["shape"]) == [2, 9600]
    for name in ("a1.wav", "a2.wav"):
        np.testing.assert_array_equal(actual[name], soundfile.read(corpus / name, dtype="float32")[0])


def test_a_pushed_table_is_read_by_its_name(hub, corpus, tmp_path, monkeypatch):
    own = folder.build(corpus, info=OPEN)
    push_dataset(own, "someone/corpus")

    came_back = read_dataset("someone/corpus")
    for row in came_back:
        expected = soundfile.read(corpus / row["source_file"], dtype="float32")[0]
        np.testing.assert_array_equal(load_audio(row["audio"]), expected)
    assert len(came_back) == 5 and read_dataset("someone/corpus", "dev")["speaker"] == ["bea"]
    with pytest.raises(DatasetError, match="no row belongs to split 'eval'; the splits are dev, test, train"):
        read_dataset("someone/corpus", "eval")

    monkeypatch.chdir(tmp_path)
    prepare.write_dataset(own.select([0]), Path("someone", "corpus"))
    assert len(read_dataset("someone/corpus")) == 1  # what is here wins


def test_the_splits_of_a_dataset_without_such_a_column_are_its_own(hub, corpus):
    plain = folder.build(corpus, info=OPEN).remove_columns("split")
    DatasetDict({"train": plain.select([0, 1]), "dev": plain.select([2])}).push_to_hub("someone/plain")

    assert read_dataset("someone/plain", "dev")["speaker"] == ["bea"]
    assert len(read_datasets(["someone/plain"], "train", download_all=False)) == 2


def test_the_recordings_are_in_the_repository_and_no_path_of_this_machine(hub, corpus, tmp_path):
    push_dataset(folder.build(corpus, info=OPEN), "someone/corpus")

    files = hub.dataset("someone/corpus").files()
    assert {name.split("-")[0] for name in files} == {"README.md", "data/train", "data/dev", "data/test"}
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert (corpus / "a1.wav").read_bytes() in files["data/train-00000-of-00001.parquet"]


def test_the_card_counts_what_is_there(hub, corpus):
    push_dataset(folder.build(corpus, info=OPEN), "someone/corpus")

    card = DatasetCard(hub.dataset("someone/corpus").files()["README.md"].decode())
    assert card.data.license == ["cc-by-4.0"] and card.data.size_categories == "n<1K"
    assert "audio-classification" in card.data.task_categories
    assert [split["split"] for split in card.data.configs[0]["data_files"]] == ["train", "dev", "test"]
    assert "| train | 2 | 0.00 | 1 | happy 1, sad 1 |" in card.text
    assert "| test | 2 | 0.00 | 1 | without a class 1, sad 1 |" in card.text
    for told in ("Three people.", "CC BY 4.0", "Nobody (2026).", "MixingRecipe(", "load_dataset('someone/corpus'"):
        assert told in card.text


def test_the_code_on_the_card_runs(corpus, noises, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare.write_dataset(folder.build(corpus, info=OPEN), tmp_path / "own", embed=True)
    card = (tmp_path / "own" / "README.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)).replace("name/noise", "hiss_train")

    names: dict = {}
    exec(code, names)

    assert names["mixture"].noisy.shape == names["recording"].shape == (8000,)


def test_a_table_written_to_disk_is_pushed_by_push(hub, corpus, tmp_path):
    prepare.write_dataset(folder.build(corpus, info=OPEN), tmp_path / "table")
    result = sparse_merit("push", tmp_path / "table", "someone/corpus", "--revision", "v1")

    assert result.exit_code == 0 and result.stderr == "", result.output
    assert hub.dataset("someone/corpus").files("main") == {}
    assert len(hub.dataset("someone/corpus").files("v1")) == 4


def test_a_push_that_breaks_leaves_no_data_and_the_table_can_be_pushed_later(hub, corpus, tmp_path):
    hub.cut = Cut("PUT /lfs/", after_bytes=1000)
    options = ["--license", "CC BY 4.0", "--push", "someone/corpus"]
    result = sparse_merit("prepare", "folder", corpus, tmp_path / "table", *options)

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert f"sparse-merit push {tmp_path / 'table'} someone/corpus" in result.stderr
    assert set(hub.dataset("someone/corpus").files()) == {"README.md"}  # the licence, and nothing under it yet

    hub.cut = None
    assert sparse_merit("push", tmp_path / "table", "someone/corpus").exit_code == 0
    assert len(hub.dataset("someone/corpus").files()) == 4


# Licences ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("licence", "names"),
    [
        ("CC BY-NC-SA 4.0", ["cc-by-nc-sa-4.0"]),
        ("cc-by-3.0", ["cc-by-3.0"]),
        ("CC BY 4.0 + CC0 1.0", ["cc-by-4.0", "cc0-1.0"]),
        ("Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0)", ["cc-by-sa-4.0"]),
        ("CC0", ["cc0-1.0"]),
        ("Apache License, Version 2.0 + The MIT License", ["apache-2.0", "mit"]),
        ("CC BY 4.0 + a licence that is not stated", None),
        ("CC BY-NC-ND 4.0", None),
        (MSP_LICENCE, None),
        ("private", None),
        ("", None),
    ],
)
def test_which_licences_let_everybody_pass_a_table_on(licence, names):
    assert licence_names(licence) == names


@pytest.mark.parametrize("arguments", [[], ["--license", MSP_LICENCE], ["--license", "private"]])
@pytest.mark.parametrize("confirmation", [[], ["--i-may-redistribute", "yes"], ["--i-may-redistribute", " "]])
def test_a_table_that_may_not_be_passed_on_is_not_even_written(hub, corpus, tmp_path, arguments, confirmation):
    if not arguments and confirmation[1:] == ["yes"]:
        pytest.skip("a table without a licence takes the one that is named")
    push = ["--push", "someone/corpus", "--private"]
    result = sparse_merit("prepare", "folder", corpus, tmp_path / "table", *arguments, *push, *confirmation)

    assert result.exit_code == 2 and "--i-may-redistribute '" in result.stderr
    assert not hub.requests and not (tmp_path / "table").exists()


def test_msp_podcast_needs_its_own_licence_repeated(hub, corpus, tmp_path):
    prepare.write_dataset(folder.build(corpus, info=DatasetInfo(license=MSP_LICENCE)), tmp_path / "msp")

    refused = sparse_merit("push", tmp_path / "msp", "someone/msp")
    assert refused.exit_code == 2 and f"--i-may-redistribute '{MSP_LICENCE}'" in refused.stderr
    assert not hub.requests

    options = ["--private", "--i-may-redistribute", MSP_LICENCE.upper()]
    assert sparse_merit("push", tmp_path / "msp", "someone/msp", *options).exit_code == 0
    card = DatasetCard(hub.dataset("someone/msp").files()["README.md"].decode())
    assert card.data.license == ["other"] or card.data.license == "other"
    assert MSP_LICENCE in card.text


def test_a_table_without_a_licence_states_the_one_that_was_named(hub, corpus):
    push_dataset(folder.build(corpus), "someone/corpus", confirmed_licence="CC0 1.0")
    card = DatasetCard(hub.dataset("someone/corpus").files()["README.md"].decode())
    assert card.data.license == ["cc0-1.0"] and "CC0 1.0" in card.text
    with pytest.raises(DatasetError, match="states no licence"):
        licence_to_state("")


def test_a_card_of_no_known_licence_says_so(corpus):
    card = render_dataset_card(folder.build(corpus), "corpus")
    assert card.data.license == "other" and card.data.license_name == "not-stated"


# Frozen noisy test sets ----------------------------------------------------------------------------------------------


@pytest.fixture
def frozen(corpus, noises, tmp_path):
    """The command's table of two clips and their clean, -5 dB and 5 dB versions."""
    prepare.write_dataset(folder.build(corpus, info=OPEN), tmp_path / "speech")
    arguments = ["--snr-db", "-5", "5", "--seed", "3", "--pool", "hiss"]
    result = sparse_merit("prepare", "noisy", tmp_path / "speech", noises, tmp_path / "frozen", *arguments)
    assert result.exit_code == 0, result.output
    return read_dataset(tmp_path / "frozen")


def test_a_frozen_set_holds_every_clip_in_every_condition(frozen):
    assert frozen["condition"] == [name for name in ("clean", "hiss_-5dB", "hiss_5dB") for _ in range(2)]
    assert frozen["source_file"] == ["c1.wav", "c2.wav"] * 3
    assert frozen["snr_db"] == [None, None, -5, -5, 5, 5] and set(frozen["split"]) == {"test"}
    assert frozen.features["emotion"].names[frozen[1]["emotion"]] == "sad" and frozen[0]["emotion"] is None
    assert frozen.info.license == "CC BY 4.0 + CC0 1.0" and licence_names(frozen.info.license)
    assert frozen[0]["mixture"] is None and json.loads(frozen[2]["mixture"])["snr_db"] == -5


def test_its_mixtures_have_the_ratio_that_they_state(frozen):
    for row in list(frozen)[2:]:
        mixed, clean = load_audio(row["audio"]), load_audio(row["clean"])
        ratio = 10 * np.log10(np.sum(clean**2) / np.sum((mixed - clean) ** 2))
        assert ratio == pytest.approx(row["snr_db"], abs=0.01)


def test_its_mixtures_are_those_of_the_evaluation(frozen, noises, tmp_path):
    config = EvaluationConfig(speech=[str(tmp_path / "speech")], noise={"hiss": str(noises)}, clips="all", seed=3)
    clips = Clips(config, [])
    listener = Listener(clips, Condition("hiss", -5.0), read_dataset(noises, "test"), config.seed)
    for row, stored in zip(clips.rows, list(frozen)[2:4], strict=True):
        np.testing.assert_allclose(load_audio(stored["audio"]), listener.example(row).noisy, atol=2**-23)


def test_it_says_what_was_mixed_and_its_samples_are_those_that_were_hashed(frozen, noises):
    for row in frozen:
        for name, digest in (("audio", "sha256"), ("clean", "clean_sha256")):
            assert hashlib.sha256(load_audio(row[name]).astype("<f4").tobytes()).hexdigest() == row[digest]
    assert frozen["row"] == [0, 1] * 3 and frozen["pool"] == [None] * 2 + ["hiss"] * 4
    assert frozen["noise_file"] == [None] * 2 + ["hiss.wav"] * 4
    noise, _ = soundfile.read(noises.with_name("noises") / "test" / "hiss.wav")
    for row in list(frozen)[2:]:
        mixed, clean = load_audio(row["audio"]), load_audio(row["clean"])
        assert 0 <= row["noise_offset"] < 16_000 and 0 < row["speech_gain"] <= 1
        received = noise[row["noise_offset"] :][: len(mixed)]
        np.testing.assert_allclose(mixed - clean, row["noise_gain"] * received, atol=1e-6)


def test_several_tables_make_one_set(corpus, noises, tmp_path):
    prepare.write_dataset(folder.build(corpus, info=OPEN), tmp_path / "speech")
    prepare.write_dataset(folder.build(corpus, info=DatasetInfo()), tmp_path / "more")
    speech, pools = f"{tmp_path / 'speech'},{tmp_path / 'more'}", f"{noises},{noises.with_name('hiss_train')}"
    arguments = ["prepare", "noisy", speech, pools, tmp_path / "frozen", "--snr-db", "0", "--split", "test"]
    result = sparse_merit(*arguments)
    assert result.exit_code == 2 and "no row belongs to split 'test'" in result.stderr  # of the second noise dataset
    result = sparse_merit(*arguments[:3], f"{noises},{noises}", *arguments[4:], "--pool", "a,b")
    assert result.exit_code == 0, result.output
    frozen = read_dataset(tmp_path / "frozen")
    assert frozen["condition"] == [name for name in ("clean", "a_0dB", "b_0dB") for _ in range(4)]
    assert frozen["row"] == [0, 1, 2, 3] * 3
    assert frozen.info.license == "CC BY 4.0 + a licence that is not stated + CC0 1.0"
    alike = sparse_merit(*arguments[:3], f"{noises},{noises}", *arguments[4:-2], "--overwrite")
    assert alike.exit_code == 2 and "needs its own name (--pool)" in alike.stderr


def test_it_is_pushed_as_other_tables_are(hub, frozen, tmp_path):
    assert sparse_merit("push", tmp_path / "frozen", "someone/frozen").exit_code == 0
    files = hub.dataset("someone/frozen").files()
    assert set(files) == {"README.md", "data/test-00000-of-00001.parquet"}
    assert "| `snr_db` |" in files["README.md"].decode()


def test_settings_that_cannot_be_used_are_one_line(corpus, noises, tmp_path):
    prepare.write_dataset(folder.build(corpus, info=OPEN), tmp_path / "speech")
    with pytest.raises(DatasetError, match="snr_db"):
        prepare_noisy.build(tmp_path / "speech", noises, tmp_path, snr_db=(5, 5))
    result = sparse_merit("prepare", "noisy", tmp_path / "speech", noises, tmp_path / "out", "--split", "dev")
    assert result.exit_code == 2 and "no row belongs to split 'dev'" in result.stderr
