#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a GPTQ-packed checkpoint as plain float32 weights, so that one evaluator can read every contender's result.

The layout is the one that AutoGPTQ, GPTQModel and vLLM share: codes packed along the inputs, zeros along the outputs,
least significant bits first; checkpoint_format "gptq" stores zero - 1, "gptq_v2" the zero itself. 2, 4 and 8 bits.

Prints one JSON object: {"bits_per_weight": ...} of the packed linears, scales, zeros and group indices included.
"""
import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
import torch

PACKED = ("qweight", "qzeros", "scales", "g_idx")


def unpack_words(words, bits, axis):
    """int32 words → codes, 32 / bits of them per word along `axis`."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    fields = (words[..., None] >> shifts) & np.uint32(2**bits - 1)  # [rows, columns, per word]
    fields = np.moveaxis(fields, -1, axis + 1)
    shape = list(words.shape)
    shape[axis] = -1
    return fields.reshape(shape).astype(np.float32)


def dense_weight(part, bits, zero_offset):
    """ŵ[o, c] = scales[g(c), o] · (code[c, o] − zero[g(c), o]), as [out, in] float32."""
    words = {name: part[name].numpy().view(np.uint32) for name in ("qweight", "qzeros")}
    if zero_offset:  # on the packed word, as it was subtracted: a field that borrowed from its neighbour comes out right
        ones = sum(1 << shift for shift in range(0, 32, bits))
        words["qzeros"] = words["qzeros"] + np.uint32(ones)
    codes = unpack_words(words["qweight"], bits, axis=0)   # [in, out]
    scales = part["scales"].float().numpy()                # [groups, out]
    zeros = unpack_words(words["qzeros"], bits, axis=1)[:, :scales.shape[1]]
    group = part["g_idx"].numpy()                          # [in]
    return torch.from_numpy(np.ascontiguousarray((scales[group] * (codes[:len(group)] - zeros[group])).T))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packed", type=Path)
    parser.add_argument("output", type=Path)
    folders = parser.parse_args()

    config = json.loads((folders.packed / "config.json").read_text())
    quantisation = config.pop("quantization_config")
    bits = quantisation["bits"]
    if bits not in (2, 4, 8):
        raise SystemExit(f"{folders.packed}: {bits} bits: 2, 4 and 8 can be unpacked here")
    checkpoint_format = quantisation.get("checkpoint_format", quantisation.get("format", "gptq"))

    tensors, linears, bytes_packed, weights = {}, {}, 0, 0
    for shard in sorted(folders.packed.glob("*.safetensors")):
        for name, tensor in load_file(shard).items():
            prefix, _, last = name.rpartition(".")
            if last in PACKED:
                linears.setdefault(prefix, {})[last] = tensor
                bytes_packed += tensor.nbytes
            else:
                tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    for prefix, part in linears.items():
        tensors[f"{prefix}.weight"] = dense_weight(part, bits, checkpoint_format == "gptq")
        weights += tensors[f"{prefix}.weight"].numel()

    folders.output.mkdir(parents=True, exist_ok=True)
    config["dtype"] = config["torch_dtype"] = "float32"
    (folders.output / "config.json").write_text(json.dumps(config, indent=2))
    for pattern in ("tokenizer*", "generation_config.json"):
        for file in folders.packed.glob(pattern):
            shutil.copy(file, folders.output)
    save_file(tensors, folders.output / "model.safetensors", metadata={"format": "pt"})
    print(json.dumps({"bits_per_weight": 8 * bytes_packed / weights}))


if __name__ == "__main__":
    main()
