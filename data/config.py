"""Which files to train on, in which shares."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class SourceConfig(BaseModel):
    """One file of dialogues."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="the file; image paths in it are relative to its folder")
    format: str = Field("llava", description="a reader of data/readers.py")
    weight: float = Field(1.0, gt=0, description="how often each record is seen, relative to the other sources' records")
    loss_on: Literal["assistant", "all"] = Field("assistant", description="whose turns carry loss; all: the user's as well")


class DataConfig(BaseModel):
    """The `data` section of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1, description="the files")]
    text_share: float | None = Field(
        None, ge=0, le=1, description="share of samples from sources without images, kept in every batch; None: by weights and sizes"
    )
    max_length: int = Field(512, ge=8, description="longest sample in tokens, image tokens included; longer ones are left out and counted")
