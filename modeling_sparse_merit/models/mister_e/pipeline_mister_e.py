# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pipeline for the emotion of the utterances of a conversation."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Pipeline

from .configuration_mister_e import SPEECH, TEXT, conversation_pipelines
from .modeling_mister_e import MisterEForConversationEmotion

INPUTS = {SPEECH: "audio", TEXT: "text"}
UTTERANCES = "utterances"
EMBEDDERS = "embedders"


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
            training are from, which `speech_model` and `text_model` of the configuration name.
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
        # `transformers.pipeline` puts classes there, which cannot be serialised
        self.model.config.custom_pipelines = conversation_pipelines()

    @classmethod
    def from_pretrained(
        cls, model: str | os.PathLike, embedders: Mapping[str, Any], **kwargs: Any
    ) -> "ConversationPipeline":
        """
        Args:
            model: Folder or Hub id.
            embedders: As in the class.
            kwargs: Other parameters of the pipeline, and `device`.

        Raises:
            ValueError: Weights are missing or not finite.
        """
        network, loading = MisterEForConversationEmotion.from_pretrained(model, output_loading_info=True)
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
                one that it does not have.
            kwargs: Parameters of the pipeline, for this call.

        Returns:
            For each utterance, {"emotion": [{"label", "score"}, ...], "gate": {expert: weight}}, the likeliest emotion
            first.

        Raises:
            TypeError: The conversation is not a list of mappings, or an unknown parameter.
            ValueError: The conversation is empty, an utterance has unknown keys, or there is no embedder for what the
                model needs.
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
        self, embedders: Mapping[str, Any] | None = None, top_k: int | None = None, **unknown: Any
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise TypeError(f"Unknown arguments {sorted(unknown)}, expected {EMBEDDERS} or top_k.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected 1 or more, or None for all emotions.")
        return {} if embedders is None else {EMBEDDERS: embedders}, {}, {"top_k": top_k}

    def preprocess(  # type: ignore[override]
        self, inputs: Mapping[str, Any], embedders: Mapping[str, Any] | None = None
    ) -> dict[str, torch.Tensor]:
        """
        Embeds the utterances of a conversation.

        Args:
            inputs: {"utterances": as for a call}.
            embedders: As in the class.

        Returns:
            Inputs of the model for a batch of one.

        Raises:
            ValueError: As for a call.
        """
        utterances = inputs[UTTERANCES]
        features: dict[str, torch.Tensor] = {}
        sizes = self.model.config.embedding_sizes
        names = [INPUTS[modality] for modality in sizes]
        for number, utterance in enumerate(utterances):
            if unknown := [name for name in utterance if name not in INPUTS.values()]:
                raise ValueError(f"Utterance {number} has the keys {unknown}; expected some of {names}.")
        for modality, size in sizes.items():
            clips = [utterance.get(INPUTS[modality]) for utterance in utterances]
            present = [clip is not None and not (isinstance(clip, str) and not clip.strip()) for clip in clips]
            embeddings = torch.zeros(len(clips), size)
            for place in (place for place, here in enumerate(present) if here):
                embeddings[place] = self._embed(modality, clips[place], embedders or {})
            features[f"{modality}_embeddings"] = embeddings[None]  # (1, U, D)
            features[f"{modality}_mask"] = torch.tensor(present)[None]  # (1, U)
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

    def _embed(self, modality: str, clip: Any, embedders: Mapping[str, Any]) -> torch.Tensor:
        """The embedding of a recording or a text, (D,) on the CPU."""
        if modality not in embedders:
            named = getattr(self.model.config, f"{modality}_model") or "the model that was used in training"
            raise ValueError(
                f"The conversation has {INPUTS[modality]}, and there is no embedder for {modality}; expected "
                f"`embedders` with the pipeline of {named}."
            )
        pipe = embedders[modality]
        inputs = pipe.preprocess({INPUTS[modality]: clip})
        inputs.pop("transcript", None)
        with torch.inference_mode():
            embed = pipe.model.embed_speech if modality == SPEECH else pipe.model.embed_text
            pooled = embed(**{name: value.to(pipe.model.device) for name, value in inputs.items()})
            return pipe.model.hidden_layer(**{f"{modality}_embeddings": pooled})[0].float().cpu()
