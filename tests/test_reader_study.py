# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Blinded reader studies: pages that give nothing away, complete orders, and scores and tests by hand."""

import base64
import io
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset
from typer.testing import CliRunner

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.datasets import DatasetError
from modeling_sparse_merit.reader_study.report import report_study
from modeling_sparse_merit.reader_study.study import make_study, presentation_order, render_page

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
RATE = 16_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def written(path: Path, waveforms: list[np.ndarray], **columns: list) -> str:
    audio = []
    for waveform in waveforms:
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, RATE, format="FLAC")
        audio.append({"bytes": buffer.getvalue(), "path": None})
    durations = [len(waveform) / RATE for waveform in waveforms]
    table = Dataset.from_dict({"audio": audio, "split": ["test"] * len(audio), "duration": durations, **columns})
    if "label" in columns:
        table = table.cast_column("label", ClassLabel(names=["normal", "crackle", "wheeze"]))
    table.cast_column("audio", Audio(sampling_rate=RATE, decode=False)).to_parquet(str(path))
    return str(path)


@pytest.fixture
def sounds(tmp_path) -> tuple[str, str]:
    """Five clips of three patients, one of them without a label, and a noise."""
    generator = np.random.default_rng(0)
    tones = [0.1 * (1 + place) * np.sin(np.arange(8_000) * (0.05 + 0.02 * place)) for place in range(5)]
    columns = {"label": [0, 1, 2, 1, None], "patient": list("aabcc"), "source_file": [f"{n}.wav" for n in range(5)]}
    breath = written(tmp_path / "breath.parquet", tones, **columns)
    return breath, written(tmp_path / "noise.parquet", [0.1 * generator.standard_normal(12_000)])


def page_of(folder: Path, reader: str) -> tuple[str, dict]:
    text = (folder / "pages" / f"{reader}.html").read_text()
    return text, json.loads(re.search(r'id="content">(.*?)</script>', text, re.DOTALL)[1])


def test_every_reader_labels_every_clip_once_in_each_condition(sounds, tmp_path):
    key = make_study(tmp_path / "study", *sounds, enhancer="tiny", num_clips=4, num_readers=3)
    assert key["conditions"] == ["clean", "noisy", "enhanced"] and key["labels"] == ["normal", "crackle", "wheeze"]
    assert json.loads((tmp_path / "study" / "key.json").read_text()) == key
    for reader, items in key["readers"].items():
        presented = [(item["clip"], item["condition"]) for item in items.values()]
        assert len(set(presented)) == 12 and "4.wav" not in {clip for clip, _ in presented}
        for block in range(3):
            assert len({clip for clip, _ in presented[4 * block : 4 * block + 4]}) == 4
        assert [item["id"] for item in page_of(tmp_path / "study", reader)[1]["items"]] == list(items)
    labels = {item["clip"]: (item["label"], item["unit"]) for item in key["readers"]["reader-1"].values()}
    assert labels == {
        "0.wav": ("normal", "a"),
        "1.wav": ("crackle", "a"),
        "2.wav": ("wheeze", "b"),
        "3.wav": ("crackle", "c"),
    }


def test_conditions_come_first_equally_often():
    first = Counter(
        condition
        for reader in range(3)
        for _, condition in presentation_order(6, ["clean", "noisy", "enhanced"], reader, np.random.default_rng(0))[:6]
    )
    assert first == {"clean": 6, "noisy": 6, "enhanced": 6}


def test_pages_do_not_tell_conditions_clips_or_levels(sounds, tmp_path):
    make_study(tmp_path / "study", *sounds, num_clips=4, num_readers=1)
    text, content = page_of(tmp_path / "study", "reader-1")
    assert set(content) == {"study", "reader", "title", "labels", "items"}
    assert {name for item in content["items"] for name in item} == {"id", "audio"}
    assert not re.search("clean|noisy|enhanced", json.dumps({**content, "items": []})) and ".wav" not in text
    levels = []
    for item in content["items"]:
        waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(item["audio"].partition(",")[2])))
        assert rate == RATE and len(waveform) == 8_000
        levels.append(10 * np.log10(np.square(waveform).mean()))
    assert levels == pytest.approx([-26.0] * 8, abs=0.05)


def test_texts_of_a_page_are_no_markup():
    text = render_page({"title": "</script><script>alert(1)</script>", "labels": ["<b>"], "items": []})
    assert "<script>alert" not in text and "<b>" not in text


