# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pipeline for the emotion of the utterances of a conversation."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import Pipeline, pipeline

from .configuration_mister_e import SPEECH, TEXT, conversation_pipelines
from .modeling_mister_e import MisterEForConversationEmotion

INPUTS = {SPEECH: "audio", TEXT: "text"}
EMBEDDINGS = {SPEECH: "speech_embedding", TEXT: "text_embedding"}
"""Keys of utterances that are embedded already, as `sparse-merit embed` calls its columns."""
UTTERANCES = "utterances"
EMBEDDER_TASK = "speech-text-emotion"
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")


class ConversationPipeline(Pipeline):
    """
    Recognises the emotion of each utterance of a conversation, from recordings, texts, or both.

    Usage:
        >>> from modeling_sparse_merit import ConversationPipeline, SpeechTextPipeline
        >>> embedders = {"text": SpeechTextPipeline.from_pretrained("my-text-model")}  # doctest: +SKIP
        >>> pipe = ConversationPipeline.from_pretrained("my-conversation-model", embedders)  # doctest: +SKIP
        >>> pipe([{"text": "Did you get it?"}, {"text": "I did!"}])  # doctest: +SKIP
        [{'emotion': [{'label': 'neutral', 'score': 0.71}, ...], 'gate': {'text': 1.0}}, ...]

    Parameters, at construction or at each call:
        embedders: {"speech" or "text": pipeline "speech-text-emotion"} of the models that the embeddings of the
            training are from. Those that are not given are loaded when they are first needed: the `speech_model` and
            the `text_model` of the configuration, from their folders or from what was downloaded before. Nothing is
            downloaded unasked.
        trust_embedders: Whether the code in the repositories of these models may run, which loading them needs. Read
            it first. False by default.
        top_k: How many emotions to return, all of them by default.
    """

    _load_processor: Any = False
    _load_tokenizer: Any = False
    _load_feature_extractor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    model: MisterEForConversationEmotion

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._loaded: dict[str, Any] = {}  # embedders that were not given
        # `transformers.pipeline` puts classes there, which cannot be serialised
        self.model.config.custom_pipelines = conversation_pipelines()

    @property
    def embedders(self) -> dict[str, Any]:
        """The embedders that were given at construction or are loaded already."""
        return {**self._loaded, **self._preprocess_params.get("embedders", {})}

    @classmethod
    def from_pretrained(
        cls, model: str | os.PathLike, embedders: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> "ConversationPipeline":
        """
        Args:
            model: Folder or Hub id.
            embedders: As in the class.
            kwargs: Arguments for the Hub, `revision`, `token`, `cache_dir` and `local_files_only`, which apply to
                `model`; other parameters of the pipeline; and `device`.

        Raises:
            ValueError: Weights are missing or not finite.
        """
        where = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        network, loading = MisterEForConversationEmotion.from_pretrained(model, output_loading_info=True, **where)
        weights = (*network.named_parameters(), *network.named_buffers())
        damaged = [name for name, weight in weights if weight.is_floating_point() and not weight.isfinite().all()]
        if unusable := sorted({*loading["missing_keys"], *damaged}):
            raise ValueError(
                f"{str(model)!r} lacks weights, or has NaN or Inf in them: {', '.join(unusable[:5])}. Download or "
                "save it again."
            )
        return cls(model=network.eval(), embedders=embedders, **kwargs)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """
        Processes a conversation.

        Args:
            inputs: [{"audio": recording, "text": text}, ...], an utterance each, in their order. The recording has any
                form that the pipeline "speech-text-emotion" accepts. An utterance may lack either; an empty text is
                one that it does not have. "speech_embedding" and "text_embedding", (D,), stand for a recording and a
                text that are embedded already.
            kwargs: Parameters of the pipeline, for this call.

        Returns:
            For each utterance, {"emotion": [{"label", "score"}, ...], "gate": {expert: weight}}, the likeliest emotion
            first.

        Raises:
            TypeError: The conversation is not a list of mappings, or an unknown parameter.
            ValueError: The conversation is empty, an utterance has unknown keys or an embedding of another width, or
                the model of an embedding has no name or cannot be loaded.
            FileNotFoundError: The model of an embedding is not on this computer.
        """
        if not isinstance(inputs, Sequence) or not all(isinstance(each, Mapping) for each in inputs):
            raise TypeError(
                f'A conversation is {type(inputs).__name__}; expected [{{"audio": ..., "text": ...}}, ...].'
            )
        if not inputs:
            raise ValueError("The conversation is empty; expected at least one utterance.")
        return super().__call__({UTTERANCES: list(inputs)}, **kwargs)

    # `Pipeline` hands each step its own parameters, which the signatures here name.
    def _sanitize_parameters(
        self,
        embedders: Mapping[str, Any] | None = None,
        trust_embedders: bool | None = None,
        top_k: int | None = None,
        **unknown: Any,
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise TypeError(f"Unknown arguments {sorted(unknown)}, expected embedders, trust_embedders or top_k.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected 1 or more, or None for all emotions.")
        before = {"embedders": embedders, "trust_embedders": trust_embedders}
        return {name: value for name, value in before.items() if value is not None}, {}, {"top_k": top_k}

    def preprocess(  # type: ignore[override]
        self,
        inputs: Mapping[str, Any],
        embedders: Mapping[str, Any] | None = None,
        trust_embedders: bool = False,
    ) -> dict[str, torch.Tensor]:
        """
        Embeds the utterances of a conversation.

        Args:
            inputs: {"utterances": as for a call}.
            embedders, trust_embedders: As in the class.

        Returns:
            Inputs of the model for a batch of one.

        Raises:
            ValueError: As for a call.
            FileNotFoundError: As for a call.
        """
        utterances = inputs[UTTERANCES]
        features: dict[str, torch.Tensor] = {}
        sizes = self.model.config.embedding_sizes
        names = [keys[modality] for keys in (INPUTS, EMBEDDINGS) for modality in sizes]
        for number, utterance in enumerate(utterances):
            if unknown := [name for name in utterance if name not in (*INPUTS.values(), *EMBEDDINGS.values())]:
                raise ValueError(f"Utterance {number} has the keys {unknown}; expected some of {names}.")
        for modality, size in sizes.items():
            embeddings, present = torch.zeros(len(utterances), size), torch.zeros(len(utterances), dtype=torch.bool)
            for place, utterance in enumerate(utterances):
                values = self._embedding(utterance, modality, embedders, trust_embedders)
                if values is None:
                    continue
                if values.shape != (size,):
                    raise ValueError(
                        f"The {modality} embedding of utterance {place} has the shape {tuple(values.shape)}; expected "
                        f"({size},), as from the model that was used in training."
                    )
                embeddings[place], present[place] = values, True
            features[f"{modality}_embeddings"] = embeddings[None]  # (1, U, D)
            features[f"{modality}_mask"] = present[None]  # (1, U)
        return features

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # type: ignore[override]
        outputs = self.model(**model_inputs, return_dict=True)
        return {"logits": outputs.logits[0], "gate": outputs.gate[0]}

    def postprocess(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = None) -> list[dict[str, Any]]:  # type: ignore[override]
        """
        Describes the outputs.

        Args:
            model_outputs: "logits" (U, C) and "gate" (U, E).
            top_k: As for a call.

        Returns:
            As a call.
        """
        config: Any = self.model.config
        results = []
        for logits, gate in zip(model_outputs["logits"].float(), model_outputs["gate"].tolist(), strict=True):
            scores = enumerate(logits.softmax(-1).tolist())
            ranked = sorted(scores, key=lambda entry: -entry[1])[:top_k]
            emotion = [{"label": config.id2label[index], "score": score} for index, score in ranked]
            results.append({"emotion": emotion, "gate": dict(zip(config.experts, gate, strict=True))})
        return results

    def embed(
        self,
        modality: str,
        clip: Any,
        embedders: Mapping[str, Any] | None = None,
        trust_embedders: bool = False,
    ) -> torch.Tensor:
        """
        The embedding of a recording or a text: the hidden layer of the emotion head of its model.

        Args:
            modality: "speech" or "text".
            clip: The recording or the text.
            embedders, trust_embedders: As in the class.

        Returns:
            (D,) on the CPU.

        Raises:
            ValueError: As for a call.
            FileNotFoundError: As for a call.
        """
        pipe = (embedders or {}).get(modality) or self._loaded.get(modality)
        if pipe is None:
            pipe = self._loaded[modality] = self._load_embedder(modality, trust_embedders)
        inputs = pipe.preprocess({INPUTS[modality]: clip})
        inputs.pop("transcript", None)
        with torch.inference_mode():
            embed = pipe.model.embed_speech if modality == SPEECH else pipe.model.embed_text
            pooled = embed(**{name: value.to(pipe.model.device) for name, value in inputs.items()})
            return pipe.model.hidden_layer(**{f"{modality}_embeddings": pooled})[0].float().cpu()

    def _load_embedder(self, modality: str, is_trusted: bool) -> Any:
        """The pipeline of the model that the configuration names."""
        source = getattr(self.model.config, f"{modality}_model")
        if source is None:
            raise ValueError(
                f"The conversation has {INPUTS[modality]}, there is no embedder for {modality}, and "
                f"`{modality}_model` of the configuration is None; expected `embedders` with the pipeline of the "
                "model that was used in training."
            )
        folder = embedder_folder(source, getattr(self.model.config, f"{modality}_revision"))
        if not is_trusted:
            raise ValueError(
                f"Loading {source}, the model of the {modality} embeddings, runs the code in {folder}: read it, and "
                "pass trust_embedders=True. With the package modeling-sparse-merit, none of it runs if you pass "
                f"embedders={{{modality!r}: SpeechTextPipeline.from_pretrained({source!r})}}."
            )
        load: Any = pipeline  # whose types list the tasks of transformers alone
        return load(EMBEDDER_TASK, model=str(folder), trust_remote_code=True, device=self.device)

    def _embedding(
        self, utterance: Mapping[str, Any], modality: str, embedders: Mapping[str, Any] | None, trust_embedders: bool
    ) -> torch.Tensor | None:
        """The embedding of an utterance, given or computed; None if it does not have the modality."""
        if (values := utterance.get(EMBEDDINGS[modality])) is not None:
            return torch.as_tensor(values, dtype=torch.float32)
        clip = utterance.get(INPUTS[modality])
        if clip is None or (isinstance(clip, str) and not clip.strip()):
            return None
        return self.embed(modality, clip, embedders, trust_embedders)


def embedder_folder(source: str, revision: str | None = None) -> Path:
    """
    The folder of the model of an embedding. Nothing is downloaded.

    Args:
        source: Folder or Hub id, as in the configuration.
        revision: Of a model on the Hub.

    Raises:
        FileNotFoundError: There is no such folder, and no such model was downloaded.
    """
    folder = Path(source).expanduser()
    if (folder / "config.json").is_file():
        return folder
    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        pinned = "" if revision is None else f" --revision {revision}"
        raise FileNotFoundError(
            f"The model of the embeddings, {source}, is neither a folder with a config.json nor a model that was "
            f"downloaded: run `hf download {source}{pinned}`, or correct its name in the configuration of the "
            "conversation model."
        ) from error
