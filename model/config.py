"""What to load or assemble, which parts of it to train."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from model.adapters import AdapterConfig
from model.presets import parse

OPEN_CLIP = "open_clip:"  # then a name, then ":" and weights: a published tag, a file, or "random"
ASSEMBLY_ONLY = ("vision_feature_layer", "vision_feature_select_strategy", "image_size", "projector", "chat_template")


class GateConfig(BaseModel):
    """The `gate` of a siamese model; `model.gate` says what each kind computes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["query_aware", "no_query", "scalar", "fixed"] = Field(
        "query_aware",
        description="query_aware: a share for each dimension (arXiv 2412.17383); its ablations; fixed: one number",
    )
    rank: int = Field(8, ge=1, description="between the gate's two matrices; without effect on fixed")
    share: float | None = Field(None, ge=0, le=1, description="fixed: of the base; None: 0.5")
    initial_bias: float | None = Field(
        None, description="a bias that is learned, from here: 2 begins with a share of 0.88 for the base; None: no bias, as in the paper"
    )

    @property
    def base_share(self) -> float:
        """What a fixed gate gives the base."""
        return 0.5 if self.share is None else self.share

    @model_validator(mode="after")
    def _only_what_has_an_effect(self) -> "GateConfig":
        used = {"share"} if self.kind == "fixed" else {"rank", "initial_bias"}
        fields = type(self).model_fields
        idle = {name for name in self.model_fields_set if getattr(self, name) != fields[name].default} - {"kind"} - used
        if idle:
            raise ValueError(f"{', '.join(sorted(idle))} has no effect on a gate of kind {self.kind}; leave it out")
        return self


class ModelConfig(BaseModel):
    """The `model` section of a recipe: either `base`, or `vision` with `language`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str | None = Field(None, description="a saved LLaVA-style model with its processor: folder, name on the hub, or a built-in name")
    vision: str | None = Field(
        None, description="whose vision tower is taken: folder or hub name of a CLIP, SigLIP or LLaVA; open_clip:NAME:WEIGHTS"
    )
    language: str | None = Field(None, description="whose language model is taken: folder or hub name of a LLaMA, Qwen, ... or LLaVA")
    presets: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="presets of your own: name -> module paths such as language_model.layers.*.self_attn.v_proj"
    )
    preset: str = Field(
        "full", description="which parts train: names of model/presets.py joined by '+', each with a range of layers or not"
    )
    adapter: AdapterConfig | None = Field(None, description="adapters on the preset's linear layers, in place of these themselves")
    method: Literal["plain", "siamese"] = Field(
        "plain", description="siamese: base and adapted model share every next token through a gate (IMSM, arXiv 2412.17383)"
    )
    gate: GateConfig | None = Field(None, description="siamese: which gate; None: the paper's")
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention", "varlen"] = Field(
        "auto", description="attention kernel; auto: the fastest exact one for these rows on this machine (see model/attention.py)"
    )
    vision_feature_layer: int | None = Field(
        None, description="assembly only: tower layer whose states the projector reads; None keeps the vision folder's own, else -2"
    )
    vision_feature_select_strategy: Literal["default", "full"] | None = Field(
        None, description="assembly only: default leaves the tower's class token out, full keeps it; None: the folder's own, else default"
    )
    image_size: int | None = Field(None, ge=1, description="assembly only: side of the pictures in pixels; None: the tower's own")
    projector: str | None = Field(None, description="assembly only: mm_projector.bin or the folder of a stage-1 run; None: a fresh one")
    chat_template: str | None = Field(None, description="assembly only: file with a jinja template; None: the tokenizer's own")

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, preset: str, info: ValidationInfo) -> str:
        parse(preset, info.data.get("presets"))
        return preset

    @model_validator(mode="after")
    def _one_way_in(self) -> "ModelConfig":
        parts = [name for name in ("vision", "language") if getattr(self, name) is not None]
        if self.base is not None and parts:
            raise ValueError(f"base and {' and '.join(parts)} are both given; give base alone, or vision with language")
        if self.base is None and len(parts) != 2:
            missing = "base (or vision with language)" if not parts else ({"vision", "language"} - set(parts)).pop()
            raise ValueError(f"{missing} is missing; give base alone, or vision with language")
        if self.method == "siamese" and self.adapter is None:
            raise ValueError(
                "adapter is missing; method siamese sets the base beside the base with an adapter, such as adapter: {kind: lora}"
            )
        if self.method != "siamese" and self.gate is not None:
            raise ValueError(f"gate has no effect on method {self.method}; give method: siamese, or leave it out")
        given = [name for name in ASSEMBLY_ONLY if getattr(self, name) is not None]
        if self.base is not None and given:
            raise ValueError(f"{', '.join(given)}: only an assembly (vision with language) takes this; a base keeps its own")
        return self
