#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pruning, alone and followed by GPTQ, side by side: kerf and the references of SliceGPT and LLM-Pruner, on one machine.

Every contender gets the same model folder (a Llama with one model.safetensors), the same token windows and the same number of
threads. Rounds are interleaved; the table gives medians. Python's standard library is all this script needs; the references
run in the environment whose interpreter --python names (docs/hacking.md). Of SlimGPT's authors no code is public.

  bench/prune_compare.py --kerf build/bin/kerf --model SmolLM2-135M --tokens tokens.safetensors --slicegpt TransformerCompression \\
      --llm-pruner LLM-Pruner --gptq gptq --python venv/bin/python

Wall is from the start of the process until the result is finished: with kerf on disk, with a reference in memory. Peak memory is
the kernel's VmHWM until then. Bytes count 16 bits for a weight, and for one that GPTQ rounded its code and its share of a 16-bit
scale and a zero; both sides alike, whatever the files hold.
"""
import json
import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from side_by_side import (CONTENDERS, cell, comparison_arguments, emptied, machine, median, perplexity, read_through, run_measured,
                          safetensors_header)

STAGES = {
    "slimgpt": ['method = "slimgpt"', "sparsity = 0.2"],
    "slicegpt": ['method = "slicegpt"', "sparsity = 0.25"],
    "slicegpt-as-reference": ['method = "slicegpt"', "sparsity = 0.25", "compatibility = true"],
    "slicegpt-refit": ['method = "slicegpt"', "sparsity = 0.25", "refit = true"],
    # Without shortcuts, the size of the two above is reached at a sparsity of 0.135 (of this model).
    "slicegpt-shared-refit": ['method = "slicegpt"', "sparsity = 0.135", 'basis = "shared"', "refit = true"],
    "llm-pruner": ['method = "llm_pruner"', "pruning_ratio = 0.25", 'pruner_type = "taylor"', 'taylor = "param_first"',
                   "block_attention_layer_start = {first}", "block_attention_layer_end = {last}",
                   "block_mlp_layer_start = {first}", "block_mlp_layer_end = {last}"],
}
STAGES["llm-pruner-refit"] = [*STAGES["llm-pruner"], "refit = true"]
# Stages that a gptq on the same pass ("shared" Gram matrices) can follow.
SHARED = {"slimgpt", "llm-pruner-refit"}
REFERENCES = {"slicegpt": "slicegpt", "llm-pruner": "llm_pruner"}


@dataclass
class Outcome:
    wall: float | None = None  # seconds from the start of the process
    peak_bytes: int | None = None
    perplexity: float | None = None
    bytes: int | None = None


@dataclass
class Contender:
    title: str
    command: list  # argv; {output} is where the result goes
    rounded: bool
    outcomes: list = field(default_factory=list)

    @property
    def is_kerf(self):
        return self.title.startswith("kerf")


def parse_arguments():
    parser = comparison_arguments(__doc__, 64, "torch and transformers 4.43")
    parser.add_argument("--slicegpt", type=Path, help="checkout of microsoft/TransformerCompression")
    parser.add_argument("--llm-pruner", type=Path, help="checkout of horseee/LLM-Pruner")
    parser.add_argument("--gptq", type=Path, help="checkout of IST-DASLab/gptq")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated; default: %(default)s")
    parser.add_argument("--compute", default="float32", help="kerf's compute_dtype, one or several with commas; default: %(default)s")
    return parser.parse_args()


def pruned_layers(options):
    """What LLM-Pruner leaves alone by default, carried over to this depth: the first three layers and the last."""
    return 3, json.loads((options.model / "config.json").read_text())["num_hidden_layers"] - 1


def write_recipe(options, name, quantiser, compute, file):
    windows, length = safetensors_header(options.tokens)[options.calibration_tensor]["shape"]
    first, last = pruned_layers(options)
    lines = ["[model]", f"path = {json.dumps(str(options.model.resolve()))}", f'compute_dtype = "{compute}"', "",
             "[calibration]", 'source = "tokens"', f"path = {json.dumps(str(options.tokens.resolve()))}",
             f'tensor = "{options.calibration_tensor}"', f"samples = {windows}", f"length = {length}", "",
             "[[stage]]", *(line.format(first=first, last=last) for line in STAGES[name]), ""]
    if quantiser:
        lines += ["[[stage]]", 'method = "gptq"', f"bits = {options.bits}", f"group_size = {options.group_size}",
                  *(['sequential = "shared"'] if quantiser == "gptq-shared" else []), ""]
    lines += ["[evaluation]", "before = false", "", "[output]", f"path = {json.dumps(str(file.with_suffix('.out')))}",
              'format = "hf"', 'dtype = "float32"', ""]
    file.write_text("\n".join(lines))


def make_contenders(options, work):
    made = {}
    for name in filter(None, options.stages.split(",")):
        if name not in STAGES:
            raise SystemExit(f"unknown stage {name!r}; known: {', '.join(STAGES)}")
        for quantiser in ("", "gptq", "gptq-shared"):
            if quantiser == "gptq-shared" and name not in SHARED:
                continue
            rounded = quantiser != ""
            key = "-".join(filter(None, (name, quantiser)))
            for compute in options.compute.split(","):
                recipe = work / f"{key}-{compute}.toml"
                write_recipe(options, name, quantiser, compute, recipe)
                title = ", ".join(filter(None, ("kerf", name, quantiser.replace("-", " "), compute if compute != "float32" else "")))
                made[f"kerf-{key}-{compute}"] = Contender(
                    title, [options.kerf, "run", str(recipe), "--output", "{output}", "--threads", str(options.threads), "--json"],
                    rounded)
            if quantiser == "gptq-shared":
                continue
            checkout = getattr(options, REFERENCES[name]) if name in REFERENCES else None
            if checkout is None or (rounded and options.gptq is None):
                continue
            first, last = pruned_layers(options)
            command = [options.python, str(CONTENDERS / "pruned_reference.py"), "--method", name, "--reference", str(checkout),
                       "--model", str(options.model), "--tokens", str(options.tokens), "--tensor", options.calibration_tensor,
                       "--evaluation-tensor", options.evaluation_tensor, "--output", "{output}", "--threads", str(options.threads),
                       "--first-layer", str(first), "--last-layer", str(last), "--bits", str(options.bits),
                       "--group-size", str(options.group_size)]
            made[f"reference-{key}"] = Contender(f"reference, {name}" + (", gptq" if rounded else ""),
                                                 command + (["--gptq", str(options.gptq)] if rounded else []), rounded)
    return made


def counted_bytes(folder, rounded, options):
    """Of a checkpoint, at 16 bits a weight and, where GPTQ rounded, bits + scale and zero of each group."""
    bits = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, entry in safetensors_header(file).items():
            if name == "__metadata__":
                continue
            shape = entry["shape"]
            if rounded and ".layers." in name and len(shape) == 2 and "shortcut" not in name:
                out, width = shape
                bits += options.bits * out * width + (16 + options.bits) * out * math.ceil(width / options.group_size)
            else:
                bits += 16 * math.prod(shape)
    return bits // 8


def run_contender(contender, options, folder):
    outcome = Outcome()

    def on_line(line, seconds):
        words = line.split()
        if words[:2] == [b"@bench", b"done"]:
            outcome.wall, outcome.peak_bytes = seconds, int(words[2])
        elif words[:2] == [b"@bench", b"perplexity"]:
            outcome.perplexity = float(words[2])

    wall, peak = run_measured(contender.title, contender.command, options.threads, emptied(folder), on_line)
    if contender.is_kerf:
        outcome.wall, outcome.peak_bytes = wall, peak
        outcome.perplexity = perplexity(options.kerf, folder / "checkpoint", options.tokens, options.evaluation_tensor,
                                        options.threads)
    outcome.bytes = counted_bytes(folder / "checkpoint", contender.rounded, options)
    return outcome


def table(contenders, dense):
    rows = ["| | wall s | peak GB | perplexity | MB |", "|---|---|---|---|---|",
            f"| dense | | | {dense.perplexity:.3f} | {dense.bytes / 1e6:.1f} |"]
    for contender in contenders.values():
        figures = [cell(median(contender.outcomes, name), pattern, scale) for name, pattern, scale in
                   (("wall", ".1f", 1), ("peak_bytes", ".2f", 1e-9), ("perplexity", ".3f", 1), ("bytes", ".1f", 1e-6))]
        rows.append(f"| {contender.title} | " + " | ".join(figures) + " |")
    return "\n".join(rows)


def measure(options, work):
    contenders = make_contenders(options, work)
    for file in options.model.glob("*.safetensors"):
        read_through(file)
    dense = Outcome(perplexity=perplexity(options.kerf, options.model, options.tokens, options.evaluation_tensor, options.threads),
                    bytes=counted_bytes(options.model, False, options))
    for number in range(options.rounds):
        for name, contender in contenders.items():
            outcome = run_contender(contender, options, work / name)
            contender.outcomes.append(outcome)
            print(f"round {number + 1}: {name}: {outcome.wall:.1f} s, {outcome.peak_bytes / 1e9:.2f} GB, "
                  f"perplexity {outcome.perplexity:.3f}, {outcome.bytes / 1e6:.1f} MB", file=sys.stderr)
    return dense, contenders


def main():
    options = parse_arguments()
    described = machine()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        dense, contenders = measure(options, work)
    windows, length = safetensors_header(options.tokens)[options.calibration_tensor]["shape"]
    print(f"{options.model.name}, {windows} x {length} tokens, GPTQ with {options.bits} bits in groups of {options.group_size}, "
          f"{options.threads} threads, median of {options.rounds}; {described['cpu']}, {described['cores']} cores.\n")
    print(table(contenders, dense))
    if options.json:
        options.json.write_text(json.dumps({
            "machine": described, "dense": vars(dense), "settings": {key: str(value) for key, value in vars(options).items()},
            "contenders": {name: {"title": c.title, "command": c.command, "rounds": [vars(o) for o in c.outcomes]}
                           for name, c in contenders.items()}}, indent=2))


if __name__ == "__main__":
    main()
