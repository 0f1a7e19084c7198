# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The evaluation, end to end with tiny untrained models: the same clips for every system, resumable, repeatable."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from conftest import TINY_SIZES
from datasets import Audio, ClassLabel, Dataset, Value

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    load_audio,
    metrics,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.data.mixing import MixingParameters
from modeling_sparse_merit.data.transmission import TRANSMISSIONS
from modeling_sparse_merit.evaluation import EvaluationConfig, conditions, evaluate, noisy_set
from modeling_sparse_merit.evaluation.systems import Cascade, CheckpointSystem
from modeling_sparse_merit.models.sparse_merit.encoder import SparseMeritEncoder

ROOT = Path(__file__).parents[1]
LABELS = ["angry", "sad", "happy", "neutral"]
EMOTIONS = ["angry", "sad", "happy", "neutral", "fear", None]


def speech_like(seconds: float, pitch: float) -> np.ndarray:
    time = np.arange(int(seconds * 16_000)) / 16_000
    phase = 2 * np.pi * np.cumsum(pitch + 20 * np.sin(2 * np.pi * 1.5 * time)) / 16_000
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.05 * voice * np.clip(np.sin(2 * np.pi * 4 * time), 0, None)).astype(np.float32)


def as_bytes(waveform: np.ndarray) -> dict:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, 16_000, format="FLAC")
    return {"bytes": buffer.getvalue(), "path": None}


def write_dataset(path: Path, waveforms: list[np.ndarray], **columns: list) -> str:
    durations = [len(waveform) / 16_000 for waveform in waveforms]
    audio = [as_bytes(waveform) for waveform in waveforms]
    table = Dataset.from_dict({"audio": audio, "split": ["test"] * len(audio), "duration": durations, **columns})
    if "emotion" in columns:
        table = table.cast_column("emotion", ClassLabel(names=["angry", "sad", "happy", "neutral", "fear"]))
    table = table.cast_column("duration", Value("float32"))
    table.cast_column("audio", Audio(sampling_rate=16_000, decode=False)).to_parquet(str(path))
    return str(path)


