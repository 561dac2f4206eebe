# SPDX-License-Identifier: Apache-2.0
"""What the side-by-side scripts share: running a contender under measurement, evaluating its checkpoint, machine and tables."""
import argparse
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

CONTENDERS = Path(__file__).resolve().parent / "contenders"


def comparison_arguments(description, group_size, python):
    """The parser of a script with the arguments that all of them take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerf", default="build/bin/kerf", help="the kerf command; it also evaluates checkpoints")
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--tokens", required=True, type=Path, help="safetensors file with int64 [windows, length] tensors")
    parser.add_argument("--calibration-tensor", default="calib")
    parser.add_argument("--evaluation-tensor", default="eval")
    parser.add_argument("--python", default=sys.executable, help=f"interpreter with {python}")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=group_size)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for checkpoints and logs, kept; default: a temporary one")
    parser.add_argument("--json", type=Path, help="where all figures go")
    return parser


def safetensors_header(file):
    with open(file, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        return json.loads(stream.read(size))


def read_through(file):
    """Into the page cache, for the first contender as for the last. In pieces: a child's peak memory, as the kernel counts
    it, starts at what its parent ever had before the exec."""
    with open(file, "rb") as stream:
        while stream.read(1 << 20):
            pass


def first_line(path, key):
    for line in Path(path).read_text().splitlines():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return "unknown"


def machine():
    return {"cpu": first_line("/proc/cpuinfo", "model name"), "cores": os.cpu_count(),
            "memory": first_line("/proc/meminfo", "MemTotal"), "system": platform.platform(),
            "load_at_start": os.getloadavg()[0]}


def emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def run_measured(title, command, threads, folder, on_line=lambda line, seconds: None):
    """Runs `command` for an emptied() `folder`: {output} stands for folder/checkpoint, what it prints goes to folder/log.
    `on_line` gets each line of its stdout and the seconds since its start. Returns (wall seconds, peak bytes)."""
    command = [part.replace("{output}", str(folder / "checkpoint")) for part in command]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    start = time.monotonic()
    with open(folder / "log", "wb") as log, subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=environment) as process:
        for line in process.stdout:
            log.write(line)
            on_line(line, time.monotonic() - start)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = (folder / "log").read_bytes()[-2000:].decode(errors="replace")
        raise SystemExit(f"{title}: exit code {process.returncode}. The end of {folder / 'log'}:\n{tail}")
    return wall, usage.ru_maxrss * 1024


def perplexity(kerf, checkpoint, tokens, tensor, threads):
    command = [kerf, "eval", str(checkpoint), "--perplexity", f"windows={tokens}", "--source", "tokens",
               "--tensor", tensor, "--threads", str(threads), "--json"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return json.loads(answer)["perplexity"]["windows"]["value"]


def median(outcomes, name):
    values = [getattr(o, name) for o in outcomes if getattr(o, name) is not None]
    return statistics.median(values) if values else None


def cell(value, pattern, scale=1.0):
    return "–" if value is None else format(value * scale, pattern)
