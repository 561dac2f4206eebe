// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/text/template_value.hpp"

/// What templates can call: filters, tests, methods of texts and dicts.
namespace kerf::core::jinja {

/// Work that a rendering may do. Whatever makes or walks something long pays for it first.
class Budget {
public:
    /// One step, and one more for every 64 bytes or items.
    void spend(std::size_t size = 0) {
        const std::size_t cost = 1 + size / 64;
        if (cost > left_) fail("the template takes too many steps");
        left_ -= cost;
    }
    /// A walk over all that is in a value.
    void walk(const Value& value) { spend(16 * value.weight()); }

private:
    std::size_t left_ = 4'000'000;
};

/// Arguments of one call.
class Arguments {
public:
    List positional;
    std::vector<std::pair<std::string, Value>> named;

    /// The argument at a place, or of that name; null when it is not given. `name` may be empty: by place alone.
    const Value* get(std::size_t place, std::string_view name) const;
    Value value(std::size_t place, std::string_view name, Value otherwise) const;
    std::string text(std::size_t place, std::string_view name, const std::string& otherwise) const;
    std::int64_t integer(std::size_t place, std::string_view name, std::int64_t otherwise) const;
    bool flag(std::size_t place, std::string_view name, bool otherwise) const;
    /// Fails when there is an argument that is none of these.
    void check(std::string_view who, std::size_t most, std::initializer_list<std::string_view> names) const;
};

/// Fail when the name is not known, and say which are.
Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget);
bool apply_test(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget);
bool has_method(const Value& value, std::string_view name);
Value call_method(const Method& method, const Arguments& arguments, Budget& budget);

/// The items of a list, the keys of a dict, the characters of a text; nothing of an undefined value.
List items_of(const Value& value, Budget& budget);
/// value.name: a method, an attribute, else a key.
Value attribute_of(const Value& value, const std::string& name, Budget& budget);
/// value[key]
Value item_of(const Value& value, const Value& key, Budget& budget);
Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step, Budget& budget);

}  // namespace kerf::core::jinja
