// SPDX-License-Identifier: Apache-2.0
#include "core/eval/generate.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "core/support/error.hpp"
#include "core/support/json_text.hpp"
#include "core/text/text_stream.hpp"

namespace kerf::core {
namespace {

class Stopwatch {
public:
    double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// One prompt on its way.
class Writer {
public:
    Writer(std::size_t index, const GenerateRequest& request, const Tokenizer& tokenizer, Sequence sequence)
        : index_(index),
          request_(request),
          sequence_(std::move(sequence)),
          sampler_(request.sampling),
          stream_(tokenizer, request.prompts[index]),
          stops_(request.stop_texts) {}

    Sequence& sequence() { return sequence_; }
    std::size_t index() const { return index_; }
    std::int64_t next_id() const { return result_.ids.back(); }
    const Generated& result() const { return result_; }

    /// Chooses the next token; true when the text ends with it.
    bool choose(std::span<const float> logits, const GenerateEvents& events) {
        std::vector<std::int64_t> seen(request_.prompts[index_]);
        seen.insert(seen.end(), result_.ids.begin(), result_.ids.end());
        const std::int64_t id = sampler_.next(logits, seen);
        result_.ids.push_back(id);
        if (std::find(request_.stop_ids.begin(), request_.stop_ids.end(), id) != request_.stop_ids.end())
            return end(Finish::stop_token, events);
        tell(stops_.add(stream_.add(id)), events);
        if (stops_.stopped()) return end(Finish::stop_text, events);
        if (std::int64_t(result_.ids.size()) == request_.tokens) return end(Finish::tokens, events);
        if (sequence_.length() == sequence_.capacity()) return end(Finish::positions, events);
        return false;
    }

private:
    bool end(Finish finish, const GenerateEvents& events) {
        tell(stops_.add(stream_.finish()), events);
        if (stops_.stopped() && finish != Finish::stop_token) finish = Finish::stop_text;
        tell(stops_.finish(), events);
        result_.finish = finish;
        if (events.done) events.done(index_, result_);
        return true;
    }
    void tell(const std::string& piece, const GenerateEvents& events) {
        result_.text += piece;
        if (!piece.empty() && events.text) events.text(index_, piece);
    }

    std::size_t index_;
    const GenerateRequest& request_;
    Sequence sequence_;
    Sampler sampler_;
    TextStream stream_;
    StopTexts stops_;
    Generated result_;
};

/// Tokens that a prompt's sequence needs room for. The last new token is never fed back.
std::int64_t capacity_of(std::size_t index, const GenerateRequest& request, const Model& model) {
    const auto prompt = std::int64_t(request.prompts[index].size()), positions = model.graph().positions;
    const std::string which = request.prompts.size() > 1 ? text("prompt ", index + 1) : "the prompt";
    if (prompt == 0) bad_input(which, " has no token; a text that is not empty is needed");
    if (positions > 0 && prompt > positions)
        bad_input(which, " has ", prompt, " tokens, more than the ", positions, " positions of ",
                  model.folder().string(), "; shorten it");
    const std::int64_t room = positions > 0 ? positions - prompt : std::int64_t{1} << 20;
    return prompt + std::min(request.tokens - 1, room);
}

class Generation {
public:
    Generation(Decoder& decoder, const Model& model, const Tokenizer& tokenizer, const GenerateRequest& request,
               const GenerateEvents& events)
        : decoder_(decoder), tokenizer_(tokenizer), request_(request), events_(events) {
        for (std::size_t i = 0; i < request.prompts.size(); ++i) capacities_.push_back(capacity_of(i, request, model));
        result_.texts.resize(request.prompts.size());
    }

    GenerateResult run() {
        std::size_t next = 0;
        while (next < request_.prompts.size() || !writers_.empty()) {
            if (events_.cancelled && events_.cancelled()) throw Error(Fault::cancelled, "interrupted");
            if (next < request_.prompts.size() && writers_.size() < Decoder::most_sequences)
                begin(next++);
            else
                decode();
        }
        return std::move(result_);
    }

private:
    void begin(std::size_t index) {
        Writer writer(index, request_, tokenizer_, decoder_.start(capacities_[index]));
        const Stopwatch watch;
        const auto logits = decoder_.append(writer.sequence(), request_.prompts[index]);
        result_.prompt_seconds += watch.seconds();
        result_.prompt_tokens += std::int64_t(request_.prompts[index].size());
        if (writer.choose(logits, events_))
            keep(writer);
        else
            writers_.push_back(std::move(writer));
    }

