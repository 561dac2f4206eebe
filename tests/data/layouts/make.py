#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the models beside this file: a few thousand random weights each, for the layouts of a family that the trained
tiny models leave out, with the logits that transformers computes in float32.

    python make.py [NAME...]        needs torch, transformers and safetensors (made with torch 2.13 and transformers 5.24)

Each folder holds config.json, model.safetensors, and expected.safetensors: for every text T `T.input_ids`
[windows, length] and `T.logits` [windows, length, vocabulary].
"""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
VOCABULARY = 64

FALCON = dict(model_type="falcon", vocab_size=VOCABULARY, hidden_size=32, num_attention_heads=4, num_hidden_layers=2,
              ffn_hidden_size=80, max_position_embeddings=512)
PHI = dict(vocab_size=VOCABULARY, hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=48,
           max_position_embeddings=64)
# Every text is (windows, length); texts of one model differ where its arithmetic depends on the length.
MODELS = {
    # 40B, 180B: key-value groups, each with its query heads in one run of the fused projection
    "falcon-two-norms": (dict(FALCON, new_decoder_architecture=True, num_kv_heads=2), {"text": (2, 24)}),
    # 11B: the same behind one norm; here with biases
    "falcon-one-norm": (dict(FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1,
                             bias=True), {"text": (2, 24)}),
    # RW: ALiBi, MLP after attention. Six heads take slopes from two series; past position 256 transformers' bfloat16
    # positions are no longer exact.
    "falcon-rw": (dict(FALCON, hidden_size=48, num_attention_heads=6, alibi=True, bias=True, multi_query=False,
                       parallel_attn=False), {"text": (2, 24), "long": (1, 300)}),
    "falcon-multi-head": (dict(FALCON, multi_query=False), {"text": (2, 24)}),
    "falcon-alibi-multi-query": (dict(FALCON, alibi=True), {"text": (2, 24)}),
    # Phi-4-mini: fewer key-value heads, a part of each head rotates, tied embeddings; and a sliding window
    "phi3-longrope": (dict(PHI, model_type="phi3", num_key_value_heads=2, original_max_position_embeddings=16,
                           sliding_window=11, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                           rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                                                short_factor=[1.0, 1.1, 1.3],
                                                long_factor=[1.2, 2.5, 4.0])), {"short": (2, 16), "long": (2, 40)}),
    "phi2-qk-norm": (dict(PHI, model_type="phi", num_key_value_heads=2, qk_layernorm=True), {"text": (2, 24)}),
}


def randomise(model, generator):
    """Weights so large that every part of the model shows in its logits; norms near 1."""
    for name, tensor in model.named_parameters():
        tensor.data = torch.randn(tensor.shape, generator=generator) * (tensor.shape[-1] ** -0.5)
        if "norm" in name or "ln_" in name:
            tensor.data = tensor.data * 0.5 + (0 if name.endswith("bias") else 1)
        elif "embed" in name:
            tensor.data = torch.randn(tensor.shape, generator=generator)


def make(name, settings, texts):
    settings = dict(settings)
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    # The attention that from_pretrained picks by itself: Falcon's other one, "eager", adds the ALiBi bias twice.
    assert model.config._attn_implementation == "sdpa"
    generator = torch.Generator().manual_seed(sum(name.encode()))
    with torch.no_grad():
        randomise(model, generator)
        expected = {}
        for text, (windows, length) in texts.items():
            ids = torch.randint(VOCABULARY, (windows, length), generator=generator)
            expected[text + ".input_ids"] = ids
            expected[text + ".logits"] = model(ids, use_cache=False).logits.contiguous()
    folder = HERE / name
    model.save_pretrained(folder)
    for file in folder.glob("generation_config.json"):
        file.unlink()
    save_file(expected, folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        print(name, make(name, *MODELS[name]), "bytes")
