// SPDX-License-Identifier: Apache-2.0
#include "core/calibration/dataset.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <unordered_map>

#include "core/calibration/documents.hpp"
#include "core/calibration/random.hpp"
#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "core/weights/tensor_file.hpp"

namespace kerf::core {
namespace {

using Ids = std::vector<std::int64_t>;

constexpr std::uint64_t largest_text = std::uint64_t{1} << 30;

void check(const TextSource& source, const Tokenizer* tokenizer) {
    const std::vector<std::string> known{"text", "jsonl", "json", "c4", "alpaca", "tokens"};
    if (std::find(known.begin(), known.end(), source.source) == known.end()) {
        const auto near = nearest(source.source, known);
        bad_input("source = \"", source.source, "\" is not known",
                  near.empty() ? "" : "; did you mean \"" + near + "\"?",
                  "; the sources are text, jsonl, json, c4, alpaca and tokens");
    }
    const bool stored = source.source == "tokens";
    if (!stored && tokenizer == nullptr)
        bad_input(source.path.string(), ": the model folder has no tokenizer, which source = \"", source.source,
                  "\" needs; use source = \"tokens\"");
    if (source.samples < 0) bad_input("samples = ", source.samples, " is negative; 0 means all there are");
    if (source.length < (stored ? 0 : 1)) bad_input("length = ", source.length, " is not the length of a window");
    constexpr std::int64_t most_ids = std::int64_t{1} << 33;
    if (source.length > most_ids || (source.length > 0 && source.samples > most_ids / source.length))
        bad_input("samples = ", source.samples, " windows of length ", source.length, " are more than memory can hold");
}

[[noreturn]] void too_short(const TextSource& source, std::size_t tokens) {
    bad_input(source.path.string(), ": its text has ", tokens, " tokens, less than one window of ", source.length,
              "; use more text or a smaller length");
}

Windows finish(const TextSource& source, std::int64_t length, Ids ids, std::int64_t vocabulary) {
    const auto wrong =
        std::find_if(ids.begin(), ids.end(), [&](std::int64_t id) { return id < 0 || id >= vocabulary; });
    if (wrong != ids.end())
        bad_input(source.path.string(), ": has token id ", *wrong, ", but the model's embedding has ", vocabulary,
                  " rows; tokenizer or tokens belong to another model");
    Windows out;
    out.length = length;
    out.samples = static_cast<std::int64_t>(ids.size()) / length;
    out.sha256 = sha256(std::as_bytes(std::span(ids)));
    out.ids = std::move(ids);
    return out;
}

/// Cuts into whole windows, at most `samples` of them (0: all).
Windows contiguous(const TextSource& source, Ids ids, std::int64_t vocabulary) {
    const std::size_t length = static_cast<std::size_t>(source.length);
    std::size_t windows = ids.size() / length;
    if (windows == 0) too_short(source, ids.size());
    if (source.samples > 0) windows = std::min(windows, static_cast<std::size_t>(source.samples));
    ids.resize(windows * length);
    return finish(source, source.length, std::move(ids), vocabulary);
}

Ids tokens_of_text(const TextSource& source, const Tokenizer& tokenizer) {
    const std::string text = read_text(source.path, largest_text);
    if (text.empty()) bad_input(source.path.string(), ": is empty; give a file with text");
    return tokenizer.encode(text, true);
}

/// Appends a window that starts uniformly in [0, L − length − 1], as GPTQ draws it (at 0 where L = length).
void append_window(Draw& draw, const Ids& ids, std::int64_t length, Ids& out) {
    const std::size_t room = ids.size() - static_cast<std::size_t>(length);
    const auto start = static_cast<std::ptrdiff_t>(draw.below(std::max<std::size_t>(room, 1)));
    out.insert(out.end(), ids.begin() + start, ids.begin() + start + length);
}

Windows random_windows(const TextSource& source, const Tokenizer& tokenizer, std::int64_t vocabulary) {
    const Ids ids = tokens_of_text(source, tokenizer);
    if (ids.size() < static_cast<std::size_t>(source.length)) too_short(source, ids.size());
    Draw draw(source.seed);
    Ids out;
    for (std::int64_t i = 0; i < source.samples; ++i) append_window(draw, ids, source.length, out);
    return finish(source, source.length, std::move(out), vocabulary);
}

/// One window from each of a number of random documents that are long enough. Each of them is used once before one is
/// used again.
class DocumentSampler {
public:
    DocumentSampler(const TextSource& source, const Tokenizer& tokenizer)
        : source_(source), tokenizer_(tokenizer), documents_(source), draw_(source.seed) {}

