// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <span>
#include <tuple>

#include "core/support/file.hpp"
#include "core/text/bpe.hpp"
#include "core/text/pipeline.hpp"
#include "core/text/regex.hpp"
#include "core/text/unicode.hpp"
#include "core/text/unigram.hpp"

namespace kerf::core {
namespace {

constexpr std::string_view space_mark = "\u2581";

/// The fields of one protocol-buffer message. Only what sentencepiece's ModelProto needs: no groups, nothing nested by
/// itself, every length checked.
class Message {
public:
    Message(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

    struct Field {
        std::uint64_t number = 0;
        std::uint64_t value = 0;   // of a varint or a fixed number
        std::string_view content;  // of a string or a message
    };
    /// False at the end of the message.
    bool next(Field& out) {
        if (at_ == bytes_.size()) return false;
        const std::uint64_t key = varint();
        out = {key >> 3, 0, {}};
        switch (key & 7) {
            case 0:
                out.value = varint();
                break;
            case 1:
                take(8);
                break;
            case 2:
                out.content = take(varint());
                break;
            case 5:
                out.value = fixed32();
                break;
            default:
                broken();
        }
        return true;
    }

private:
    std::uint64_t varint() {
        std::uint64_t out = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<unsigned char>(take(1)[0]);
            out |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
            if (byte < 0x80) return out;
        }
        broken();
    }
    std::uint32_t fixed32() {
        std::uint32_t out = 0;
        for (unsigned shift = 0; shift < 32; shift += 8)
            out |= static_cast<std::uint32_t>(static_cast<unsigned char>(take(1)[0])) << shift;
        return out;
    }
    std::string_view take(std::uint64_t bytes) {
        if (bytes > bytes_.size() - at_) broken();
        const auto out = bytes_.substr(at_, bytes);
        at_ += bytes;
        return out;
    }
    [[noreturn]] void broken() const {
        bad_input(where_, ": not a sentencepiece model, or a damaged one (at byte ", at_,
                  " of a message); fetch the file again");
    }

