# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The results as Markdown."""

from typing import Any

from benchmarks.intervals import shown
from benchmarks.respiratory.classification import SCORES

NO_CLAIM = (
    "These are figures of a software test on a few recordings of a public database. They are no clinical claim, and "
    "nothing here is a medical device."
)


def enhancement_as_markdown(result: dict[str, Any]) -> str:
    """Gains by system and SNR, the public clips, and the costs."""
    lines = ["# Enhancement of breath in noise", "", _origin(result), "", NO_CLAIM, ""]
    lines += [
        f"{result['recordings']} recordings of {result['patients']} patients, the first 10 s of each, without what is "
        "below 60 Hz. Noise of two "
        "datasets that were not trained on. Models of one fold were trained on the patients of the other. Gains over "
        "the noisy recording, means over patients, 95 % bootstrap intervals over patients.",
    ]
    for measure, title in (("si_sdr_gain", "SI-SDR"), ("segmental_snr_gain", "segmental SNR")):
        snrs = list(next(iter(result["gains"].values())))
        lines += ["", f"## Gain of {title} (dB)", "", f"| system | {' | '.join(f'{snr} dB' for snr in snrs)} |"]
        lines.append("|---" * (len(snrs) + 1) + "|")
        for system, by_snr in result["gains"].items():
            lines.append(f"| {system} | {' | '.join(shown(by_snr[snr][measure], 1, '+') for snr in snrs)} |")
    lines += ["", *_published(result["published_clips"]), "", *_costs(result["costs"])]
    return "\n".join(lines)


def _published(published: dict[str, Any]) -> list[str]:
    lines = [
        "## The public clips of the authors",
        "",
        f"Gain of SI-SDR in dB on {published['clips']} clips of 10 s (noisy: {published['si_sdr_noisy']:.1f} dB), "
        "with 95 % bootstrap intervals over clips, and differences from two enhancers of the authors on the same "
        "clips. None of the clips is among the recordings above; whether they share patients is not known.",
        "",
        "| system | gain | difference from CMGAN | difference from Wave-U-Net |",
        "|---|---|---|---|",
    ]
    for system, values in published["systems"].items():
        columns = " | ".join(shown(values[key], 1, "+") for key in ("gain", "from_cmgan", "from_wave_u_net"))
        lines.append(f"| {system} | {columns} |")
    return lines


def _costs(costs: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        "## Costs",
        "",
        "Ten seconds on one thread of a CPU: median time over the duration, and peak memory of the process.",
        "",
        "| system | parameters | real-time factor | memory (MiB) |",
        "|---|---|---|---|",
    ]
    for system, values in costs.items():
        memory, factor = values["working_memory_mib"], values["real_time_factor"]
        lines.append(f"| {system} | {values['parameters']:,} | {factor:.4f} | {memory:.0f} |")
    return lines


def classification_as_markdown(result: dict[str, Any]) -> str:
    """Scores of the arms by SNR, and by device."""
    cycles = ", ".join(f"{name} {count}" for name, count in result["cycles"].items())
    lines = ["# Classification of breathing cycles in noise", "", _origin(result), "", NO_CLAIM, ""]
    lines += [
        f"{sum(result['cycles'].values())} cycles ({cycles}) of {result['patients']} patients, each tested by a model "
        "that was trained on others. A small CNN14, trained on clean cycles, on cycles in noise, or on cycles in "
        "noise that an enhancer had processed. 95 % bootstrap intervals over patients; differences are from `clean`.",
        "",
        "| SNR | arm | specificity | sensitivity | score | difference in score |",
        "|---|---|---|---|---|---|",
    ]
    for entry in result["scores"]:
        snr = "no noise" if entry["snr_db"] is None else f"{entry['snr_db']:g} dB"
        columns = " | ".join(_interval(entry[name]) for name in (*SCORES, "score_difference"))
        lines.append(f"| {snr} | {entry['arm']} | {columns} |")
    lines += ["", "Without noise, by device:", "", "| device | cycles | arm | specificity | sensitivity | score |"]
    lines.append("|---|---|---|---|---|---|")
    for arm, devices in result["devices"].items():
        for device, scores in devices.items():
            columns = " | ".join("–" if scores[name] is None else f"{scores[name]:.2f}" for name in SCORES)
            lines.append(f"| {device} | {scores['cycles']} | {arm} | {columns} |")
    return "\n".join(lines)


def _origin(result: dict[str, Any]) -> str:
    return f"`{result['command']}`, commit {result['commit']}."


def _interval(score: dict[str, Any]) -> str:
    if score["interval"] is None:
        return f"{score['value']:.2f}"
    low, high = score["interval"]
    return f"{score['value']:.2f} [{low:.2f}, {high:.2f}]"