    Ids run() {
        const auto order = candidates_in_random_order();
        constexpr std::size_t least_batch = 64;
        for (std::size_t at = 0; at < order.size() && wanted() > 0;) {
            const std::size_t batch =
                std::min(order.size() - at, std::max(least_batch, 2 * std::min(wanted(), order.size())));
            read_batch(std::span(order).subspan(at, batch));
            at += batch;
        }
        if (windows_ == 0)
            bad_input(source_.path.string(), ": none of its ", total_, " documents has ", source_.length,
                      " tokens; use longer documents, a smaller length, or source = \"text\"");
        for (std::size_t i = 0; source_.samples > 0 && wanted() > 0; ++i) take(used_[i % used_.size()]);
        return std::move(out_);
    }

private:
    std::size_t wanted() const {
        if (source_.samples == 0) return std::numeric_limits<std::size_t>::max();
        return static_cast<std::size_t>(source_.samples) - windows_;
    }

    std::vector<std::size_t> candidates_in_random_order() {
        std::vector<std::size_t> candidates;
        documents_.each([&](std::size_t index, std::string_view text) {
            ++total_;
            // A token is a byte at least, give or take a normaliser: nothing shorter needs to be tokenised.
            if (2 * text.size() >= static_cast<std::size_t>(source_.length)) candidates.push_back(index);
            return true;
        });
        if (total_ == 0) bad_input(source_.path.string(), ": has no documents; give a file with text");
        std::vector<std::size_t> out;
        out.reserve(candidates.size());
        for (const auto place : draw_.permutation(candidates.size())) out.push_back(candidates[place]);
        return out;
    }

    /// Reads the file once for the documents of these indices, then samples them in the order given.
    void read_batch(std::span<const std::size_t> indices) {
        std::unordered_map<std::size_t, std::string> texts;
        for (const auto index : indices) texts.try_emplace(index);
        std::size_t missing = texts.size();
        documents_.each([&](std::size_t index, std::string_view text) {
            if (const auto wanted_text = texts.find(index); wanted_text != texts.end()) {
                wanted_text->second = text;
                --missing;
            }
            return missing > 0;
        });
        for (const auto index : indices) {
            if (wanted() == 0) return;
            Ids ids = tokenizer_.encode(texts[index], true);
            if (ids.size() < static_cast<std::size_t>(source_.length)) continue;
            take(ids);
            if (source_.samples > 0) used_.push_back(std::move(ids));
        }
    }

    void take(const Ids& ids) {
        append_window(draw_, ids, source_.length, out_);
        ++windows_;
    }