    std::string_view bytes_;
    const std::string& where_;
    std::size_t at_ = 0;
};

enum class Kind : std::uint64_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct SentencePiece {
    std::string text;
    float score = 0;
    Kind kind = Kind::normal;
};

struct Model {
    std::vector<SentencePiece> pieces;  // by id
    std::uint64_t type = 1;             // 1 unigram, 2 BPE, 3 word, 4 character
    bool byte_fallback = false;
    bool rewrites = false;  // has a table of character replacements
    bool dummy_prefix = true, one_space = true, escaped_spaces = true;
};

SentencePiece read_piece(std::string_view bytes, const std::string& where) {
    SentencePiece out;
    Message message(bytes, where);
    for (Message::Field field; message.next(field);) {
        if (field.number == 1) out.text = field.content;
        if (field.number == 2) out.score = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
        if (field.number == 3) out.kind = static_cast<Kind>(field.value);
    }
    constexpr std::size_t longest = 512;  // trainers stop at 16 characters
    if (out.text.size() > longest || !unicode::is_valid(out.text))
        bad_input(where, ": a piece of ", out.text.size(), " bytes that is too long or not UTF-8; the file is damaged");
    return out;
}

void read_trainer(const Message::Field& setting, Model& out) {
    if (setting.number == 3) out.type = setting.value;
    if (setting.number == 35) out.byte_fallback = setting.value != 0;
}

void read_normaliser(const Message::Field& setting, Model& out) {
    if (setting.number == 2) out.rewrites = !setting.content.empty();
    if (setting.number == 3) out.dummy_prefix = setting.value != 0;
    if (setting.number == 4) out.one_space = setting.value != 0;
    if (setting.number == 5) out.escaped_spaces = setting.value != 0;
}

Model read_model(std::string_view bytes, const std::string& where) {
    Model out;
    Message message(bytes, where);
    for (Message::Field field; message.next(field);) {
        if (field.number == 1) out.pieces.push_back(read_piece(field.content, where));
        if (field.number != 2 && field.number != 3) continue;
        Message specification(field.content, where);  // 2: of the trainer, 3: of the normaliser
        for (Message::Field setting; specification.next(setting);)
            (field.number == 2 ? read_trainer : read_normaliser)(setting, out);
    }
    if (out.pieces.empty()) bad_input(where, ": holds no pieces; this is not a sentencepiece model");
    if (out.type != 1 && out.type != 2) {
        constexpr std::array<std::string_view, 5> names{"nameless", "unigram", "BPE", "word", "character"};
        bad_input(where, ": a ", names[out.type < names.size() ? out.type : 0],
                  " model; kerf reads sentencepiece models of the types BPE and unigram");
    }
    return out;
}

/// Architectures whose tokenizer.model transformers 5 does not read as LlamaTokenizer, whatever the folder says.
bool reads_generically(std::string_view model_type) {
    constexpr std::array<std::string_view, 8> types{"arctic",   "internlm2", "internlm3", "jamba",
                                                    "minicpm3", "nemotron",  "phi3",      "phimoe"};
    return std::find(types.begin(), types.end(), model_type) != types.end();
}

/// transformers has a class of its own for Gemma's file: no space in front, other special tokens.
bool is_gemma(const TokenizerConfig& config) {
    return config.tokenizer_class.starts_with("Gemma") || config.model_type.starts_with("gemma");
}

AddedTokens added_of(const Model& file, const Vocabulary& vocabulary, const std::string& where) {
    AddedTokens out;
    for (const auto& piece : file.pieces) {
        // The unigram reading cuts user-defined pieces out later, as ordinary tokens.
        if (piece.kind != Kind::control && (piece.kind != Kind::user_defined || file.type == 1)) continue;
        AddedToken token;
        token.content = piece.text;
        token.special = piece.kind == Kind::control;
        out.add(token, vocabulary, {}, where);
    }
    return out;
}

std::unique_ptr<const SubwordModel> bpe_of(const Model& file, const std::string& where) {
    Vocabulary vocabulary;
    Bpe::Options options;
    options.fuse_unknown = true;
    options.byte_fallback = true;
    for (std::size_t i = 0; i < file.pieces.size(); ++i) {
        const auto id = static_cast<std::int64_t>(i);
        vocabulary.add(file.pieces[i].text, id, where);
        if (file.pieces[i].kind == Kind::unknown && !options.unknown) options.unknown = id;
    }
    // A piece of smaller id was learnt earlier, so it comes first.
    std::vector<std::string> by_rank;
    for (const auto& piece : file.pieces) by_rank.push_back(piece.text);
    auto merges = sentencepiece_merges(vocabulary, by_rank);
    return std::make_unique<Bpe>(std::move(vocabulary), merges, options, where);
}

std::unique_ptr<const SubwordModel> unigram_of(const Model& file, const std::string& where) {
    std::vector<Unigram::Piece> pieces;
    Unigram::Options options;
    options.byte_fallback = file.byte_fallback;
    for (const auto& piece : file.pieces) {
        if (piece.kind == Kind::unknown && !options.unknown) options.unknown = static_cast<std::int64_t>(pieces.size());
        pieces.emplace_back(piece.text, piece.score);
    }
    return std::make_unique<Unigram>(pieces, options, where);
}

/// The normalisation that the file asks for, but for the space in front where a pre-tokenizer puts it.
Normalizer normalizer_of(const Model& file, bool prefix_each) {
    return [one_space = file.one_space, escaped = file.escaped_spaces,
            double_mark = file.dummy_prefix && prefix_each](const std::string& text) {
        std::string out;
        out.reserve(text.size() + text.size() / 8);
        for (const char c : text) {
            if (one_space && c == ' ' && (out.empty() || out.back() == ' ')) continue;
            out += c;
        }
        if (one_space && out.ends_with(' ')) out.pop_back();
        if (escaped) out = replace_all(out, " ", space_mark);
        if (double_mark && out.starts_with(space_mark)) out.insert(0, space_mark);  // one is no space in front
        return out;
    };
}

/// Cuts user-defined pieces out, the longest first; nothing where there are none.
PreTokenizer user_defined_of(const Model& file, const std::string& where) {
    std::vector<std::string_view> texts;
    for (const auto& piece : file.pieces)
        if (piece.kind == Kind::user_defined && !piece.text.empty()) texts.emplace_back(piece.text);
    if (texts.empty()) return {};
    std::stable_sort(texts.begin(), texts.end(), [](auto a, auto b) { return a.size() > b.size(); });
    std::string pattern;
    for (const auto text : texts) {
        if (!pattern.empty()) pattern += '|';
        for (const char c : text) {
            if (std::ispunct(static_cast<unsigned char>(c)) != 0) pattern += '\\';
            pattern += c;
        }
    }
    return isolating_pre_tokenizer(Regex(pattern, where));
}

/// As sentencepiece itself encodes, and transformers where no class of its own stands for the file.
TokenizerParts unigram_parts(const Model& file, const TokenizerConfig& config, const std::string& where) {
    TokenizerParts out;
    const bool prefix_each = config.legacy.value_or(true);
    out.normalizer = normalizer_of(file, prefix_each);
    const Prepend prepend = !file.dummy_prefix ? Prepend::never : prefix_each ? Prepend::always : Prepend::first;
    out.pre_tokenizer = [front = metaspace_pre_tokenizer(std::string(space_mark), prepend, false),
                         cut = user_defined_of(file, where), prefix = file.dummy_prefix](Pieces& pieces) {
        if (prefix) front(pieces);
        if (cut) cut(pieces);
    };
    out.decoder = sentencepiece_decoder(std::string(space_mark), file.dummy_prefix);
    out.model = unigram_of(file, where);
    return out;
}

}  // namespace

std::vector<Bpe::MergeRule> sentencepiece_merges(const Vocabulary& vocabulary, const std::vector<std::string>& pieces) {
    struct Split {
        std::int64_t left, right;
        std::size_t left_characters, right_characters;
        std::string left_text, right_text;
    };
    std::vector<Bpe::MergeRule> out;
    for (const auto& piece : pieces) {
        std::vector<std::size_t> starts;
        for (std::size_t at = 0; at < piece.size(); at += unicode::decode(piece, at).bytes) starts.push_back(at);
        std::vector<Split> splits;
        for (std::size_t i = 1; i < starts.size(); ++i) {
            const std::string left = piece.substr(0, starts[i]), right = piece.substr(starts[i]);
            const auto left_id = vocabulary.find(left), right_id = vocabulary.find(right);
            if (left_id && right_id) splits.push_back({*left_id, *right_id, i, starts.size() - i, left, right});
        }
        std::sort(splits.begin(), splits.end(), [](const Split& a, const Split& b) {
            return std::tie(a.left_characters, a.right_characters, a.left, a.right) <
                   std::tie(b.left_characters, b.right_characters, b.left, b.right);
        });
        for (auto& split : splits) out.emplace_back(std::move(split.left_text), std::move(split.right_text));
    }
    return out;
}

void use_llama_stages(const TokenizerConfig& config, TokenizerParts& out) {
    const bool prefix = config.add_prefix_space.value_or(true);
    const Prepend prepend = !prefix ? Prepend::never : config.legacy.value_or(false) ? Prepend::always : Prepend::first;
    out.normalizer = {};
    out.pre_tokenizer = metaspace_pre_tokenizer(std::string(space_mark), prepend, false);
    out.decoder = sentencepiece_decoder(std::string(space_mark), prefix);
}

/// As transformers' LlamaTokenizer reads such a file: the pieces as a BPE vocabulary with byte fallback, spaces as
/// U+2581, one put in front of the text (with `legacy`, of each part between special tokens). The file's own
/// normalisation rules are not applied there, nor here. A few architectures get a generic reading instead: no space in
/// front, and the rules would count. Unigram models, which that class cannot read, are read as their library does.
TokenizerParts read_sentencepiece(const std::filesystem::path& path, TokenizerConfig& config) {
    const std::string where = path.string(), bytes = read_text(path);
    const Model file = read_model(bytes, where);
    const bool gemma = is_gemma(config);
    if (gemma) config.set_gemma_defaults();
    config.set_default("bos_token", "<s>");
    config.set_default("eos_token", "</s>");
    config.set_default("unk_token", "<unk>");
    if (gemma && !config.add_bos) config.add_bos = true;
    const bool generic = file.type == 1 || reads_generically(config.model_type);
    if (generic && file.rewrites)
        bad_input(
            where,
            ": has a table of character replacements (precompiled_charsmap), which kerf does not support; save the "
            "tokenizer as tokenizer.json with another normalizer");
    TokenizerParts out;
    if (file.type == 1) {
        out = unigram_parts(file, config, where);
    } else {
        if (generic || gemma) config.add_prefix_space = false;
        use_llama_stages(config, out);
        out.model = bpe_of(file, where);
    }
    out.added = added_of(file, out.model->vocabulary(), where);
    return out;
}

}  // namespace kerf::core
