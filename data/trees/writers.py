"""Whoever writes the turns of a tree: a model behind an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.trees.config import EndpointConfig, VllmEngineConfig
from data.trees.engine import Embedder, Engine


@dataclass(frozen=True, kw_only=True)
class Writer:
    """What writes the turns of a tree.

    Attributes:
        engine: Runs the model.
        tokenizer: The model's.
        embed: The model's own mean-pooled states, where the engine gives them.
        identity: What tells this model from others.
        name: What a person calls it.
        positions: Tokens that the model can hold; None: unknown.
    """

    engine: Engine
    tokenizer: Any
    embed: Embedder | None
    identity: Mapping[str, Any]
    name: str
    positions: int | None


def shown_name(model: str) -> str:
    """A model's name without the place on this machine where it lies."""
    return Path(model).name if Path(model).is_absolute() else model


def in_memory(model: Any, tokenizer: Any, batch_size: int) -> Writer:
    """A transformers model of this process writes."""
    from data.trees.provenance import weights_hash
    from data.trees.transformers_engine import TransformersEngine

    engine = TransformersEngine(model, tokenizer, batch_size)
    return Writer(
        engine=engine,
        tokenizer=tokenizer,
        embed=engine.embed,
        identity={"weights_sha256": weights_hash(model)},
        name=shown_name(model.name_or_path) or type(model).__name__,
        positions=getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )


def served(config: EndpointConfig, tokenizer: Any, end_ids: Sequence[int]) -> Writer:
    """A server writes, which must answer now or within `patience`; the name of its model is all that tells it from others."""
    from data.trees.endpoint_engine import EndpointEngine

    engine = EndpointEngine(config, tokenizer, end_ids=end_ids)
    name = engine.served_model()
    return Writer(engine=engine, tokenizer=tokenizer, embed=None, identity={"served_model": name}, name=shown_name(name), positions=None)


def offline(config: VllmEngineConfig, folder: Path, tokenizer: Any, end_ids: Sequence[int]) -> Writer:
    """A model that vLLM loads in this process writes."""
    from data.fingerprint import fingerprint
    from data.index import cache_folder
    from data.trees.vllm_engine import VllmEngine

    engine = VllmEngine(config, str(folder), tokenizer, end_ids=end_ids)
    identity = {"files_sha256": [one.sha256 for one in fingerprint(sorted(folder.glob("*.safetensors")), cache_folder())]}
    return Writer(engine=engine, tokenizer=tokenizer, embed=None, identity=identity, name=shown_name(str(folder)), positions=None)
