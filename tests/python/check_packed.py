#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A GPTQ-packed checkpoint of kerf, read by others, is the model that kerf measured.

Runs one GPTQ recipe twice, packed (format = "gptq") and dequantised (format = "hf"), and holds that
  weights: unpacking the codes with bench/contenders/unpack_gptq.py gives the dequantised weights, bit for bit;
  logits: transformers, with gptqmodel, computes the same logits from both.
Where Python packages that the claim needs are absent, it says so and exits with 77, which CTest counts as skipped.
"""
import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SKIPPED = 77
UNPACK = Path(__file__).resolve().parents[2] / "bench" / "contenders" / "unpack_gptq.py"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=["weights", "logits"])
    parser.add_argument("--kerf", required=True)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--text", required=True, type=Path, help="calibration text")
    parser.add_argument("--bits", type=int, default=4, choices=[2, 3, 4, 8])
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--length", type=int, default=256, help="tokens a calibration window")
    parser.add_argument("--stage", action="append", default=[], metavar="KEY=VALUE", help="further option of the stage, as TOML")
    return parser.parse_args()


def missing_packages(names):
    missing = []
    for name in names:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                __import__(name)
        except Exception as error:  # gptqmodel fails in many ways where one of its own needs is absent
            missing.append(f"{name} ({type(error).__name__}: {error})")
    return missing


def write_recipe(options, file):
    file.write_text("\n".join([
        "[model]", f"path = {json.dumps(str(options.model.resolve()))}",
        "[calibration]", 'source = "text"', f"path = {json.dumps(str(options.text.resolve()))}", "samples = 16",
        f"length = {options.length}",
        "[[stage]]", 'method = "gptq"', f"bits = {options.bits}", f"group_size = {options.group_size}", *options.stage,
        "[output]", 'path = "out"', 'dtype = "float32"', ""]))


def weights_of(folder):
    from safetensors.torch import load_file
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(shard))
    return tensors


def check_weights(packed, plain, work):
    """Returns how many tensors were compared."""
    import torch
    unpacked = work / "unpacked"
    subprocess.run([sys.executable, UNPACK, packed, unpacked], check=True, stdout=subprocess.DEVNULL)
    ours, theirs = weights_of(plain), weights_of(unpacked)
    if ours.keys() != theirs.keys():
        raise SystemExit(f"tensors differ in name: {sorted(ours.keys() ^ theirs.keys())}")
    for name, tensor in ours.items():
        if not torch.equal(tensor.float(), theirs[name]):
            worst = (tensor.float() - theirs[name]).abs().max().item()
            raise SystemExit(f"{name}: the packed weight differs from the dequantised one by up to {worst:.3g}")
    return len(ours)


def logits(folder, vocabulary):
    import torch
    from transformers import AutoModelForCausalLM, GPTQConfig
    how = {}
    quantisation = json.loads((folder / "config.json").read_text()).get("quantization_config")
    if quantisation:
        # Its plain kernel: the fused one that it would choose on a CPU rounds, and fails where a group is not full.
        how["quantization_config"] = GPTQConfig(bits=quantisation["bits"], backend="torch")
    with contextlib.redirect_stdout(sys.stderr):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **how).eval()
    ids = torch.arange(3, 3 + 64).remainder(vocabulary).unsqueeze(0)
    with torch.no_grad():
        return model(ids, use_cache=False).logits[0].float(), model


def check_logits(packed, plain):
    """The weights are equal; the kernel rounds them and its outputs to its own precision, and sums of `width`
    products are made in another order in float32. Each linear so errs by about eps + eps32 · √width of its output, each
    independently of the others, which adds up over the linears like a random walk. Relative to the largest logit."""
    import torch
    config = json.loads((plain / "config.json").read_text())
    expected, _ = logits(plain, config["vocab_size"])
    found, model = logits(packed, config["vocab_size"])
    kernels = {type(m).__name__ for m in model.modules() if hasattr(m, "qweight")}
    if not kernels:
        raise SystemExit("transformers loaded the packed checkpoint without any quantised linear")
    dtypes = {m.scales.dtype for m in model.modules() if isinstance(getattr(m, "scales", None), torch.Tensor)}
    epsilon = max((torch.finfo(d).eps for d in dtypes), default=0.0)
    width = max(config["hidden_size"], config.get("intermediate_size", 0))
    linears = sum(hasattr(m, "qweight") for m in model.modules())
    tolerance = (epsilon + torch.finfo(torch.float32).eps * math.sqrt(width)) * math.sqrt(linears)
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"logits: {', '.join(sorted(kernels))} in {', '.join(map(str, dtypes))}: relative difference {difference:.2e}, "
          f"tolerance {tolerance:.2e}")
    if not difference <= tolerance:
        raise SystemExit("transformers computes other logits from the packed checkpoint than from the dequantised one")


def main():
    options = parse_arguments()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    missing = missing_packages({"weights": ["numpy", "torch", "safetensors"],
                                "logits": ["torch", "transformers", "optimum", "gptqmodel"]}[options.claim])
    if missing:
        print(f"skipped: Python packages are absent: {', '.join(missing)}")
        return SKIPPED
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        packed, plain = work / "packed", work / "plain"
        write_recipe(options, work / "recipe.toml")
        for folder, layout in ((packed, "gptq"), (plain, "hf")):
            subprocess.run([options.kerf, "run", work / "recipe.toml", "--output", folder, "--set", f"output.format={layout}"],
                           check=True, stdout=subprocess.DEVNULL)
        if options.claim == "weights":
            print(f"weights: {check_weights(packed, plain, work)} tensors equal")
        else:
            check_logits(packed, plain)
    return 0


if __name__ == "__main__":
    sys.exit(main())
