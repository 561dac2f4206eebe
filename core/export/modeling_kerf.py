# SPDX-License-Identifier: Apache-2.0
"""A language model of any shape, for transformers.

kerf edits models until their own class in transformers cannot express them: an MLP of another width in every block,
pruned heads, removed experts, rotations between blocks. What such a model computes is data, the graph document in
config.json ("kerf" → "graph"), and this module runs that document:

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

The graph has three parts. The prologue makes `x` of `tokens` and `positions`, every block makes `y`, the next block's
`x`, and the epilogue makes `logits`. Each part is a list of ops in the order in which they run; an op reads and makes
named values, tensors [batch, length, features]. Parameters have the names of the checkpoint's tensors, linears are
`nn.Linear` and lie where the family's own class has them, so that PEFT and quantisers find what they look for.

It needs torch and transformers (4.57 or newer); kerf need not be installed.
"""
import itertools
import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.pytorch_utils import Conv1D

try:
    from transformers import PreTrainedConfig
except ImportError:  # transformers 4
    from transformers import PretrainedConfig as PreTrainedConfig

# What transformers calls the key-value cache in a model's output; 5.24 renamed it.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class KerfConfig(PreTrainedConfig):
    """`kerf` holds "graph", the graph document, and "family_config", the config.json of the model that was edited."""

    model_type = "kerf"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    def __init__(self, kerf=None, **kwargs):
        super().__init__(**kwargs)
        self.kerf = kerf or {}
        if not self.graph:
            return
        attention = [op for ops in all_parts(self.graph) for op in ops if op["op"] == "attention"]
        self.vocab_size = self.graph["vocabulary"]
        self.hidden_size = self.graph["hidden"]
        self.num_hidden_layers = len(attention)  # what a cache has layers for
        if attention:  # of the first block: others may have fewer
            self.num_attention_heads = attention[0]["heads"]
            self.num_key_value_heads = attention[0]["kv_heads"]
            self.head_dim = attention[0]["head_dim"]
        if self.graph.get("positions", 0) > 0:
            self.max_position_embeddings = self.graph["positions"]

    @property
    def graph(self):
        return self.kerf.get("graph", {})


def all_parts(graph):
    return [graph["prologue"], *(block["ops"] for block in graph["blocks"]), graph["epilogue"]]


def listed(names):
    return [names] if isinstance(names, str) else list(names)


# ---- Modules with parameters ----------------------------------------------------------------------------------------


class TransposedLinear(Conv1D):
    """A linear whose weight lies as [in, out]; GPT-2 stores them so."""

    def __init__(self, columns, rows, bias=True):
        super().__init__(rows, columns)
        if not bias:
            self.bias = None

    def forward(self, x):
        return F.linear(x, self.weight.t(), self.bias)


class KerfRMSNorm(nn.Module):
    """x / rms(x) · (w + offset). The statistics are float32; where x is rounded to its own dtype again is each family's
    own affair: before the weight (Llama), or, with an offset, after it (Gemma). A norm whose features were pruned goes
    on dividing by the number that there were, `divisor`."""

    def __init__(self, features, eps, affine, offset, divisor):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.eps, self.offset, self.divisor = eps, offset, divisor or features

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) / self.divisor + self.eps)
        if self.weight is None:
            return wide.to(x.dtype)
        if self.offset:
            return (wide * (self.weight.float() + self.offset)).to(x.dtype)
        return self.weight * wide.to(x.dtype)


class KerfLayerNorm(nn.Module):
    """(x − mean) / sqrt(var + eps) · w + b; `divisor` as in KerfRMSNorm: features that are gone count as zeros."""

    def __init__(self, features, eps, affine, bias, divisor):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine and bias else None
        self.features, self.eps, self.divisor = features, eps, divisor or features

    def forward(self, x):
        gone = self.divisor - self.features
        if not gone:
            return F.layer_norm(x, (self.features,), self.weight, self.bias, self.eps)
        out = F.layer_norm(F.pad(x.float(), (0, gone)), (self.divisor,), eps=self.eps)[..., : self.features]
        out = out if self.weight is None else out * self.weight
        return (out if self.bias is None else out + self.bias).to(x.dtype)


