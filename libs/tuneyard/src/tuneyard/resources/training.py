"""Hyperparameters to begin with."""

from typing import Literal

from tuneyard._call import Call
from tuneyard._method import M, R, Raw, Resource, endpoint
from tuneyard.types import FinetuneRecommendation, TrainRecommendation


class Training(Resource[M, R]):
    @property
    def with_raw_response(self) -> "Training[M, Raw]":
        return Training(self._options, self._driver, raw=True)

    @endpoint("POST", "/v1/training/recommend", repeatable=True)
    def recommend(
        self,
        *,
        type: Literal["train", "finetune"] | None = None,
        method: Literal["dpo", "full", "lora"] | None = None,
        base_model_id: str | None = None,
        dataset_id: str | None = None,
        params: int | None = None,
        dataset_tokens: int | None = None,
        dataset_bytes: int | None = None,
    ) -> Call[TrainRecommendation | FinetuneRecommendation]:
        """Where to start for a model and a data set, by id or by size, and how far around it to
        look. ``type`` left out: ``train``."""
        return Call(
            body={
                "type": type,
                "method": method,
                "base_model_id": base_model_id,
                "dataset_id": dataset_id,
                "params": params,
                "dataset_tokens": dataset_tokens,
                "dataset_bytes": dataset_bytes,
            }
        )
