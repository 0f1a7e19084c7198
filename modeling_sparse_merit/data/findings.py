# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What is wrong with the clips of a dataset: each rule finds one kind of fault, says why it matters and what to do."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from .audio_fingerprint import copies
from .clip_measures import ClipMeasures
from .mixing import SILENT_RMS

SHORT_SECONDS = 0.3
LONG_SECONDS = 30.0
QUIET_DBFS = -60.0
CLIPPED_RATIO = 0.001
OFFSET_RATIO = 0.1
NARROW_HZ = 5_500  # clips of 8 and 11.025 kHz lie below
IMBALANCE = 10
SPLITS = ("train", "dev", "test")
EXAMPLES_SHOWN = 3


@dataclass(frozen=True)
class Clip:
    """A row of a dataset.

    Args:
        name: its `source_file`, the name of its file, or the number of its row.
        split, label, speaker: None where the row states none.
        measures: None if the recording cannot be decoded.
        error: why it cannot be decoded.
    """

    name: str
    split: str | None
    label: str | None
    speaker: str | None
    measures: ClipMeasures | None
    error: str | None = None


@dataclass(frozen=True)
class Finding:
    """A fault of a dataset.

    Args:
        kind: identifies the rule, such as `"damaged"`.
        severity: `"error"` if a training would stop, or its scores would be wrong; else `"warning"`.
        message: what was found, with counts and examples.
        reason: why it matters.
        remedy: what to do.
        clips: names of all clips concerned.
        groups: of copies, the names of the clips that are copies of each other.
    """

    kind: str
    severity: Literal["error", "warning"]
    message: str
    reason: str
    remedy: str
    clips: list[str] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)


def find_faults(clips: Sequence[Clip], is_speech: bool = True, compare: bool = True) -> list[Finding]:
    """Applies all rules, errors first.

    Args:
        clips: all rows of a dataset.
        is_speech: apply the rules that noises need not obey, such as those about labels, speakers and splits.
        compare: look for copies.
    """
    rules: list[Callable[[Sequence[Clip]], Iterator[Finding]]] = [
        _damaged,
        partial(_faults_of_clips, is_speech=is_speech),
        _irregular,
    ]
    if compare:
        rules.append(_copies)
    if is_speech:
        rules += [_shared_speakers, _unknown_speakers, _missing_splits, _unlabelled, _missing_labels, _imbalance]
    findings = [finding for rule in rules for finding in rule(clips)]
    return sorted(findings, key=lambda finding: finding.severity != "error")


# Recordings ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ClipRule:
    """A fault that the measures of a single clip show; `what` follows the number of clips. It may be a fault of speech
    only: noises may be long, quiet or without high frequencies."""

    kind: str
    severity: Literal["error", "warning"]
    applies: Callable[[ClipMeasures], bool]
    what: str
    reason: str
    remedy: str
    of_speech_only: bool = True


def _is_silent(clip: ClipMeasures) -> bool:
    return clip.level_dbfs is None or 10 ** (clip.level_dbfs / 20) < SILENT_RMS


def _is_quiet(clip: ClipMeasures) -> bool:
    return clip.level_dbfs is None or clip.level_dbfs < QUIET_DBFS


CLIP_RULES = (
    _ClipRule(
        "silent",
        "error",
        _is_silent,
        "without sound (below -90 dBFS)",
        "A signal-to-noise ratio needs a signal: training stops at a silent clip.",
        "Leave them out.",
        of_speech_only=False,
    ),
    _ClipRule(
        "quiet",
        "warning",
        lambda clip: _is_quiet(clip) and not _is_silent(clip),
        f"with a level below {QUIET_DBFS:g} dBFS",
        "The noise of the recording and of its 16-bit samples is close to the speech, and becomes part of the target.",
        "Check that they hold speech; record them again, or leave them out.",
    ),
    _ClipRule(
        "short",
        "warning",
        lambda clip: clip.seconds < SHORT_SECONDS,
        f"shorter than {SHORT_SECONDS:g} s",
        "They hold hardly a syllable, from which no emotion can be told.",
        "Leave them out, or cut the recordings again.",
    ),
    _ClipRule(
        "long",
        "warning",
        lambda clip: clip.seconds > LONG_SECONDS,
        f"longer than {LONG_SECONDS:g} s",
        "Training crops clips to `max_seconds` (12 s) at random, and one label rarely holds for a long recording.",
        "Cut them into utterances, each with its own label.",
    ),
    _ClipRule(
        "clipped",
        "warning",
        lambda clip: clip.clipped_ratio > CLIPPED_RATIO and not _is_quiet(clip),
        f"with more than {CLIPPED_RATIO:.1%} of clipped samples",
        "Clipped speech is the target of the enhancement, which then learns to distort.",
        "Record or export them again with less gain, or leave them out.",
    ),
    _ClipRule(
        "offset",
        "warning",
        lambda clip: clip.offset_ratio > OFFSET_RATIO and not _is_quiet(clip),
        f"with a DC offset above {OFFSET_RATIO:.0%} of their level",
        "The offset counts as sound in levels and signal-to-noise ratios.",
        "Subtract the mean of the samples, or apply a high-pass filter at 20 Hz.",
        of_speech_only=False,
    ),
    _ClipRule(
        "narrowband",
        "warning",
        lambda clip: clip.bandwidth_hz <= NARROW_HZ and not _is_silent(clip),
        f"without content above {NARROW_HZ / 1000:g} kHz, such as telephone speech",
        "The model takes 16 kHz, with content up to 8 kHz. If bandwidth and label are related, it learns the channel "
        "instead of the emotion; as targets, they teach the enhancement to remove high frequencies.",
        "Use the original recordings if there are any. If calls are your application, keep them, spread over all "
        "labels and splits.",
    ),
)


