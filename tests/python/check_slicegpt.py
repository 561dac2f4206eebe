#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What kerf's recipes with SliceGPT leave is a model for transformers, with the logits that kerf computes.

Runs a recipe for each case over a tiny model and holds the logits of transformers against kerf's. Where all positions share a
basis under RMS norms the family's own class has to load the result, without trust_remote_code. Where Python packages are
absent, it says so and exits with 77, which CTest counts as skipped.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", CUDA_VISIBLE_DEVICES="", HF_HUB_DISABLE_PROGRESS_BARS="1")

SLICE = ['[[stage]]', 'method = "slicegpt"', "sparsity = 0.25"]
PRUNE = ['[[stage]]', 'method = "slimgpt"', "sparsity = 0.25"]
QUANTISE = ['[[stage]]', 'method = "gptq"', "bits = 8", "group_size = 32"]
CASES = [("llama-tiny", SLICE, "KerfForCausalLM"),
         ("opt-tiny", [*SLICE, "refit = true"], "KerfForCausalLM"),
         ("llama-tiny", [*PRUNE, *SLICE, *QUANTISE], "KerfForCausalLM"),
         ("llama-tiny", [*SLICE, 'basis = "shared"', "refit = true"], "LlamaForCausalLM"),
         ("phi3-random-tiny", [*SLICE, 'basis = "shared"'], "KerfForCausalLM")]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerf", required=True, type=Path)
    parser.add_argument("--exporter", required=True, type=Path, help="export_model, which computes kerf's logits")
    parser.add_argument("--models", required=True, type=Path)
    return parser.parse_args()


def write_tokens(file, vocabulary):
    ids = torch.randint(3, vocabulary, (8, 64), generator=torch.Generator().manual_seed(1))
    save_file({"calib": ids, "input_ids": ids[:2, :40].contiguous()}, file)
    return ids[:2, :40]


def check(options, work, model, stages, wanted):
    """The relative difference of the two logits."""
    work.mkdir()
    vocabulary = json.loads((options.models / model / "config.json").read_text())["vocab_size"]
    ids = write_tokens(work / "tokens.safetensors", vocabulary)
    (work / "recipe.toml").write_text("\n".join([
        "[model]", f"path = {json.dumps(str((options.models / model).resolve()))}",
        "[calibration]", 'source = "tokens"', 'path = "tokens.safetensors"', 'tensor = "calib"', *stages,
        "[output]", 'path = "out"', 'dtype = "float32"', ""]))
    subprocess.run([options.kerf, "run", work / "recipe.toml"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    subprocess.run([options.exporter, work / "out", work / "export", work / "tokens.safetensors"], check=True)
    expected = torch.from_numpy(numpy.fromfile(work / "export" / "kerf-logits.f32", dtype=numpy.float32))
    loaded, info = AutoModelForCausalLM.from_pretrained(
        work / "out", trust_remote_code=wanted == "KerfForCausalLM", dtype=torch.float32, output_loading_info=True)
    assert type(loaded).__name__ == wanted, f"{model}: loaded as {type(loaded).__name__}, not {wanted}"
    assert not any(info.values()), f"{model}: {info}"
    with torch.no_grad():
        found = loaded.eval()(ids).logits.reshape(-1)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def main():
    options = parse_arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kerf-slicegpt.") as folder:
        for number, (model, stages, wanted) in enumerate(CASES):
            difference = check(options, Path(folder) / str(number), model, stages, wanted)
            print(f"{model}, {wanted}: logits differ by {difference:.2g}")
            if difference > 1e-4:
                sys.exit(f"{model} as {wanted}: the logits of transformers differ from kerf's by {difference:.3g}")


if __name__ == "__main__":
    try:
        import numpy
        import torch
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        print(f"skipped: {error}")
        sys.exit(77)
    main()
