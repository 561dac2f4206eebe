# SPDX-License-Identifier: Apache-2.0
"""Decode speed at batch 1: kerf, transformers and llama.cpp on one checkpoint, beside what the memory allows.

    decode_compare.py --model models/SmolLM2-135M --kerf build/bin/kerf [--threads 2] [--rounds 5] [--tokens 128]

The interpreter that runs this needs torch, transformers, gguf and llama-cpp-python. The model is a Llama-shaped one with
tied embeddings. Every round runs each contender once, each in a process of its own, one after the other; medians are
reported. All generate greedily after the same prompt, and the same number of tokens, whatever they are.

The limit: bytes of the weights that a token reads (all linears, the head among them) divided by the rate at which as many
threads read memory, measured in every round over an array much larger than the caches.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parent / "contenders"
READ = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
x = torch.ones(1 << 28); y = torch.empty_like(x)
def best(work, size):
    times = []
    for _ in range(6):
        start = time.perf_counter(); work(); times.append(time.perf_counter() - start)
    return size / min(times)
import json
print(json.dumps({"read": best(lambda: x.sum(), 4 * x.numel()), "copy": best(lambda: y.copy_(x), 8 * x.numel())}))
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--kerf", required=True, type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", default="The history of the city begins in the year")
    parser.add_argument("--json", type=pathlib.Path, help="also write every figure here")
    return parser.parse_args()


def run(*command):
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)}\n{done.stderr}")
    return json.loads(done.stdout)


def write_gguf(model, path, dtype):
    """Writes the checkpoint as GGUF: float32, or bfloat16 with float32 norms, as llama.cpp's own converter does."""
    import gguf
    import torch
    from safetensors.torch import load_file

    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config.get("rope_parameters", config).get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    vocabulary = tokenizer["model"]["vocab"]
    words = [token for token, _ in sorted(vocabulary.items(), key=lambda entry: entry[1])]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])

    def turned(weight, count):
        # GGUF's rope turns neighbours where transformers' turns halves
        return weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)

    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, tensor in load_file(model / "model.safetensors").items():
        if name == "lm_head.weight":
            continue  # tied
        tensor = tensor.to(torch.float32)
        if name.endswith("q_proj.weight"):
            tensor = turned(tensor, heads)
        if name.endswith("k_proj.weight"):
            tensor = turned(tensor, kv_heads)
        if name.startswith("model.layers."):
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            target = f"blk.{layer}.{parts[part]}.weight"
        else:
            target = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        if dtype == "bfloat16" and tensor.ndim > 1:
            bits = tensor.to(torch.bfloat16).view(torch.uint8).numpy()
            writer.add_tensor(target, bits, raw_shape=bits.shape, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(target, tensor.contiguous().numpy())
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if dtype == "bfloat16" else gguf.LlamaFileType.ALL_F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def kerf(options, dtype):
    result = run(options.kerf, "generate", options.model, options.prompt, "--tokens", options.tokens, "--ignore-eos",
                 "--weights", dtype, "--threads", options.threads, "--json")
    return {"seconds_per_token": result["decode_seconds"] / result["decoded_tokens"],
            "tokens": result["texts"][0]["tokens"], "bytes": result["weight_bytes"]}


def measure(options, files, prompt):
    rounds = []
    for number in range(options.rounds):
        one = {"memory": run(sys.executable, "-c", READ, options.threads)}
        for dtype in ("float32", "bfloat16"):
            one[dtype] = {
                "kerf": kerf(options, dtype),
                "transformers": run(sys.executable, FOLDER / "decode_transformers.py", options.model, dtype,
                                    options.threads, options.tokens, json.dumps(prompt)),
                "llama.cpp": run(sys.executable, FOLDER / "decode_llama_cpp.py", files[dtype], options.threads,
                                 options.tokens, json.dumps(prompt)),
            }
        rounds.append(one)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    return rounds


def report(options, rounds):
    read = statistics.median(one["memory"]["read"] for one in rounds)
    copy = statistics.median(one["memory"]["copy"] for one in rounds)
    print(f"memory, {options.threads} threads: read {read / 1e9:.1f} GB/s, copy {copy / 1e9:.1f} GB/s (both ways counted)\n")
    print("| weights | bytes | limit, tokens/s | kerf | transformers | llama.cpp | kerf / limit | kerf / transformers |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        rate = {who: 1 / statistics.median(one[dtype][who]["seconds_per_token"] for one in rounds)
                for who in rounds[0][dtype]}
        size = rounds[0][dtype]["kerf"]["bytes"]
        limit = read / size
        print(f"| {dtype} | {size / 1e6:.0f} MB | {limit:.1f} | {rate['kerf']:.1f} | {rate['transformers']:.1f} | "
              f"{rate['llama.cpp']:.1f} | {rate['kerf'] / limit:.2f} | {rate['kerf'] / rate['transformers']:.1f} |")
    print()
    for dtype in ("float32", "bfloat16"):
        ours = rounds[0][dtype]["kerf"]["tokens"]
        for who in ("transformers", "llama.cpp"):
            theirs = rounds[0][dtype][who]["tokens"]
            same = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), len(ours))
            print(f"{dtype}: the first {same} of {len(ours)} tokens are {who}'s")


def main():
    options = arguments()
    from transformers import AutoTokenizer

    prompt = AutoTokenizer.from_pretrained(options.model)(options.prompt)["input_ids"]
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for dtype in ("float32", "bfloat16"):
            files[dtype] = pathlib.Path(folder) / f"{dtype}.gguf"
            write_gguf(options.model, files[dtype], dtype)
        rounds = measure(options, files, prompt)
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1))
    report(options, rounds)


if __name__ == "__main__":
    main()
