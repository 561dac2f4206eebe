#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GPTQ with GPTQModel from PyPI, on a CPU, with its own defaults except for what the command line sets.

Prints `@bench first-layer` when block 0 is done and `@bench quantised` when the model is, for bench/gptq_compare.py.
"""
import argparse
import os
import sys


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", required=True, help="safetensors file with the calibration windows")
    parser.add_argument("--tensor", default="calib", help="int64 [windows, length] in that file")
    parser.add_argument("--output", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--asym", action="store_true", help="asymmetric grids (its default is symmetric)")
    parser.add_argument("--damp", type=float, help="damp_percent")
    parser.add_argument("--dtype", default="auto", help="dtype in which the model is loaded")
    return parser.parse_args()


class FirstLayer:
    """GPTQModel calls this after each block."""

    def __init__(self):
        self.seen = False

    def layer_complete(self, **_):
        if not self.seen:
            self.seen = True
            mark("first-layer")


def mark(event):
    # Its logger redraws the terminal on stdout, so the marker stands on a line of its own.
    sys.__stdout__.write(f"\n@bench {event}\n")
    sys.__stdout__.flush()


def main():
    options = parse_arguments()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    torch.set_num_threads(options.threads)
    import gptqmodel
    from gptqmodel import GPTQModel, QuantizeConfig
    from safetensors.torch import load_file

    # 7.3.4 asks for one CPU worker on a machine of two cores, then fails because its model loader wants two of them.
    if hasattr(gptqmodel, "_default_cpu_workers"):
        gptqmodel._default_cpu_workers = lambda: max(2, options.threads)

    settings = {"bits": options.bits, "group_size": options.group_size, "device": "cpu"}
    if options.asym:
        settings["sym"] = False
    if options.damp is not None:
        settings["damp_percent"] = options.damp
    model = GPTQModel.load(options.model, QuantizeConfig(**settings), dtype=options.dtype)
    windows = load_file(options.tokens)[options.tensor]
    samples = [{"input_ids": w.tolist(), "attention_mask": [1] * len(w)} for w in windows]
    model.layer_callback = FirstLayer()
    model.quantize(samples, batch_size=1)
    mark("quantised")
    model.save(options.output)


if __name__ == "__main__":
    main()
