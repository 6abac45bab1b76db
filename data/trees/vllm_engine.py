"""The engine that runs vLLM in this process."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data.trees.config import VllmEngineConfig
from data.trees.engine import Completion, FinishReason, Request, Sampling


class VllmEngine:
    """Turns written by vLLM, block by block, each block scheduled as a whole.

    Siblings send equal prompts with a seed each: prefix caching reads a prompt once, as `n` samples of one request would, and a turn
    keeps its own seed. Of an LMM only the language model is used; its pictures take no memory. Roundings depend on what shares a batch,
    so a turn may change with its neighbours even at temperature 0.
    """

    def __init__(self, config: VllmEngineConfig, model: str, tokenizer: Any, *, end_ids: Sequence[int] = ()) -> None:
        """Loads the model onto the GPU.

        Args:
            config: The section of the recipe.
            model: Folder or name of the model.
            tokenizer: Its tokenizer.
            end_ids: Tokens that end any text of this model, from its generation config.

        Raises:
            ValueError: The package vllm is missing.
        """
        try:
            from vllm import LLM
        except ImportError as error:
            raise ValueError(
                f"tree.engine.kind is vllm, but the package cannot be imported ({error}): on a machine with a GPU, pip install vllm (this "
                "project's extra vllm); without a GPU, take kind: transformers, or kind: endpoint with a server elsewhere"
            ) from error
        self.config, self.tokenizer, self.end_ids = config, tokenizer, tuple(end_ids)
        self.block_size = config.batch_size
        self._llm = LLM(
            model=model,
            tensor_parallel_size=config.tensor_parallel,
            gpu_memory_utilization=config.gpu_memory,
            enable_prefix_caching=True,
            **_without_pictures(model),
        )

    def complete(self, blocks: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[Completion]]:
        """See `Engine.complete`."""
        from vllm import SamplingParams

        for requests in blocks:
            prompts = [{"prompt_token_ids": list(request.ids)} for request in requests]
            settings = [SamplingParams(**parameters(request, sampling)) for request in requests]
            outputs = self._llm.generate(prompts, settings, use_tqdm=False) if prompts else []
            yield [read(output.outputs[0], sampling, self.tokenizer) for output in outputs]


def parameters(request: Request, sampling: Sampling) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams` for one turn."""
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
        "stop_token_ids": list(sampling.stop_ids),
        "stop": list(sampling.stop_texts),
        "logprobs": 0,  # of the written token alone
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }


def read(output: Any, sampling: Sampling, tokenizer: Any) -> Completion:
    """Makes a `vllm.CompletionOutput` a completion.

    Raises:
        RuntimeError: vLLM gave a turn up.
    """
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM broke off a turn: finish reason {output.finish_reason}, expected stop or length; see its log above")
    finish: FinishReason = output.finish_reason
    ids = list(output.token_ids)
    if isinstance(output.stop_reason, str):
        tokens = len(tokenizer(output.text, add_special_tokens=False)["input_ids"])
    else:
        tokens = len(ids) - (finish == "stop")
    return Completion(text=output.text, tokens=tokens, logprob=output.cumulative_logprob, finish_reason=finish)


def _without_pictures(model: str) -> dict[str, Any]:
    """Arguments that keep a multimodal model from holding memory back for pictures; none for a language model."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    return {"limit_mm_per_prompt": {"image": 0, "video": 0}} if hasattr(config, "vision_config") else {}