def tiny_checkpoint(folder: Path, **changes) -> str:
    torch.manual_seed(0)
    config = SparseMeritConfig(
        **TINY_SIZES,
        id2label=dict(enumerate(LABELS)),
        **changes,
    )
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(folder)
    SparseMeritFeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict:
    """Six clips (four of the classes, one of another, one unlabelled), two noise pools and a model."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    clips = [speech_like(0.8 + 0.15 * index, 100 + 20 * index) for index in range(6)]
    noises = [0.1 * generator.standard_normal(20_000 + 5_000 * index).astype(np.float32) for index in range(3)]
    numbers = [None if name is None else EMOTIONS.index(name) for name in EMOTIONS]
    speech = write_dataset(folder / "speech.parquet", clips, emotion=numbers, speaker=list("aabbcc"))
    return {
        "speech": [speech],
        "noise": {
            "hiss": write_dataset(folder / "hiss.parquet", noises),
            "roar": write_dataset(folder / "roar.parquet", [np.cumsum(noise) / 50 for noise in noises]),
        },
        "snr_db": [0],
        "model": tiny_checkpoint(folder / "model"),
        "bootstrap_resamples": 50,
        "batch_seconds": 2.5,
        "workers": 1,
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def measure(corpus, tmp_path, monkeypatch):
    """`measure(output, **changes of the configuration)` writes the YAML file and runs the evaluation; a change to None
    leaves a field out. Figures are left out, as where matplotlib is not installed: they take most of the time."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    def run_with(output: str = "results", **changes) -> dict:
        path = tmp_path / "evaluation.yaml"
        settings = {name: value for name, value in {**corpus, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The report has no figures")
            return evaluate(path, output=tmp_path / output)

    return run_with


def rows_of(folder: Path, condition: str, system: str = "model", member: int = 0) -> list[dict]:
    return pq.read_table(folder / "clips" / system / str(member) / f"{condition}.parquet").to_pylist()


def written_files(folder: Path) -> dict[str, int]:
    """All files of a run's clips and test set, and when they were written."""
    files = [*folder.glob("clips/*/*/*"), *folder.glob("test_set/*")]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


def assert_same_bytes(first: Path, second: Path):
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert any(name.suffix == ".parquet" for name in names) and Path("results.json") in names
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


# One checkpoint ------------------------------------------------------------------------------------------------------


def test_the_report_has_every_condition_and_measure(measure, tmp_path, capsys):
    actual = measure(snr_db=[0, 10])
    written = json.loads((tmp_path / "results/results.json").read_text(), parse_constant=pytest.fail)
    assert written == actual
    names = [condition["condition"] for condition in written["conditions"]]
    assert names == ["clean", "hiss_0dB", "hiss_10dB", "roar_0dB", "roar_10dB"]
    assert written["clips"]["labelled"] == dict.fromkeys(LABELS, 1) and written["clips"]["speakers"] == 2
    assert 1 <= written["noise"]["hiss"]["recordings"] <= 3
    assert written["systems"]["model"] == [written["model"]]
    assert len(written["model"]["sha256"]) == 64 and written["versions"]["pesq"]
    for summary in written["conditions"][1:]:
        for name in metrics.DEFAULT_SPEECH_MEASURES:
            for side in ("noisy", "enhanced", "difference"):
                low, high = summary["enhancement"][name][side]["interval"]
                assert low <= summary["enhancement"][name][side]["mean"] <= high
    printed = capsys.readouterr().out
    assert "4 clips of 2 speakers" in printed and (tmp_path / "results/results.md").is_file()


def test_the_clean_condition_has_no_score_for_its_input(measure, tmp_path):
    clean = measure(noise={})["conditions"]
    assert [summary["condition"] for summary in clean] == ["clean"]
    for name in metrics.DEFAULT_SPEECH_MEASURES:
        assert clean[0]["enhancement"][name]["noisy"] is None
        assert clean[0]["enhancement"][name]["difference"] is None
        assert clean[0]["enhancement"][name]["enhanced"]["clips"] == 4
        assert all(row[f"enhanced_{name}"] is None for row in rows_of(tmp_path / "results", "clean", "noisy"))


def test_per_clip_rows_agree_with_the_model_used_by_hand(measure, corpus, tmp_path):
    measure(noise={}, batch_seconds=1000)
    clip = rows_of(tmp_path / "results", "clean")[1]
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(corpus["model"]).eval()
    extractor = SparseMeritFeatureExtractor.from_pretrained(corpus["model"])
    table = Dataset.from_parquet(corpus["speech"][0])
    waveform, _ = soundfile.read(io.BytesIO(table.cast_column("audio", Audio(decode=False))[1]["audio"]["bytes"]))
    waveform = waveform.astype(np.float32)
    with torch.inference_mode():
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        outputs = model(**inputs, output_router_logits=True)
    enhanced = extractor.denormalize(outputs.enhanced_values, waveform)[0]
    assert clip["enhanced_si_sdr"] == pytest.approx(metrics.si_sdr(waveform, enhanced), abs=1e-3)
    assert clip["probability_sad"] == pytest.approx(outputs.logits.softmax(-1)[0, 1].item(), abs=1e-5)
    assert clip["emotion"] == "sad" and clip["predicted"] == LABELS[outputs.logits.argmax()]
    choices = outputs.router_logits["emotion"][0].argmax(-1)
    assert clip["expert_emotion_1"] == pytest.approx((choices == 1).float().mean().item())
    assert clip["frames"] == len(choices) and clip["samples"] == len(waveform)
    assert clip["sha256"] == hashlib.sha256(waveform.tobytes()).hexdigest()


def test_expert_use_sums_to_one_for_each_task(measure):
    for summary in measure()["conditions"]:
        assert set(summary["expert_use"]) == {"enhancement", "emotion"}
        for shares in summary["expert_use"].values():
            assert len(shares) == 3 and sum(shares) == pytest.approx(1)


def test_all_clips_are_enhanced_but_only_labelled_ones_are_recognised(measure):
    summary = measure(clips="all", noise={})["conditions"][0]
    assert summary["clips"] == 6
    assert summary["emotion"]["clips"] == 4
    assert summary["enhancement"]["stoi"]["enhanced"]["clips"] == 6


@pytest.mark.parametrize("task", ["enhancement", "emotion"])
def test_a_model_of_one_task_is_measured_on_that_task(measure, tmp_path, task):
    summary = measure(model=tiny_checkpoint(tmp_path / task, tasks=[task]), clean=False)["conditions"][0]
    assert (summary["emotion"] is not None) == (task == "emotion")
    assert (summary["enhancement"]["si_sdr"]["enhanced"] is not None) == (task == "enhancement")
    assert summary["enhancement"]["si_sdr"]["noisy"]["mean"] == pytest.approx(0, abs=0.5)
    assert list(summary["expert_use"]) == [task]


def test_a_choice_of_labels_is_a_closed_set(measure, tmp_path):
    actual = measure(labels=["sad", "angry"], noise={})
    assert actual["labels"] == ["sad", "angry"] and actual["conditions"][0]["clips"] == 2
    for row in rows_of(tmp_path / "results", "clean"):
        assert row["predicted"] in ("sad", "angry")
        assert row["probability_sad"] + row["probability_angry"] == pytest.approx(1)
    with pytest.raises(ValueError, match="'bored'.*'neutral'"):
        measure("other", labels=["bored"])


def test_a_label_can_stand_for_that_of_a_model(measure, tmp_path):
    plain = measure(labels=["sad", "angry"], noise={})
    own = measure("own", labels=["sad", "upset=angry"], noise={}, clips="all")
    assert own["labels"] == ["sad", "upset"] and own["config"]["labels_from"] == {"upset": "angry"}
    expected = {row["row"]: row["probability_angry"] for row in rows_of(tmp_path / "results", "clean")}
    actual = {row["row"]: row["probability_upset"] for row in rows_of(tmp_path / "own", "clean")}
    assert plain["labels"] == ["sad", "angry"]
    assert {row: actual[row] for row in expected} == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="`labels` has .'upset'., which no model knows"):
        measure("unknown", labels=["sad", "angry", "upset=bored"], noise={})


def test_a_choice_of_measures_is_all_that_is_computed(measure, tmp_path):
    actual = measure(measures=["si_sdr", "estoi"], noise={})
    assert list(actual["conditions"][0]["enhancement"]) == ["si_sdr", "estoi"]
    columns = rows_of(tmp_path / "results", "clean")[0]
    assert [name for name in columns if name.startswith("enhanced_")] == ["enhanced_si_sdr", "enhanced_estoi"]


def test_undefined_scores_are_counted_and_never_0(measure, tmp_path):
    whisper = np.zeros(16_000, dtype=np.float32)
    whisper[8_000:8_800] = speech_like(0.1, 120)[:800]  # PESQ finds no utterance, STOI too little speech
    clips = [speech_like(1.0, 110), whisper]
    table = write_dataset(tmp_path / "short.parquet", clips, emotion=[0, 1], speaker=["a", "a"])
    with pytest.warns(metrics.UndefinedScoreWarning, match="PESQ-WB of 1 enhanced clips.*STOI of 1 enhanced"):
        summary = measure(speech=[table], noise={})["conditions"][0]
    pesq = summary["enhancement"]["pesq_wb"]["enhanced"]
    assert pesq["undefined"] == 1 and pesq["clips"] == 1 and pesq["mean"] > 1
    assert np.isnan(rows_of(tmp_path / "results", "clean")[1]["enhanced_pesq_wb"])


# Several systems -----------------------------------------------------------------------------------------------------


def test_corpora_genders_and_subsets_have_scores_of_their_own(measure, corpus, tmp_path):
    waveforms = [speech_like(0.8, pitch) for pitch in (110, 150, 210, 250)]
    more = {"emotion": [0, 1, 2, 3], "speaker": list("ddee"), "gender": ["male"] * 2 + ["female"] * 2}
    path = write_dataset(tmp_path / "more.parquet", waveforms, **more, sentence=["06", "07", "06", "sad01"])
    settings = {"speech": [*corpus["speech"], path], "noise": None, "snr_db": None, "measures": ["si_sdr"]}
    subsets = {"common": {"sentence": ["06", "07"]}, "women": {"gender": ["female"], "sentence": ["06"]}}

    plain = measure(**settings)
    actual = measure(**settings, subsets=subsets)  # the clips are not measured again

    groups = actual["results"]["model"]["conditions"][0]["groups"]
    counts = {kind: {name: group["clips"] for name, group in named.items()} for kind, named in groups.items()}
    assert counts == {
        "corpus": {"more": 4, "speech": 4},
        "gender": {"female": 2, "male": 2},
        "subset": {"common": 3, "women": 1},
    }
    assert groups["corpus"]["speech"]["speakers"] == 2 and groups["gender"]["male"]["speakers"] == 1
    rows = [row for row in rows_of(tmp_path / "results", "clean") if row["source_file"] is None and row["row"] >= 6]
    right = [row["predicted"] == row["emotion"] for row in rows]
    assert groups["corpus"]["more"]["accuracy"] == pytest.approx(np.mean(right))
    assert plain["results"]["model"]["conditions"][0]["emotion"] == actual["conditions"][0]["emotion"]
    assert 0 <= actual["conditions"][0]["emotion"]["expected_calibration_error"] <= 1
    assert "## Emotion by subset" in (tmp_path / "results" / "results.md").read_text()
    older = read_dataset(tmp_path / "results" / "test_set" / "clean.parquet").remove_columns("corpus")
    older = noisy_set.FrozenTestSet(older, EvaluationConfig(speech=["speech"]), LABELS, "older")
    assert older.group_clips({}) == {"corpus": {}, "gender": {"female": [8, 9], "male": [6, 7]}, "subset": {}}
    with pytest.raises(
        ValueError, match="'common' is empty: 'sentence' should be one of .*, but its values are 06, 07"
    ):
        measure(**settings, subsets={"common": {"sentence": ["6"]}})
    with pytest.raises(ValueError, match="'common' needs the column 'phrase'; the columns are"):
        measure(**settings, subsets={"common": {"phrase": ["6"]}})


def test_systems_stand_side_by_side(measure, corpus, tmp_path):
    """Two seeds, a cascade and the input, which is measured though nobody lists it."""
    seeds = [corpus["model"], tiny_checkpoint(tmp_path / "seed", router="dense")]
    front = tiny_checkpoint(tmp_path / "front", tasks=["enhancement"])
    back = tiny_checkpoint(tmp_path / "back", tasks=["emotion"], integration="weighted_sum")
    systems = {"ours": seeds, "cascade": {"enhancement": front, "emotion": back}}
    actual = measure(model=None, systems=systems, baseline="cascade", clean=False)
    assert {name: len(members) for name, members in actual["systems"].items()} == {"noisy": 1, "ours": 2, "cascade": 1}
    assert actual["systems"]["cascade"][0]["enhancement"]["tasks"] == ["enhancement"] and "model" not in actual
    assert list(actual["results"]) == ["noisy", "ours", "cascade"] and actual["results"]["ours"]["members"] == 2
    received = [
        [(row["row"], row["sha256"]) for row in rows_of(tmp_path / "results", "hiss_0dB", system, member)]
        for system, member in (("noisy", 0), ("ours", 0), ("ours", 1), ("cascade", 0))
    ]
    assert len(received[0]) == 4 and all(clips == received[0] for clips in received)


def test_models_that_share_an_encoder_run_it_once_with_a_feature_cache(measure, corpus, tmp_path, monkeypatch):
    encoded = []

    def counting(self, input_values, *arguments):
        encoded.append(len(input_values))
        return forward(self, input_values, *arguments)

    forward = SparseMeritEncoder.forward
    monkeypatch.setattr(SparseMeritEncoder, "forward", counting)
    other = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(corpus["model"])
    for weight in other.heads.parameters():
        weight.data += 0.1
    other.save_pretrained(tmp_path / "other")
    SparseMeritFeatureExtractor().save_pretrained(tmp_path / "other")
    systems = {"model": corpus["model"], "other": str(tmp_path / "other"), "adapted": tiny_checkpoint(tmp_path / "a")}
    adapted = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(systems["adapted"])
    for weight in adapted.model.encoder.parameters():
        weight.data += 0.01
    adapted.save_pretrained(systems["adapted"])
    measure("without", model=None, systems=systems)
    three_times, encoded = sum(encoded), []
    measure("with", model=None, systems=systems, feature_cache=str(tmp_path / "features"))
    assert sum(encoded) == 2 * three_times / 3
    assert_same_bytes(tmp_path / "without", tmp_path / "with")


def test_the_emotion_model_of_a_cascade_is_given_enhanced_speech(corpus, tmp_path):
    front = CheckpointSystem(tiny_checkpoint(tmp_path / "front", tasks=["enhancement"]))
    back = CheckpointSystem(tiny_checkpoint(tmp_path / "back", tasks=["emotion"]))
    recordings = [speech_like(0.8, 120), speech_like(1.1, 150)]
    results = Cascade(front, back).predict(recordings)
    cleaned = [prediction.enhanced for prediction in front.predict(recordings)]
    expected = back.predict(cleaned)
    for prediction, clean, emotion in zip(results, cleaned, expected, strict=True):
        np.testing.assert_array_equal(prediction.enhanced, clean)
        np.testing.assert_array_equal(prediction.probabilities, emotion.probabilities)
        assert set(prediction.expert_use) == {"enhancement", "emotion"}
    with pytest.raises(ValueError, match="emotion model of a cascade needs the task"):
        Cascade(front, front)


def test_a_cascade_has_the_further_tasks_of_its_second_model(measure, corpus, tmp_path):
    tasks = {"speaker": {"kind": "embedding", "size": 4, "labels": ["a", "b"]}}
    several = tiny_checkpoint(tmp_path / "several", tasks=["emotion", "speaker"], clip_tasks=tasks)
    cascade = Cascade(CheckpointSystem(corpus["model"]), CheckpointSystem(several))
    recording = [speech_like(0.8, 120)]
    (result,), (first,) = cascade.predict(recording), cascade.enhancement.predict(recording)
    assert result.task_outputs == cascade.emotion.predict([first.enhanced])[0].task_outputs
    actual = measure(
        model=None, systems={"cascade": {"enhancement": corpus["model"], "emotion": several}}, clean=False
    )
    assert 0 <= actual["results"]["cascade"]["conditions"][0]["tasks"]["speaker"]["eer"]["mean"] <= 1


def test_a_reference_enhances_the_speech_of_a_cascade(measure, corpus):
    pytest.importorskip("noisereduce", reason="noisereduce is not installed: extra `benchmark`")
    gate = {"reference": "noisereduce", "stationary": True}
    systems = {"gate": gate, "cascade": {"enhancement": gate, "emotion": corpus["model"]}}
    actual = measure(model=None, systems=systems, clean=False, measures=["si_sdr"])
    assert actual["systems"]["cascade"][0]["enhancement"] == actual["systems"]["gate"][0]
    (alone, _), (front, behind) = (
        [actual["results"][name]["conditions"][0][task] for task in ("enhancement", "emotion")] for name in systems
    )
    assert front == alone and behind["clips"] == 4
    with pytest.raises(ValueError, match=r"emotion model of a cascade needs .* noisereduce has \('enhancement',\)"):
        measure(model=None, systems={"cascade": {"enhancement": corpus["model"], "emotion": gate}})


def test_a_checkpoint_is_measured_in_another_precision(measure, corpus, tmp_path):
    systems = {name: {"model": corpus["model"], "precision": name} for name in ("fp32", "int8")}
    actual = measure(model=None, systems=systems, clean=False, measures=["si_sdr"])
    assert [actual["systems"][name][0]["precision"] for name in systems] == ["fp32", "int8"]
    exact, rounded = (rows_of(tmp_path / "results", "hiss_0dB", name) for name in systems)
    for one, other in zip(exact, rounded, strict=True):
        assert 0 < abs(one["enhanced_si_sdr"] - other["enhanced_si_sdr"]) < 0.1  # dB


def test_the_noisy_input_is_scored_once_for_all_systems(measure, tmp_path):
    measure(clean=False)
    table = Dataset.from_parquet(str(tmp_path / "results/test_set/hiss_0dB.parquet"))
    row = table.cast_column("audio", Audio(decode=False)).cast_column("clean", Audio(decode=False))[2]
    noisy, clean = (load_audio(row[name]) for name in ("audio", "clean"))
    scored = rows_of(tmp_path / "results", "hiss_0dB", "noisy")[2]
    assert scored["row"] == row["row"] and scored["predicted"] is None
    assert scored["enhanced_si_sdr"] == pytest.approx(metrics.si_sdr(clean, noisy))
    assert scored["enhanced_pesq_wb"] == pytest.approx(metrics.pesq(clean, noisy))


def test_a_system_or_a_condition_can_be_added_to_a_finished_run(measure, corpus, tmp_path):
    ours = {"ours": corpus["model"]}
    measure(model=None, systems=ours, clean=False)
    before = written_files(tmp_path / "results")
    assert sorted(before) == sorted(
        [f"clips/{system}/0/{pool}_0dB.parquet" for system in ("noisy", "ours") for pool in ("hiss", "roar")]
        + [f"test_set/{pool}_0dB.parquet" for pool in ("hiss", "roar")]
    )
    dense = tiny_checkpoint(tmp_path / "dense", router="dense")
    actual = measure(model=None, systems={"dense": dense, **ours}, snr_db=[0, 10])
    after = written_files(tmp_path / "results")
    assert before.items() <= after.items() and len(after) == 3 * 5 + 5
    assert all(len(result["conditions"]) == 5 for result in actual["results"].values())


def test_results_of_another_run_are_never_mixed_in(measure, tmp_path):
    measure(noise={})
    with pytest.raises(ValueError, match="different: system.*Choose another `output`"):
        measure(noise={}, model=tiny_checkpoint(tmp_path / "other", num_experts=2))
    with pytest.raises(ValueError, match="different: seed"):
        measure(noise={}, seed=7)
    with pytest.raises(ValueError, match="different: settings"):
        measure(noise={}, measures=["stoi"])


def test_an_interrupted_run_goes_on_where_it_was(measure, tmp_path):
    measure("whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    lost = ["clips/noisy/0/roar_0dB.parquet", "clips/model/0/clean.parquet", "test_set/hiss_0dB.parquet"]
    for name in [*lost, "results.json"]:
        (tmp_path / "resumed" / name).unlink()
    unfinished = tmp_path / f"resumed/clips/model/0/.{'0' * 32}.partial.parquet"
    before = written_files(tmp_path / "resumed")
    unfinished.write_bytes(b"PAR1 and no more")
    measure("resumed")
    assert before.items() <= written_files(tmp_path / "resumed").items() and not unfinished.exists()
    assert_same_bytes(tmp_path / "whole", tmp_path / "resumed")


# The same numbers, however they are computed -------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_threads_and_repetition_change_no_byte(measure, tmp_path):
    threads = torch.get_num_threads()
    measure("first")
    try:
        torch.set_num_threads(3)
        measure("second", workers=2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert_same_bytes(tmp_path / "first", tmp_path / "second")


def launch(config: dict, folder: Path, output: str, *launcher: str) -> subprocess.Popen:
    """Starts the command; what it prints goes to `OUTPUT.log`."""
    (folder / "evaluation.yaml").write_text(yaml.safe_dump(config))
    command = [*launcher, "-m", "modeling_sparse_merit.cli", "evaluate", "--config", str(folder / "evaluation.yaml")]
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    with (folder / f"{output}.log").open("w") as log:
        command = [sys.executable, *command, "-o", str(folder / output)]
        return subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(corpus, tmp_path):
    config = corpus | {"workers": 2, "systems": {"a": [corpus["model"]] * 2}, "model": None}
    accelerate = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes")
    printed = {}
    for number in ("1", "2"):
        run = launch(config, tmp_path, number, *(() if number == "1" else (*accelerate, number)))
        run.wait(timeout=900)
        printed[number] = (tmp_path / f"{number}.log").read_text()
        assert run.returncode == 0, printed[number][-3000:]
    assert_same_bytes(tmp_path / "1", tmp_path / "2")
    assert printed["1"].count("4 clips of 2 speakers") == printed["2"].count("4 clips of 2 speakers")


@pytest.mark.slow
def test_a_killed_run_goes_on(corpus, measure, tmp_path):
    run = launch({**corpus, "workers": 1}, tmp_path, "killed")
    finished = tmp_path / "killed/clips/model/0/clean.parquet"
    while not finished.exists() and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = written_files(tmp_path / "killed")
    assert finished.exists() and not (tmp_path / "killed/results.json").exists()
    measure("killed")
    after = written_files(tmp_path / "killed")
    kept = {name: written for name, written in before.items() if ".partial" not in name}
    assert kept.items() <= after.items() and len(after) > len(kept)
    measure("whole")
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


# The frozen test set -------------------------------------------------------------------------------------------------


def test_another_seed_gives_other_mixtures(measure, tmp_path):
    measure("first", seed=1, clean=False)
    measure("second", seed=2, clean=False)
    first, second = (rows_of(tmp_path / name, "hiss_0dB", "noisy") for name in ("first", "second"))
    assert all(a["sha256"] != b["sha256"] for a, b in zip(first, second, strict=True))


def test_every_choice_of_clips_has_the_same_mixtures(corpus):
    received = {}
    for name, changes in (("labelled", {}), ("all", {"clips": "all"}), ("quick", {"max_clips": 2})):
        config = EvaluationConfig(speech=corpus["speech"], noise=corpus["noise"], snr_db=[0], clean=False, **changes)
        clips, noise = conditions.Clips(config, LABELS), conditions.load_noise(config)["roar"]
        condition = conditions.Condition("roar", 0.0)
        listener = conditions.Listener(clips, condition, noise, seed=0)
        received[name] = {row["row"]: row["sha256"] for row in noisy_set.frozen_rows(clips, condition, listener)}
    assert [len(rows) for rows in received.values()] == [4, 6, 2]
    assert (
        received["labelled"].items() <= received["all"].items()
        and received["quick"].items() <= received["labelled"].items()
    )


def test_a_mixture_can_be_made_again_from_what_is_recorded(corpus):
    """Noise that falls silent for long is searched for sound: the recorded offset is where that was found."""
    config = EvaluationConfig(speech=corpus["speech"], noise=corpus["noise"])
    clips = conditions.Clips(config, LABELS)
    generator = np.random.default_rng(1)
    bursts = np.zeros(80_000, dtype=np.float32)
    bursts[60_000:70_000] = 0.3 * generator.standard_normal(10_000)
    short, loud = (generator.standard_normal(size).astype(np.float32) for size in (7_000, 50_000))
    audio = [as_bytes(np.clip(noise, -0.9, 0.9)) for noise in (bursts, short, loud)]
    noise = Dataset.from_dict({"audio": audio, "source_file": ["bursts.wav", "short.wav", "loud.wav"]})
    listener = conditions.Listener(clips, conditions.Condition("n", -5.0), noise, seed=0)
    recordings, used = dict(zip(noise["source_file"], audio, strict=True)), set()
    for row in [*clips.rows] * 3:
        example = listener.example(row)
        facts, used = example.facts, used | {example.facts["noise_file"]}
        recording = load_audio(recordings[facts["noise_file"]])
        samples = (facts["noise_offset"] + np.arange(len(example.noisy))) % len(recording)
        again = facts["speech_gain"] * clips.load(row) + facts["noise_gain"] * recording[samples]
        np.testing.assert_allclose(again, example.noisy, atol=1e-6)
        listener.stream += 1  # other draws
    assert used == set(recordings)


def test_noisy_clips_have_the_snr_of_their_condition(corpus):
    config = EvaluationConfig(speech=corpus["speech"], noise=corpus["noise"])
    clips, noise = conditions.Clips(config, LABELS), conditions.load_noise(config)["hiss"]
    example = conditions.Listener(clips, conditions.Condition("hiss", 3.0), noise, seed=5).example(2)
    assert metrics.snr(example.clean, example.noisy) == pytest.approx(3, abs=0.01)


def listener_of(corpus: dict, *condition) -> conditions.Listener:
    config = EvaluationConfig(speech=corpus["speech"], noise=corpus["noise"])
    noise = conditions.load_noise(config).get(condition[0])
    return conditions.Listener(conditions.Clips(config, LABELS), conditions.Condition(*condition), noise, seed=0)


def test_every_condition_comes_as_it_is_and_after_each_transmission():
    config = EvaluationConfig(speech=["a"], noise={"hiss": "b"}, snr_db=[0, 5], transmissions=["gsm", "mp3"])
    plain = ["clean", "hiss_0dB", "hiss_5dB"]
    names = [condition.name for condition in conditions.list_conditions(config)]
    assert names == [*plain, *(f"{name}@gsm" for name in plain), *(f"{name}@mp3" for name in plain)]


@pytest.mark.parametrize("condition", [(None, None), ("hiss", 3.0)])
@pytest.mark.parametrize("name", ["telephone", "gsm"])
def test_a_transmitted_condition_has_the_mixture_of_the_plain_one(corpus, condition, name):
    plain, transmitted = (listener_of(corpus, *condition, last).example(2) for last in (None, name))
    transmission = TRANSMISSIONS[name]
    np.testing.assert_allclose(transmitted.noisy, transmission.apply(plain.noisy), atol=1e-6)
    np.testing.assert_allclose(transmitted.clean, transmission.band_limit(plain.clean), atol=1e-6)
    drawn = [example.facts["mixture"] and json.loads(example.facts["mixture"]) for example in (plain, transmitted)]
    assert drawn[1] == (drawn[0] and drawn[0] | {"transmission": name})
    for gain in ("speech_gain", "noise_gain"):
        assert transmitted.facts[gain] == (plain.facts[gain] and pytest.approx(plain.facts[gain], rel=1e-5))


def test_a_transmitted_mixture_can_be_made_again_from_what_was_drawn(corpus):
    listener = listener_of(corpus, "hiss", -5.0, "gsm")
    example = listener.example(1)
    parameters = MixingParameters(**json.loads(example.facts["mixture"]))
    again = listener.recipe.apply(listener.clips.load(1), parameters)
    np.testing.assert_array_equal(again.noisy, example.noisy)
    np.testing.assert_array_equal(again.clean, example.clean)


def test_transmissions_add_conditions_and_change_none(measure, tmp_path):
    plain = measure("plain")
    settings = {"transmissions": ["narrowband", "gsm"], "baseline": "noisy"}
    actual = measure("transmitted", **settings)
    names = [summary["condition"] for summary in actual["conditions"]]
    assert names[:3] == ["clean", "hiss_0dB", "roar_0dB"] and names[6:] == [
        "clean@gsm",
        "hiss_0dB@gsm",
        "roar_0dB@gsm",
    ]
    assert actual["conditions"][:3] == plain["conditions"]
    noisy = {one["condition"]: one["enhancement"]["si_sdr"] for one in actual["results"]["noisy"]["conditions"]}
    assert noisy["clean"]["noisy"] is None and noisy["clean@narrowband"]["noisy"] is None  # each is its own target
    assert noisy["clean@gsm"]["noisy"]["mean"] < 30
    pooled = {entry["condition"] for entry in actual["comparisons"]["pooled"]}
    assert pooled == {"0dB", "0dB@narrowband", "0dB@gsm"}
    text = (tmp_path / "transmitted" / "results.md").read_text(encoding="utf-8")
    assert "### After gsm" in text and "| hiss, 0 dB, gsm |" in text and "| clean, narrowband |" in text
    frozen_rows = pq.read_table(tmp_path / "transmitted" / "test_set" / "hiss_0dB@gsm.parquet").to_pylist()
    assert {row["transmission"] for row in frozen_rows} == {"gsm"}
    added = measure("plain", **settings)  # to a run that was finished without them
    assert added["conditions"] == actual["conditions"]


@pytest.fixture
def frozen(corpus, tmp_path) -> str:
    """The folder of a frozen test set, as `sparse-merit prepare noisy` writes it."""
    noise = ",".join(corpus["noise"].values())
    arguments = [*corpus["speech"], noise, str(tmp_path / "frozen"), "--snr-db", "0", "--pool", "hiss,roar"]
    app(["prepare", "noisy", *arguments], standalone_mode=False)
    return str(tmp_path / "frozen")


def test_a_frozen_test_set_gives_the_numbers_of_the_tables_it_was_made_of(measure, frozen, tmp_path):
    own = measure("own")
    actual = measure("frozen_results", test_set=frozen, speech=None, noise=None, snr_db=None)
    assert all(actual[name] == own[name] for name in ("conditions", "clips", "noise"))
    shared = measure("shared", test_set=str(tmp_path / "own/test_set"), speech=None, noise=None, snr_db=None)
    assert shared["conditions"] == own["conditions"]
    quick = measure("quick", test_set=frozen, speech=None, noise=None, snr_db=None, max_clips=2)
    assert quick["clips"]["evaluated"] == 2


def test_samples_that_are_not_those_that_were_frozen_are_refused(measure, frozen, tmp_path):
    rows = read_dataset(frozen).data.to_pylist()
    rows[1]["audio"] = as_bytes(load_audio(rows[1]["audio"]) * 0.999)
    forged = pa.Table.from_pylist(rows, read_dataset(frozen).features.arrow_schema)
    pq.write_table(forged, tmp_path / "forged.parquet")
    with pytest.raises(ValueError, match="Clip 1 .*in the condition clean of .*has changed"):
        measure(test_set=str(tmp_path / "forged.parquet"), speech=None, noise=None, snr_db=None)
    pq.write_table(forged.slice(1), tmp_path / "short.parquet")
    with pytest.raises(ValueError, match=r"lacks the clips \[0\] in the condition clean"):
        measure(test_set=str(tmp_path / "short.parquet"), speech=None, noise=None, snr_db=None)


def test_a_table_that_is_no_frozen_test_set_says_so(measure, corpus):
    with pytest.raises(ValueError, match="is not a frozen test set: it lacks.*'clean'.*prepare noisy"):
        measure(test_set=corpus["speech"][0], speech=None, noise=None, snr_db=None)


def test_batches_hold_every_clip_once_within_their_budget(corpus, tmp_path):
    config = EvaluationConfig(speech=corpus["speech"], clips="all", output=str(tmp_path))
    received = noisy_set.load_test_set(config, LABELS)
    batches = list(received.batches(conditions.Condition(), 2.5))
    assert sorted(row for batch in batches for row in batch) == list(range(6))
    durations = Dataset.from_parquet(corpus["speech"][0])["duration"]
    assert all(len(batch) == 1 or len(batch) * max(durations[row] for row in batch) <= 2.5 for batch in batches)
    assert len(batches) < 6


# The configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speech", []),
        ("noise", {"a/b": "table"}),
        ("noise", ["table"]),
        ("snr_db", 5),
        ("snr_db", [5, 5]),
        ("snr_db", [5, 5.0000001]),
        ("snr_db", [float("nan")]),
        ("clean", False),
        ("transmissions", "gsm"),
        ("transmissions", ["fax"]),
        ("transmissions", ["gsm", "gsm"]),
        ("labels", []),
        ("clips", "some"),
        ("subsets", ["women"]),
        ("subsets", {"women": {}}),
        ("subsets", {"women": {"gender": "female"}}),
        ("max_clips", 0),
        ("seed", -1),
        ("batch_seconds", 0),
        ("workers", 1.5),
        ("output", "results.json"),
        ("threads", 0),
        ("measures", ["loudness"]),
        ("measures", []),
        ("baseline", "ours"),
        ("systems", {}),
        ("systems", {"a/b": "model"}),
        ("systems", {"noisy": "model"}),
        ("systems", {"ours": []}),
        ("systems", {"ours": {"enhancement": ["a", "b"], "emotion": "c"}}),
        ("systems", {"ours": {"enhancement": "a"}}),
        ("systems", {"ours": {"model": "a", "precision": "fp8"}}),
        ("speech", None),
        ("seed", True),
        ("clean", "sometimes"),
        ("device", 0),
    ],
)
def test_an_invalid_field_is_named(field, value):
    with pytest.raises(ValueError, match=rf"^`{field}(\.[^`]+)?` is .*; expected [^\n]*\.$") as error:
        EvaluationConfig(**{"speech": ["table"], field: value})
    assert "pydantic" not in str(error.value) and "Input" not in str(error.value)


def test_an_invalid_system_is_named_among_others():
    with pytest.raises(ValueError, match=r"^`systems\.theirs` is \{'enhancement': 'b'\}; expected a checkpoint or "):
        EvaluationConfig(speech=["table"], systems={"ours": "a", "theirs": {"enhancement": "b"}})


def test_fields_that_contradict_each_other_are_named():
    with pytest.raises(ValueError, match=r"`model` is 'a'; expected null, because `systems`"):
        EvaluationConfig(speech=["table"], model="a", systems={"b": "c"})
    with pytest.raises(ValueError, match=r"`snr_db` is \[3.0\]; expected nothing, because the `test_set`"):
        EvaluationConfig(test_set="frozen", snr_db=[3])


def test_members_are_written_in_several_ways():
    cascades = {"enhancement": ["a", "b"], "emotion": ["c", "d"]}
    systems = {"one": "x", "two": ["x", "y"], "cascade": cascades, "svm": {"reference": "egemaps_svm", "seed": 1}}
    systems["int8"] = {"model": ["x", "y"], "precision": "int8"}
    systems["peer"] = {"enhancement": {"reference": "gtcrn"}, "emotion": ["c", "d"]}
    assert EvaluationConfig(speech=["table"], systems=systems).members() == {
        "noisy": ["noisy"],
        "one": ["x"],
        "two": ["x", "y"],
        "cascade": [{"enhancement": "a", "emotion": "c"}, {"enhancement": "b", "emotion": "d"}],
        "svm": [{"reference": "egemaps_svm", "seed": 1}],
        "int8": [{"model": "x", "precision": "int8"}, {"model": "y", "precision": "int8"}],
        "peer": [{"enhancement": {"reference": "gtcrn"}, "emotion": seed} for seed in ("c", "d")],
    }
    assert EvaluationConfig(speech=["table"]).members() == {"noisy": ["noisy"], "model": [None]}


def test_an_unknown_or_missing_field_is_named(tmp_path):
    path = tmp_path / "evaluation.yaml"
    path.write_text("speech: [a]\nspech_split: test\n")
    with pytest.raises(ValueError, match="evaluation.yaml: `spech_split` is unknown; did you mean `speech_split`"):
        EvaluationConfig.from_yaml(path)
    path.write_text("speech: [a\n")
    with pytest.raises(ValueError, match="evaluation.yaml is not valid YAML"):
        EvaluationConfig.from_yaml(path)
    path.write_text("seed: 3\n")
    with pytest.raises(
        ValueError, match="evaluation.yaml: `speech` is .*; expected the paths of one or more datasets"
    ):
        EvaluationConfig.from_yaml(path)
    assert EvaluationConfig.from_yaml(path, speech="a", seed=None) == EvaluationConfig(speech=["a"], seed=3)


def test_clips_without_any_of_the_labels_are_an_error(corpus):
    with pytest.raises(ValueError, match="'contempt'.*'fear'.*clips: all"):
        conditions.Clips(EvaluationConfig(speech=corpus["speech"]), ["contempt"])
