#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes golden/gguf-blocks.safetensors: random blocks of every GGUF type that kerf decodes, and their values as the PyPI
package gguf gives them. Needs numpy, safetensors and gguf.

Usage: make_gguf_blocks.py [OUTPUT]
"""
import pathlib
import sys

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

NAMES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
BLOCKS = 6  # of each type; the bytes of the first are all ones, of the second all zeros
# Where a block has its float16 scales: random bits would make many of them NaN or infinite.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def blocks_of(name, random):
    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    if elements == 1:
        values = (random.standard_normal(64) * 10.0 ** random.integers(-6, 4, 64)).astype(np.float32)
        if name == "F32":
            return values.view(np.uint8)
        if name == "F16":
            return values.astype(np.float16).view(np.uint8)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    blocks[0], blocks[1] = 255, 0
    for at in SCALES[name]:
        # Normal, subnormal and negative scales.
        scales = np.array([0.01, -0.5, 3e-6, 1.75, -0.0078, 0.11], np.float16) * np.float16(random.uniform(0.5, 1))
        blocks[:, at:at + 2] = scales.astype(np.float16).reshape(-1, 1).view(np.uint8)
    return blocks.reshape(-1)


def main():
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "golden/gguf-blocks.safetensors"
    random = np.random.default_rng(4)
    tensors = {}
    for name in NAMES:
        stored = blocks_of(name, random)
        tensors[name + ".blocks"] = stored
        tensors[name + ".values"] = np.ascontiguousarray(dequantize(stored, GGMLQuantizationType[name]).astype(np.float32))
    save_file(tensors, output)
    print(output, output.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
