# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit info`: describes a checkpoint."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .options import ModelOption, RevisionOption, errors_in_one_line, load_pipeline, quieten_notices, resolve_model

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from .. import SparseMeritConfig


def info(
    model: ModelOption = None,
    revision: RevisionOption = None,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Also measure the latency on the CPU of this machine.")
    ] = False,
) -> None:
    """Describe a checkpoint: tasks, labels, sizes, training data, licence, results, and the use of its experts.

    Data, results and use of the experts are read from the model card.

    Example: sparse-merit info --model tiny --benchmark
    """
    with errors_in_one_line():
        quieten_notices()
        source = resolve_model(model, revision)
        facts, card = _describe(source, revision), _card(source, revision)
        if card is not None:
            licence = card.data.get("license_name") or card.data.get("license")
            facts |= {"Licence": licence} if licence else {}
        if benchmark:
            facts |= {"Latency": _latency(model, revision)}
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in facts.items():
        grid.add_row(Text(name, style="bold"), Text(value))
    console = Console()
    console.print(grid)
    _print_card(console, card, facts)


def _print_card(console: Console, card: "ModelCard | None", facts: dict[str, str]) -> None:
    """Prints the measurements and the training data that the card states, and names those that it does not."""
    from ..hub.card_tables import DATA, EMOTION, ENHANCEMENT, EXPERT_USE, card_tables

    shown: list[tuple[str, str, tuple[str, ...] | None]] = [
        ("Emotion", EMOTION, ("noise", "SNR (dB)", "macro-F1", "clips")),
        ("SI-SDR in dB", ENHANCEMENT, ("noise", "SNR (dB)", "recording", "enhanced")),
        ("Share of frames of each expert", EXPERT_USE, None),
        ("Training data", DATA, ("corpus", "used for", "clips", "licence")),
    ]
    sections = (("Tasks", "emotion", EMOTION), ("Tasks", "enhancement", ENHANCEMENT), ("Experts", "", EXPERT_USE))
    unused = {heading for fact, word, heading in sections if fact not in facts or word not in facts[fact]}
    shown = [entry for entry in shown if entry[1] not in unused]
    tables = card_tables("" if card is None else card.text)
    for title, heading, columns in shown:
        lines = tables.get(heading)
        if not lines:
            continue
        table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        names = columns or tuple(lines[0])
        for name in names:
            table.add_column(name, overflow="fold")
        for line in lines:
            table.add_row(*(Text(line.get(name, "")) for name in names))
        console.print()
        console.print(table)
    missing = [title for title, heading, _ in shown if not tables.get(heading)]
    if missing:
        what = "there is no model card" if card is None else "the model card does not say"
        console.print(f"\nNot known, since {what}: {', '.join(missing)}.", highlight=False)
    if any(tables.get(heading) for heading in (EMOTION, ENHANCEMENT)):
        console.print("\nBrackets hold 95 % confidence intervals over clips.", highlight=False)


def _describe(source: str, revision: str | None) -> dict[str, str]:
    """Facts from the configuration of a checkpoint; no weights are loaded."""
    from ..hub.conversation_card import count_conversation_parameters, shown_embedder
    from ..hub.files import read_model_config
    from ..hub.speech_text_card import describe_part
    from ..models.mister_e.configuration_mister_e import MisterEConfig
    from ..models.sparse_merit.adapters import read_adapter_config
    from ..models.sparse_merit.configuration_speech_text import SpeechTextConfig
    from ..models.sparse_merit.modeling_sparse_merit import count_parameters
    from ..models.sparse_merit.modeling_speech_text import count_speech_text_parameters
    from ..models.sparse_merit.task_files import read_tasks
    from ..models.sparse_merit.tasks import EMOTION, further_tasks

    config = read_model_config(source, revision=revision or "main")
    if isinstance(config, MisterEConfig):
        embedders = {
            f"{name.capitalize()} embeddings": shown_embedder(config, name) for name in config.embedding_sizes
        }
        return {
            "Model": source,
            "Tasks": "emotion of the utterances of a conversation",
            "Emotions": ", ".join((config.id2label or {}).values()),
            **embedders,
            "Experts": f"{', '.join(config.experts or ())}, {config.gate} gate",
            "Parameters": f"{count_conversation_parameters(config):,}",
        }
    tasks = config.task_definitions
    facts = {
        "Model": source,
        "Tasks": ", ".join(config.tasks),
        "Emotions": ", ".join(tasks[EMOTION].describe(config)["labels"]) if EMOTION in tasks else "-",
        **{name.capitalize(): tasks[name].describe(config)["meaning"] for name in further_tasks(tasks)},
    }
    if isinstance(config, SpeechTextConfig):
        encoders = {f"{name.capitalize()} encoder": describe_part(config, name) for name in config.embedding_sizes}
        return {**facts, **encoders, "Parameters": f"{count_speech_text_parameters(config):,}"}
    facts |= {
        "Encoder": _describe_encoder(config),
        "Integration": config.integration,
        "Experts": f"{config.num_experts} of width {config.expert_hidden_size}, {config.router} router",
        "Parameters": f"{count_parameters(config):,}: {_describe_parts(config)}",
    }
    for name, definition in read_tasks(Path(source)).items():  # none for a Hub id
        labels = definition.get("labels") or definition.get("outputs") or ()
        facts |= {"In a file": f"{name}: {', '.join(labels)} (--emotions {name})"}
    adapters = read_adapter_config(source, revision=revision)
    if adapters is not None:
        facts |= {"Adapters of": str(adapters["base_model_name_or_path"])}
    return facts


def _describe_encoder(config: "SparseMeritConfig") -> str:
    count = config.num_hidden_layers
    layers = f"{count} {'layer' if count == 1 else 'layers'} of width {config.hidden_size}"
    windows = config.encoder_window_seconds
    end = "" if windows is None else f", in windows of {windows:g} s"
    return f"{layers}, feature encoder {config.feature_encoder}{end}"


def _describe_parts(config: "SparseMeritConfig") -> str:
    """Sizes of encoder, experts with their routers, and heads."""
    import torch

    from .. import SparseMeritForSpeechEnhancementAndEmotion

    with torch.device("meta"):
        model = SparseMeritForSpeechEnhancementAndEmotion(config)
    parts = {"encoder": model.model.encoder, "experts and routers": model.model.integration}
    parts |= {f"{task} head": head for task, head in model.heads.items()}
    sizes = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())


def _latency(model: str | None, revision: str | None) -> str:
    """Median latencies for 3 s with one thread and with all."""
    from ..inference.latency import measure_latency

    threads = sorted({1, os.cpu_count() or 1})
    medians = measure_latency(load_pipeline(model, "cpu", revision=revision), threads)
    parts = [
        f"{1000 * seconds:.0f} ms on {number} {'thread' if number == 1 else 'threads'}"
        for number, seconds in medians.items()
    ]
    return f"{', '.join(parts)}, for 3 s of audio (median of 5 runs, CPU, fp32)"


def _card(source: str, revision: str | None) -> "ModelCard | None":
    """The model card; None if there is none."""
    from huggingface_hub import ModelCard, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    path = Path(source) / "README.md"
    try:
        path = path if Path(source).is_dir() else Path(hf_hub_download(source, "README.md", revision=revision))
        return ModelCard(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, EntryNotFoundError):
        return None
