#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes models/NAME-tiny (random weights, one for each family, or form of it, without a trained tiny model here) and
golden/logits-NAME-tiny.safetensors: what transformers computes with them in float32.

    pip install torch==2.13.0 transformers==5.24.0 safetensors
    python3 tests/data/make_tiny_models.py [NAME ...]

A golden file holds int64 `input_ids` [2, 64], `calib` [4, 64] and `pair` [1, 2] (random ids), and float32 `logits`
[2, 64, vocabulary] and `hidden.N` [2, 64, hidden] of input_ids: the residual stream that enters block N (or leaves
block N - 1). Weights are float16 in the file.
"""
import itertools
import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (FalconConfig, FalconForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel,
                          GPTNeoXConfig, GPTNeoXForCausalLM, MixtralConfig, MixtralForCausalLM, Phi3Config,
                          Phi3ForCausalLM, PhiConfig, PhiForCausalLM, Qwen3Config, Qwen3ForCausalLM)

HERE = Path(__file__).parent
VOCABULARY, HIDDEN, WIDTH, LENGTH = 128, 32, 96, 64
SHAPE = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=128)
FALCON = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
              bos_token_id=1, eos_token_id=2)

# Windows and caps are small enough to matter on 64 tokens; head_dim differs from hidden / heads where it may.
FAMILIES = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=2, n_head=4, n_positions=128,
                                         scale_attn_by_inverse_layer_idx=True)),
    "gptneox": (GPTNeoXForCausalLM, GPTNeoXConfig(**SHAPE, intermediate_size=WIDTH, rotary_pct=0.5)),
    "gptneox-serial": (GPTNeoXForCausalLM, GPTNeoXConfig(**SHAPE, intermediate_size=WIDTH, rotary_pct=0.25,
                                                         use_parallel_residual=False, attention_bias=False)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**SHAPE, intermediate_size=WIDTH, num_key_value_heads=2, head_dim=16,
                                               query_pre_attn_scalar=20, sliding_window=16,
                                               attn_logit_softcapping=3.0, final_logit_softcapping=6.0)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, intermediate_size=WIDTH, num_key_value_heads=2, head_dim=16,
                                            rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    "mixtral": (MixtralForCausalLM, MixtralConfig(**SHAPE, intermediate_size=64, num_key_value_heads=2,
                                                  num_local_experts=6, num_experts_per_tok=2, sliding_window=24)),
    "phi2-random": (PhiForCausalLM, PhiConfig(**SHAPE, intermediate_size=WIDTH, partial_rotary_factor=0.5)),
    # Long factors for more than 32 tokens, so for all of these.
    "phi3-random": (Phi3ForCausalLM, Phi3Config(**SHAPE, intermediate_size=WIDTH, num_key_value_heads=2, pad_token_id=0,
                                                bos_token_id=1, eos_token_id=2, sliding_window=24,
                                                original_max_position_embeddings=32,
                                                rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0,
                                                                 "short_factor": [1.0, 1.1, 1.2, 1.3],
                                                                 "long_factor": [1.0, 1.5, 2.5, 4.0]})),
    "falcon-random": (FalconForCausalLM, FalconConfig(**FALCON)),
    "falcon-grouped": (FalconForCausalLM, FalconConfig(**FALCON, new_decoder_architecture=True, num_kv_heads=2)),
    "falcon-alibi": (FalconForCausalLM, FalconConfig(**FALCON, multi_query=False, parallel_attn=False, alibi=True, bias=True)),
}

# Where published configs say a thing otherwise than save_pretrained does today.
GONE = "gone"
PUBLISHED = {
    "gptneox": {"rope_parameters": GONE, "rotary_pct": 0.5, "rotary_emb_base": 10000},
    "gemma2": {"layer_types": GONE, "rope_parameters": GONE, "rope_theta": 10000.0},
    "phi3-random": {"rope_parameters": GONE, "rope_theta": 10000.0,
                    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
                                     "long_factor": [1.0, 1.5, 2.5, 4.0]}},
}


def fill(model, generator):
    """Weights under which every part shows in the logits: streams and scores of size about one."""
    def normal(tensor, spread, mean=0.0):
        tensor.copy_(torch.empty_like(tensor).normal_(mean, spread, generator=generator).half().float())

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() == 1:
                norm = "norm" in name or ".ln_" in name
                centre = 1.0 if norm and "gemma2" not in model.config.model_type and name.endswith("weight") else 0.0
                normal(tensor, 0.2, centre)
            elif any(part in name for part in ("wte", "embed")):
                # Gemma multiplies by sqrt(hidden) itself
                normal(tensor, 1 / math.sqrt(HIDDEN) if model.config.model_type == "gemma2" else 1.0)
            elif "wpe" in name:
                normal(tensor, 0.5)
            else:
                reads = tensor.shape[-2] if ".c_" in name else tensor.shape[-1]
                normal(tensor, 1.4 / math.sqrt(reads))
        model.tie_weights()


def residual_stream(model, ids):
    """Logits, and the stream before each block and after the last."""
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    seen = []
    hooks = [blocks[0].register_forward_pre_hook(lambda _, args, kwargs: seen.append(
        args[0] if args else kwargs["hidden_states"]), with_kwargs=True)]
    hooks += [block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
              for block in blocks]
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits, seen


def clear_choices(model, ids):
    """Whether no token is so near to choosing another expert that float32's rounding could decide."""
    margins = []

    def note(_, __, out):
        top = out[0].topk(model.config.num_experts_per_tok + 1).values
        margins.append((top[..., -2] - top[..., -1]).min().item())

    hooks = [m.gate.register_forward_hook(note) for m in model.modules() if hasattr(m, "experts")]
    with torch.no_grad():
        model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return min(margins, default=1) > 1e-3


def stored(name, folder):
    """The tensors that save_pretrained wrote, under the names that published checkpoints have."""
    tensors = {key: value.half().contiguous() for key, value in load_file(folder / "model.safetensors").items()}
    if name == "gpt2":  # published without the class's prefix
        tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    return tensors


def make(name):
    kind, config = FAMILIES[name]
    # transformers 5.24's eager attention adds ALiBi twice, its fused one leaves out soft caps.
    attention = "sdpa" if getattr(config, "alibi", False) else "eager"
    model = kind._from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(seed)
        fill(model, generator)
        ids = torch.randint(0, VOCABULARY, (7, LENGTH), generator=generator)
        if clear_choices(model, ids[:2]):
            break
    logits, hidden = residual_stream(model, ids[:2])

    folder = HERE / "models" / f"{name}-tiny"
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_file(stored(name, folder), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    (folder / "generation_config.json").unlink(missing_ok=True)
    settings = json.loads((folder / "config.json").read_text())
    settings["dtype"] = "float16"
    settings |= PUBLISHED.get(name, {})
    settings = {key: value for key, value in settings.items() if value != GONE}
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    golden = {"input_ids": ids[:2], "calib": ids[2:6], "pair": ids[6:, :2], "logits": logits}
    golden |= {f"hidden.{n}": stream for n, stream in enumerate(hidden)}
    result = HERE / "golden" / f"logits-{name}-tiny.safetensors"
    save_file({key: value.contiguous() for key, value in golden.items()}, result)
    result.chmod(0o644)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size} bytes, logits' spread {logits.std():.2f}, largest {logits.abs().max():.2f}, "
          f"stream's spread {[round(stream.std().item(), 2) for stream in hidden]}")
    assert size <= 300_000


for wanted in sys.argv[1:] or FAMILIES:
    make(wanted)