class KerfBlock(nn.Module):
    """Makes `y` of `x`. The parameters of its ops are registered below it."""

    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, x, state):
        return self.program.run({"x": x}, "y", state)


WITH_PARAMETERS = ("embedding", "linear", "rms_norm", "layer_norm")


def module_of(op):
    """The module that holds an op's parameters."""
    kind = op["op"]
    if kind == "embedding":
        return nn.Embedding(*op["shape"])
    if kind == "linear":
        rows, columns = op["shape"]
        bias = op.get("bias", False)
        return (TransposedLinear if op.get("transposed", False) else nn.Linear)(columns, rows, bias=bias)
    features, divisor = op["size"] // op.get("heads", 1), op.get("divisor", 0)
    if kind == "rms_norm":
        return KerfRMSNorm(features, op["eps"], op.get("affine", True), op.get("offset", 0), divisor)
    return KerfLayerNorm(features, op["eps"], op.get("affine", True), op.get("bias", True), divisor)


def module_name(op):
    if op["op"] != "embedding":
        return op["name"]
    name, dot, last = op["weight"].rpartition(".")
    if not dot or last != "weight":
        raise ValueError(f"the table {op['weight']} of an embedding should be named like a module's weight")
    return name


def tensors_of(op):
    """{parameter of the op's module: name in the checkpoint} for what need not be called after the module."""
    if op["op"] != "linear":
        return {}
    tensors = {"weight": op.get("weight") or op["name"] + ".weight"}
    if op.get("bias", False):
        tensors["bias"] = op.get("bias_name") or op["name"] + ".bias"
    return tensors


# ---- Ops ------------------------------------------------------------------------------------------------------------


def embedding(op, state, module, ids):
    if op["in"] in ("tokens", ["tokens"]) and state.inputs_embeds is not None:
        return state.inputs_embeds
    return module(ids + op.get("offset", 0))


def norm(op, state, module, x):
    heads = op.get("heads", 1)
    return module(x) if heads == 1 else module(x.unflatten(-1, (heads, -1))).flatten(-2)


ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def scale(op, state, module, x):
    # "rounded": the factor is a number of x's dtype.
    return x * (torch.tensor(op["value"], dtype=x.dtype, device=x.device) if op.get("rounded", False) else op["value"])


