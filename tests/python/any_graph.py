# SPDX-License-Identifier: Apache-2.0
"""Graphs that no family has, for check_export.py: between them they hold every op with every attribute."""
import json

import torch
from safetensors.torch import save_file

HIDDEN, VOCABULARY, POSITIONS = 24, 64, 128


class Ops(list):
    """A list of ops that names its values itself."""

    def __init__(self, block=""):
        super().__init__()
        self.block = block

    def add(self, op, inputs, out=None, **attributes):
        outputs = out or f"v{len(self)}"
        if "name" in attributes:
            attributes["name"] = f"{self.block}{attributes['name']}"
        self.append({"op": op, "in": inputs, "out": outputs, **attributes})
        return outputs

    def linear(self, x, name, rows, columns, **attributes):
        return self.add("linear", [x], name=name, shape=[rows, columns], **attributes)


def prologue():
    ops = Ops()
    words = ops.add("embedding", ["tokens"], weight="model.words.weight", shape=[VOCABULARY, HIDDEN])
    places = ops.add("embedding", ["positions"], weight="model.places.weight", shape=[POSITIONS + 2, HIDDEN], offset=2)
    scaled = ops.add("scale", [words], value=HIDDEN ** 0.5, rounded=True)
    ops.add("add", [scaled, places], "x")
    return ops


def epilogue(tied):
    ops = Ops()
    normed = ops.add("rms_norm", ["x"], name="model.norm", size=HIDDEN, eps=1e-6)
    head = {"weight": "model.words.weight"} if tied else {"bias": True}
    raw = ops.add("linear", [normed], name="lm_head", shape=[VOCABULARY, HIDDEN], role="head", **head)
    ops.add("softcap", [raw], "logits", value=3.0)
    return ops


def fused_block(name, rope, attention, heads=4, kv_heads=2, dim=8):
    """Fused and grouped q, k, v with norms over heads; a gated MLP beside the attention (one norm for both)."""
    ops, each = Ops(name + "."), heads // kv_heads
    normed = ops.add("layer_norm", ["x"], name="ln", size=HIDDEN, eps=1e-5)
    fused = ops.linear(normed, "qkv", (heads + 2 * kv_heads) * dim, HIDDEN, bias=True, role="qkv")
    q, k, v = ops.add("split", [fused], ["q", "k", "v"], sizes=[kv_heads * each * dim, kv_heads * dim, kv_heads * dim],
                      groups=kv_heads)
    q = ops.add("rms_norm", [q], name="q_norm", size=heads * dim, eps=1e-6, heads=heads)
    k = ops.add("layer_norm", [k], name="k_norm", size=kv_heads * dim, eps=1e-6, heads=kv_heads, bias=False)
    if rope:
        q = ops.add("rope", [q], heads=heads, head_dim=dim, **rope)
        k = ops.add("rope", [k], heads=kv_heads, head_dim=dim, **rope)
    mixed = ops.add("attention", [q, k, v], heads=heads, kv_heads=kv_heads, head_dim=dim, scale=dim ** -0.5, **attention)
    mixed = ops.linear(mixed, "out", HIDDEN, heads * dim, transposed=True, bias=True, role="o")
    gate = ops.add("activation", [ops.linear(normed, "gate", 20, HIDDEN)], kind="gelu_tanh")
    product = ops.add("mul", [gate, ops.linear(normed, "up", 20, HIDDEN)])
    down = ops.linear(product, "down", HIDDEN, 20)
    ops.add("add", [ops.add("add", ["x", mixed]), down], "y")
    return {"name": name, "ops": ops}


def expert_block(name, widths, kinds, normalize):
    """No attention; experts of different widths."""
    ops = Ops(name + ".")
    normed = ops.add("rms_norm", ["x"], name="norm", size=HIDDEN, eps=1e-6, offset=1.0)
    logits = ops.linear(normed, "gate", len(widths), HIDDEN, bias=True)
    routing = ops.add("route", [logits], experts=len(widths), top_k=2, normalize=normalize)
    results = []
    for number, (width, kind) in enumerate(zip(widths, kinds)):
        rows = ops.add("dispatch", [normed, routing], expert=number)
        inner = ops.add("activation", [ops.linear(rows, f"experts.{number}.fc1", width, HIDDEN, bias=True)], kind=kind)
        results.append(ops.linear(inner, f"experts.{number}.fc2", HIDDEN, width))
    ops.add("add", ["x", ops.add("scale", [ops.add("combine", [routing, *results])], value=0.5)], "y")
    return {"name": name, "ops": ops}


def document(blocks, tied):
    return {"graph": 1, "family": "any", "hidden": HIDDEN, "vocabulary": VOCABULARY, "positions": POSITIONS,
            "prologue": prologue(), "blocks": blocks, "epilogue": epilogue(tied)}


def longrope(original_positions):
    return {"rotary_dim": 8, "theta": 10000.0, "scaling": {
        "type": "longrope", "short": [1.0, 1.1, 1.2, 1.5], "long": [1.0, 2.0, 3.0, 4.0],
        "original_positions": original_positions, "attention_factor": 1.2}}


