// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// Values of the template language: Python's, as far as templates see them.
namespace kerf::core::jinja {

class Value;
struct Macro;  // a node of the program: template_syntax.hpp

struct Undefined {
    std::string name;  ///< what was looked for, for messages
};
struct None {};
using List = std::vector<Value>;
/// In the order of insertion; keys are compared as values.
using Dict = std::vector<std::pair<Value, Value>>;

/// A list or dict does not change once it is made. `depth` bounds how deep values nest, and so every recursion over
/// them; `weight` counts what is in it, once for each time it is met, and so bounds how long any walk over it takes.
struct ListBox {
    List items;
    bool tuple = false;
    int depth = 1;
    std::size_t weight = 1;
};
struct DictBox {
    Dict items;
    int depth = 1;
    std::size_t weight = 1;
};
/// namespace(…): the one thing that templates can change. Lives as long as the rendering that made it, which owns it: a
/// namespace may hold itself.
struct Namespace {
    std::map<std::string, Value, std::less<>> names;
};
/// A method of a value, as "x".strip.
struct Method;
/// One of the functions that every template has.
struct Function {
    std::string name;
};
/// What "loop" knows in a for.
struct LoopState;

class Value {
public:
    using Kinds = std::variant<Undefined, None, bool, std::int64_t, double, std::string, std::shared_ptr<const ListBox>,
                               std::shared_ptr<const DictBox>, Namespace*, Function, const Macro*,
                               std::shared_ptr<const LoopState>, std::shared_ptr<const Method>>;
    Value() : kind_(Undefined{}) {}
    template <class Kind>
    requires(!std::is_same_v<std::decay_t<Kind>, Value> && std::is_constructible_v<Kinds, Kind>) Value(Kind kind)
        : kind_(std::move(kind)) {}
    Value(const char* text) : kind_(std::string(text)) {}
    Value(int number) : kind_(std::int64_t{number}) {}

    template <class Kind>
    const Kind* as() const {
        return std::get_if<Kind>(&kind_);
    }
    bool undefined() const { return as<Undefined>() != nullptr; }
    const std::string* string() const { return as<std::string>(); }
    const List* list() const {
        const auto* box = as<std::shared_ptr<const ListBox>>();
        return box ? &(*box)->items : nullptr;
    }
    const Dict* dict() const {
        const auto* box = as<std::shared_ptr<const DictBox>>();
        return box ? &(*box)->items : nullptr;
    }
    bool tuple() const {
        const auto* box = as<std::shared_ptr<const ListBox>>();
        return box && (*box)->tuple;
    }
    int depth() const;
    /// Values in it, and 1 for every 16 bytes of text.
    std::size_t weight() const;
    /// Whole numbers, True and False among them.
    bool integer(std::int64_t& out) const;
    bool number(double& out) const;

private:
    Kinds kind_;
};

struct Method {
    Value self;
    std::string name;
};
struct LoopState {
    std::shared_ptr<const List> items;
    std::size_t index = 0;
    int depth = 1;
};

/// What goes wrong while a template runs; the interpreter adds file and line.
struct Failure {
    std::string what;
};
template <class... Pieces>
[[noreturn]] void fail(const Pieces&... pieces);

constexpr int most_depth = 100;
constexpr std::size_t most_weight = 2'000'000;
/// Fail when they would nest deeper or weigh more than that.
Value make_list(List items, bool tuple = false);
Value make_dict(Dict items);

Value from_json(const nlohmann::ordered_json& json);

std::string kind_name(const Value& value);  ///< "string", "list", …
bool truthy(const Value& value);
bool equal(const Value& a, const Value& b);
/// a < b for numbers, texts and lists of them; fails for what has no order.
bool less(const Value& a, const Value& b);
bool contains(const Value& container, const Value& item);
const Value* find(const Dict& dict, const Value& key);
/// How it is printed: Python's str().
std::string to_text(const Value& value);
/// Python's repr().
std::string representation(const Value& value);
/// Python's json.dumps(ensure_ascii=False); indent < 0: in one line.
std::string to_json(const Value& value, int indent, const std::string& item_separator, const std::string& key_separator,
                    bool sort_keys);
/// 1.0 → "1.0", 1e16 → "1e+16": the shortest digits that give the same number.
std::string float_text(double value);

}  // namespace kerf::core::jinja

#include "core/support/text.hpp"

namespace kerf::core::jinja {
template <class... Pieces>
[[noreturn]] void fail(const Pieces&... pieces) {
    throw Failure{core::text(pieces...)};
}
}  // namespace kerf::core::jinja
