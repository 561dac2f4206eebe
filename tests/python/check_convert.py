#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What kerf convert makes of a GGUF file is a model for transformers.

Writes a GGUF file of a small Llama with the package gguf, the weights in the format's row order, and holds that
  1. transformers loads the converted folder and computes the very logits of the model that the file was made of;
  2. its tokenizer gives the ids of the tokenizer that the file was made of, and has the chat template.
Where Python packages are absent, it says so and exits with 77, which CTest counts as skipped.
"""
import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SKIPPED = 77
NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
           "lm_head.weight": "output.weight"}
CHAT = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerf", required=True)
    parser.add_argument("--model", required=True, type=Path, help="a folder with a Llama")
    parser.add_argument("--tokenizer", required=True, type=Path, help="tokenizer.json, byte-level, of as many tokens")
    return parser.parse_args()


def stored_name(name):
    if name in OUTSIDE:
        return OUTSIDE[name]
    block, module = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name).groups()
    return f"blk.{block}.{NAMES[module]}.weight"


def write_gguf(options, file):
    import gguf
    import numpy
    from safetensors.numpy import load_file
    config = json.loads((options.model / "config.json").read_text())
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer.add_head_count(heads["q_proj"])
    writer.add_head_count_kv(heads["k_proj"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    add_tokenizer(writer, json.loads(options.tokenizer.read_text()))
    for name, weight in load_file(options.model / "model.safetensors").items():
        weight = weight.astype(numpy.float32)
        for part, count in heads.items():
            if f".{part}." in name:
                rows = weight.shape[0]
                weight = weight.reshape(count, 2, rows // count // 2, -1).swapaxes(1, 2).reshape(rows, -1)
        writer.add_tensor(stored_name(name), numpy.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer, document):
    import gguf
    tokens = {index: token for token, index in document["model"]["vocab"].items()}
    types = {index: gguf.TokenType.NORMAL for index in tokens}
    for added in document["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens[i] for i in range(len(tokens))])
    writer.add_token_types([types[i] for i in range(len(tokens))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(CHAT)


def check_model(options, out):
    import torch
    from transformers import AutoModelForCausalLM
    ids = torch.arange(7, 71).reshape(2, 32)
    with torch.no_grad():
        expected, got = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
                         for folder in (options.model, out))
    if not torch.equal(expected, got):
        sys.exit(f"the logits differ by up to {(expected - got).abs().max()}")


def check_tokenizer(options, out):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer
    original, converted = Tokenizer.from_file(str(options.tokenizer)), AutoTokenizer.from_pretrained(out)
    for text in ("The house, 1984.", "  two  spaces\n", "na\u00efve \u2013 \u4e2d\u6587 \U0001f600", "don't"):
        expected, got = original.encode(text, add_special_tokens=False).ids, converted(text, add_special_tokens=False).input_ids
        if expected != got:
            sys.exit(f"{text!r}: ids {got} instead of {expected}")
        if converted.decode(got) != original.decode(expected, skip_special_tokens=False):
            sys.exit(f"{text!r} is decoded as {converted.decode(got)!r}")
    chat = converted.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    if chat != "user: hi":
        sys.exit(f"the chat template gives {chat!r}")


def main():
    options = parse_arguments()
    for name in ("numpy", "safetensors", "gguf", "torch", "transformers", "tokenizers"):
        try:
            __import__(name)
        except ImportError as error:
            print(f"skipped: {error}")
            sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "model.gguf"), Path(folder, "out")
        write_gguf(options, file)
        subprocess.run([options.kerf, "convert", str(file), str(out), "--quiet"], check=True, stdout=subprocess.DEVNULL)
        check_model(options, out)
        check_tokenizer(options, out)
    print("the same logits, ids and chat")


if __name__ == "__main__":
    main()
