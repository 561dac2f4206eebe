# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding with transformers' generate(): prints one JSON object with the seconds a token."""
import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM

model_path, dtype, threads, tokens, prompt = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5])
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype)).eval()
ids = torch.tensor([prompt])


def seconds(new):
    start = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new,
                             min_new_tokens=new, pad_token_id=0)
    return time.perf_counter() - start, out[0, len(prompt):].tolist()


seconds(4)  # first calls load code
first, _ = seconds(1)
whole, made = seconds(tokens)
print(json.dumps({"seconds_per_token": (whole - first) / (tokens - 1), "tokens": made}))