def _faults_of_clips(clips: Sequence[Clip], is_speech: bool) -> Iterator[Finding]:
    for rule in CLIP_RULES:
        if rule.of_speech_only and not is_speech:
            continue
        names = [clip.name for clip in clips if clip.measures is not None and rule.applies(clip.measures)]
        if names:
            message = f"{_count(names)} {rule.what}: {_examples(names)}"
            yield Finding(rule.kind, rule.severity, message, rule.reason, rule.remedy, names)


def _damaged(clips: Sequence[Clip]) -> Iterator[Finding]:
    damaged = [clip for clip in clips if clip.error is not None]
    names = [clip.name for clip in damaged]
    if damaged:
        yield Finding(
            "damaged",
            "error",
            f"{_count(names)} that cannot be read: {_examples(names)}. The first: {damaged[0].error}",
            "Training stops when it reaches one of them.",
            "Copy them again from their source, or leave them out.",
            names,
        )


def _irregular(clips: Sequence[Clip]) -> Iterator[Finding]:
    notes = [(clip.name, clip.measures.warnings[0]) for clip in clips if clip.measures and clip.measures.warnings]
    names = [name for name, _ in notes]
    if notes:
        yield Finding(
            "irregular",
            "warning",
            f"{_count(names)} with an irregularity: {_examples(names)}. The first: {notes[0][1]}",
            "They can be read, but other software may read them differently.",
            "Listen to one of them; if it sounds right, nothing needs to be done.",
            names,
        )


# Copies --------------------------------------------------------------------------------------------------------------


def _copies(clips: Sequence[Clip]) -> Iterator[Finding]:
    """Copies in several splits, with different labels, and others."""
    across, contradictory, others = [], [], []
    for group in _groups(clips):
        is_across, is_contradictory = len({clip.split for clip in group}) > 1, len({clip.label for clip in group}) > 1
        across += [group] if is_across else []
        contradictory += [group] if is_contradictory else []
        others += [] if is_across or is_contradictory else [group]
    yield from _copies_of(
        "copies_across_splits",
        "error",
        across,
        "in several splits",
        "The model is tested on recordings that it was trained on, so its scores are too high.",
        "Keep one of each group, or all of them in one split.",
    )
    yield from _copies_of(
        "copies_with_different_labels",
        "error",
        contradictory,
        "with different labels",
        "The same recording cannot be learned as two emotions; at least one of the labels is wrong.",
        "Listen to them, correct the labels, and keep one of each group.",
    )
    yield from _copies_of(
        "copies",
        "warning",
        others,
        "in one split",
        "They count several times in training and in scores.",
        "Keep one of each group.",
    )


def _copies_of(
    kind: str, severity: Literal["error", "warning"], groups: list[list[Clip]], what: str, reason: str, remedy: str
) -> Iterator[Finding]:
    if not groups:
        return
    exact = sum(len({clip.measures.sha256 for clip in group if clip.measures}) == 1 for group in groups)
    same = f"{exact} with identical samples" if exact else "none with identical samples"
    shown = "; ".join(
        " = ".join(f"{clip.name} ({_details(clip)})" for clip in group[:EXAMPLES_SHOWN]) for group in groups[:2]
    )
    names = [[clip.name for clip in group] for group in groups]
    count = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    message = f"{count} of copies {what}, {same}: {shown}{'; ...' if len(groups) > 2 else ''}"
    yield Finding(kind, severity, message, reason, remedy, [name for group in names for name in group], names)


