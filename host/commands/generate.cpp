// SPDX-License-Identifier: Apache-2.0
#include "core/eval/generate.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "core/exec/program.hpp"
#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "core/support/json_text.hpp"
#include "core/text/chat.hpp"
#include "core/text/unicode.hpp"
#include "host/commands/commands.hpp"
#include "kerf/abi.h"

namespace kerf::host {
namespace {

using core::bad_input;
using nlohmann::ordered_json;
namespace fs = std::filesystem;

/// What one text is to be made from: a prompt, or the messages of a chat.
struct Prompt {
    std::string text;
    ordered_json messages;  ///< null for a plain prompt
    std::string where;      ///< of a file: its line
};

core::SamplingOptions sampling_of(const CommandLine& line) {
    core::SamplingOptions out;
    const bool drawn = line.has("top-k") || line.has("top-p");
    out.temperature = line.real("temperature").value_or(drawn ? 1 : 0);
    out.top_k = line.integer("top-k", 0).value_or(0);
    out.top_p = line.real("top-p").value_or(1);
    out.repetition_penalty = line.real("repetition-penalty").value_or(1);
    out.seed = std::uint64_t(line.integer("seed", 0).value_or(0));
    const core::Sampler checked(out);
    if (out.temperature == 0 && drawn)
        bad_input("--temperature 0 always takes the likeliest token; leave out --top-k and --top-p, or raise it");
    return out;
}

core::DType weights_of(const CommandLine& line, const core::Model& model) {
    const auto name = line.text("weights", "auto");
    if (name == "auto") return core::stored_weight_type(model);
    if (name == "float32") return core::DType::f32;
    if (name == "bfloat16") return core::DType::bf16;
    if (name == "float16") return core::DType::f16;
    bad_input("--weights ", name, ": one of float32, bfloat16, float16 and auto is expected");
}

Prompt prompt_of_record(const ordered_json& record, const std::string& where) {
    Prompt out;
    out.where = where;
    const bool object = record.is_object();
    if (object && record.contains("messages"))
        out.messages = record["messages"];
    else if (object && record.contains("prompt") && record["prompt"].is_string())
        out.text = record["prompt"].get<std::string>();
    else
        bad_input(where, ": an object with a text \"prompt\" or with \"messages\" is expected");
    return out;
}

std::vector<Prompt> read_prompts(const fs::path& file) {
    const std::string content = core::read_text(file);
    const bool records = file.extension() == ".jsonl";
    std::vector<Prompt> out;
    std::istringstream lines(content);
    std::string line;
    for (std::int64_t number = 1; std::getline(lines, line); ++number) {
        if (line.ends_with('\r')) line.pop_back();
        if (line.empty()) continue;
        const std::string where = core::text(file.string(), ":", number);
        if (records)
            out.push_back(prompt_of_record(core::parse_json(line, where), where));
        else
            out.push_back({line, nullptr, where});
    }
    if (out.empty()) bad_input(file.string(), ": has no prompt; one a line is expected");
    return out;
}

std::vector<Prompt> prompts_of(const CommandLine& line) {
    const bool given = line.words().size() > 1;
    if (given == line.has("prompts"))
        bad_input("kerf generate needs ", given ? "either" : "", given ? " " : "", "PROMPT or --prompts FILE",
                  given ? ", not both" : "", "; see kerf help generate");
    if (line.has("system") && !line.has("chat")) bad_input("--system goes with --chat");
    auto out = line.has("prompts") ? read_prompts(line.text("prompts"))
                                   : std::vector<Prompt>{{line.words()[1], nullptr, "PROMPT"}};
    for (const auto& prompt : out)
        if (!prompt.messages.is_null() && !line.has("chat")) bad_input(prompt.where, ": \"messages\" are for --chat");
    return out;
}

ordered_json messages_of(const CommandLine& line, const Prompt& prompt) {
    ordered_json messages = prompt.messages;
    if (messages.is_null()) messages = {{{"role", "user"}, {"content", prompt.text}}};
    if (!messages.is_array() || messages.empty()) bad_input(prompt.where, ": \"messages\" is no list of messages");
    if (line.has("system"))
        messages.insert(messages.begin(), ordered_json{{"role", "system"}, {"content", line.text("system")}});
    return messages;
}

std::vector<std::vector<std::int64_t>> ids_of(const CommandLine& line, const std::vector<Prompt>& prompts,
                                              const core::Model& model, const core::Tokenizer& tokenizer) {
    std::optional<core::ChatTemplate> chat;
    if (line.has("chat")) chat = core::ChatTemplate::open(model.folder());
    std::vector<std::vector<std::int64_t>> out;
    for (const auto& prompt : prompts)
        out.push_back(chat ? tokenizer.encode(chat->render(messages_of(line, prompt)), false)
                           : tokenizer.encode(prompt.text, true));
    return out;
}

std::string rates(const core::GenerateResult& result) {
    const auto rate = [](std::int64_t tokens, double seconds) {
        return core::text(std::fixed, std::setprecision(1), seconds > 0 ? double(tokens) / seconds : 0.0);
    };
    return core::text("prompt: ", result.prompt_tokens, " tokens in ", core::format_seconds(result.prompt_seconds),
                      " (", rate(result.prompt_tokens, result.prompt_seconds),
                      " tokens/s); decode: ", result.decoded_tokens, " tokens in ",
                      core::format_seconds(result.decode_seconds), " (",
                      rate(result.decoded_tokens, result.decode_seconds), " tokens/s)");
}

ordered_json json_of(const core::Model& model, const core::Decoder& decoder, const std::vector<Prompt>& prompts,
                     const core::GenerateRequest& request, const core::GenerateResult& result) {
    ordered_json texts = ordered_json::array();
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        const auto& made = result.texts[i];
        ordered_json entry;
        if (prompts[i].messages.is_null())
            entry["prompt"] = prompts[i].text;
        else
            entry["messages"] = prompts[i].messages;
        entry["prompt_tokens"] = request.prompts[i].size();
        entry["text"] = made.text;
        entry["tokens"] = made.ids;
        entry["finish"] = core::finish_name(made.finish);
        texts.push_back(entry);
    }
    return {{"model", model.folder().string()},        {"weights", core::dtype_name(decoder.type())},
            {"weight_bytes", decoder.weight_bytes()},  {"texts", texts},
            {"prompt_tokens", result.prompt_tokens},   {"prompt_seconds", result.prompt_seconds},
            {"decoded_tokens", result.decoded_tokens}, {"decode_seconds", result.decode_seconds}};
}

/// Writes texts as they come: one prompt's at once, those of several in the order of the prompts.
class Printer {
public:
    explicit Printer(std::size_t prompts) : waiting_(prompts) {}

