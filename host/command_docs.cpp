// SPDX-License-Identifier: Apache-2.0
#include "host/command_line.hpp"

namespace kerf::host {
namespace {

const OptionDoc json{"json", "", "print one JSON object on stdout"};

std::vector<OptionDoc> recipe_options() {
    return {{"set", "KEY=VALUE", "change a value of the recipe; KEY is a dotted path, as in stage.0.bits=3", true},
            {"output", "DIR", "write to this folder instead of output.path"},
            {"memory", "SIZE", "memory budget, as in 6GiB, instead of model.memory"}};
}

CommandDoc run_doc() {
    CommandDoc doc{"run",
                   "RECIPE",
                   "Runs a recipe and writes the compressed checkpoint and its report.",
                   recipe_options(),
                   {"kerf run recipe.toml", "kerf run recipe.toml --set stage.0.bits=3 --output out/3bit"}};
    doc.options.push_back({"resume", "", "go on with an earlier run of this recipe that did not finish"});
    doc.options.push_back({"processes", "N", "number of processes; only 1 in this version"});
    doc.options.push_back(json);
    return doc;
}

CommandDoc plan_doc() {
    CommandDoc doc{"plan",
                   "RECIPE",
                   "Says what each stage will do and what it costs, without reading a weight.",
                   recipe_options(),
                   {"kerf plan recipe.toml", "kerf plan recipe.toml --memory 2GiB --json"}};
    doc.options.push_back(json);
    return doc;
}

CommandDoc eval_doc() {
    return {"eval",
            "MODEL",
            "Evaluates a checkpoint: perplexity, and how far it is from a reference model.",
            {{"perplexity", "FILE", "text to measure perplexity on; NAME=FILE gives the figure a name", true},
             {"reference", "MODEL", "also KL divergence and top-1 agreement against this model"},
             {"source", "KIND", "what FILE is: text, jsonl, json, c4, alpaca or tokens (default text)"},
             {"tensor", "NAME", "with tokens: the int64 [samples, length] tensor to take"},
             {"field", "KEY", "with jsonl, json, c4: the key that holds the text (default text)"},
             {"length", "L", "tokens of a window (default 2048, or what the model takes when that is less)"},
             {"samples", "N", "number of windows (default 0: all)"},
             {"compute-dtype", "TYPE", "float32 or bfloat16 (default float32)"},
             {"tasks", "LIST", "not available in this version"},
             {"tasks-path", "DIR", "not available in this version"},
             json},
            {"kerf eval out/model --perplexity wikitext2-test.txt --length 2048",
             "kerf eval out/model --perplexity tokens.safetensors --tensor eval --reference models/dense --json"}};
}

CommandDoc convert_doc() {
    return {"convert",
            "MODEL OUT",
            "Writes a model, a Hugging Face folder or a GGUF file, as a plain checkpoint with its tokenizer.",
            {{"format", "FORMAT", "hf (default): the layout that transformers reads"},
             {"dtype", "TYPE", "of the weights: float32, float16, bfloat16 or auto (default: as they are stored)"},
             {"overwrite", "", "replace what is at OUT"},
             json},
            {"kerf convert model.Q4_K_M.gguf out/model --dtype bfloat16",
             "kerf convert out/model-gptq out/model-dense --dtype float16"}};
}

CommandDoc generate_doc() {
    return {
        "generate",
        "MODEL [PROMPT]",
        "Continues a text, or answers it as a chat, and prints what the model writes as it comes.",
        {{"tokens", "N", "write at most N tokens (default 256)"},
         {"temperature", "T", "0: always the likeliest token (default; 1 where --top-k or --top-p is given)"},
         {"top-k", "K", "draw from the K likeliest tokens alone (default 0: from all)"},
         {"top-p", "P", "draw from the likeliest tokens with this probability together (default 1)"},
         {"repetition-penalty", "R", "make tokens that were there before less likely (default 1: do not)"},
         {"seed", "S", "seed of the draws (default 0)"},
         {"stop", "TEXT", "end before this text", true},
         {"ignore-eos", "", "go on at the model's end-of-text tokens"},
         {"prompts", "FILE", "continue every line of FILE; of a .jsonl file, \"prompt\" or \"messages\" of every line"},
         {"chat", "", "write the prompt as the user's turn of the model's chat template"},
         {"system", "TEXT", "with --chat: the system message before it"},
         {"weights", "TYPE", "hold weights in float32, bfloat16 or float16 (default: as they are stored)"},
         json},
        {"kerf generate models/SmolLM2-135M 'The capital of France is' --tokens 32",
         "kerf generate models/SmolLM2-135M-Instruct 'Name three rivers.' --chat --temperature 0.7 --top-p 0.9"}};
}

std::vector<CommandDoc> make_docs() {
    return {run_doc(),
            plan_doc(),
            eval_doc(),
            generate_doc(),
            {"inspect",
             "MODEL",
             "Lists a model's blocks and linears with shapes, dtypes, parameters and sizes.",
             {{"axes", "", "also the axes that weights share"}, json},
             {"kerf inspect models/llama-tiny"}},
            convert_doc(),
            {"plugins",
             "",
             "Lists every method and adapter with its version, plugin, ABI and file.",
             {json},
             {"kerf plugins"}},
            {"plugins describe",
             "NAME",
             "Shows what a method or an adapter is, and every option that it takes.",
             {json},
             {"kerf plugins describe gptq"}},
            {"plugins check",
             "FILE",
             "Loads a plugin in a child process and says what is wrong with it.",
             {json},
             {"kerf plugins check ./kerf-mine.so"}}};
}

}  // namespace

const std::vector<CommandDoc>& command_docs() {
    static const std::vector<CommandDoc> docs = make_docs();
    return docs;
}

const std::vector<OptionDoc>& common_options() {
    static const std::vector<OptionDoc> options{
        {"plugin-path", "DIR", "look for plugins here first (a folder or a file)", true},
        {"threads", "N", "threads to use (default 0: one a core); changes no byte of a result"},
        {"log-level", "LEVEL", "debug, info, warning, error or off (default info)"},
        {"quiet", "", "errors only, no progress"},
        {"help", "", "this help"}};
    return options;
}

}  // namespace kerf::host
