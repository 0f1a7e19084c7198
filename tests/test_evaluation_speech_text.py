# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The evaluation of speech-text models: scores next to other systems, texts in noise, missing texts."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY_SIZES, make_speech
from sklearn.metrics import f1_score, recall_score
from test_evaluation import rows_of, write_dataset
from test_modeling_speech_text import TASKS, make_model, make_tokenizer

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechTextPipeline,
    SpeechTextProcessor,
)
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.evaluation import evaluate
from modeling_sparse_merit.evaluation.systems import SpeechTextSystem

LABELS = ["angry", "sad", "happy", "neutral"]
TEXTS = ["i am so glad", "hello", "sad", "that", "i know that", "so sad", "glad to know", "i am glad"]
VALENCE = [1.0, 5.0, 2.5, 4.0, 6.0, 1.5, 3.0, 7.0]
AROUSAL = [2.0, None, 3.0, 5.5, 4.0, 6.5, 1.0, 2.5]


def save(folder: Path, **fields) -> str:
    """A speech-text checkpoint with the modalities that `fields` do not set to None."""
    model = make_model(**{**TASKS, **fields})
    model.heads["attributes"].classifier.bias.data.fill_(0.5)  # ratings within their scale
    extractor = None if fields.get("speech_config", 1) is None else SparseMeritFeatureExtractor()
    tokenizer = None if fields.get("text_config", 1) is None else make_tokenizer()
    model.save_pretrained(folder)
    SpeechTextProcessor(extractor, tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Checkpoints of each kind of modality, and eight clips of four speakers with texts and ratings."""
    root = tmp_path_factory.mktemp("speech_text")
    for name, fields in {
        "fused": {},
        "text": {"speech_config": None, "seed": 1},
        "speech": {"text_config": None, "seed": 2},
        "either": {"modality_dropout": 0.2, "seed": 3},
    }.items():
        save(root / name, **fields)
    tasks = {**TASKS, "tasks": ["enhancement", *TASKS["tasks"]]}
    merit = SparseMeritConfig(**TINY_SIZES, **tasks, id2label=dict(enumerate(LABELS)))
    SparseMeritForSpeechEnhancementAndEmotion(merit).save_pretrained(root / "merit")
    SparseMeritFeatureExtractor().save_pretrained(root / "merit")
    clips = [make_speech(0.5 + 0.1 * seed, seed=seed) for seed in range(8)]
    columns = {"emotion": [0, 1, 2, 3] * 2, "speaker": list("aabbccdd"), "valence": VALENCE, "arousal": AROUSAL}
    write_dataset(root / "calls.parquet", clips, text=TEXTS, **columns)
    write_dataset(root / "untold.parquet", clips, text=[*TEXTS[:6], " ", None], **columns)
    noise = 0.1 * np.random.default_rng(0).standard_normal(30_000).astype(np.float32)
    write_dataset(root / "hiss.parquet", [noise])
    return root


@pytest.fixture
def measure(folder, tmp_path, monkeypatch):
    """`measure(output, **settings)` evaluates; figures are left out, as where matplotlib is not installed."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    common = {"speech": [str(folder / "calls.parquet")], "measures": ["si_sdr"], "bootstrap_resamples": 50}

    def run(output: str = "results", **settings) -> dict:
        (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump({**common, "workers": 1, **settings}))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The report has no figures")
            return evaluate(tmp_path / "evaluation.yaml", output=tmp_path / output)

    return run


def expected(folder: Path, name: str, with_text: bool = True) -> list[dict]:
    """What the pipeline predicts for each clip alone."""
    pipe = SpeechTextPipeline.from_pretrained(folder / name)
    rows = read_dataset(folder / "calls.parquet")
    inputs = {"audio": rows["audio"] if name != "text" else None, "text": TEXTS if name != "speech" else None}
    given = {key: values for key, values in inputs.items() if values is not None and (with_text or key != "text")}
    return [pipe({key: values[row] for key, values in given.items()}) for row in range(len(TEXTS))]


def ccc(true: list[float | None], predicted: list[float]) -> float:
    """2 cov / (var + var + (mean - mean)^2) over the rated clips."""
    pairs = [pair for pair in zip(true, predicted, strict=True) if pair[0] is not None]
    x, y = np.array(pairs).T
    return 2 * ((x - x.mean()) * (y - y.mean())).mean() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


@pytest.mark.parametrize("name", ["fused", "text", "speech", "either"])
def test_a_model_of_either_modality_or_both_has_the_scores_of_its_pipeline(measure, folder, name):
    report = measure(model=str(folder / name))
    predicted = expected(folder, name)
    (summary,) = report["conditions"]
    true, emotions = LABELS * 2, [result["emotion"][0]["label"] for result in predicted]
    options = {"labels": LABELS, "average": "macro", "zero_division": 0}
    assert summary["emotion"]["macro_f1"] == pytest.approx(f1_score(true, emotions, **options), abs=1e-6)
    uar = summary["emotion"]["unweighted_average_recall"]
    assert uar == pytest.approx(recall_score(true, emotions, **options), abs=1e-6)
    scores = summary["tasks"]["attributes"]
    for rating, column in (("valence", VALENCE), ("arousal", AROUSAL)):
        ratings = [result["attributes"][rating] for result in predicted]
        errors = [abs(x - y) for x, y in zip(column, ratings, strict=True) if x is not None]
        assert scores[f"ccc_{rating}"]["mean"] == pytest.approx(ccc(column, ratings), abs=1e-4)
        assert scores[f"mae_{rating}"]["mean"] == pytest.approx(np.mean(errors), abs=1e-4)
        for interval in ("interval", "speaker_interval"):
            low, high = scores[f"ccc_{rating}"][interval]
            assert low < high
    assert scores["clips"] == 8 and summary["enhancement"]["si_sdr"]["enhanced"] is None
    modalities = {"text": ["text"], "speech": ["speech"]}.get(name, ["speech", "text"])
    assert report["model"]["modalities"] == modalities and len(report["model"]["sha256"]) == 64
    assert report["clips"]["with_text"] == 8


def test_systems_are_compared_in_noise_which_leaves_the_text_as_it_is(measure, folder, tmp_path):
    systems = {name: str(folder / name) for name in ("fused", "text", "merit")}
    systems["seeds"] = [str(folder / "fused"), str(folder / "either")]
    noise = {"noise": {"hiss": str(folder / "hiss.parquet")}, "snr_db": [0]}
    report = measure(systems=systems, baseline="merit", **noise)

    for system, is_same in (("text", True), ("fused", False), ("merit", False)):
        clean, noisy = (rows_of(tmp_path / "results", name, system) for name in ("clean", "hiss_0dB"))
        pairs = zip(clean, noisy, strict=True)
        equal = [row["predicted_attributes"] == pytest.approx(other["predicted_attributes"]) for row, other in pairs]
        assert all(equal) == is_same, system
    compared = [*report["comparisons"]["by_condition"], *report["comparisons"]["tasks"]]
    compared = [row for row in compared if row["condition"] == "hiss_0dB"]
    measures = {(row["system"], row["measure"]) for row in compared}
    named = ("macro_f1", "ccc_valence", "ccc_arousal")
    assert measures >= {(system, measure) for system in ("fused", "text", "seeds") for measure in named}
    for row in compared:
        if row["measure"] in named and row["system"] != "noisy":
            assert 0 < row["p"] <= 1 and 0 < row["speaker_p_holm"] <= 1
    assert report["results"]["seeds"]["members"] == 2
    assert "8 clips of 4 speakers, 8 of them with text" in (tmp_path / "results" / "results.md").read_text()


def test_clips_without_text_are_for_models_that_do_without(measure, folder):
    untold = {"speech": [str(folder / "untold.parquet")]}
    for name in ("fused", "text"):
        message = rf"2 of 8 clips .* have no `text`, such as clip 6, which the systems \['{name}'\] need"
        with pytest.raises(ValueError, match=message):
            measure(**untold, systems={name: str(folder / name), "speech": str(folder / "speech")})
    report = measure("other", **untold, systems={name: str(folder / name) for name in ("either", "speech")})
    assert report["clips"]["with_text"] == 6


def test_without_text_speech_is_used_alone(measure, folder, tmp_path):
    measure(**{"speech": [str(folder / "untold.parquet")]}, model=str(folder / "either"))
    rows = rows_of(tmp_path / "results", "clean")
    told, silent = expected(folder, "either"), expected(folder, "either", with_text=False)
    for row, one, other in zip(rows, told, silent, strict=True):
        ratings = list((one if row["row"] < 6 else other)["attributes"].values())
        assert row["predicted_attributes"] == pytest.approx(ratings, abs=1e-4)


def test_stored_results_belong_to_the_texts_that_they_were_made_from(measure, folder, tmp_path):
    rows = read_dataset(folder / "calls.parquet")
    for output, name in (("fused", "fused"), ("speech", "speech")):
        (tmp_path / output).mkdir()
        rows.to_parquet(str(tmp_path / output / "calls.parquet"))
        frozen = {"speech": [str(tmp_path / output / "calls.parquet")]}
        measure(output, **frozen, model=str(folder / name))
        set_file = tmp_path / output / "test_set" / "clean.parquet"
        retold = read_dataset(set_file).remove_columns("text").add_column("text", ["hello"] * 8)
        retold.to_parquet(str(tmp_path / f"{output}.parquet"))
    test_set = {"speech": [], "test_set": str(tmp_path / "fused.parquet")}
    with pytest.raises(ValueError, match="results of another run .different: clips"):
        measure("fused", **test_set, model=str(folder / "fused"))
    assert measure("speech", **test_set, model=str(folder / "speech"))


def test_what_a_speech_text_model_cannot_do_is_refused(measure, folder):
    with pytest.raises(ValueError, match="in the precision int8; expected fp32"):
        measure(systems={"fused": {"model": str(folder / "fused"), "precision": "int8"}})
    cascade = {"enhancement": str(folder / "merit"), "emotion": str(folder / "fused")}
    with pytest.raises(ValueError, match="emotion model of a cascade is .*fused, a speech-text model"):
        measure(systems={"cascade": cascade})
    system = SpeechTextSystem(str(folder / "text"))
    assert system.needs_text and system.describe()["parameters"] == system.pipe.model.num_parameters()
    system.pipe.model.heads["emotion"].classifier.bias.data[0] = np.nan
    with pytest.raises(ValueError, match="emotion scores of .*text hold NaN"):
        system.predict([make_speech(0.5)], ["hello"])
