#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a GPTQ-packed checkpoint as plain float32 weights, so that one evaluator can read every contender's result.

The layout is the one that AutoGPTQ, GPTQModel and vLLM share: codes packed along the inputs, zeros along the outputs,
least significant bits first; checkpoint_format "gptq" stores zero - 1, "gptq_v2" the zero itself. 2, 3, 4 and 8 bits.

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
    """uint32 words → codes: along `axis` they are one stream of bits, least significant first."""
    stream = np.unpackbits(np.ascontiguousarray(np.moveaxis(words, axis, -1)).view(np.uint8), axis=-1, bitorder="little")
    fields = stream.reshape(*stream.shape[:-1], -1, bits)  # 3 bits: some fields lie across two words
    return np.moveaxis(np.packbits(fields, axis=-1, bitorder="little")[..., 0], -1, axis)


def stored_zeros(words, bits, offset):
    """[groups, out]; offset 1 when the file holds zero - 1. Where a word holds whole fields, 1 is added to all of them in
    the packed word, as it was subtracted: a field that borrowed from its neighbour comes out right."""
    if bits == 3:
        return (unpack_words(words, bits, axis=1) + offset) & 7
    ones = sum(1 << shift for shift in range(0, 32, bits))
    return unpack_words(words + np.uint32(offset * ones), bits, axis=1)


def dense_weight(part, bits, offset):
    """ŵ[o, c] = scales[g(c), o] · (code[c, o] − zero[g(c), o]), as [out, in] float32."""
    scales = part["scales"].float().numpy()  # [groups, out]
    group = part["g_idx"].numpy()            # [in]
    codes = unpack_words(part["qweight"].numpy().view(np.uint32), bits, axis=0)[:len(group)]
    zeros = stored_zeros(part["qzeros"].numpy().view(np.uint32), bits, offset)[:, :scales.shape[1]]
    steps = codes.astype(np.float32) - zeros[group].astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray((scales[group] * steps).T))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packed", type=Path)
    parser.add_argument("output", type=Path)
    folders = parser.parse_args()

    config = json.loads((folders.packed / "config.json").read_text())
    quantisation = config.pop("quantization_config")
    bits = quantisation["bits"]
    if bits not in (2, 3, 4, 8):
        raise SystemExit(f"{folders.packed}: {bits} bits: 2, 3, 4 and 8 can be unpacked here")
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
        tensors[f"{prefix}.weight"] = dense_weight(part, bits, 0 if checkpoint_format == "gptq_v2" else 1)
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