def split(op, state, module, x):
    groups = op.get("groups", 1)
    runs = x.unflatten(-1, (groups, -1)).split([size // groups for size in op["sizes"]], dim=-1)
    return [run.flatten(-2) for run in runs]


def inverse_frequencies(op, length):
    """float32 [rotary_dim / 2] on the CPU, for a sequence of `length`; in float32 throughout, as models are trained.
    Where pairs were pruned, "pairs" says which of the `pairs_of` that there were are left."""
    pairs = op.get("pairs") or list(range(op["rotary_dim"] // 2))
    of = op.get("pairs_of", 0) or len(pairs)
    period = op["theta"] ** (torch.tensor(pairs, dtype=torch.float32, device="cpu") * 2 / (2 * of))
    scaling = op.get("scaling") or {}
    kind = scaling.get("type")
    if kind is None:
        return 1.0 / period
    if kind == "linear":
        return 1.0 / period / scaling["factor"]
    if kind == "longrope":
        factors = scaling["long"] if length > scaling["original_positions"] else scaling["short"]
        factors = [factors[pair] for pair in pairs]
        return 1.0 / (torch.tensor(factors, dtype=torch.float32, device="cpu") * period)
    if kind == "llama3":
        # Long waves are slowed down by the factor, short ones kept, those between interpolated.
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        frequency = 1.0 / period
        turns = scaling["original_positions"] * frequency / (2 * math.pi)
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - blend) * frequency / scaling["factor"] + blend * frequency
    raise ValueError(f"rotary embedding with the unknown scaling {kind!r}")


def rope(op, state, module, x):
    """Turns the pairs (x_i, x_{i + rotary_dim / 2}) of every head, or with "interleaved" (x_2i, x_{2i + 1})."""
    heads = x.unflatten(-1, (op["heads"], op["head_dim"]))
    turned, kept = heads.split([op["rotary_dim"], op["head_dim"] - op["rotary_dim"]], dim=-1)
    cos, sin = (part.to(x.dtype).unsqueeze(-2) for part in state.rotation(op, x.device))  # [batch, length, 1, pairs]
    pairs, axis = ((-1, 2), -1) if op.get("interleaved", False) else ((2, -1), -2)
    a, b = turned.unflatten(-1, pairs).unbind(axis)
    turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=axis).flatten(-2)
    return torch.cat((turned, kept), dim=-1).flatten(-2)


def alibi_slopes(op):
    """Press et al. 2022: 2^(−8i/n) for n = 2^k heads; for other n those of the power of two below and every second one
    of the power above. Where heads were pruned, "alibi_heads" says which of the `alibi_of` that there were are left."""
    heads = op.get("alibi_of", 0) or op["heads"]
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor([slopes[head] for head in op.get("alibi_heads") or range(heads)])


def attention(op, state, module, q, k, v):
    def heads_first(x, heads):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [batch, heads, length, features of a head]

    q, k, v = heads_first(q, op["heads"]), heads_first(k, op["kv_heads"]), heads_first(v, op["kv_heads"])
    if state.cache is not None:
        k, v = state.cache.update(k, v, op["layer"], {"cache_position": state.queries(q.device)})
    repeats = op["heads"] // op["kv_heads"]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    if op.get("softcap", 0) or state.eager:
        out = attention_by_hand(op, state, q, k, v)
    else:
        mask, causal = state.mask(op, q, k.shape[-2])
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=op["scale"])
    return out.transpose(1, 2).flatten(-2)


def attention_by_hand(op, state, q, k, v):
    """With soft-capped scores, which no fused kernel has; and for attn_implementation = "eager"."""
    scores = q @ k.transpose(-2, -1) * op["scale"]
    if op.get("alibi", False):
        scores = scores + state.alibi(op, k.shape[-2], q.dtype, q.device)
    if cap := op.get("softcap", 0):
        scores = cap * torch.tanh(scores / cap)
    scores = scores + state.bias(op, k.shape[-2], q.dtype, q.device)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def route(op, state, module, logits):
    """The softmax over all experts, zero but for the top_k largest; they sum to one again where that is asked for."""
    shares, experts = torch.softmax(logits, dim=-1, dtype=torch.float32).topk(op["top_k"], dim=-1)
    if op.get("normalize", False):
        shares = shares / shares.sum(dim=-1, keepdim=True)
    return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, experts, shares)


def combine(op, state, module, routing, *results):
    routing = routing.flatten(0, -2)  # [tokens, experts]
    out = results[0].new_zeros(routing.shape[0], results[0].shape[-1])
    for expert, result in enumerate(results):
        tokens = routing[:, expert].nonzero(as_tuple=True)[0]
        weighted = result * routing[tokens, expert].unsqueeze(-1)
        out = out.index_add(0, tokens, weighted.to(out.dtype))
    return out.unflatten(0, state.shape)


OPS = {
    "embedding": embedding,
    "linear": lambda op, state, module, x: module(x),
    "rms_norm": norm,
    "layer_norm": norm,
    "rope": rope,
    "attention": attention,
    "activation": lambda op, state, module, x: ACTIVATIONS[op["kind"]](x),
    "mul": lambda op, state, module, a, b: a * b,
    "add": lambda op, state, module, a, b: a + b,
    "scale": scale,
    "softcap": lambda op, state, module, x: op["value"] * torch.tanh(x / op["value"]),
    "split": split,
    "route": route,
    # [rows, features]: the tokens that go to one expert
    "dispatch": lambda op, state, module, x, routing: x[routing[..., op["expert"]] != 0],
    "combine": combine,
}


# ---- Running --------------------------------------------------------------------------------------------------------


