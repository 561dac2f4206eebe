// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/text/template_value.hpp"

/// A template as tokens and as a tree.
namespace kerf::core::jinja {

struct Token {
    enum class Kind : std::uint8_t {
        data,            ///< text between tags, white space control applied
        variable_begin,  ///< {{
        variable_end,
        block_begin,  ///< {%
        block_end,
        name,
        string,  ///< decoded
        integer,
        real,
        symbol,
        end
    };
    Kind kind = Kind::end;
    std::string text;
    int line = 1;
    bool is(Kind wanted, std::string_view spelling) const { return kind == wanted && text == spelling; }
};

/// A mistake in the template itself, with its line.
struct SyntaxError {
    int line;
    std::string what;
};

/// Throws SyntaxError. Only white space control and the spelling of things are checked.
std::vector<Token> tokenise(std::string_view text);

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

struct Expression {
    enum class Kind : std::uint8_t {
        literal,
        name,
        list,
        tuple,
        dict,         ///< parts: key, value, key, value, …
        attribute,    ///< parts[0].name
        item,         ///< parts[0][parts[1]]
        slice,        ///< parts[0][parts[1]:parts[2]:parts[3]], any of the three null
        call,         ///< parts[0](parts[1], …, named)
        filter,       ///< parts[0] | name(parts[1], …, named)
        test,         ///< parts[0] is name(parts[1], …); negated: is not
        unary,        ///< name: - or + or not
        binary,       ///< name: + - * / // % ** ~
        comparison,   ///< name: == != < <= > >= in, not in; chains come as `both` of two
        both,         ///< and
        either,       ///< or
        conditional,  ///< parts[0] if parts[1] else parts[2], which may be null
    };
    Kind kind = Kind::literal;
    int line = 1, depth = 1;
    Value literal;
    std::string name;
    bool negated = false;
    std::vector<ExpressionPtr> parts;
    std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Statement;
using Block = std::vector<std::unique_ptr<const Statement>>;

struct Macro {
    std::string name;
    std::vector<std::string> parameters;
    std::vector<ExpressionPtr> defaults;  ///< one a parameter, null for none
    Block body;
};

struct Statement {
    enum class Kind : std::uint8_t { text, output, loop, branch, set, set_block, macro, stop, skip };
    Kind kind = Kind::text;
    int line = 1;
    std::string text;                  ///< text; set: the name of a namespace when an attribute is set
    std::vector<std::string> targets;  ///< loop, set
    ExpressionPtr value;               ///< output; loop: what is gone through; set; branch: the condition, null: else
    ExpressionPtr condition;           ///< loop: "if" behind it
    std::vector<Statement> branches;   ///< branch: one each with value and body
    Block body, otherwise;             ///< loop
    Macro definition;
};

struct Program {
    std::string where;
    Block body;
};

/// Throws SyntaxError.
Block parse(std::vector<Token> tokens);

}  // namespace kerf::core::jinja