    core::GenerateEvents events() {
        return {.text = [this](std::size_t prompt, std::string_view text) { add(prompt, text); },
                .done = [this](std::size_t prompt, const core::Generated&) { end(prompt); },
                .cancelled = [] { return stop_requested(); }};
    }

private:
    struct Waiting {
        std::string text;
        bool done = false;
    };
    void add(std::size_t prompt, std::string_view text) {
        if (prompt == turn_)
            write_out(text);
        else
            waiting_[prompt].text += text;
    }
    void end(std::size_t prompt) {
        waiting_[prompt].done = true;
        while (turn_ < waiting_.size() && waiting_[turn_].done) {
            write_out("\n");
            if (++turn_ < waiting_.size()) write_out(std::exchange(waiting_[turn_].text, {}));
        }
    }

    std::vector<Waiting> waiting_;
    std::size_t turn_ = 0;
};

}  // namespace

int generate_command(const CommandLine& line, Console& console) {
    core::GenerateRequest request;
    request.sampling = sampling_of(line);
    request.tokens = line.integer("tokens", 1).value_or(256);
    request.stop_texts = line.list("stop");
    const auto prompts = prompts_of(line);
    const Registry plugins = find_plugins(line);
    plugins.require_sound();
    use_threads(line);
    core::initialise_execution();
    const auto model = core::Model::open(line.words().front(), plugins.components());
    const auto tokenizer = core::Tokenizer::open(model.folder());
    request.prompts = ids_of(line, prompts, model, *tokenizer);
    if (!line.has("ignore-eos")) request.stop_ids = core::stop_ids_of(model, *tokenizer, line.has("chat"));
    core::check_prompts(model, request);
    catch_stop_signals();
    core::Decoder decoder(model.graph(), model.source(), weights_of(line, model));
    Printer printer(prompts.size());
    auto events = printer.events();
    if (line.has("json")) events.text = nullptr, events.done = nullptr;
    const auto result = core::generate(decoder, model, *tokenizer, request, events);
    if (line.has("json")) write_json(json_of(model, decoder, prompts, request, result));
    console.log(KERF_LOG_INFO, rates(result));
    return 0;
}

}  // namespace kerf::host
