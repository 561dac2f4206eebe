// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/text/regex.hpp"

#include <pcre2.h>

#include <array>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

std::string message_of(int code) {
    std::array<PCRE2_UCHAR, 256> out{};
    pcre2_get_error_message(code, out.data(), out.size());
    return reinterpret_cast<const char*>(out.data());
}

// The insides of character classes. PCRE2's own \s has U+180E, which is no white space since Unicode 6.3; its \w
// (before 10.43) lacks marks and connectors.
constexpr std::string_view white_space = R"(\t-\r\x{85}\p{Z})";
constexpr std::string_view word = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

/// Oniguruma's spelling → PCRE2's.
class Translation {
public:
    Translation(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

    std::string run() {
        while (at_ < pattern_.size()) {
            if (pattern_[at_] == '\\' && at_ + 1 < pattern_.size())
                escape();
            else
                plain();
        }
        return std::move(out_);
    }

private:
    void escape() {
        const char kind = pattern_[at_ + 1];
        const std::string_view set = kind == 's' || kind == 'S' ? white_space : word;
        const bool known = kind == 's' || kind == 'w' || (!in_class_ && (kind == 'S' || kind == 'W'));
        if (!known) {
            out_ += pattern_.substr(at_, 2);
        } else if (in_class_) {
            out_ += set;
        } else {
            out_ += kind == 's' || kind == 'w' ? "[" : "[^";
            out_ += set;
            out_ += ']';
        }
        at_ += 2;
    }

    void plain() {
        const char c = pattern_[at_];
        const char next = at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0';
        if (in_class_ && c == '[' && next != ':') refuse("a class within a class");
        if (in_class_ && c == '&' && next == '&') refuse("an intersection of classes (&&)");
        if (in_class_ && c == '[') return posix_class();
        out_ += c;
        ++at_;
        if (!in_class_ && c == '[') {
            in_class_ = true;
            // `]` as the first of a class is a literal.
            if (at_ < pattern_.size() && pattern_[at_] == '^') out_ += pattern_[at_++];
            if (at_ < pattern_.size() && pattern_[at_] == ']') {
                out_ += "\\]";
                ++at_;
            }
        } else if (in_class_ && c == ']') {
            in_class_ = false;
        }
    }

    void posix_class() {
        const auto end = pattern_.find(":]", at_ + 2);
        if (end == std::string_view::npos) refuse("an open [: class");
        out_ += pattern_.substr(at_, end + 2 - at_);
        at_ = end + 2;
    }

    [[noreturn]] void refuse(std::string_view what) const {
        bad_input(where_, ": the pattern ", pattern_, " has ", what, ", which kerf does not support");
    }

    std::string_view pattern_;
    const std::string& where_;
    std::string out_;
    std::size_t at_ = 0;
    bool in_class_ = false;
};

}  // namespace

struct Regex::Compiled {
    std::string pattern, where;
    std::unique_ptr<pcre2_code, Free> code;
    std::unique_ptr<pcre2_match_context, Free> limits;
};

Regex::Regex(std::string_view pattern, std::string where) {
    constexpr std::size_t longest = 65536;
    if (pattern.size() > longest)
        bad_input(where, ": a pattern of ", pattern.size(), " bytes; ", longest, " are the most");
    auto compiled = std::make_shared<Compiled>();
    compiled->pattern = pattern;
    compiled->where = std::move(where);
    const std::string translated = Translation(pattern, compiled->where).run();
    int error = 0;
    PCRE2_SIZE offset = 0;
    // MULTILINE: in Oniguruma's Ruby dialect ^ and $ are about lines.
    compiled->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                       PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                       &offset, nullptr));
    if (!compiled->code)
        bad_input(compiled->where, ": the pattern ", pattern,
                  " is not a regular expression that kerf can use: ", message_of(error));
    // Without the compiler (a system that forbids writable code) the same pattern runs interpreted.
    pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE);
    compiled->limits.reset(pcre2_match_context_create(nullptr));
    if (!compiled->limits) throw std::bad_alloc();
    pcre2_set_match_limit(compiled->limits.get(), 10'000'000);
    pcre2_set_heap_limit(compiled->limits.get(), 256u << 10);  // KiB
    compiled_ = std::move(compiled);
}

std::vector<Range> Regex::find_all(std::string_view text) const {
    const std::unique_ptr<pcre2_match_data, Free> data(
        pcre2_match_data_create_from_pattern(compiled_->code.get(), nullptr));
    if (!data) throw std::bad_alloc();
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const auto match = [&](std::size_t at, std::uint32_t options) {
        return pcre2_match(compiled_->code.get(), subject, text.size(), at, options, data.get(),
                           compiled_->limits.get());
    };
    std::vector<Range> out;
    for (std::size_t at = 0; at <= text.size();) {
        // The caller's text is valid; checking it at every match would make this quadratic.
        int status = match(at, PCRE2_NO_UTF_CHECK);
        if (status == PCRE2_ERROR_JIT_STACKLIMIT) status = match(at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
        if (status == PCRE2_ERROR_NOMATCH) break;
        if (status < 0)
            bad_input(compiled_->where, ": the pattern ", compiled_->pattern, " gave up on a text of ", text.size(),
                      " bytes: ", message_of(status));
        const auto* found = pcre2_get_ovector_pointer(data.get());
        const Range range{found[0], std::max(found[0], found[1])};
        const bool empty = range.begin == range.end;
        // An empty match right behind the last one is that one's end, not a match of its own.
        if (!empty || out.empty() || out.back().end != range.begin) out.push_back(range);
        at = range.end;
        if (!empty) continue;
        do ++at;
        while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
    }
    return out;
}

}  // namespace kerf::core