    void decode() {
        const Stopwatch watch;
        std::vector<Sequence*> sequences;
        std::vector<std::int64_t> ids;
        for (auto& writer : writers_) {
            sequences.push_back(&writer.sequence());
            ids.push_back(writer.next_id());
        }
        const auto logits = decoder_.step(sequences, ids);
        const std::size_t vocabulary = logits.size() / ids.size();
        std::vector<Writer> going;
        for (std::size_t i = 0; i < writers_.size(); ++i) {
            if (writers_[i].choose(logits.subspan(i * vocabulary, vocabulary), events_))
                keep(writers_[i]);
            else
                going.push_back(std::move(writers_[i]));
        }
        writers_ = std::move(going);
        result_.decode_seconds += watch.seconds();
        result_.decoded_tokens += std::int64_t(ids.size());
    }

    void keep(const Writer& writer) {
        result_.new_tokens += std::int64_t(writer.result().ids.size());
        result_.texts[writer.index()] = writer.result();
    }

    Decoder& decoder_;
    const Tokenizer& tokenizer_;
    const GenerateRequest& request_;
    const GenerateEvents& events_;
    std::vector<std::int64_t> capacities_;
    std::vector<Writer> writers_;
    GenerateResult result_;
};

/// "eos_token_id": 2, or [2, 32000]
std::vector<std::int64_t> eos_of(const nlohmann::json& config, const std::filesystem::path& file) {
    std::vector<std::int64_t> out;
    if (!config.is_object() || !config.contains("eos_token_id") || config["eos_token_id"].is_null()) return out;
    const auto& value = config["eos_token_id"];
    const auto add = [&](const nlohmann::json& id) {
        if (!id.is_number_integer()) bad_input(file.string(), ": eos_token_id is no token id and no list of them");
        out.push_back(id.get<std::int64_t>());
    };
    if (value.is_array())
        for (const auto& id : value) add(id);
    else
        add(value);
    return out;
}

}  // namespace

std::string_view finish_name(Finish finish) {
    switch (finish) {
        case Finish::stop_token:
            return "stop token";
        case Finish::stop_text:
            return "stop text";
        case Finish::positions:
            return "positions";
        case Finish::tokens:
            break;
    }
    return "length";
}

void check_prompts(const Model& model, const GenerateRequest& request) {
    if (request.prompts.empty()) bad_input("there is no prompt");
    if (request.tokens < 1) bad_input("tokens ", request.tokens, ": at least one new token is needed");
    for (const auto& stop : request.stop_texts)
        if (stop.empty()) bad_input("a stop text is empty; leave it out");
    const Sampler checked(request.sampling);
    for (std::size_t i = 0; i < request.prompts.size(); ++i) capacity_of(i, request, model);
}

GenerateResult generate(Decoder& decoder, const Model& model, const Tokenizer& tokenizer,
                        const GenerateRequest& request, const GenerateEvents& events) {
    check_prompts(model, request);
    return Generation(decoder, model, tokenizer, request, events).run();
}

std::vector<std::int64_t> stop_ids_of(const Model& model, const Tokenizer& tokenizer, bool chat) {
    std::vector<std::int64_t> out;
    const auto generation = model.folder() / "generation_config.json", config = model.folder() / "config.json";
    if (std::filesystem::is_regular_file(generation)) out = eos_of(read_json(generation), generation);
    if (out.empty()) out = eos_of(model.config(), config);
    if (const auto id = tokenizer.eos(); id && (chat || out.empty())) out.push_back(*id);
    return out;
}

DType stored_weight_type(const Model& model) {
    DType common = DType::f32;
    bool first = true;
    const auto look = [&](const std::vector<Op>& ops) {
        for (const auto& op : ops) {
            if (op.kind != OpKind::linear) continue;
            const StoredTensor& stored = model.tensor(op.weight);
            // packed weights show no bytes: what they stand for need not fit 16 bits
            const DType type = stored.bytes.empty() ? DType::f32 : stored.dtype;
            common = first || type == common ? type : DType::f32;
            first = false;
            if (common == DType::f32) return;
        }
    };
    look(model.graph().prologue);
    for (const auto& block : model.graph().blocks) {
        look(block.ops);
        if (common == DType::f32 && !first) return DType::f32;
    }
    look(model.graph().epilogue);
    return common == DType::bf16 || common == DType::f16 ? common : DType::f32;
}

}  // namespace kerf::core
