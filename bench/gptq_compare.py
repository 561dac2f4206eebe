#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GPTQ side by side: kerf, the IST-DASLab reference and GPTQModel, in one run on one machine.

Every contender gets the same model folder, the same token windows and the same number of threads, and writes a
checkpoint; `kerf eval` measures the perplexity of each on the same windows. Rounds are interleaved (A B C, A B C, ...)
so that a slow minute of the machine falls on all alike; the tables give medians. Python's standard library is all this
script needs; the contenders that are Python programs run in the environment whose interpreter --python names.

  bench/gptq_compare.py --kerf build/bin/kerf --model SmolLM2-135M --tokens tokens.safetensors \\
      --reference gptq --python venv/bin/python --rounds 3 --json gptq.json

Wall time is from the start of the process to its end, checkpoint on disk; "quantised" ends when the last linear is done,
in memory, which is where the reference's own scripts stop; "first layer" when block 0 is. Peak memory is the kernel's
VmHWM of the process. Contenders that build extensions at their first use get one uncounted run first (--no-warm-up skips it).
"""
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from side_by_side import (CONTENDERS, cell, comparison_arguments, emptied, machine, median, perplexity, read_through, run_measured,
                          safetensors_header)

DEFAULT = ["kerf-float32", "kerf-bfloat16", "kerf-as-reference", "reference-float32", "reference-bfloat16", "reference-best", "gptqmodel"]


@dataclass
class Contender:
    title: str
    command: list  # argv; {output} is where the checkpoint goes
    packed: bool = False  # the checkpoint is GPTQ-packed: unpacked before it is evaluated
    warm_up: bool = False
    block_linears: int = 0  # > 0: progress is read from kerf's metrics.jsonl, one line per linear


@dataclass
class Outcome:
    wall: float = 0.0  # seconds from the start of the process
    quantised: float | None = None
    first_layer: float | None = None
    peak_bytes: int = 0
    perplexity: float | None = None
    bits_per_weight: float | None = None


@dataclass
class Record:
    contender: Contender
    outcomes: list = field(default_factory=list)

    def median(self, name):
        return median(self.outcomes, name)


def parse_arguments():
    parser = comparison_arguments(__doc__, 128, "torch, transformers, gptqmodel")
    parser.add_argument("--reference", type=Path, help="checkout of IST-DASLab/gptq")
    parser.add_argument("--contenders", default=",".join(DEFAULT), help="comma-separated; default: %(default)s")
    parser.add_argument("--kerf-option", action="append", default=[], metavar="KEY=VALUE",
                        help="further option of kerf's gptq stage, as TOML; may be repeated")
    parser.add_argument("--no-warm-up", action="store_true")
    return parser.parse_args()


# --- What is measured on -------------------------------------------------------------------------------------------

def linear_shapes(model):
    """[(out, in)] of the linears inside the blocks, and how many there are in block 0."""
    shapes, in_first = [], 0
    for file in sorted(model.glob("*.safetensors")):
        for name, entry in safetensors_header(file).items():
            if ".layers." in name and name.endswith(".weight") and len(entry["shape"]) == 2:
                shapes.append(entry["shape"])
                in_first += ".layers.0." in name
    if not shapes:
        raise SystemExit(f"{model}: no *.safetensors with linears named model.layers.N. in it")
    return shapes, in_first


def nominal_bits(shapes, bits, group):
    """Code, 16-bit scale and a zero of as many bits as the code: what GPTQ's grouped layout takes, without its g_idx."""
    weights = sum(out * width for out, width in shapes)
    grids = sum(out * -(-width // group) if group > 0 else out for out, width in shapes)
    return bits + grids * (16 + bits) / weights


# --- The contenders --------------------------------------------------------------------------------------------------

def write_recipe(options, compute, samples, length, file, *settings):
    stage = [f"bits = {options.bits}", f"group_size = {options.group_size}"]
    stage += [*settings, *options.kerf_option]
    file.write_text("\n".join([
        "[model]", f"path = {json.dumps(str(options.model.resolve()))}", f'compute_dtype = "{compute}"', "",
        "[calibration]", 'source = "tokens"', f"path = {json.dumps(str(options.tokens.resolve()))}",
        f'tensor = "{options.calibration_tensor}"', f"samples = {samples}", f"length = {length}", "",
        "[[stage]]", 'method = "gptq"', *stage, "",
        "[evaluation]", "before = false", "",
        "[output]", f"path = {json.dumps(str(file.with_suffix('.out')))}", 'format = "hf"', 'dtype = "float32"', ""]))


def make_contenders(options, work, block_linears):
    windows, length = safetensors_header(options.tokens)[options.calibration_tensor]["shape"]
    shared = ["--model", str(options.model), "--tokens", str(options.tokens), "--tensor", options.calibration_tensor,
              "--output", "{output}", "--threads", str(options.threads),
              "--bits", str(options.bits), "--group-size", str(options.group_size)]
    reference = [options.python, str(CONTENDERS / "reference.py"), "--reference", str(options.reference), *shared]

    def kerf(name, title, compute, *settings):
        recipe = work / f"{name}.toml"
        write_recipe(options, compute, windows, length, recipe, *settings)
        return Contender(title, [options.kerf, "run", str(recipe), "--output", "{output}", "--threads", str(options.threads),
                                 "--json"], block_linears=block_linears)

    known = {"kerf-as-reference": kerf("kerf-as-reference", "kerf, float32, the reference's settings", "float32",
                                       'sequential = "block"', "compatibility = true")}
    for compute in ("float32", "bfloat16"):
        known[f"kerf-{compute}"] = kerf(f"kerf-{compute}", f"kerf, {compute}", compute)
        known[f"reference-{compute}"] = Contender(f"reference, {compute}", [*reference, "--dtype", compute])
    known["reference-best"] = Contender("reference, float32, true-sequential, act-order, static groups",
                                        [*reference, "--true-sequential", "--act-order", "--static-groups"])
    known["gptqmodel"] = Contender("GPTQModel, its defaults", [options.python, str(CONTENDERS / "gptqmodel_cpu.py"), *shared],
                                   packed=True, warm_up=True)

    chosen = {}
    for name in filter(None, options.contenders.split(",")):
        if name not in known:
            raise SystemExit(f"unknown contender {name!r}; known: {', '.join(known)}")
        if name.startswith("reference") and not options.reference:
            print(f"{name} left out: no --reference", file=sys.stderr)
            continue
        chosen[name] = known[name]
    return chosen


# --- One run ---------------------------------------------------------------------------------------------------------

class MetricsWatcher(threading.Thread):
    """Notes when kerf's metrics.jsonl under `folder` first speaks of `linears` linears: block 0 is done then."""

    def __init__(self, folder, linears, start):
        super().__init__(daemon=True)
        self.folder, self.linears, self.start_time = folder, linears, start
        self.seconds, self.finished = None, threading.Event()

    def run(self):
        while self.seconds is None and not self.finished.wait(0.01):
            for file in self.folder.rglob("metrics.jsonl"):
                try:
                    if file.read_bytes().count(b'"event":"linear"') >= self.linears:
                        self.seconds = time.monotonic() - self.start_time
                except FileNotFoundError:
                    pass  # renamed between the listing and the reading


def run_contender(contender, options, folder):
    """Runs one contender in `folder`; its checkpoint is folder/checkpoint, what it printed folder/log."""
    emptied(folder)
    outcome = Outcome()

    def on_line(line, seconds):
        if line.startswith(b"@bench first-layer"):
            outcome.first_layer = seconds
        elif line.startswith(b"@bench quantised"):
            outcome.quantised = seconds

    watcher = MetricsWatcher(folder, contender.block_linears, time.monotonic()) if contender.block_linears else None
    if watcher:
        watcher.start()
    outcome.wall, outcome.peak_bytes = run_measured(contender.title, contender.command, options.threads, folder, on_line)
    if watcher:
        watcher.finished.set()
        watcher.join()
        outcome.first_layer = watcher.seconds
    return outcome


def evaluate(options, checkpoint):
    return perplexity(options.kerf, checkpoint, options.tokens, options.evaluation_tensor, options.threads)


def judge(contender, options, folder, outcome, nominal):
    """Fills in what the checkpoint itself tells: perplexity and bits per weight."""
    checkpoint, outcome.bits_per_weight = folder / "checkpoint", nominal
    if contender.packed:
        plain = folder / "plain"
        unpack = [options.python, str(CONTENDERS / "unpack_gptq.py"), str(checkpoint), str(plain)]
        answer = subprocess.run(unpack, stdout=subprocess.PIPE, check=True).stdout
        outcome.bits_per_weight, checkpoint = json.loads(answer)["bits_per_weight"], plain
    outcome.perplexity = evaluate(options, checkpoint)


GEMM_PEAK = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
a, b = torch.randn(2, 2048, 2048)
out, best = torch.empty(2048, 2048), float("inf")
for _ in range(20):
    start = time.perf_counter()
    torch.mm(a, b, out=out)
    best = min(best, time.perf_counter() - start)
print(2 * 2048 ** 3 / best)
"""


def roofline(options, work):
    """(operations of kerf's float32 run as it plans them, the most float32 operations a second that a matrix product does)."""
    recipe = work / "kerf-float32.toml"
    if not recipe.exists():
        return None
    run = lambda command: subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    plan = json.loads(run([options.kerf, "plan", str(recipe), "--threads", str(options.threads), "--json"]))
    rate = float(run([options.python, "-c", GEMM_PEAK, str(options.threads)]))
    return sum(stage["flops"] for stage in plan["stages"]), rate


# --- The tables ------------------------------------------------------------------------------------------------------

def table(records, dense):
    best = min((r.median("wall") for n, r in records.items() if n.startswith("kerf")), default=None)
    rows = ["| | wall s | × fastest kerf | quantised s | first layer s | peak GB | perplexity | bits/weight |",
            "|---|---|---|---|---|---|---|---|",
            f"| dense | | | | | | {dense:.4f} | |"]
    for record in records.values():
        wall = record.median("wall")
        rows.append(" | ".join([
            f"| {record.contender.title}", cell(wall, ".1f"), cell(wall / best if best else None, ".1f"),
            cell(record.median("quantised"), ".1f"), cell(record.median("first_layer"), ".2f"),
            cell(record.median("peak_bytes"), ".2f", 1e-9), cell(record.median("perplexity"), ".4f"),
            cell(record.median("bits_per_weight"), ".3f")]) + " |")
    return "\n".join(rows)


def measure(options, work):
    shapes, block_linears = linear_shapes(options.model)
    nominal = nominal_bits(shapes, options.bits, options.group_size)
    contenders = make_contenders(options, work, block_linears)
    records = {name: Record(contender) for name, contender in contenders.items()}

    for file in options.model.glob("*.safetensors"):
        read_through(file)
    for name, contender in contenders.items():
        if contender.warm_up and not options.no_warm_up:
            print(f"warm-up: {name}", file=sys.stderr)
            run_contender(contender, options, work / name)
    dense = evaluate(options, options.model)
    for number in range(options.rounds):
        for name, contender in contenders.items():
            outcome = run_contender(contender, options, work / name)
            judge(contender, options, work / name, outcome, nominal)
            records[name].outcomes.append(outcome)
            print(f"round {number + 1}: {name}: {outcome.wall:.1f} s, {outcome.peak_bytes / 1e9:.2f} GB, "
                  f"perplexity {outcome.perplexity:.4f}", file=sys.stderr)
    return dense, records, roofline(options, work)


def main():
    options = parse_arguments()
    described = machine()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        dense, records, limit = measure(options, work)
    windows, length = safetensors_header(options.tokens)[options.calibration_tensor]["shape"]
    print(f"{options.model.name}, {options.bits} bits, groups of {options.group_size}, {windows} x {length} tokens, "
          f"{options.threads} threads, median of {options.rounds}; {described['cpu']}, {described['cores']} cores.\n")
    print(table(records, dense))
    if limit and "kerf-float32" in records:
        flops, rate = limit
        wall = records["kerf-float32"].median("wall")
        print(f"\nRoofline of kerf, float32: {flops / 1e12:.2f} TFLOP at {rate / 1e9:.0f} GFLOP/s (the best of 20 matrix products of "
              f"2048 x 2048) are {flops / rate:.1f} s; the run took {wall * rate / flops:.2f} times as long.")
    if options.json:
        options.json.write_text(json.dumps({
            "machine": described, "dense_perplexity": dense, "roofline": limit,
            "settings": {key: str(value) for key, value in vars(options).items()},
            "contenders": {name: {"title": r.contender.title, "command": r.contender.command,
                                  "rounds": [vars(o) for o in r.outcomes]} for name, r in records.items()}}, indent=2))


if __name__ == "__main__":
    main()
