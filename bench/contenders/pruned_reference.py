#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Llama checkpoint pruned with the code of a published method (a checkout of it is given as a path), on a CPU; then, if
asked, rounded with the IST-DASLab GPTQ reference, which is how users of these systems chain them.

The systems' own scripts download their calibration text and want CUDA; their pruning code does not. This driver calls it
with the calibration windows of the file. For bench/prune_compare.py it prints `@bench pruned`, `@bench done PEAK_BYTES` when the
model is finished in memory and `@bench perplexity X`, and writes the result's tensors to OUTPUT/model.safetensors.

SliceGPT wants transformers 4.41 … 4.43, LLM-Pruner the like (docs/hacking.md).
"""
import argparse
import math
import pathlib
import sys
import types

import torch
from safetensors.torch import load_file, save_file

from reference import mark, quantise


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["slicegpt", "llm-pruner"], required=True)
    parser.add_argument("--reference", required=True, help="checkout of microsoft/TransformerCompression or horseee/LLM-Pruner")
    parser.add_argument("--gptq", help="checkout of IST-DASLab/gptq: round what is left")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", required=True, help="safetensors file with the windows")
    parser.add_argument("--tensor", default="calib")
    parser.add_argument("--evaluation-tensor", default="eval")
    parser.add_argument("--output", required=True, type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sparsity", type=float, default=0.25)
    parser.add_argument("--first-layer", type=int, default=3, help="LLM-Pruner: the layers that are pruned, the end excluded")
    parser.add_argument("--last-layer", type=int, default=29)
    parser.add_argument("--examples", type=int, default=10, help="LLM-Pruner: calibration windows")
    parser.add_argument("--length", type=int, default=64, help="LLM-Pruner: tokens of each")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    return parser.parse_args()


def slice_with_reference(model, windows, options):
    sys.path.insert(0, options.reference + "/src")
    from slicegpt import layernorm_fusion, rotate
    from slicegpt.adapters.llama_adapter import LlamaModelAdapter
    from slicegpt.slicing_scheduler import ConstSlicingScheduler

    adapter = LlamaModelAdapter(model)
    adapter.use_cache = False
    layernorm_fusion.replace_layers(adapter, verbose=False)
    layernorm_fusion.fuse_modules(adapter)
    size = int((1 - options.sparsity) * adapter.hidden_size)
    batches = [{"input_ids": w.unsqueeze(0), "attention_mask": torch.ones_like(w).unsqueeze(0)} for w in windows]
    rotate.rotate_and_slice(adapter, batches, ConstSlicingScheduler(size - size % 8), final_orientation="pca")


def prune_with_reference(model, windows, options):
    sys.path.insert(0, options.reference)
    import LLMPruner.torch_pruning as pruning
    from LLMPruner.pruner import hf_llama_pruner
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    layers = model.model.layers
    head = layers[0].self_attn.head_dim
    # It fails on heads of which the share is less than one (25 % of SmolLM2's three), so these are left out, as kerf does.
    heads_to_go = int(layers[0].self_attn.num_key_value_heads * options.sparsity)
    chosen = layers[options.first_layer:options.last_layer]
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    pruner = pruning.pruner.MetaPruner(
        model, windows[:2, :8], importance=hf_llama_pruner.TaylorImportance(group_reduction="sum", taylor="param_first"),
        global_pruning=False, iterative_steps=1, ch_sparsity=options.sparsity, ignored_layers=[], channel_groups={},
        consecutive_groups={layer.self_attn.k_proj: head for layer in layers},
        customized_pruners={LlamaRMSNorm: hf_llama_pruner.hf_rmsnorm_pruner}, root_module_types=None,
        root_instances=[layer.self_attn.k_proj for layer in chosen if heads_to_go] + [layer.mlp.gate_proj for layer in chosen])
    model.zero_grad()
    examples = windows[:options.examples, :options.length]
    model(examples, labels=examples).loss.backward()
    pruner.step()
    for layer in layers:
        attention = layer.self_attn
        attention.num_heads = attention.q_proj.weight.shape[0] // head
        attention.num_key_value_heads = attention.k_proj.weight.shape[0] // head
    model.zero_grad()
    for parameter in model.parameters():
        parameter.grad = None


def round_with_reference(model, windows, options):
    torch.cuda.synchronize = lambda *_: None  # the reference times itself with it; there is no CUDA here
    sys.path.insert(0, options.gptq)
    from gptq import GPTQ
    from quant import Quantizer

    settings = types.SimpleNamespace(bits=options.bits, sym=False, percdamp=0.01, group_size=options.group_size,
                                     act_order=False, static_groups=False, true_sequential=False)
    quantise(model, windows, settings, GPTQ, Quantizer)


def peak_bytes():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024


@torch.no_grad()
def perplexity(model, windows):
    """exp of the mean over windows of a window's mean negative log likelihood, as `kerf eval` has it."""
    total = 0.0
    for window in windows:
        logits = model(window.unsqueeze(0), use_cache=False).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits.double(), window[1:]).item()
    return math.exp(total / len(windows))


def main():
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(options.model)
    if hasattr(config, "rope_parameters"):  # which a transformers of that age does not know
        config.rope_theta = config.rope_parameters["rope_theta"]
    model = LlamaForCausalLM.from_pretrained(options.model, config=config, torch_dtype=torch.float32,
                                             attn_implementation="eager").eval()
    windows = load_file(options.tokens)
    calibration = windows[options.tensor]
    if options.method == "slicegpt":
        slice_with_reference(model, calibration, options)
    else:
        prune_with_reference(model, calibration, options)
    mark("pruned")
    if options.gptq:
        round_with_reference(model, calibration, options)
    mark(f"done {peak_bytes()}")
    tensors = {tensor.data_ptr(): (name, tensor.detach().contiguous()) for name, tensor in model.state_dict().items()}
    options.output.mkdir(parents=True)
    save_file(dict(tensors.values()), options.output / "model.safetensors")
    mark(f"perplexity {perplexity(model.eval(), windows[options.evaluation_tensor])}")


if __name__ == "__main__":
    main()