class Program:
    """A list of ops; `layers` counts the attention ops of all parts, each of which has a layer of the cache."""

    def __init__(self, ops, layers):
        self.steps = []
        last_reads = {name: number for number, op in enumerate(ops) for name in listed(op["in"])}
        for number, op in enumerate(ops):
            if op["op"] not in OPS:
                raise ValueError(f"the op {op['op']!r} is unknown here: a newer kerf wrote the graph")
            if op["op"] == "attention":
                op = {**op, "layer": next(layers)}
            path = module_name(op).split(".") if op["op"] in WITH_PARAMETERS else None
            dead = [name for name in listed(op["in"]) if last_reads[name] == number]
            self.steps.append((OPS[op["op"]], op, path, listed(op["in"]), listed(op["out"]), dead))

    def run(self, values, result, state):
        for function, op, path, inputs, outputs, dead in self.steps:
            # Looked up in every run: PEFT and quantisers put modules of their own in the place of ours.
            module = reduce(getattr, path, state.model) if path else None
            made = function(op, state, module, *(values[name] for name in inputs))
            for name in dead:
                values.pop(name, None)
            values.update(zip(outputs, made if isinstance(made, list) else [made]))
        return values[result]


class State:
    """What one forward pass shares among its ops."""

    def __init__(self, model, shape, positions, attention_mask, cache, inputs_embeds):
        self.model, self.shape, self.cache, self.inputs_embeds = model, shape, cache, inputs_embeds
        self.eager = getattr(model.config, "_attn_implementation", None) == "eager"
        self.past = int(cache.get_seq_length()) if cache is not None else 0
        self.memo = {}
        self.padding = self.given_mask = None
        if attention_mask is not None and attention_mask.dim() == 4:
            self.given_mask = attention_mask
        elif attention_mask is not None and not bool(attention_mask.all()):
            self.padding = attention_mask.bool()  # [batch, past + length], False for padding
        if positions is None and self.padding is not None:
            positions = (self.padding.long().cumsum(-1) - 1).clamp(min=0)[:, -shape[1]:]
        self.positions = self.queries(model.device).unsqueeze(0) if positions is None else positions

    def remember(self, key, make):
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    def queries(self, device):
        """Where in the sequence, padding included, this pass's tokens lie."""
        return torch.arange(self.past, self.past + self.shape[1], device=device)

    def rotation(self, op, device):
        """cos and sin, float32 [batch, length, rotary_dim / 2]."""
        scaling = op.get("scaling") or {}

        def make():
            positions = self.positions.to(device)
            length = int(positions.max()) + 1 if scaling.get("type") == "longrope" else 0
            angles = positions.unsqueeze(-1).float() * inverse_frequencies(op, length).to(device)
            factor = scaling.get("attention_factor", 1.0)
            return angles.cos() * factor, angles.sin() * factor

        which = (op["rotary_dim"], op["theta"], repr(scaling), tuple(op.get("pairs", ())), op.get("pairs_of", 0))
        return self.remember(("rotation", which, device), make)

    def key_positions(self, keys, device):
        """Caches give all keys, or the latest (sliding windows), or all and room for more (static)."""
        first = max(0, self.past + self.shape[1] - keys)
        return torch.arange(first, first + keys, device=device)

    def visible(self, op, keys, device):
        """Which keys each query sees, bool [batch or 1, 1, queries, keys]."""

        def make():
            key, query = self.key_positions(keys, device), self.queries(device).unsqueeze(-1)
            sees = key <= query
            if op.get("window", 0):
                sees = sees & (key > query - op["window"])
            if self.padding is None:
                return sees[None, None]
            # Padding sees itself, since a softmax over nothing is not a number. Nobody looks at what comes of it.
            return (sees & self.keys_of(self.padding.to(device), key)[:, None, :] | (key == query)).unsqueeze(1)

        return self.remember(("visible", op.get("window", 0), keys, device), make)

    @staticmethod
    def keys_of(by_token, key):
        """[batch, keys]: what is known of every token so far, for keys; static caches have room for more."""
        return F.pad(by_token, (0, max(0, int(key[-1]) + 1 - by_token.shape[1])))[:, key]

    def bias(self, op, keys, dtype, device):
        """The same, with the mask that the caller gave, as what is added to scores; [batch or 1, 1, queries, keys]."""

        def make():
            sees, bias = self.visible(op, keys, device), torch.zeros((), dtype=dtype, device=device)
            if self.given_mask is not None:
                given = self.given_mask[..., :keys].to(device)
                sees, bias = (sees & given, bias) if given.dtype == torch.bool else (sees, given.to(dtype))
            return bias.where(sees, torch.finfo(dtype).min)

        return self.remember(("bias", op.get("window", 0), keys, dtype, device), make)

    def alibi(self, op, keys, dtype, device):
        """[batch or 1, heads, 1, keys]; slopes and positions are bfloat16, as Falcon was trained."""

        def make():
            key = self.key_positions(keys, device)
            if self.padding is not None:
                real = self.padding.to(device).long()
                positions = self.keys_of((real.cumsum(-1) - 1) * real, key)
            else:  # a mask of another shape does not tell how much padding there is; position ids do
                padding = self.queries(device)[-1] - self.positions[:, -1:].to(device)
                positions = (key - padding).clamp(min=0)
            slopes = alibi_slopes(op).to(device, torch.bfloat16).view(-1, 1, 1)
            return (slopes * positions.to(torch.bfloat16)[:, None, None, :]).to(dtype) * op["scale"]

        heads = (op["heads"], op.get("alibi_of", 0), tuple(op.get("alibi_heads", ())))
        return self.remember(("alibi", heads, op["scale"], keys, dtype, device), make)

    def mask(self, op, q, keys):
        """(mask, is_causal) for scaled_dot_product_attention; the mask is bool, or a bias in q's dtype, or None."""
        seen = self.past + self.shape[1]
        if op.get("alibi", False):
            return self.bias(op, keys, q.dtype, q.device) + self.alibi(op, keys, q.dtype, q.device), False
        if self.given_mask is not None:
            return self.bias(op, keys, q.dtype, q.device), False
        whole = keys == seen and not 0 < op.get("window", 0) < seen and self.padding is None
        if whole and (self.past == 0 or self.shape[1] == 1):
            return None, self.shape[1] > 1
        return self.visible(op, keys, q.device), False


