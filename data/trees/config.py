"""What a recipe may say about how a tree is written, sifted, kept, shown."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0.0, le=1.0)]
ExportFormat = Literal["llava", "sharegpt", "messages", "parquet", "text"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TransformersEngineConfig(_Section):
    """A transformers model in this process."""

    kind: Literal["transformers"] = "transformers"
    batch_size: int = Field(128, ge=1, description="turns written at once; part of the plan, since it decides the batches")


class VllmEngineConfig(_Section):
    """vLLM in this process, with prefix caching; needs a GPU and the package vllm."""

    kind: Literal["vllm"]
    batch_size: int = Field(4096, ge=1, description="turns handed over and committed at once")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share the weights")
    gpu_memory: Share = Field(0.9, description="share of each GPU's memory that vLLM may take")


class EndpointConfig(_Section):
    """Any server with the raw completions API: vLLM, SGLang, `transformers serve`."""

    kind: Literal["endpoint"]
    url: str | tuple[str, ...] = Field(description="address up to /v1, such as http://node1:8000/v1; several share the work")
    model: str | None = Field(None, description="name that the server gives the model; None: the only one it has")
    batch_size: int = Field(64, ge=1, description="turns committed at once")
    concurrency: int = Field(64, ge=1, description="requests under way at once, over all addresses")
    timeout: float = Field(600.0, gt=0.0, description="seconds that one request may take")
    patience: float = Field(900.0, ge=0.0, description="seconds for which a request is tried again when the server is busy or gone")
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the server's key, where it wants one")

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses."""
        return (self.url,) if isinstance(self.url, str) else self.url


EngineConfig = Annotated[TransformersEngineConfig | VllmEngineConfig | EndpointConfig, Field(discriminator="kind")]


class DedupConfig(_Section):
    """When two turns count as the same; of those the first one written stays.

    Turns are compared exactly (after normalisation), then by spelling, then by meaning, each step among what the one before let through.
    """

    spelling: Share | None = Field(0.9, description="Jaccard similarity of character runs above which turns are near-duplicates; null: any")
    embeddings: str = Field(
        "none",
        description="what compares meanings: a sentence-transformers model; states: the growing model's own mean-pooled last states; none",
    )
    threshold: Share | None = Field(
        0.975, description="turns of one meaning have a cosine above it; null: draw the histogram of similarities, then stop"
    )
    scope: Literal["siblings", "layer"] = Field(
        "siblings", description="follow-up questions are compared with children of the same parent, or with the whole layer"
    )

    @model_validator(mode="after")
    def _histogram_of_something(self) -> "DedupConfig":
        if self.threshold is None and self.embeddings == "none":
            raise ValueError("threshold null draws the histogram of similarities, but embeddings is none; name a sentence model, or states")
        return self


class FilterConfig(_Section):
    """Which turns are of no use; each reason is counted."""

    unfinished: bool = Field(True, description="drop turns that were cut off")
    role_leak: bool = Field(True, description="drop turns in which the model went on to speak for the other side")
    repetition: bool = Field(True, description="drop turns that repeat themselves in a loop")
    refusals: bool = Field(True, description="drop answers that refuse, with the questions left to others")
    personal_data: bool = Field(True, description="drop turns with e-mail addresses, telephone, card or account numbers")
    language: str | None = Field(None, description="ISO 639-1 code; longer turns in another language are dropped; null: any")
    min_characters: int = Field(1, ge=1, description="shorter turns are dropped")
    max_characters: int | None = Field(None, ge=1, description="longer turns are dropped; null: as long as max_tokens allows")
    decontaminate: tuple[str, ...] = Field((), description="files of evaluation questions (LLaVA JSON, JSON lines or plain text)")
    overlap: int = Field(8, ge=2, description="words in a row shared with an evaluation question make a turn contaminated")


class ExportConfig(_Section):
    """What is written out of a grown tree for training."""

    formats: tuple[ExportFormat, ...] = Field(("llava",), description="files to write beside the tree; the tree itself is always kept")
    weights: Literal["shared", "once", "raw"] = Field(
        "shared",
        description="loss weight of a turn that n dialogues share: 1/n in each, 1 in the first only, or 1 in each",
    )
    sample: int | None = Field(None, ge=1, description="dialogues to export, drawn by the seed; all when absent")


class ReportConfig(_Section):
    """What the report compares the corpus with."""

    reference: str | None = Field(None, description="corpus beside which the map of embeddings shows this one; null: none")
    reference_format: str = Field("sharegpt", description="reader of that corpus, as in data.sources")
    map_points: int = Field(2000, ge=10, description="questions of each corpus on the map")
    seed: int = Field(0, ge=0, description="draws the questions and lays the map out")