def rotations():
    interleaved = {"rotary_dim": 6, "theta": 500.0, "interleaved": True, "scaling": {"type": "linear", "factor": 2.0}}
    llama3 = {"rotary_dim": 8, "theta": 10000.0, "scaling": {
        "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_positions": 16}}
    return document([
        fused_block("model.layers.0", interleaved, {"window": 9}),
        fused_block("model.layers.1", llama3, {"softcap": 2.0}, heads=2, kv_heads=1),
        fused_block("model.layers.2", longrope(16), {"softcap": 2.0, "window": 5}, heads=3, kv_heads=3)], tied=True)


def turning_point(original_positions):
    """A model that turns otherwise from `original_positions` on."""
    return document([fused_block("model.layers.0", longrope(original_positions), {})], tied=True)


def biases():
    return document([
        fused_block("model.layers.0", None, {"alibi": True}, heads=6, kv_heads=2),
        fused_block("model.layers.1", None, {"alibi": True, "window": 11, "softcap": 3.0}, heads=4, kv_heads=1)], tied=False)


def experts():
    return document([
        expert_block("model.layers.0", [8, 12, 4], ["silu", "gelu", "relu"], True),
        fused_block("model.layers.1", None, {"window": 7}, heads=1, kv_heads=1),
        expert_block("model.layers.2", [5, 6, 7, 8], ["gelu_new", "quick_gelu", "silu", "relu"], False)], tied=False)


def pruned_block(name, rope, attention, heads, kv_heads, dim, value_dim):
    """What a cut through the residual stream and through the heads leaves: norms, rotations and heads know how many
    features, pairs and heads there were."""
    ops = Ops(name + ".")
    normed = ops.add("rms_norm", ["x"], name="norm", size=HIDDEN, eps=1e-6, divisor=HIDDEN + 8)
    q, k = (ops.linear(normed, part, count * dim, HIDDEN) for part, count in (("q", heads), ("k", kv_heads)))
    q = ops.add("layer_norm", [q], name="q_norm", size=heads * dim, eps=1e-6, heads=heads, divisor=dim + 2)
    if rope:
        q = ops.add("rope", [q], heads=heads, head_dim=dim, **rope)
        k = ops.add("rope", [k], heads=kv_heads, head_dim=dim, **rope)
    v = ops.linear(normed, "v", kv_heads * value_dim, HIDDEN)
    mixed = ops.add("attention", [q, k, v], heads=heads, kv_heads=kv_heads, head_dim=dim, value_dim=value_dim,
                    scale=(dim + 2) ** -0.5, **attention)
    ops.add("add", ["x", ops.linear(mixed, "o", HIDDEN, heads * value_dim)], "y")
    return {"name": name, "ops": ops}


def pruned():
    halves = {"rotary_dim": 6, "theta": 10000.0, "pairs": [0, 2, 3], "pairs_of": 5}
    neighbours = {"rotary_dim": 4, "theta": 10000.0, "interleaved": True, "pairs": [1, 3], "pairs_of": 4, "scaling": {
        "type": "longrope", "short": [1.0, 1.1, 1.2, 1.5], "long": [1.0, 2.0, 3.0, 4.0], "original_positions": 16,
        "attention_factor": 1.2}}
    slopes = {"alibi": True, "alibi_heads": [0, 2, 5], "alibi_of": 6}
    return document([
        pruned_block("model.layers.0", halves, {}, heads=4, kv_heads=2, dim=8, value_dim=5),
        pruned_block("model.layers.1", neighbours, {"softcap": 2.0}, heads=2, kv_heads=2, dim=6, value_dim=7),
        pruned_block("model.layers.2", None, slopes, heads=3, kv_heads=1, dim=4, value_dim=3)], tied=True)


GRAPHS = {"rotations": rotations, "biases": biases, "experts": experts, "pruned": pruned}


def tensors(graph):
    generator, out = torch.Generator().manual_seed(1), {}

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    for ops in [graph["prologue"], *(block["ops"] for block in graph["blocks"]), graph["epilogue"]]:
        for op in ops:
            if op["op"] == "embedding":
                out[op["weight"]] = random(*op["shape"])
            elif op["op"] == "linear":
                rows, columns = op["shape"]
                shape = (columns, rows) if op.get("transposed") else (rows, columns)
                out.setdefault(op.get("weight", op["name"] + ".weight"), random(*shape) * columns ** -0.5)
                if op.get("bias"):
                    out[op["name"] + ".bias"] = random(rows) * 0.1
            elif op["op"] in ("rms_norm", "layer_norm"):
                size = op["size"] // op.get("heads", 1)
                out[op["name"] + ".weight"] = 1 - op.get("offset", 0) + random(size) * 0.1
                if op["op"] == "layer_norm" and op.get("bias", True):
                    out[op["name"] + ".bias"] = random(size) * 0.1
    return out


def write(graph, folder):
    """A checkpoint with random weights; the family's config has nothing but what makes an adapter accept it."""
    if not folder.exists():
        folder.mkdir(parents=True)
        save_file(tensors(graph), folder / "model.safetensors")
        config = {"model_type": "kerf", "kerf": {"family_config": {"model_type": "llama"}, "graph": graph}}
        (folder / "config.json").write_text(json.dumps(config))
    return folder
