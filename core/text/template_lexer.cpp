// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "core/text/template_syntax.hpp"
#include "core/text/unicode.hpp"

namespace kerf::core::jinja {
namespace {

using Kind = Token::Kind;

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}
bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_name_start(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/// Line ends as \n, and none at the very end (keep_trailing_newline is off).
std::string normalised(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\r') {
            out += text[i];
            continue;
        }
        out += '\n';
        if (i + 1 < text.size() && text[i + 1] == '\n') ++i;
    }
    if (out.ends_with('\n')) out.pop_back();
    return out;
}

class Lexer {
public:
    explicit Lexer(std::string_view text) : text_(normalised(text)) {}

    std::vector<Token> run() {
        while (at_ < text_.size()) {
            const std::size_t tag = next_tag();
            std::string data = text_.substr(at_, tag - at_);
            if (tag == text_.size()) {
                add_data(std::move(data));
                break;
            }
            const char type = text_[tag + 1];
            const char sign = tag + 2 < text_.size() ? text_[tag + 2] : ' ';
            strip_before(data, type, sign);
            const int lines = count_lines(at_, tag);
            add_data(std::move(data));
            line_ += lines;
            at_ = tag + 2 + (sign == '-' || sign == '+' ? 1 : 0);
            if (type == '#')
                skip_comment();
            else if (type != '%' || !raw())
                tag_tokens(type);
        }
        push(Kind::end, "the end of the template");
        return std::move(tokens_);
    }

private:
    [[noreturn]] void wrong(const std::string& what) const { throw SyntaxError{line_, what}; }
    void push(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
    void add_data(std::string data) {
        if (!data.empty()) push(Kind::data, std::move(data));
    }
    bool looking_at(std::string_view what) const { return std::string_view(text_).substr(at_).starts_with(what); }
    int count_lines(std::size_t from, std::size_t to) const {
        return int(std::count(text_.begin() + std::ptrdiff_t(from), text_.begin() + std::ptrdiff_t(to), '\n'));
    }

    std::size_t next_tag() const {
        for (std::size_t i = at_; i + 1 < text_.size(); ++i)
            if (text_[i] == '{' && (text_[i + 1] == '{' || text_[i + 1] == '%' || text_[i + 1] == '#')) return i;
        return text_.size();
    }

    /// lstrip_blocks: blanks between the start of a line and a statement or comment go; "-" takes all white space.
    void strip_before(std::string& data, char type, char sign) const {
        if (sign == '-') {
            while (!data.empty() && is_space(data.back())) data.pop_back();
            return;
        }
        if (sign == '+' || type == '{') return;
        const std::size_t line = data.rfind('\n') + 1;  // npos + 1 = 0
        if (line == 0 && !line_start_) return;
        if (std::all_of(data.begin() + std::ptrdiff_t(line), data.end(), is_space)) data.erase(line);
    }

    /// The end of a tag at the current place: %}, -%}, +%} and so on; also takes what follows it, by trim_blocks or
    /// "-".
    bool take_end(std::string_view end) {
        const char sign = at_ < text_.size() ? text_[at_] : ' ';
        const bool strip = sign == '-', keep = sign == '+' && end != "}}";
        const std::size_t skip = strip || keep ? 1 : 0;
        if (!std::string_view(text_).substr(std::min(at_ + skip, text_.size())).starts_with(end)) return false;
        at_ += skip + end.size();
        line_start_ = false;
        if (strip) {
            while (at_ < text_.size() && is_space(text_[at_])) take_character();
            line_start_ = text_[at_ - 1] == '\n';
        } else if (!keep && end != "}}" && at_ < text_.size() && text_[at_] == '\n') {
            take_character();
            line_start_ = true;
        }
        return true;
    }
    void take_character() {
        if (text_[at_] == '\n') ++line_;
        ++at_;
    }

    void skip_comment() {
        while (at_ < text_.size()) {
            if (take_end("#}")) return;
            take_character();
        }
        wrong("a comment {# has no end #}");
    }

    /// {% raw %} … {% endraw %}
    bool raw() {
        const std::size_t start = at_;
        const int line = line_;
        skip_space();
        if (!looking_at("raw")) return restore(start, line);
        at_ += 3;
        skip_space();
        if (!take_end("%}")) return restore(start, line);
        const std::size_t from = at_;
        for (std::size_t end = text_.find("{%", at_); end != std::string::npos; end = text_.find("{%", end + 2)) {
            std::string data = text_.substr(from, end - from);
            const char sign = end + 2 < text_.size() ? text_[end + 2] : ' ';
            at_ = end + 2 + (sign == '-' || sign == '+' ? 1 : 0);
            skip_space();
            if (!looking_at("endraw")) continue;
            at_ += 6;
            skip_space();
            strip_before(data, '%', sign);
            if (!take_end("%}")) continue;
            const int lines = count_lines(from, end);
            add_data(std::move(data));
            line_ += lines;
            return true;
        }
        wrong("{% raw %} has no {% endraw %}");
    }
    bool restore(std::size_t at, int line) {
        at_ = at;
        line_ = line;
        return false;
    }
    void skip_space() {
        while (at_ < text_.size() && is_space(text_[at_])) take_character();
    }

    void tag_tokens(char type) {
        const bool variable = type == '{';
        push(variable ? Kind::variable_begin : Kind::block_begin, variable ? "{{" : "{%");
        std::string open;  // brackets: inside them }} may be two braces
        for (;;) {
            skip_space();
            if (at_ >= text_.size()) wrong(variable ? "{{ has no end }}" : "{% has no end %}");
            const int line = line_;
            if (open.empty() && take_end(variable ? "}}" : "%}")) {
                tokens_.push_back({variable ? Kind::variable_end : Kind::block_end, variable ? "}}" : "%}", line});
                return;
            }
            token(open);
        }
    }

    void token(std::string& open) {
        const char c = text_[at_];
        if (is_name_start(c)) {
            const std::size_t from = at_;
            while (at_ < text_.size() && (is_name_start(text_[at_]) || is_digit(text_[at_]))) ++at_;
            push(Kind::name, text_.substr(from, at_ - from));
        } else if (is_digit(c)) {
            number();
        } else if (c == '\'' || c == '"') {
            string();
        } else {
            symbol(open);
        }
    }

    void number() {
        const std::size_t from = at_;
        const bool after_dot = !tokens_.empty() && tokens_.back().is(Kind::symbol, ".");
        const auto digits = [&] {
            while (at_ < text_.size() && (is_digit(text_[at_]) || text_[at_] == '_')) ++at_;
        };
        digits();
        bool real = false;
        if (!after_dot && at_ + 1 < text_.size() && text_[at_] == '.' && is_digit(text_[at_ + 1])) {
            real = true;
            ++at_;
            digits();
        }
        if (!after_dot && at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
            std::size_t exponent = at_ + 1;
            if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
            if (exponent < text_.size() && is_digit(text_[exponent])) {
                real = true;
                at_ = exponent;
                digits();
            }
        }
        if (at_ < text_.size() && is_name_start(text_[at_])) wrong("a number ends with a letter");
        std::string digits_only = text_.substr(from, at_ - from);
        std::erase(digits_only, '_');
        push(real ? Kind::real : Kind::integer, digits_only);
    }

    void string() {
        const char quote = text_[at_];
        const int line = line_;
        std::string out;
        for (++at_; at_ < text_.size() && text_[at_] != quote;) {
            if (text_[at_] == '\\' && at_ + 1 < text_.size()) {
                ++at_;
                escape(out);
            } else {
                out += text_[at_];
                take_character();
            }
        }
        if (at_ >= text_.size()) {
            line_ = line;
            wrong("a text has no closing quote");
        }
        ++at_;
        tokens_.push_back({Kind::string, std::move(out), line});
    }

    /// What follows a backslash, as Python has it; an unknown escape stays as it is written.
    void escape(std::string& out) {
        constexpr std::string_view names = "\\'\"abfnrtv", values = "\\'\"\a\b\f\n\r\t\v";
        const char c = text_[at_];
        if (const auto known = names.find(c); known != std::string_view::npos) {
            out += values[known];
            ++at_;
        } else if (c == '\n') {
            take_character();
        } else if (c == 'x' || c == 'u' || c == 'U') {
            ++at_;
            unicode::append(out, code_point(c == 'x' ? 2 : c == 'u' ? 4 : 8));
        } else if (c >= '0' && c <= '7') {
            char32_t code = 0;
            for (int i = 0; i < 3 && at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '7'; ++i)
                code = code * 8 + char32_t(text_[at_++] - '0');
            unicode::append(out, code);
        } else {
            out += '\\';
        }
    }
    char32_t code_point(int digits) {
        constexpr std::string_view hex = "0123456789abcdef";
        char32_t code = 0;
        for (int i = 0; i < digits; ++i, ++at_) {
            const char c = at_ < text_.size() ? char(text_[at_] | 0x20) : ' ';
            const auto value = hex.find(c);
            if (value == std::string_view::npos)
                wrong("an escape in a text needs " + std::to_string(digits) + " hexadecimal digits");
            code = code * 16 + char32_t(value);
        }
        if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) wrong("an escape in a text is no Unicode character");
        return code;
    }

    void symbol(std::string& open) {
        static constexpr std::array<std::string_view, 24> known{"//", "**", "==", "!=", "<=", ">=", "+", "-",
                                                                "*",  "/",  "%",  "~",  "<",  ">",  "=", ".",
                                                                ",",  ":",  "|",  "(",  ")",  "[",  "]", "{"};
        std::string_view found = looking_at("}") ? "}" : "";
        for (const auto spelling : known)
            if (found.empty() && looking_at(spelling)) found = spelling;
        if (found.empty()) wrong(core::text("the character '", text_[at_], "' has no meaning here"));
        const char c = found[0];
        if (c == '(' || c == '[' || c == '{') open += c;
        if (c == ')' || c == ']' || c == '}') {
            if (open.empty() || open.back() != (c == ')' ? '(' : c == ']' ? '[' : '{'))
                wrong(core::text("'", c, "' closes nothing"));
            open.pop_back();
        }
        push(Kind::symbol, std::string(found));
        at_ += found.size();
    }

    std::string text_;
    std::size_t at_ = 0;
    int line_ = 1;
    bool line_start_ = true;  ///< the text since the last tag begins a line
    std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenise(std::string_view text) {
    return Lexer(text).run();
}

}  // namespace kerf::core::jinja
