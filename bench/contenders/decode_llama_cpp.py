# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding with llama.cpp (llama-cpp-python): prints one JSON object with the seconds a token."""
import json
import sys
import time

import llama_cpp

model_path, threads, tokens, prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
llm = llama_cpp.Llama(model_path, n_ctx=len(prompt) + tokens + 8, n_threads=threads, n_threads_batch=threads, verbose=False)
vocabulary = llm.n_vocab()


def best():
    # straight from llama.cpp's logits: the binding's own samplers would cost more than they compute
    import numpy

    logits = numpy.ctypeslib.as_array(llama_cpp.llama_get_logits(llm.ctx), shape=(vocabulary,))
    return int(logits.argmax())


llm.eval(prompt)
made = [best()]
start = time.perf_counter()
while len(made) < tokens:
    llm.eval(made[-1:])
    made.append(best())
print(json.dumps({"seconds_per_token": (time.perf_counter() - start) / (tokens - 1), "tokens": made}))
