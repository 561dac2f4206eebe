#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GPTQ of a Llama checkpoint with the classes of the IST-DASLab reference (a checkout of it is given as a path), on a CPU.

The reference's own scripts want CUDA and an old transformers; its algorithm (`GPTQ`, `Quantizer`) does not. This driver
does what its `llama.py` does (inputs of block 0 kept, then block after block, one window at a time, linears quantised from
activations of the already quantised blocks before) through the block signature of today's transformers.

Prints `@bench first-layer` when block 0 is done and `@bench quantised` when the model is, for bench/gptq_compare.py.
"""
import argparse
import contextlib
import io
import sys

import torch
from safetensors.torch import load_file

# Linears that share an input are one step; with --true-sequential a step sees the steps before it quantised.
STEPS = [["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"], ["self_attn.o_proj"],
         ["mlp.up_proj", "mlp.gate_proj"], ["mlp.down_proj"]]


class Captured(Exception):
    """Ends a forward pass once the inputs of block 0 are known."""


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="checkout of IST-DASLab/gptq")
    parser.add_argument("--model", required=True, help="Llama checkpoint in Hugging Face layout")
    parser.add_argument("--tokens", required=True, help="safetensors file with the calibration windows")
    parser.add_argument("--tensor", default="calib", help="int64 [windows, length] in that file")
    parser.add_argument("--output", required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--percdamp", type=float, default=0.01)
    parser.add_argument("--sym", action="store_true")
    parser.add_argument("--act-order", action="store_true")
    parser.add_argument("--static-groups", action="store_true")
    parser.add_argument("--true-sequential", action="store_true")
    return parser.parse_args()


def mark(event):
    print(f"@bench {event}", flush=True)


def inputs_of_first_block(model, windows):
    """Hidden states [1, length, hidden] that enter block 0, a list with one per window, and block 0's keyword arguments."""
    captured, keywords = [], {}

    def keep(_block, positional, named):
        captured.append(positional[0] if positional else named["hidden_states"])
        keywords.update({k: v for k, v in named.items() if k != "hidden_states"})
        raise Captured

    hook = model.model.layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    for window in windows:
        with contextlib.suppress(Captured):
            model(window.unsqueeze(0), use_cache=False)
    hook.remove()
    return captured, keywords


def run_block(block, hidden, keywords):
    out = block(hidden, **keywords)
    return out[0] if isinstance(out, tuple) else out


def quantise_step(block, names, inputs, keywords, options, GPTQ, Quantizer):
    linears = {name: block.get_submodule(name) for name in names}
    workers, hooks = {}, []
    for name, linear in linears.items():
        workers[name] = GPTQ(linear)
        workers[name].quantizer = Quantizer()
        workers[name].quantizer.configure(options.bits, perchannel=True, sym=options.sym, mse=False)
        hooks.append(linear.register_forward_hook(
            lambda _module, given, out, worker=workers[name]: worker.add_batch(given[0].data, out.data)))
    for hidden in inputs:
        run_block(block, hidden, keywords)
    for hook in hooks:
        hook.remove()
    for worker in workers.values():
        with contextlib.redirect_stdout(io.StringIO()):  # two lines per linear that nobody reads here
            worker.fasterquant(percdamp=options.percdamp, groupsize=options.group_size, actorder=options.act_order,
                               static_groups=options.static_groups)
        worker.free()


@torch.no_grad()
def quantise(model, windows, options, GPTQ, Quantizer):
    hidden, keywords = inputs_of_first_block(model, windows)
    steps = STEPS if options.true_sequential else [sum(STEPS, [])]
    for index, block in enumerate(model.model.layers):
        for names in steps:
            quantise_step(block, names, hidden, keywords, options, GPTQ, Quantizer)
        hidden = [run_block(block, h, keywords) for h in hidden]
        if index == 0:
            mark("first-layer")


def main():
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.cuda.synchronize = lambda *_: None  # the reference times itself with it; there is no CUDA here
    sys.path.insert(0, options.reference)
    from gptq import GPTQ
    from quant import Quantizer
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    quantise(model, load_file(options.tokens)[options.tensor], options, GPTQ, Quantizer)
    mark("quantised")
    model.save_pretrained(options.output)


if __name__ == "__main__":
    main()
