"""What to load or assemble, which parts of it to train."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model.presets import names


class ModelConfig(BaseModel):
    """The `model` section of a recipe: either `base`, or `vision` with `language`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str | None = Field(None, description="folder of a saved LLaVA-style model with its processor, or a built-in name")
    vision: str | None = Field(None, description="folder whose vision tower is taken: a CLIP-like model or a LLaVA-style model")
    language: str | None = Field(None, description="folder whose language model is taken: a text-only or a LLaVA-style model")
    preset: str = Field("full", description="which parts train: a name of model/presets.py, several joined by '+'")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="attention kernel")
    vision_feature_layer: int | None = Field(
        None, description="assembly only: tower layer whose states the projector reads; None keeps the vision folder's own, else -2"
    )

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, preset: str) -> str:
        names(preset)
        return preset

    @model_validator(mode="after")
    def _one_way_in(self) -> "ModelConfig":
        parts = [name for name in ("vision", "language") if getattr(self, name) is not None]
        if self.base is not None and parts:
            raise ValueError(f"base and {' and '.join(parts)} are both given; give base alone, or vision with language")
        if self.base is None and len(parts) != 2:
            missing = "base (or vision with language)" if not parts else ({"vision", "language"} - set(parts)).pop()
            raise ValueError(f"{missing} is missing; give base alone, or vision with language")
        if self.base is not None and self.vision_feature_layer is not None:
            raise ValueError("vision_feature_layer belongs to an assembly (vision with language); a base keeps its own")
        return self