# ---- The model ------------------------------------------------------------------------------------------------------


class KerfForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = KerfConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["KerfBlock"]
    _skip_keys_device_placement = ["past_key_values", "cache"]

    def __init__(self, config):
        super().__init__(config)
        graph = config.graph
        if graph.get("graph") != 1:
            raise ValueError(f"this modeling_kerf.py runs graph documents of version 1, not {graph.get('graph')}")
        layers = itertools.count()
        self.prologue = Program(graph["prologue"], layers)
        self.block_names = [block["name"] for block in graph["blocks"]]
        for block in graph["blocks"]:
            self.attach(block["name"], KerfBlock(Program(block["ops"], layers)))
        self.epilogue = Program(graph["epilogue"], layers)
        self.attach_parameters()
        # Older checkpoints leave out the first name ("model."); with this transformers puts it there.
        self.base_model_prefix = self.block_names[0].split(".")[0] if self.block_names else ""
        self.gradient_checkpointing = False
        self.post_init()

    def namespace(self, path):
        """The module under a dotted name, made where there is none."""
        module = self
        for name in filter(None, path.split(".")):
            if name not in module._modules:
                module.add_module(name, nn.Module())
            module = module._modules[name]
        return module

    def attach(self, name, module):
        parent, _, last = name.rpartition(".")
        self.namespace(parent).add_module(last, module)

    def attach_parameters(self):
        """Registers the modules that hold parameters, and ties those whose tensor has another module's name."""
        tied = {}
        for op in (op for ops in all_parts(self.config.graph) for op in ops if op["op"] in WITH_PARAMETERS):
            name = module_name(op)
            self.attach(name, module_of(op))
            for own, tensor in tensors_of(op).items():
                if tensor != f"{name}.{own}":
                    tied[f"{name}.{own}"] = tensor
        for own, tensor in tied.items():
            (module, _, name), (owner, _, last) = own.rpartition("."), tensor.rpartition(".")
            owner = self.namespace(owner)
            if getattr(owner, last, None) is None:
                owner.register_parameter(last, self.get_parameter(own))
            setattr(self.namespace(module), name, getattr(owner, last))
        self.config.tie_word_embeddings = bool(tied)
        self._tied_weights_keys = tied

    @property
    def base_model(self):
        return self

    def op_of_embedding(self):
        embeddings = [op for op in self.config.graph["prologue"] if op["op"] == "embedding"]
        return next(op for op in embeddings if "tokens" in listed(op["in"]))

    def op_of_head(self):
        graph = self.config.graph
        linears = [op for op in graph["epilogue"] if op["op"] == "linear" and op["shape"][0] == graph["vocabulary"]]
        return linears[-1] if linears else None

    def get_input_embeddings(self):
        return self.get_submodule(module_name(self.op_of_embedding()))

    def set_input_embeddings(self, module):
        self.attach(module_name(self.op_of_embedding()), module)

    def get_output_embeddings(self):
        head = self.op_of_head()
        return self.get_submodule(head["name"]) if head else None

    def set_output_embeddings(self, module):
        self.attach(self.op_of_head()["name"], module)

    def resize_token_embeddings(self, *args, **kwargs):
        """The graph follows, so that what is saved afterwards can be loaded."""
        ops = [self.op_of_embedding(), self.op_of_head()]
        table = super().resize_token_embeddings(*args, **kwargs)
        for op in filter(None, ops):
            op["shape"][0] = table.weight.shape[0]
        self.config.graph["vocabulary"] = table.weight.shape[0]
        return table

    def _init_weights(self, module):
        super()._init_weights(module)
        weight = module.weight if isinstance(module, KerfRMSNorm) else None
        if weight is not None and not getattr(weight, "_is_hf_initialized", False):
            with torch.no_grad():
                weight.fill_(1 - module.offset)

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
                labels=None, use_cache=None, output_hidden_states=None, return_dict=None, logits_to_keep=0, cache=None,
                **kwargs):
        """As in the models of transformers. `cache` and `past_key_values` are two names of one argument. hidden_states
        are what goes into the first block and what comes out of each, all of them before the final norm."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        config = self.config
        checkpointing = self.gradient_checkpointing and self.training
        cache = past_key_values if cache is None else cache
        wanted = getattr(config, "use_cache", True) and not self.training if use_cache is None else use_cache
        if wanted and cache is None and not checkpointing:
            cache = DynamicCache()
        shape = input_ids.shape if inputs_embeds is None else inputs_embeds.shape[:2]
        state = State(self, shape, position_ids, attention_mask, cache, inputs_embeds)

        x = self.prologue.run({"tokens": input_ids, "positions": state.positions}, "x", state)
        keep = getattr(config, "output_hidden_states", False) if output_hidden_states is None else output_hidden_states
        hidden_states = (x,) if keep else None
        for name in self.block_names:
            block = self.get_submodule(name)
            x = self._gradient_checkpointing_func(block.__call__, x, state) if checkpointing else block(x, state)
            if keep:
                hidden_states += (x,)
        # Nothing in an epilogue looks at other tokens.
        x = x[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
        logits = self.epilogue.run({"x": x}, "logits", state)

        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        out = CausalLMOutputWithPast(loss=loss, logits=logits, hidden_states=hidden_states, **{CACHE: cache})
        return out if (getattr(config, "return_dict", True) if return_dict is None else return_dict) else out.to_tuple()

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        """With "longrope", keys turned for a short sequence are of no use in a long one: they are computed anew."""
        name = CACHE if CACHE in kwargs else "past_key_values"
        scalings = [op.get("scaling") or {} for ops in all_parts(self.config.graph) for op in ops if op["op"] == "rope"]
        limits = [scaling["original_positions"] for scaling in scalings if scaling.get("type") == "longrope"]
        cache, length = kwargs.get(name), input_ids.shape[1]
        if cache is not None and any(cache.get_seq_length() <= limit < length for limit in limits):
            kwargs[name] = None
            if "next_sequence_length" in kwargs:
                kwargs["next_sequence_length"] = None
        return super().prepare_inputs_for_generation(input_ids, **kwargs)