def _groups(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Groups of clips that are copies of each other: identical samples, or matching fingerprints."""
    by_content: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.measures is not None and not _is_silent(clip.measures):
            by_content[clip.measures.sha256].append(clip)
    contents = list(by_content.values())
    prints = [content[0].measures.fingerprint for content in contents if content[0].measures]
    group_of = list(range(len(contents)))
    for first, second in copies(prints):
        kept, merged = group_of[first], group_of[second]
        group_of = [kept if group == merged else group for group in group_of] if kept != merged else group_of
    groups: dict[int, list[Clip]] = defaultdict(list)
    for number, content in zip(group_of, contents, strict=True):
        groups[number] += content
    return [group for group in groups.values() if len(group) > 1]


def _details(clip: Clip) -> str:
    return ", ".join(str(value) for value in (clip.split or "no split", clip.label) if value is not None)


# Speakers, splits and labels -----------------------------------------------------------------------------------------


def _shared_speakers(clips: Sequence[Clip]) -> Iterator[Finding]:
    splits: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.speaker is not None and clip.split is not None:
            splits[clip.speaker].add(clip.split)
    shared = {speaker: names for speaker, names in splits.items() if len(names) > 1}
    if shared:
        who = _examples([f"{speaker} ({', '.join(in_order(names))})" for speaker, names in sorted(shared.items())])
        yield Finding(
            "shared_speakers",
            "error",
            f"{_count(shared, 'speaker')} in several splits: {who}",
            "The scores then show how well the model knows these voices, not how it works for new ones.",
            "Put all clips of a speaker in one split.",
            [clip.name for clip in clips if clip.speaker in shared],
        )


def _unknown_speakers(clips: Sequence[Clip]) -> Iterator[Finding]:
    names = [clip.name for clip in clips if clip.speaker is None]
    if names:
        yield Finding(
            "unknown_speakers",
            "warning",
            f"{_count(names)} of {len(clips)} without a speaker: {_examples(names)}",
            "A voice that occurs in several splits cannot be noticed, and intervals over speakers cannot be computed.",
            "Name the speaker of each clip in the column `speaker`; any name will do, such as a number.",
            names,
        )


def _missing_splits(clips: Sequence[Clip]) -> Iterator[Finding]:
    counts = Counter(clip.split for clip in clips)
    unsplit = [clip.name for clip in clips if clip.split is None]
    missing = [split for split in SPLITS if split not in counts]
    if unsplit or missing:
        parts = [f"no clip in {' and '.join(missing)}"] if missing else []
        parts += [f"{_count(unsplit)} without a split: {_examples(unsplit)}"] if unsplit else []
        yield Finding(
            "missing_splits",
            "warning",
            "; ".join(parts),
            "Training reads `train` and chooses the best epoch on `dev`; `evaluate` reads `test`.",
            "Fill the column `split`, by speaker, unless another dataset of the same training has the other splits.",
            unsplit,
        )


def _unlabelled(clips: Sequence[Clip]) -> Iterator[Finding]:
    names = [clip.name for clip in clips if clip.label is None]
    if names:
        yield Finding(
            "unlabelled",
            "warning",
            f"{_count(names)} of {len(clips)} without a label: {_examples(names)}",
            "They train the enhancement only.",
            "If they should train the emotion too, name it in the column `emotion` (or map another column: "
            "`prepare folder --column emotion=NAME`).",
            names,
        )


def _missing_labels(clips: Sequence[Clip]) -> Iterator[Finding]:
    counts = label_counts(clips)
    labels = in_order({label for split in counts.values() for label in split})
    missing = {label: [split for split in counts if label not in counts[split]] for label in labels}
    missing = {label: splits for label, splits in missing.items() if splits}
    if missing:
        which = "; ".join(f"{label} (not in {', '.join(splits)})" for label, splits in missing.items())
        yield Finding(
            "missing_labels",
            "warning",
            f"{_count(missing, 'label')} missing in a split: {which}",
            "A label without training clips is never learned, and one without test clips is never measured.",
            "Move speakers between the splits, or leave the label out of the `labels` of the training.",
        )


def _imbalance(clips: Sequence[Clip]) -> Iterator[Finding]:
    counts = label_counts(clips).get("train", Counter()).most_common()
    if counts and counts[0][1] >= IMBALANCE * counts[-1][1]:
        (most, many), (least, few) = counts[0], counts[-1]
        yield Finding(
            "imbalance",
            "warning",
            f"{most} has {many} clips in train, {least} only {few}",
            "Rare labels are learned badly, although classes are weighted by their inverse frequency.",
            f"Collect more clips of {least}, join it with another label, or try `sampling: class_balanced`.",
        )


def label_counts(clips: Iterable[Clip]) -> dict[str, Counter[str]]:
    """The number of clips of each label, for each split with labels."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        if clip.label is not None and clip.split is not None:
            counts[clip.split][clip.label] += 1
    return {split: counts[split] for split in in_order(counts)}


def in_order(names: Iterable[str]) -> list[str]:
    """`train`, `dev` and `test`, then other names by the alphabet."""
    return sorted(names, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))


# Wording -------------------------------------------------------------------------------------------------------------


def _count(items: Iterable[object], noun: str = "clip") -> str:
    number = len(list(items))
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def _examples(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:EXAMPLES_SHOWN]) + (", ..." if len(names) > EXAMPLES_SHOWN else "")
