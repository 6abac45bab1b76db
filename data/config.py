"""Which files to train on, in which shares, put together how."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

HUB = "hub:"  # in front of a data set's name on the Hugging Face hub

Share = Annotated[float, Field(gt=0, le=1)]


class SourceConfig(BaseModel):
    """One source of dialogues."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        description="a file (JSON, JSON lines, Parquet, tar), a folder or pattern of such files, a data set saved by `datasets`, "
        "a tree folder, or hub:OWNER/NAME"
    )
    format: str = Field("llava", description="how a record is written: a reader of data/readers.py")
    columns: dict[str, str] = Field(default_factory=dict, description="name that the format expects -> the records' own name")
    split: str | None = Field(None, description="of a data set; None: train")
    revision: str | None = Field(None, description="of a data set on the hub")
    image_root: str | None = Field(None, description="folder that image paths are relative to; None: the file's own")
    weight: float = Field(1.0, gt=0, description="how often each record is seen, relative to the other sources' records")
    share: Share | None = Field(None, description="fixed share of the mixture, in place of `weight`; counted as data.share_by says")
    max_records: int | None = Field(None, ge=1, description="use no more than so many records, drawn by the seed")
    max_epochs: float | None = Field(None, gt=0, description="see no record more often than this; the other sources fill up")
    loss_on: Literal["assistant", "all"] = Field("assistant", description="whose turns carry loss; all: the user's as well")
    turns: Literal["all", "last"] = Field("all", description="which of those turns carry loss")
    trains: Literal["all", "gate"] = Field(
        "all", description="gate: its tokens train a siamese model's gate alone, no gradient of theirs reaches the adapter"
    )
    duplicate_ids: Literal["quarantine", "allow"] = Field(
        "quarantine", description="allow: where ids name pictures rather than records, as in LLaVA's own files"
    )
    licence: str | None = Field(None, description="of the data, for the run's record")

    @model_validator(mode="after")
    def _share_or_weight(self) -> "SourceConfig":
        if self.share is not None and self.weight != 1:
            raise ValueError("share and weight exclude each other; share is a part of the whole mixture, weight is relative")
        return self

    @model_validator(mode="after")
    def _documents_have_no_turns(self) -> "SourceConfig":
        if self.format == "text" and (self.turns != "all" or self.loss_on != "assistant"):
            raise ValueError("all of a plain text carries loss; leave turns and loss_on out for format text")
        return self


class PackingConfig(BaseModel):
    """Several samples in one row, each seeing itself alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(ge=16, description="tokens of a row")
    trees: bool = Field(
        True,
        description="dialogues of one tree share rows, what they have in common is computed once, where the model's attention can; "
        "without packing each has a row of its own",
    )


class DataConfig(BaseModel):
    """The `data` section of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1, description="what to train on")]
    text_share: float | None = Field(
        None, ge=0, le=1, description="share of the mixture from sources without images, kept in every batch; None: by weights and sizes"
    )
    share_by: Literal["samples", "tokens"] = Field("samples", description="what text_share and the sources' shares count")
    max_length: int | None = Field(
        None, ge=8, description="longest sample in tokens, image tokens included; None: packing.length, or 2048 without packing"
    )
    over_long: Literal["drop", "split"] = Field(
        "drop",
        description="longer samples: quarantined, or split (dialogues between rounds, pictures and system turn repeated; texts anywhere)",
    )
    packing: PackingConfig | None = Field(None, description="fill rows with several samples; None: one sample a row, padded")
    group_by_length: bool = Field(False, description="without packing: batches of samples of like length")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="training stops when more of a source's records are bad")
    allow_urls: bool = Field(False, description="fetch pictures that are given as http(s) addresses, once, into the cache")
    thinking: bool = Field(False, description="what chat templates get as enable_thinking")
    cache: str | None = Field(None, description="folder of the indexes; None: $PERENNIAL_CACHE, or ~/.cache/perennial")
    index_workers: int | None = Field(None, ge=1, description="processes that build an index; None: one for each core")
    loader_workers: int = Field(0, ge=0, description="processes of each rank that decode pictures; 0: the rank itself")

    @property
    def longest(self) -> int:
        """Longest sample in tokens."""
        return self.max_length or (self.packing.length if self.packing else 2048)

    @model_validator(mode="after")
    def _one_way_of_batching(self) -> "DataConfig":
        if self.packing is not None and self.group_by_length:
            raise ValueError("packing and group_by_length exclude each other: packed rows have no padding to save")
        if self.packing is not None and self.max_length is not None and self.max_length > self.packing.length:
            raise ValueError(f"max_length {self.max_length} is more than packing.length {self.packing.length}; no such sample fits a row")
        return self