    const TextSource& source_;
    const Tokenizer& tokenizer_;
    Documents documents_;
    Draw draw_;
    std::size_t total_ = 0, windows_ = 0;
    std::vector<Ids> used_;
    Ids out_;
};

/// Instruction records, each closed by EOS, one behind the other: in random order, and in another one when all are used
/// up and windows are still missing; without `draw` in the order of the file, once.
Ids packed_records(const TextSource& source, const Tokenizer& tokenizer, Draw* draw) {
    std::vector<Ids> records;
    std::size_t tokens = 0;
    Documents(source).each([&](std::size_t, std::string_view text) {
        Ids ids = tokenizer.encode(text, true);
        if (const auto eos = tokenizer.eos(); eos && (ids.empty() || ids.back() != *eos)) ids.push_back(*eos);
        tokens += ids.size();
        records.push_back(std::move(ids));
        return true;
    });
    if (records.empty()) bad_input(source.path.string(), ": has no records; give a file of instruction records");
    if (tokens < static_cast<std::size_t>(source.length)) too_short(source, tokens);
    const std::size_t wanted = source.samples == 0 ? 1 : static_cast<std::size_t>(source.samples * source.length);
    Ids out;
    do {
        std::vector<std::size_t> order(records.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        if (draw != nullptr) order = draw->permutation(records.size());
        for (const auto i : order) out.insert(out.end(), records[i].begin(), records[i].end());
    } while (draw != nullptr && out.size() < wanted);
    return out;
}

/// Documents joined into one text and tokenised at once. Where only some windows are wanted, no more text is read than
/// they can need.
Ids joined_documents(const TextSource& source, const Tokenizer& tokenizer) {
    const Documents documents(source);
    // c4 is read as GPTQ's newer evaluation does it, other files like wikitext.
    const std::string_view separator = source.source == "c4" ? " " : "\n\n";
    const std::size_t wanted = static_cast<std::size_t>(source.samples * source.length);
    std::uint64_t enough = source.samples == 0 ? largest_text : 16 * wanted;  // bytes; a token has about 4
    while (true) {
        std::string text;
        bool whole = true;
        documents.each([&](std::size_t index, std::string_view document) {
            if (text.size() >= enough) return whole = false;
            if (index > 0) text += separator;
            text += document;
            return true;
        });
        if (text.empty()) bad_input(source.path.string(), ": has no text; give a file with documents");
        if (!whole && enough >= largest_text)
            bad_input(source.path.string(),
                      ": has more than 1 GiB of text; set samples to the number of windows that you need");
        Ids ids = tokenizer.encode(text, true);
        if (whole || ids.size() > wanted) return ids;
        enough *= 4;
    }
}

const StoredTensor& named_tensor(const TextSource& source, const TensorFile& file, const char* key,
                                 const std::string& name) {
    if (const StoredTensor* tensor = file.find(name)) return *tensor;
    std::string names;
    for (const auto& known : file.tensors()) names += (names.empty() ? "" : ", ") + known.name;
    bad_input(source.path.string(), ": has no tensor \"", name, "\"; set ", key, " to one of: ", names);
}

/// How many tokens of each window come before its padding. Padding in front would be seen by the tokens behind it.
std::vector<std::int64_t> used_tokens(const TextSource& source, const StoredTensor& mask, const Windows& windows) {
    if (mask.dtype != DType::i64 || mask.shape.size() != 2 || mask.shape[0] < windows.samples ||
        mask.shape[1] != windows.length)
        bad_input(source.path.string(), ": ", mask.name, " is ", dtype_name(mask.dtype), " ", format_shape(mask.shape),
                  "; a mask is I64 with a number for each token of ", source.tensor);
    std::vector<std::int64_t> flags(static_cast<std::size_t>(windows.samples * windows.length)), out;
    std::memcpy(flags.data(), mask.bytes.data(), flags.size() * sizeof(std::int64_t));
    for (std::int64_t i = 0; i < windows.samples; ++i) {
        const auto begin = flags.begin() + i * windows.length, end = begin + windows.length;
        const auto padding = std::find(begin, end, 0);
        if (padding == begin || std::any_of(begin, padding, [](auto flag) { return flag != 1; }) ||
            std::any_of(padding, end, [](auto flag) { return flag != 0; }))
            bad_input(source.path.string(), ": ", mask.name, ", window ", i,
                      ": should be ones for the tokens, one at least, and zeros for the padding behind them");
        out.push_back(padding - begin);
    }
    return out;
}

Windows stored_windows(const TextSource& source, std::int64_t vocabulary) {
    const std::string where = source.path.string();
    const auto file = open_safetensors(source.path);
    const StoredTensor* tensor = &named_tensor(source, *file, "tensor", source.tensor);
    if (tensor->dtype != DType::i64 || tensor->shape.size() != 2 || tensor->elements() == 0)
        bad_input(where, ": ", tensor->name, " is ", dtype_name(tensor->dtype), " ", format_shape(tensor->shape),
                  "; windows are I64 [samples, length]");
    const std::int64_t length = tensor->shape[1];
    if (source.length != 0 && source.length != length)
        bad_input(where, ": ", tensor->name, " has windows of ", length, " tokens, the recipe asks for ", source.length,
                  "; set length = ", length);
    const std::int64_t samples = source.samples == 0 ? tensor->shape[0] : std::min(source.samples, tensor->shape[0]);
    Ids ids(static_cast<std::size_t>(samples * length));
    std::memcpy(ids.data(), tensor->bytes.data(), ids.size() * sizeof(std::int64_t));
    Windows out = finish(source, length, std::move(ids), vocabulary);
    if (source.mask.empty()) return out;
    out.used = used_tokens(source, named_tensor(source, *file, "mask", source.mask), out);
    std::vector<std::int64_t> hashed = out.ids;
    hashed.insert(hashed.end(), out.used.begin(), out.used.end());
    out.sha256 = sha256(std::as_bytes(std::span(hashed)));
    return out;
}

}  // namespace

Windows calibration_windows(const TextSource& source, const Tokenizer* tokenizer, std::int64_t vocabulary) {
    check(source, tokenizer);
    if (source.source == "tokens") return stored_windows(source, vocabulary);
    if (source.source == "text") {
        if (source.samples == 0) return contiguous(source, tokens_of_text(source, *tokenizer), vocabulary);
        return random_windows(source, *tokenizer, vocabulary);
    }
    if (source.source == "alpaca") {
        Draw draw(source.seed);
        return contiguous(source, packed_records(source, *tokenizer, &draw), vocabulary);
    }
    return finish(source, source.length, DocumentSampler(source, *tokenizer).run(), vocabulary);
}

Windows evaluation_windows(const TextSource& source, const Tokenizer* tokenizer, std::int64_t vocabulary) {
    check(source, tokenizer);
    if (source.source == "tokens") return stored_windows(source, vocabulary);
    if (source.source == "text") return contiguous(source, tokens_of_text(source, *tokenizer), vocabulary);
    if (source.source == "alpaca") return contiguous(source, packed_records(source, *tokenizer, nullptr), vocabulary);
    return contiguous(source, joined_documents(source, *tokenizer), vocabulary);
}

}  // namespace kerf::core
