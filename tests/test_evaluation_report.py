# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The report: scores as another implementation counts them, intervals and p-values that can be checked by hand, and
the three forms in which they are shown."""

import io
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from modeling_sparse_merit.evaluation import EvaluationConfig, figures, report, statistics
from modeling_sparse_merit.evaluation.markdown import format_score, render_markdown
from modeling_sparse_merit.metrics import UndefinedScoreWarning
from modeling_sparse_merit.plotting.spectrograms import plot_spectrogram_rows
from modeling_sparse_merit.plotting.style import GREY, line_looks, save_figure

LABELS = ["angry", "sad", "happy", "neutral"]
MEASURES = ["segmental_snr", "stoi"]
CONDITIONS = [(None, None), ("hiss", -5.0), ("hiss", 10.0), ("roar", -5.0), ("roar", 10.0)]


def make_rows(skill: float, gain: float | None, seed: int, clips: int = 40, experts: int = 0) -> list[dict]:
    """All conditions of one member: a share `skill` of its predictions is right, and `gain` is added to the noisy
    scores."""
    rows, generator = [], np.random.default_rng(seed)
    for (pool, snr_db), clip in itertools.product(CONDITIONS, range(clips)):
        emotion = LABELS[clip % 4]
        wrong = LABELS[generator.integers(4)]
        row = {
            "condition": "clean" if pool is None else f"{pool}_{snr_db:g}dB",
            "pool": pool,
            "snr_db": snr_db,
            "row": clip,
            "speaker": f"speaker {clip % 5}",
            "emotion": emotion,
            "predicted": emotion if generator.random() < skill else wrong,
            "frames": 50 + clip,
        }
        for name in MEASURES:
            score = (snr_db or 0.0) / 10 + 0.01 * clip + 0.1 * generator.standard_normal()
            row[f"enhanced_{name}"] = None if gain is None else score + gain
        shares = generator.dirichlet(np.ones(experts)) if experts else []
        row |= {f"expert_emotion_{index}": share for index, share in enumerate(shares)}
        rows.append(row)
    return rows


def make_noisy(clips: int = 40) -> list[dict]:
    rows = [row | {"predicted": None} for row in make_rows(0, 0.0, seed=99, clips=clips)]
    return [row | ({} if row["pool"] else dict.fromkeys(("enhanced_segmental_snr", "enhanced_stoi"))) for row in rows]


SYSTEMS = {
    "noisy": [make_noisy()],
    "cascade": [make_rows(0.3, 0.3, seed=1)],
    "merit": [make_rows(0.95, 2.5, seed=seed, experts=3) for seed in (2, 3, 4)],
    "svm": [make_rows(0.3, None, seed=5)],
}


def make_config(**changes) -> EvaluationConfig:
    systems = {"cascade": "a", "merit": ["b", "c", "d"], "svm": {"reference": "egemaps_svm"}}
    settings = {"measures": MEASURES, "systems": systems, "baseline": "cascade", "bootstrap_resamples": 200}
    return EvaluationConfig(speech=["table"], noise={"hiss": "a", "roar": "b"}, snr_db=[-5, 10], **settings | changes)


def make_report(rows: dict = SYSTEMS, groups: dict | None = None, /, **changes) -> dict:
    config = make_config(**changes)
    record = {
        "config": config.record(),
        "labels": LABELS,
        "systems": {
            name: [{"name": f"{name} {index}"} for index in range(len(actual))] for name, actual in rows.items()
        },
        "clips": {"evaluated": 40, "speakers": 5, "labelled": dict.fromkeys(LABELS, 10)},
        "noise": {"hiss": {"recordings": 2}, "roar": {"recordings": 3}},
    }
    return report.build_report(record, rows, config, groups)


@pytest.fixture(scope="module")
def full_report() -> dict:
    return make_report()


def rows_in(rows: list[dict], condition: str) -> list[dict]:
    return [row for row in rows if row["condition"] == condition]


# ---- scores -------------------------------------------------------------------------------------------------------


def test_scores_of_emotion_are_those_of_scikit_learn_and_the_mean_over_seeds(full_report):
    summary = full_report["results"]["merit"]["conditions"][1]
    members = [rows_in(rows, "hiss_-5dB") for rows in SYSTEMS["merit"]]
    pairs = [([row["emotion"] for row in rows], [row["predicted"] for row in rows]) for rows in members]
    f1 = [f1_score(*pair, labels=LABELS, average="macro") for pair in pairs]
    emotion = summary["emotion"]
    assert summary["condition"] == "hiss_-5dB" and emotion["clips"] == 40
    assert emotion["macro_f1"] == pytest.approx(np.mean(f1))
    assert emotion["macro_f1_seeds"]["values"] == pytest.approx(f1)
    assert emotion["macro_f1_seeds"]["std"] == pytest.approx(np.std(f1, ddof=1))
    assert (emotion["macro_f1_seeds"]["min"], emotion["macro_f1_seeds"]["max"]) == pytest.approx((min(f1), max(f1)))
    recalls = [recall_score(*pair, average="macro") for pair in pairs]
    assert emotion["unweighted_average_recall"] == pytest.approx(np.mean(recalls))
    assert emotion["accuracy"] == pytest.approx(np.mean([accuracy_score(*pair) for pair in pairs]))
    per_class = np.mean([f1_score(*pair, labels=LABELS, average=None) for pair in pairs], axis=0)
    assert list(emotion["per_class_f1"].values()) == pytest.approx(per_class)
    assert emotion["confusion"] == sum(confusion_matrix(*pair, labels=LABELS) for pair in pairs).tolist()
    assert full_report["results"]["cascade"]["conditions"][1]["emotion"]["macro_f1_seeds"] is None  # one model


def test_gains_are_against_the_noisy_input(full_report):
    noisy = rows_in(SYSTEMS["noisy"][0], "roar_10dB")
    outputs = [rows_in(rows, "roar_10dB") for rows in SYSTEMS["merit"]]
    measured = full_report["results"]["merit"]["conditions"][4]["enhancement"]["stoi"]
    before = np.mean([row["enhanced_stoi"] for row in noisy])
    after = np.mean([[row["enhanced_stoi"] for row in rows] for rows in outputs])
    assert measured["noisy"]["mean"] == pytest.approx(before) and measured["enhanced"]["mean"] == pytest.approx(after)
    assert measured["difference"]["mean"] == pytest.approx(after - before)
    clean = full_report["results"]["merit"]["conditions"][0]["enhancement"]["stoi"]
    assert clean["noisy"] is None and clean["difference"] is None and clean["enhanced"]["clips"] == 40
    assert full_report["results"]["svm"]["conditions"][1]["enhancement"]["stoi"]["enhanced"] is None
    itself = full_report["results"]["noisy"]["conditions"][4]
    assert itself["emotion"] is None and itself["enhancement"]["stoi"]["enhanced"]["mean"] == pytest.approx(before)
    assert itself["enhancement"]["stoi"]["difference"] is None


def test_undefined_scores_are_counted_and_left_out_for_the_clip_alone():
    rows = [row | {"enhanced_stoi": 0.5 + 0.01 * row["row"]} for row in make_rows(0.5, 1.0, seed=6, clips=4)]
    for row in rows_in(rows, "hiss_10dB")[:1]:
        row["enhanced_stoi"] = math.nan
    with pytest.warns(UndefinedScoreWarning, match="^merit: .*hiss_10dB: STOI of 1 enhanced clips"):
        actual = make_report({"noisy": [make_noisy(4)], "merit": [rows]}, systems={"merit": "a"}, baseline=None)
    measured = actual["results"]["merit"]["conditions"][2]["enhancement"]["stoi"]
    assert measured["enhanced"]["mean"] == pytest.approx((0.51 + 0.52 + 0.53) / 3)
    assert (measured["enhanced"]["clips"], measured["enhanced"]["undefined"]) == (3, 1)
    assert measured["difference"]["undefined"] == 1 and measured["noisy"]["undefined"] == 0
    assert "| hiss, 10 dB | merit | STOI | 1 of 4 |" in render_markdown(actual, [])
    assert actual["comparisons"] is None


def test_unlabelled_clips_are_enhanced_but_not_recognised():
    noisy, rows = make_noisy(), make_rows(1.0, 1.0, seed=7)
    for row in noisy + rows:
        row["emotion"] = None if row["row"] >= 30 else row["emotion"]
    actual = make_report({"noisy": [noisy], "merit": [rows]}, systems={"merit": "a"}, baseline=None)
    summary = actual["results"]["merit"]["conditions"][0]
    assert (summary["clips"], summary["emotion"]["clips"], summary["emotion"]["macro_f1"]) == (40, 30, 1.0)
    assert summary["enhancement"]["stoi"]["enhanced"]["clips"] == 40


def test_use_of_experts_counts_frames_of_the_first_seed(full_report):
    rows = rows_in(SYSTEMS["merit"][0], "clean")
    expected = sum(row["expert_emotion_1"] * row["frames"] for row in rows) / sum(row["frames"] for row in rows)
    use = full_report["results"]["merit"]["conditions"][0]["expert_use"]["emotion"]
    assert use[1] == pytest.approx(expected) and sum(use) == pytest.approx(1)
    assert full_report["results"]["svm"]["conditions"][0]["expert_use"] is None


def test_systems_with_other_clips_are_refused():
    fewer = [row for row in make_rows(0.5, 1.0, seed=8) if (row["row"], row["pool"]) != (3, "roar")]
    with pytest.raises(ValueError, match="The 39 stored rows of merit, member 0, roar_-5dB.*evaluate again"):
        make_report({"noisy": [make_noisy()], "merit": [fewer]}, systems={"merit": "a"}, baseline=None)


def test_one_checkpoint_has_its_conditions_at_the_top():
    actual = make_report(
        {"noisy": [make_noisy()], "model": [make_rows(0.5, 1.0, seed=9)]}, systems=None, baseline=None
    )
    assert actual["conditions"] == actual["results"]["model"]["conditions"]
    assert "conditions" not in make_report()


# ---- corpora, genders and subsets ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped() -> dict:
    """Clips 0 to 23 are of one corpus, the others of another."""
    groups = {"corpus": {"a": range(24), "b": range(24, 40)}, "gender": {}, "subset": {"short": [0, 1, 4], "none": []}}
    rows = {name: [with_probabilities(member) for member in members] for name, members in SYSTEMS.items()}
    return make_report(rows, groups)


def with_probabilities(rows: list[dict]) -> list[dict]:
    """Each prediction with a probability of 0.7, those of even clips with 0.95."""
    actual = []
    for row in rows:
        if row["predicted"] is not None:
            largest = 0.7 if row["row"] % 2 else 0.95
            values = {label: largest if label == row["predicted"] else (1 - largest) / 3 for label in LABELS}
            row = row | {f"probability_{label}": value for label, value in values.items()}
        actual.append(row)
    return actual


def with_labels(rows: list[dict], labels: list[str]) -> list[dict]:
    """Rows of a system that knows these labels alone: the second most probable one is the next in order."""
    known = []
    for row in rows:
        predicted = row["predicted"] if row["predicted"] in labels else labels[0]
        probabilities = {label: 0.6 if label == predicted else 0.4 / (1 + place) for place, label in enumerate(labels)}
        known.append({**row, "predicted": predicted} | {f"probability_{x}": probabilities.get(x) for x in LABELS})
    return known


def test_systems_with_different_labels_are_compared_on_those_that_all_know():
    own, base = (make_rows(skill, 1.0, seed=seed) for skill, seed in ((0.9, 7), (0.4, 8)))
    rows = {
        "noisy": [make_noisy()],
        "cascade": [with_labels(base, ["angry", "sad"])],
        "own": [with_labels(own, ["sad", "angry", "neutral"])],
    }
    actual = make_report(rows, systems={"cascade": "a", "own": "b"})
    assert actual["shared_labels"] == ["angry", "sad"]
    assert actual["results"]["own"]["labels"] == ["angry", "sad", "neutral"]

    summary = actual["results"]["own"]["conditions"][1]
    clips = rows_in(rows["own"][0], "hiss_-5dB")
    known = [clip for clip in clips if clip["emotion"] in ("angry", "sad", "neutral")]
    pair = [clip["emotion"] for clip in known], [clip["predicted"] for clip in known]
    own_score = f1_score(*pair, labels=["angry", "sad", "neutral"], average="macro")
    assert summary["emotion"]["macro_f1"] == pytest.approx(own_score) and summary["emotion"]["clips"] == 30

    shared = [clip for clip in clips if clip["emotion"] in ("angry", "sad")]
    chosen = [max(("angry", "sad"), key=lambda label, clip=clip: clip[f"probability_{label}"]) for clip in shared]
    shared_score = f1_score([clip["emotion"] for clip in shared], chosen, labels=["angry", "sad"], average="macro")
    assert summary["shared_emotion"]["macro_f1"] == pytest.approx(shared_score)
    text = render_markdown(actual, [])
    assert "on the labels that all know, angry, sad" in text and f"{shared_score:.3f}" in text
    (compared,) = [
        entry
        for entry in actual["comparisons"]["by_condition"]
        if (entry["system"], entry["measure"], entry["condition"]) == ("own", "macro_f1", "hiss_-5dB")
    ]
    base_score = actual["results"]["cascade"]["conditions"][1]["shared_emotion"]["macro_f1"]
    assert compared["difference"] == pytest.approx(shared_score - base_score)


def test_systems_without_common_labels_are_not_compared_in_emotion_recognition():
    rows = {
        "noisy": [make_noisy()],
        "cascade": [with_labels(make_rows(0.4, 1.0, seed=8), ["angry", "sad"])],
        "own": [with_labels(make_rows(0.9, 1.0, seed=7), ["happy", "neutral"])],
    }
    actual = make_report(rows, systems={"cascade": "a", "own": "b"})
    assert actual["shared_labels"] == [] and actual["results"]["own"]["conditions"][0]["emotion"]["clips"] == 20
    measures = {entry["measure"] for entry in actual["comparisons"]["by_condition"]}
    assert measures == set(MEASURES) and "No two labels are known to all" in render_markdown(actual, [])


def test_each_corpus_and_subset_has_scores_of_its_own(grouped):
    summary = grouped["results"]["merit"]["conditions"][1]["groups"]
    assert {kind: list(named) for kind, named in summary.items()} == {"corpus": ["a", "b"], "subset": ["short"]}
    members = [rows_in(rows, "hiss_-5dB")[:24] for rows in SYSTEMS["merit"]]
    pairs = [([row["emotion"] for row in rows], [row["predicted"] for row in rows]) for rows in members]
    scores = summary["corpus"]["a"]
    assert (scores["clips"], scores["speakers"]) == (24, 5)
    assert scores["macro_f1"] == pytest.approx(np.mean([f1_score(*pair, average="macro") for pair in pairs]))
    recalls = [recall_score(*pair, average="macro") for pair in pairs]
    assert scores["unweighted_average_recall"] == pytest.approx(np.mean(recalls))
    low, high = scores["macro_f1_interval"]
    assert low <= scores["macro_f1"] <= high and scores["macro_f1_speaker_interval"] is not None
    assert grouped["results"]["noisy"]["conditions"][1].get("groups") is None  # it recognises nothing


def test_macro_f1_of_a_subset_is_the_mean_over_the_classes_that_it_has(grouped):
    scores = grouped["results"]["cascade"]["conditions"][2]["groups"]["subset"]["short"]
    rows = [rows_in(SYSTEMS["cascade"][0], "hiss_10dB")[place] for place in (0, 1, 4)]  # angry, sad, angry
    expected = f1_score(
        [row["emotion"] for row in rows], [row["predicted"] for row in rows], labels=["angry", "sad"], average="macro"
    )
    assert scores["macro_f1"] == pytest.approx(expected) and scores["clips"] == 3


def test_calibration_errors_are_the_mean_over_seeds(grouped):
    members = [rows_in(rows, "hiss_-5dB") for rows in SYSTEMS["merit"]]
    errors = []
    for rows in members:
        right = np.array([row["emotion"] == row["predicted"] for row in rows])
        # as many clips in the bin of 0.95 as in that of 0.7
        errors.append((abs(right[::2].mean() - 0.95) + abs(right[1::2].mean() - 0.7)) / 2)
    emotion = grouped["results"]["merit"]["conditions"][1]["emotion"]
    assert emotion["expected_calibration_error"] == pytest.approx(np.mean(errors))
    assert emotion["expected_calibration_error_seeds"]["values"] == pytest.approx(errors)
    assert "expected_calibration_error" not in make_report()["results"]["merit"]["conditions"][1]["emotion"]


def test_the_markdown_has_a_table_for_corpora_and_one_for_subsets(grouped, full_report):
    text = render_markdown(grouped, [])
    rows = table_below(text, "## Emotion by corpus")
    assert rows[0][:5] == ["condition", "system", "corpus", "clips", "speakers"]
    actual = {tuple(row[:5]) for row in rows[2:]}
    assert ("hiss, -5 dB", "merit", "a", "24", "5") in actual and ("clean", "svm", "b", "16", "5") in actual
    assert "## Emotion by subset" in text and "## Emotion by gender" not in text
    assert "## Emotion by" not in render_markdown(full_report, [])  # results of earlier versions have no groups


# ---- intervals ----------------------------------------------------------------------------------------------------


def test_an_interval_covers_what_theory_says():
    scores = np.random.default_rng(0).normal(10, 2, size=(1, 400))
    resampling = statistics.Resampling([None] * 400, 2000, seed=0)
    low, high = statistics.measure_score(scores, resampling, stream=0).describe()["interval"]
    assert (low, high) == pytest.approx(scores.mean() + 1.96 * scores.std() / 20 * np.array([-1, 1]), abs=0.02)


def test_the_interval_of_macro_f1_is_that_of_a_plain_loop():
    generator = np.random.default_rng(1)
    true, predicted = generator.integers(3, size=60), generator.integers(3, size=(1, 60))
    resampling = statistics.Resampling([None] * 60, 60, seed=2)
    actual = statistics.emotion_scores(true, predicted, 3, resampling, stream=0)["macro_f1"]
    expected = []
    for counts in resampling.counts["clip"].astype(int):
        clips = np.repeat(np.arange(60), counts)
        assert len(clips) == 60
        expected.append(f1_score(true[clips], predicted[0][clips], average="macro"))
    assert actual.draws["clip"] == pytest.approx(np.array(expected))
    assert actual.describe()["interval"] == pytest.approx(np.quantile(expected, [0.025, 0.975]))


def test_degenerate_intervals():
    one_clip = statistics.Resampling(["a"], 100, seed=0)
    assert statistics.measure_score(np.array([[1.0]]), one_clip, 0).describe()["interval"] is None
    clips = statistics.Resampling(["a"] * 8, 100, seed=0)
    always_right = statistics.emotion_scores(np.arange(8) % 4, np.arange(8)[None] % 4, 4, clips, 0)
    described = always_right["macro_f1"].describe()
    # a resample without a class has no F1 of that class, and the mean of the others is 1
    assert (described["mean"], described["interval"]) == (1.0, [1.0, 1.0])
    assert described["speaker_interval"] is None  # one speaker tells nothing about others
    never_predicted = statistics.emotion_scores(np.zeros(8, dtype=int), np.zeros((1, 8), dtype=int), 2, clips, 0)
    assert never_predicted["per_class_f1"][1].describe()["interval"] is None
    one_defined = np.array([[math.nan] * 7 + [3.0]])
    assert statistics.measure_score(one_defined, clips, 0).describe()["interval"] is None


def test_speakers_are_drawn_with_all_their_clips():
    speakers = list("aaabbc")
    counts = statistics.Resampling(speakers, 50, seed=3).counts["speaker"]
    assert (counts[:, 0] == counts[:, 1]).all() and (counts[:, 3] == counts[:, 4]).all()
    assert (counts[:, [0, 3, 5]].sum(1) == 3).all()  # three speakers are drawn, however many clips they have
    assert statistics.Resampling([*"aabb", None], 50, seed=3).counts["speaker"] is None


def test_intervals_over_speakers_show_that_few_speakers_tell_little():
    offsets = np.repeat(np.random.default_rng(4).normal(0, 1, size=6), 50)  # speakers differ, clips of one hardly do
    scores = (offsets + np.random.default_rng(5).normal(0, 0.1, size=300))[None]
    resampling = statistics.Resampling([str(offset) for offset in offsets], 1000, seed=0)
    described = statistics.measure_score(scores, resampling, 0).describe()
    widths = {name: np.ptp(described[name]) for name in ("interval", "speaker_interval")}
    assert widths["speaker_interval"] > 4 * widths["interval"]


def test_intervals_of_several_seeds_hold_the_seeds_too():
    # clips that are all alike: what varies is the choice of seeds, 9 x 3 equally likely triples of (0, 0, 3)
    scores = np.array([[0.0] * 10, [0.0] * 10, [3.0] * 10])
    resampling = statistics.Resampling([None] * 10, 20_000, seed=0)
    actual = statistics.measure_score(scores, resampling, stream=1)
    values, counts = np.unique(actual.draws["clip"], return_counts=True)
    assert values == pytest.approx([0, 1, 2, 3])
    assert counts / 20_000 == pytest.approx(np.array([8, 12, 6, 1]) / 27, abs=0.01)
    assert actual.describe()["seeds"] == {
        "values": [0.0, 0.0, 3.0],
        "std": pytest.approx(3**0.5),
        "min": 0.0,
        "max": 3.0,
    }


# ---- comparisons --------------------------------------------------------------------------------------------------


def test_a_permutation_test_of_three_clips_by_hand():
    ours, baseline = np.array([[3.0, 2.0, 1.0]]), np.array([[1.0, 1.0, 2.0]])
    resampling = statistics.Resampling([None] * 3, 10, seed=0)
    actual = statistics.compare_measure(ours, baseline, resampling, (0, 1)).describe()
    # differences 2, 1, -1: of the eight choices of signs, |sum| is 4, 4, 2, 2, 2, 2, 0 and 0; observed is 2
    assert actual["difference"] == pytest.approx(2 / 3) and actual["p"] == 6 / 8
    assert (actual["score"], actual["baseline"]) == (2.0, pytest.approx(4 / 3))
    assert actual["relative_gain_percent"] == pytest.approx(50)


def test_a_permutation_test_over_speakers_swaps_all_clips_of_a_speaker():
    # differences 2 and 1 of the speaker a, 1 of b: of the four choices of signs, |sum| is 4, 4, 2 and 2
    ours, baseline = np.array([[3.0, 2.0, 3.0]]), np.array([[1.0, 1.0, 2.0]])
    resampling = statistics.Resampling(["a", "a", "b"], 10, seed=0)
    actual = statistics.compare_measure(ours, baseline, resampling, (0, 1)).describe()
    assert actual["speaker_p"] == 2 / 4 and actual["p"] == 2 / 8
    labels = np.array([0, 1, 1])
    predicted = np.array([[0, 1, 1]]), np.array([[1, 1, 1]])
    actual = statistics.compare_macro_f1(labels, *predicted, 2, resampling, (0, 1)).describe()
    assert actual["speaker_p"] == 1.0  # only one speaker has a difference, whose sign turns
    unknown = statistics.compare_measure(ours, baseline, statistics.Resampling([None] * 3, 10, 0), (0, 1)).describe()
    assert unknown["speaker_p"] is None


def test_a_permutation_test_of_macro_f1_by_hand():
    # truth a a b b; we are right everywhere (macro-F1 1), the baseline says a for the first b (F1 0.8 and 2 / 3)
    true, ours, baseline = np.array([0, 0, 1, 1]), np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 1]])
    resampling = statistics.Resampling([None] * 4, 10, seed=0)
    actual = statistics.compare_macro_f1(true, ours, baseline, 2, resampling, (0, 1)).describe()
    assert actual["difference"] == pytest.approx(1 - (0.8 + 2 / 3) / 2)
    # a swap matters for the one clip on which they differ: it turns the sign, so every swap is as large
    assert actual["p"] == 1.0


def test_p_values_of_measures_are_those_of_scipy():
    generator = np.random.default_rng(6)
    ours, baseline = generator.normal(0.4, 1, size=(1, 12)), generator.normal(0, 1, size=(1, 12))
    resampling = statistics.Resampling([None] * 12, 10, seed=0)
    actual = statistics.compare_measure(ours, baseline, resampling, (0, 1)).describe()
    expected = stats.permutation_test(
        (ours[0], baseline[0]), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert actual["p"] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("seeds", [1, 2])
def test_p_values_of_macro_f1_are_those_of_every_swap(seeds):
    generator = np.random.default_rng(7)
    true = generator.integers(3, size=6)
    ours, baseline = generator.integers(3, size=(seeds, 6)), generator.integers(3, size=(1, 6))
    resampling = statistics.Resampling([None] * 6, 10, seed=0)
    actual = statistics.compare_macro_f1(true, ours, baseline, 3, resampling, (0, 1)).describe()

    def difference(swap: np.ndarray) -> float:
        """Macro-F1 of scikit-learn, the mean over pairs of seeds; classes without a clip or a prediction left out."""
        pairs = [(np.where(swap, baseline[0], one), np.where(swap, one, baseline[0])) for one in ours]
        return np.mean([score(ours) - score(other) for ours, other in pairs])

    def score(predicted: np.ndarray) -> float:
        return f1_score(true, predicted, labels=np.unique([true, predicted]), average="macro")

    swaps = [np.array(swap) for swap in itertools.product([False, True], repeat=6)]
    differences = np.array([difference(swap) for swap in swaps])
    assert actual["difference"] == pytest.approx(differences[0])
    assert actual["p"] == np.mean(np.abs(differences) >= abs(differences[0]) - 1e-9)


def test_many_clips_are_swapped_at_random_and_p_is_never_0():
    scores = np.random.default_rng(8).normal(size=(1, 50))
    resampling = statistics.Resampling([None] * 50, 10, seed=0)
    shifted = statistics.compare_measure(scores + 5, scores, resampling, (0, 1)).describe()
    assert shifted["p"] == 1 / (1 + statistics.PERMUTATIONS)
    same = statistics.compare_measure(scores, scores, resampling, (0, 1)).describe()
    assert (same["p"], same["difference"], same["difference_interval"]) == (1.0, 0.0, [0.0, 0.0])


def test_without_a_difference_p_is_small_as_rarely_as_it_says():
    generator, p_values = np.random.default_rng(9), []
    resampling = statistics.Resampling([None] * 60, 1, seed=0)
    swaps = resampling.swaps["clip"].clips[:499]
    for _ in range(200):
        true = generator.integers(3, size=60)
        ours, baseline = (
            np.where(generator.random(60) < 0.5, true, generator.integers(3, size=60))[None] for _ in "ab"
        )
        observed, permuted = statistics.swapped_f1(true, ours, baseline, 3, "macro", swaps)
        p_values.append(statistics.permutation_p_value(observed, permuted, exhaustive=False))
    assert stats.binomtest(sum(p < 0.1 for p in p_values), 200, 0.1).pvalue > 0.01


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_differences_in_f1_equal_those_of_scikit_learn(average):
    generator = np.random.default_rng(0)
    true, ours, baseline = (generator.integers(3, size=(members, 40)) for members in (1, 2, 1))
    swaps = generator.integers(2, size=(5, 40), dtype=bool)
    actual, permuted = statistics.swapped_f1(true[0], ours, baseline, 3, average, swaps)

    def mean_difference(ours, baseline):
        pairs = [(one, other) for one in ours for other in baseline]
        return np.mean([score(one) - score(other) for one, other in pairs])

    def score(predicted):
        return f1_score(true[0], predicted, average=average)

    assert actual == pytest.approx(mean_difference(ours, baseline))
    for swap, value in zip(swaps, permuted, strict=True):
        expected = [
            score(np.where(swap, other, one)) - score(np.where(swap, one, other)) for one in ours for other in baseline
        ]
        assert value == pytest.approx(np.mean(expected))


def test_clips_without_a_score_of_both_systems_are_not_compared():
    ours, baseline = np.array([[1.0, 2.0, 3.0, math.nan]]), np.array([[0.0, 1.0, math.nan, 9.0]])
    resampling = statistics.Resampling([None] * 4, 50, seed=0)
    actual = statistics.compare_measure(ours, baseline, resampling, (0, 1)).describe()
    assert (actual["clips"], actual["score"], actual["baseline"], actual["difference"]) == (2, 1.5, 0.5, 1.0)
    assert actual["difference_interval"] == [1.0, 1.0] and actual["p"] == 0.5
    nothing = statistics.compare_measure(ours * math.nan, baseline, resampling, (0, 1)).describe()
    assert nothing["p"] is None and nothing["difference_interval"] is None


def test_holm_by_hand():
    # 4 * 0.01, 3 * 0.015, 2 * 0.03, and the largest is not below the one before it
    assert statistics.holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([None, 0.02, None]) == [None, 0.02, None]
    assert statistics.holm([]) == []


@pytest.mark.parametrize(
    ("score", "baseline", "expected"),
    [
        (0.489, 0.435, 12.4138),
        (6.41, 5.0, 28.2),
        (2.0, -1.0, None),
        (2.0, 0.0, None),
        (-1.0, 4.0, -125.0),
        (None, 1, None),
    ],
)
def test_relative_gains(score, baseline, expected):
    gain = statistics.relative_gain(score, baseline)
    assert gain is None if expected is None else gain == pytest.approx(expected, abs=1e-3)


def test_pools_are_averaged_as_the_paper_averages_them(full_report):
    pooled = {
        (entry["system"], entry["measure"], entry["snr_db"]): entry for entry in full_report["comparisons"]["pooled"]
    }
    merit, cascade = (full_report["results"][name]["conditions"] for name in ("merit", "cascade"))
    ours, theirs = (np.mean([actual[index]["emotion"]["macro_f1"] for index in (1, 3)]) for actual in (merit, cascade))
    actual = pooled["merit", "macro_f1", -5.0]
    assert (actual["score"], actual["baseline"]) == pytest.approx((ours, theirs))
    assert actual["difference"] == pytest.approx(ours - theirs)
    assert actual["relative_gain_percent"] == pytest.approx(100 * (ours - theirs) / theirs)
    low, high = actual["difference_interval"]
    assert low < actual["difference"] < high
    # clean speech belongs to no pool, and the SVM does not enhance
    assert {key[1:] for key in pooled if key[0] == "svm"} == {("macro_f1", -5.0), ("macro_f1", 10.0)}
    assert ("noisy", "macro_f1", -5.0) not in pooled and ("noisy", "stoi", -5.0) in pooled


def test_a_family_is_all_systems_and_conditions_of_one_measure(full_report):
    entries = full_report["comparisons"]["by_condition"]
    family = [entry for entry in entries if entry["measure"] == "stoi"]
    assert len(family) == 4 + 5  # noisy in four conditions, merit in five
    for name in ("p", "speaker_p"):
        assert [entry[f"{name}_holm"] for entry in family] == statistics.holm([entry[name] for entry in family])
    assert len([entry for entry in entries if entry["measure"] == "macro_f1"]) == 5 + 5
    assert all(entry["system"] != "cascade" for entry in entries)
    better = [entry for entry in entries if (entry["system"], entry["measure"]) == ("merit", "macro_f1")]
    assert all(entry["p_holm"] < 0.05 and entry["difference"] > 0 for entry in better)
    same = [entry for entry in entries if entry["system"] == "svm"]
    assert all(entry["p_holm"] > 0.05 for entry in same)


def test_everything_follows_from_the_seed(full_report):
    assert make_report() == full_report
    other = make_report(seed=1)
    assert (
        other["results"]["merit"]["conditions"][0]["emotion"]["macro_f1"]
        == (full_report["results"]["merit"]["conditions"][0]["emotion"]["macro_f1"])
    )
    assert (
        other["results"]["merit"]["conditions"][0]["emotion"]["macro_f1_interval"]
        != (full_report["results"]["merit"]["conditions"][0]["emotion"]["macro_f1_interval"])
    )


# ---- what is written ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(full_report, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "figures").mkdir()
    example = {side: np.ones(800) for side in ("noisy", "enhanced", "clean")}
    save_figure(plot_spectrogram_rows({"hiss": example}), folder / "figures/spectrograms_merit.png")
    report.write_report(folder, full_report, SYSTEMS)
    return folder


def test_the_json_is_strict_and_whole(written, full_report):
    def refuse(constant: str):
        raise ValueError(constant)

    actual = json.loads((written / "results.json").read_text(), parse_constant=refuse)
    assert actual["results"]["merit"]["members"] == 3
    assert actual["comparisons"]["by_condition"] == full_report["comparisons"]["by_condition"]
    report.write_json(written / "undefined.json", {"a": [math.nan, 1.5], "b": math.inf})
    assert json.loads((written / "undefined.json").read_text()) == {"a": [None, 1.5], "b": None}
    assert not list(written.rglob(".*.partial*"))


def table_below(text: str, heading: str) -> list[list[str]]:
    lines = text.split(f"\n{heading}\n", 1)[1].split("\n## ")[0].strip().splitlines()
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_markdown_has_the_table_of_the_paper(written, full_report):
    text = (written / "results.md").read_text()
    header, _, *rows = table_below(text, "## Macro-F1")
    assert header == ["system", "clean", "hiss: -5 dB", "10 dB", "roar: -5 dB", "10 dB"]
    assert [row[0] for row in rows] == ["cascade", "merit", "svm"]  # the noisy input has no emotions
    scores = [summary["emotion"]["macro_f1"] for summary in full_report["results"]["merit"]["conditions"]]
    assert [bare(cell) for cell in rows[1][1:]] == [f"{score:.3f}" for score in scores]
    assert all(cell.startswith("**") and cell.endswith("**↑↑") for cell in rows[1][1:])
    assert not any(mark in cell for cell in rows[0] for mark in "↑↓")  # the baseline itself
    enhanced = table_below(text, "## Segmental SNR (dB)")
    assert [row[0] for row in enhanced[2:]] == ["noisy", "cascade", "merit"] and enhanced[2][1] == "–"
    assert "40 clips of 5 speakers; labelled: angry 10" in text and "hiss (2 recordings), roar (3 recordings)" in text
    assert "| merit | merit 0; merit 1; merit 2 | 3 | – |" in text and "200 resamples" in text
    assert "## Undefined scores\n\nNone." in text


def bare(cell: str) -> str:
    return cell.strip("*↑↓")


def test_the_markdown_states_gains_with_their_intervals_and_p_values(written, full_report):
    text = (written / "results.md").read_text()
    assert "## Gains over `cascade`, mean over the noise pools" in text
    actual = next(
        entry
        for entry in full_report["comparisons"]["pooled"]
        if (entry["system"], entry["measure"], entry["snr_db"]) == ("merit", "macro_f1", -5.0)
    )
    shown = f"{actual['difference']:+.3f} ({actual['relative_gain_percent']:+.1f} %)↑↑"
    assert table_below(text, "### macro-F1")[2][:2] == ["merit", shown]
    low, high = actual["difference_interval"]
    assert f"| {actual['difference']:+.3f} [{low:+.3f}, {high:+.3f}] |" in text
    p_values = [actual[name] for name in ("p", "p_holm", "speaker_p", "speaker_p_holm")]
    assert f"| {' | '.join(f'{p_value:.4f}' for p_value in p_values)} |" in text
    for row in table_below(text, "### segmental SNR (dB)")[2:]:  # below 0 dB a percentage says nothing
        baseline = [entry for entry in full_report["comparisons"]["pooled"] if entry["measure"] == "segmental_snr"]
        assert ("%" in row[2]) == (baseline[-1]["baseline"] > 0)


def test_every_figure_is_drawn_and_shown(written):
    names = {path.name for path in (written / "figures").iterdir()}
    confusions = {f"confusion_{system}.png" for system in ("cascade", "merit", "svm")}
    of_merit = {"experts_merit.png", "spectrograms_merit.png"}
    assert names == {"macro_f1.png", "segmental_snr.png", "stoi.png"} | of_merit | confusions
    text = (written / "results.md").read_text()
    for name in names:
        assert (written / "figures" / name).read_bytes().startswith(b"\x89PNG")
        assert f"](figures/{name})" in text


def test_transmitted_conditions_have_their_own_tables_and_no_place_in_figures(tmp_path):
    def after(rows: list[dict], name: str) -> list[dict]:
        return [row | {"condition": f"{row['condition']}@{name}", "transmission": name} for row in rows]

    rows = {system: [member + after(member, "gsm") for member in members] for system, members in SYSTEMS.items()}
    actual, plain = make_report(rows), make_report()
    for system, result in plain["results"].items():
        assert actual["results"][system]["conditions"][: len(result["conditions"])] == result["conditions"]
    report.write_report(tmp_path / "both", actual, rows)
    report.write_report(tmp_path / "plain", plain, SYSTEMS)
    for figure in (tmp_path / "plain" / "figures").iterdir():
        assert (tmp_path / "both" / "figures" / figure.name).read_bytes() == figure.read_bytes()
    text = (tmp_path / "both" / "results.md").read_text(encoding="utf-8")
    first, second = text.split("## Macro-F1")[1].split("## Segmental SNR")[0].split("### After gsm")
    assert first.count("\n|") == second.count("\n|") == 2 + len(SYSTEMS) - 1  # the noisy input has no emotion
    assert "macro-F1 after gsm: " in printed(actual)


def test_clean_speech_alone_has_no_figure_against_snr(tmp_path):
    systems = {name: [rows_in(rows, "clean") for rows in members] for name, members in SYSTEMS.items()}
    actual = make_report(systems)
    assert actual["comparisons"]["pooled"] == []
    drawn = {path.name for path in figures.draw_figures(tmp_path, actual, systems)}
    assert "macro_f1.png" not in drawn and "experts_merit.png" in drawn and "confusion_svm.png" in drawn
    assert "## Gains" not in render_markdown(actual, [])


def test_systems_look_the_same_in_every_figure_and_unlike_each_other():
    systems = [f"system {index}" for index in range(12)]
    looks = line_looks(["noisy", *systems])
    assert looks["noisy"]["linestyle"] == ":" and looks["noisy"]["color"] == GREY
    assert len({tuple(sorted(looks[system].items())) for system in systems}) == 12
    assert line_looks(systems) == looks  # with or without the noisy input


def test_without_matplotlib_the_numbers_are_written_and_a_warning_says_what_is_missing(
    full_report, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(UserWarning, match=r'no figures.*pip install "modeling-sparse-merit\[demo\]"'):
        report.write_report(tmp_path, full_report, SYSTEMS)
    assert (tmp_path / "results.json").exists() and "figures/" not in (tmp_path / "results.md").read_text()
    with pytest.raises(ImportError, match=r"modeling-sparse-merit\[demo\]"):
        figures.draw_figures(tmp_path, full_report, SYSTEMS)


def printed(content: dict) -> str:
    console = Console(file=io.StringIO(), width=140)
    report.print_report(content, console)
    return console.file.getvalue()


def test_the_screen_shows_systems_against_conditions(full_report):
    text = printed(full_report)
    assert text.count("macro-F1") == 2 and "hiss" in text and "roar" in text and "STOI" not in text
    score = full_report["results"]["merit"]["conditions"][1]["emotion"]["macro_f1"]
    assert f"{score:.3f}↑↑" in text


def test_the_screen_shows_one_checkpoint_condition_by_condition():
    systems = {"noisy": [make_noisy()], "model": [make_rows(0.5, 1.0, seed=9)]}
    actual = make_report(systems, systems=None, baseline=None)
    summary = actual["conditions"][1]
    measured = summary["enhancement"]["stoi"]
    text = printed(actual)
    assert f"{measured['noisy']['mean']:.3f} → {measured['enhanced']['mean']:.3f}" in text
    low, high = summary["emotion"]["macro_f1_interval"]
    assert f"{summary['emotion']['macro_f1']:.3f} [{low:.3f}, {high:.3f}]" in text


def test_numbers_are_shown_with_the_decimals_that_suit_them():
    assert format_score("stoi", 0.87654, [0.8, 0.9]) == "0.877 [0.800, 0.900]"
    assert format_score("si_sdr", -0.0001) == "0.00" and format_score("si_sdr", 1.5, sign="+") == "+1.50"
    assert format_score("macro_f1", None) == "–" == format_score("macro_f1", math.nan)


def test_experts_are_drawn_by_emotion_only_if_a_clip_has_one():
    row = {"pool": None, "snr_db": None, "frames": 10, "expert_attributes_0": 0.25, "expert_attributes_1": 0.75}
    labelled = {**row, "emotion": "sad", "frames": 30, "expert_attributes_0": 1.0, "expert_attributes_1": 0.0}
    without = {**row, "emotion": None}
    noisy = {**without, "pool": "hiss", "snr_db": 0.0}
    assert figures.expert_shares([without], ["sad"]) == {}
    assert figures.expert_shares([without, noisy], ["sad"]) == {
        "hiss, SNR (dB)": {"attributes": {"0": [0.25, 0.75], "clean": [0.25, 0.75]}}
    }
    shares = figures.expert_shares([labelled, without, noisy], ["sad", "happy"])
    assert shares["emotion"] == {"attributes": {"sad": [1.0, 0.0]}}
    assert shares["hiss, SNR (dB)"]["attributes"]["clean"] == [0.8125, 0.1875]  # weighted by frames