def test_the_same_seed_gives_the_same_study(sounds, tmp_path):
    keys = [make_study(tmp_path / str(n), *sounds, num_clips=3, num_readers=2, seed=n // 2) for n in range(3)]
    assert keys[0] == keys[1] != keys[2]


def test_what_cannot_be_made_is_an_error_that_says_why(sounds, tmp_path):
    with pytest.raises(DatasetError, match="has 4 clips with a label; expected 5 or more"):
        make_study(tmp_path / "study", *sounds, num_clips=5)
    with pytest.raises(DatasetError, match="expected 'class', with labels"):
        make_study(tmp_path / "study", *sounds, label_column="class")
    with pytest.raises(ValueError, match="num_readers is 0; expected 1 or more"):
        make_study(tmp_path / "study", *sounds, num_readers=0)
    assert not (tmp_path / "study").exists()
    (tmp_path / "study").mkdir()
    with pytest.raises(FileExistsError, match="expected a new folder"):
        make_study(tmp_path / "study", *sounds, num_clips=1)


# The report ----------------------------------------------------------------------------------------------------------

LABELS = ["normal", "normal", "crackle", "crackle"]
CLEAN = [("normal", 5, 2.0), ("normal", 5, 2.0), ("crackle", 5, 2.0), ("crackle", 5, 2.0)]
NOISY = [("crackle", 3, 4.0), ("normal", 3, 4.0), ("crackle", 3, 4.0), ("normal", 3, 4.0)]


@pytest.fixture
def study(tmp_path) -> Path:
    """A study of two conditions whose only reader is wrong about half of the noisy clips."""
    items, responses = {}, []
    for condition, given in (("clean", CLEAN), ("noisy", NOISY)):
        for place, (label, confidence, seconds) in enumerate(given):
            item = f"{condition}{place}"
            items[item] = {"clip": f"{place}.wav", "unit": None, "label": LABELS[place], "condition": condition}
            responses.append({"id": item, "label": label, "confidence": confidence, "seconds": seconds})
    facts = {"study": "s", "title": "Breath", "dataset": "icbhi", "noise": "ward", "enhancer": "tiny", "snr_db": 0.0}
    key = {**facts, "labels": ["normal", "crackle"], "conditions": ["clean", "noisy"]}
    (tmp_path / "key.json").write_text(json.dumps({**key, "readers": {"reader-1": items, "reader-2": {}}}))
    (tmp_path / "responses").mkdir()
    file = {"study": "s", "reader": "reader-1", "responses": responses}
    (tmp_path / "responses" / "reader-1.json").write_text(json.dumps(file))
    return tmp_path


def test_scores_and_tests_by_hand(study):
    results = report_study(study)
    means = {
        name: {measure: score["mean"] for measure, score in each.items()} for name, each in results["scores"].items()
    }
    right = {"accuracy": 1.0, "specificity": 1.0, "sensitivity": 1.0, "score": 1.0, "confidence": 5.0, "seconds": 2.0}
    half = {"accuracy": 0.5, "specificity": 0.5, "sensitivity": 0.5, "score": 0.5, "confidence": 3.0, "seconds": 4.0}
    assert means == {"clean": right, "noisy": half}
    tests = {each["measure"]: each for each in results["comparisons"]}
    assert tests["confidence"]["difference"] == -2 and tests["confidence"]["p"] == 2 / 16  # of 2^4 permutations
    assert tests["accuracy"]["difference"] == -0.5 and tests["accuracy"]["p"] == 2 / 4
    assert tests["score"]["difference"] == -0.5 and tests["score"]["p"] == 2 / 4
    assert tests["specificity"]["p"] == 1 and tests["seconds"]["p_holm"] == 6 * 2 / 16
    assert results["readers"] == {"reader-1": 8, "reader-2": 0} and results["clips"] == 4


def test_the_command_prints_the_report_with_its_notice(study):
    done = CliRunner().invoke(app, ["reader-study", "report", str(study)])
    assert done.exit_code == 0 and "no clinical claim" in done.output
    assert "| noisy - clean | score | 4 | -0.500 |" in done.output
    assert (study / "report.md").read_text() in done.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": "other"}, "is of the study other; expected s"),
        ({"reader": "reader-9"}, "no file that a page of this study saved: KeyError"),
        (
            {"responses": [{"id": "clean0", "label": "sad", "confidence": 1, "seconds": 1}]},
            "expected one of .'normal'",
        ),
        ({"responses": [{"id": "clean0", "label": "normal", "confidence": 9, "seconds": 1}]}, "1 to 5"),
        (
            {"responses": [{"id": "clean0", "label": "normal", "confidence": 1, "seconds": 1}] * 2},
            "two responses to one",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(study, change, message):
    path = study / "responses" / "reader-1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        report_study(study)


def test_a_folder_without_a_study_or_responses_says_what_is_missing(study, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="has no key.json; expected the folder of `reader-study make`"):
        report_study(tmp_path_factory.mktemp("empty"))
    (study / "responses" / "reader-1.json").unlink()
    with pytest.raises(FileNotFoundError, match="put the files of the readers there"):
        report_study(study)


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed")
def test_a_reader_labels_all_recordings_in_a_browser_and_the_report_takes_the_saved_file(sounds, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    folder = tmp_path / "study"
    make_study(folder, *sounds, num_clips=2, num_readers=1)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        page, errors = browser.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto((folder / "pages" / "reader-1.html").as_uri())
        for number in range(4):
            assert f"Recording {number + 1} of 4" in page.inner_text("#progress")
            page.check("input[name=labels][value=crackle]")
            page.check(f"input[name=confidence][value='{number + 1}']")
            assert page.is_disabled("#next")  # until the recording was played
            page.evaluate("document.getElementById('audio').play()")
            page.wait_for_selector("#next:enabled")
            page.click("#next")
            if number == 1:
                page.reload()  # nothing is lost
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(folder / "responses" / "reader-1.json")
        browser.close()
    assert errors == []
    results = report_study(folder)
    assert results["responses"] == 4
    assert (
        sum(each["confidence"]["mean"] for each in results["scores"].values()) == 5
    )  # 1, 2, 3 and 4 in two conditions
