// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "core/text/template_library.hpp"
#include "core/text/template_text.hpp"

namespace kerf::core::jinja {
namespace {

constexpr std::size_t largest_text = std::size_t{16} << 20;

List as_list(std::vector<std::string> texts) {
    List out;
    for (auto& text : texts) out.emplace_back(std::move(text));
    return out;
}

/// A text, or a tuple of texts of which one must fit.
bool fits(const Arguments& arguments, const std::string& who, bool (*one)(std::string_view, std::string_view),
          std::string_view text) {
    const Value* wanted = arguments.get(0, "");
    arguments.check(who, 1, {});
    if (wanted && wanted->string()) return one(text, *wanted->string());
    if (wanted && wanted->tuple())
        return std::any_of(wanted->list()->begin(), wanted->list()->end(), [&](const Value& each) {
            if (!each.string()) fail(who, " takes texts");
            return one(text, *each.string());
        });
    fail(who, " takes a text or a tuple of texts");
}

Value split_method(const std::string& text, const std::string& name, const Arguments& arguments) {
    arguments.check(name, 2, {"sep", "maxsplit"});
    const Value* separator = arguments.get(0, "sep");
    const bool given = separator && !separator->as<None>();
    if (given && (!separator->string() || separator->string()->empty()))
        fail(name, " needs a separator that is a text, not an empty one");
    const std::int64_t most = arguments.integer(1, "maxsplit", -1);
    return make_list(as_list(split(text, given ? separator->string() : nullptr, most, name == "rsplit")));
}

Value find_method(const std::string& text, const std::string& name, const Arguments& arguments) {
    arguments.check(name, 1, {});
    const std::string wanted = arguments.text(0, "", "");
    const auto at = name == "rfind" ? text.rfind(wanted) : text.find(wanted);
    if (at == std::string::npos) return std::int64_t{-1};
    return std::int64_t(character_count(std::string_view(text).substr(0, at)));
}

std::int64_t count_of(const std::string& text, const std::string& what) {
    if (what.empty()) return std::int64_t(character_count(text)) + 1;
    std::int64_t out = 0;
    for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size())) ++out;
    return out;
}

Value replace_method(const std::string& text, const Arguments& arguments, Budget& budget) {
    arguments.check("replace", 3, {"count"});
    if (arguments.positional.size() < 2) fail("replace takes what to replace and what by");
    const std::string old = arguments.text(0, "", ""), with = arguments.text(1, "", "");
    const std::size_t size = text.size() + std::size_t(count_of(text, old)) * with.size();
    if (size > largest_text) fail("a text becomes longer than ", largest_text, " bytes");
    budget.spend(size);
    return replaced(text, old, with, arguments.integer(2, "count", -1));
}

Value join_method(const std::string& separator, const Arguments& arguments, Budget& budget) {
    arguments.check("join", 1, {});
    std::string out;
    bool first = true;
    for (const auto& item : items_of(arguments.value(0, "", {}), budget)) {
        if (!item.string()) fail("join takes texts, not ", kind_name(item));
        budget.spend(separator.size() + item.string()->size());
        out += (first ? "" : separator) + *item.string();
        first = false;
    }
    return out;
}

bool all_digits(const std::string& text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

Value text_method(const std::string& text, const std::string& name, const Arguments& arguments, Budget& budget) {
    budget.spend(text.size());
    if (name == "strip" || name == "lstrip" || name == "rstrip") {
        arguments.check(name, 1, {});
        const Value which = arguments.value(0, "", None{});
        if (which.string() && which.string()->empty()) return text;
        return stripped(text, which.as<None>() ? "" : arguments.text(0, "", ""), name != "rstrip", name != "lstrip");
    }
    if (name == "startswith")
        return fits(
            arguments, name, [](auto t, auto w) { return t.starts_with(w); }, text);
    if (name == "endswith")
        return fits(
            arguments, name, [](auto t, auto w) { return t.ends_with(w); }, text);
    if (name == "split" || name == "rsplit") return split_method(text, name, arguments);
    if (name == "find" || name == "rfind") return find_method(text, name, arguments);
    if (name == "replace") return replace_method(text, arguments, budget);
    if (name == "join") return join_method(text, arguments, budget);
    if (name == "count") return arguments.check(name, 1, {}), count_of(text, arguments.text(0, "", ""));
    if (name == "removeprefix") {
        const std::string part = arguments.text(0, "", "");
        return text.starts_with(part) ? text.substr(part.size()) : text;
    }
    if (name == "removesuffix") {
        const std::string part = arguments.text(0, "", "");
        return text.ends_with(part) ? text.substr(0, text.size() - part.size()) : text;
    }
    arguments.check(name, 0, {});
    if (name == "upper") return upper(text);
    if (name == "lower") return lower(text);
    if (name == "title") return titled(text);
    if (name == "capitalize") return capitalized(text);
    if (name == "splitlines") return make_list(as_list(split_lines(text)));
    if (name == "isdigit") return all_digits(text);
    fail("the method '", name, "' of texts is not supported");
}

Value dict_method(const Dict& dict, const std::string& name, const Arguments& arguments, Budget& budget) {
    budget.spend(dict.size());
    if (name == "get") {
        arguments.check(name, 2, {});
        const Value* found = find(dict, arguments.value(0, "", {}));
        return found ? *found : arguments.value(1, "", None{});
    }
    arguments.check(name, 0, {});
    List out;
    for (const auto& [key, value] : dict)
        out.push_back(name == "items" ? make_list({key, value}, true) : name == "keys" ? key : value);
    return make_list(std::move(out));
}

constexpr std::array<std::string_view, 20> text_methods{"strip", "lstrip", "rstrip",       "startswith",   "endswith",
                                                        "split", "rsplit", "find",         "rfind",        "replace",
                                                        "join",  "count",  "removeprefix", "removesuffix", "upper",
                                                        "lower", "title",  "capitalize",   "splitlines",   "isdigit"};
constexpr std::array<std::string_view, 4> dict_methods{"get", "items", "keys", "values"};
constexpr std::array<std::string_view, 2> list_methods{"index", "count"};

template <std::size_t N>
bool among(const std::array<std::string_view, N>& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

Value list_method(const List& list, const std::string& name, const Arguments& arguments, Budget& budget) {
    budget.spend(list.size());
    arguments.check(name, 1, {});
    const Value wanted = arguments.value(0, "", {});
    if (name == "count")
        return std::int64_t(std::count_if(list.begin(), list.end(), [&](const Value& v) { return equal(v, wanted); }));
    const auto found = std::find_if(list.begin(), list.end(), [&](const Value& v) { return equal(v, wanted); });
    if (found == list.end()) fail("index finds no such item in the list");
    return std::int64_t(found - list.begin());
}

std::int64_t index_in(const Value& key, std::size_t size) {
    std::int64_t index = 0;
    if (!key.integer(index)) fail("an index must be a whole number, not ", kind_name(key));
    return index < 0 ? index + std::int64_t(size) : index;
}

}  // namespace

bool has_method(const Value& value, std::string_view name) {
    if (value.string()) return among(text_methods, name);
    if (value.dict()) return among(dict_methods, name);
    return value.list() && among(list_methods, name);
}

Value call_method(const Method& method, const Arguments& arguments, Budget& budget) {
    budget.walk(method.self);
    if (const auto* text = method.self.string()) return text_method(*text, method.name, arguments, budget);
    if (const auto* dict = method.self.dict()) return dict_method(*dict, method.name, arguments, budget);
    return list_method(*method.self.list(), method.name, arguments, budget);
}

List items_of(const Value& value, Budget& budget) {
    if (value.undefined()) return {};
    if (const auto* list = value.list()) {
        budget.spend(list->size());
        return *list;
    }
    List out;
    if (const auto* dict = value.dict()) {
        budget.spend(dict->size());
        for (const auto& [key, item] : *dict) out.push_back(key);
        return out;
    }
    if (const auto* text = value.string()) {
        budget.spend(text->size() * 16);
        return as_list(characters(*text));
    }
    fail("cannot go through ", kind_name(value));
}

Value attribute_of(const Value& value, const std::string& name, Budget& budget) {
    if (value.undefined()) fail(kind_name(value), ", has no attribute '", name, "'");
    if (has_method(value, name))
        return Value(std::shared_ptr<const Method>(std::make_shared<Method>(Method{value, name})));
    if (const auto* dict = value.dict()) {
        budget.spend(dict->size());
        const Value* found = find(*dict, name);
        return found ? *found : Value(Undefined{name});
    }
    if (const auto* names = value.as<Namespace*>()) {
        const auto found = (*names)->names.find(name);
        return found != (*names)->names.end() ? found->second : Value(Undefined{name});
    }
    if (const auto* loop = value.as<std::shared_ptr<const LoopState>>()) {
        const LoopState& state = **loop;
        const auto at = std::int64_t(state.index), size = std::int64_t(state.items->size());
        if (name == "index") return at + 1;
        if (name == "index0") return at;
        if (name == "revindex") return size - at;
        if (name == "revindex0") return size - at - 1;
        if (name == "first") return at == 0;
        if (name == "last") return at == size - 1;
        if (name == "length") return size;
        if (name == "depth") return state.depth;
        if (name == "depth0") return state.depth - 1;
        if (name == "previtem") return at > 0 ? (*state.items)[std::size_t(at - 1)] : Value(Undefined{"loop.previtem"});
        if (name == "nextitem")
            return at + 1 < size ? (*state.items)[std::size_t(at + 1)] : Value(Undefined{"loop.nextitem"});
        fail("'loop.", name, "' is not supported");
    }
    return Undefined{name};
}

Value item_of(const Value& value, const Value& key, Budget& budget) {
    if (value.undefined()) fail(kind_name(value), ", has no items");
    if (const auto* dict = value.dict()) {
        budget.spend(dict->size());
        if (const Value* found = find(*dict, key)) return *found;
    } else if (key.string()) {
        return attribute_of(value, *key.string(), budget);
    } else if (const auto* list = value.list()) {
        const std::int64_t index = index_in(key, list->size());
        if (index >= 0 && index < std::int64_t(list->size())) return (*list)[std::size_t(index)];
    } else if (const auto* text = value.string()) {
        budget.spend(text->size() * 16);
        const auto all = characters(*text);
        const std::int64_t index = index_in(key, all.size());
        if (index >= 0 && index < std::int64_t(all.size())) return all[std::size_t(index)];
    } else {
        fail(kind_name(value), " has no items");
    }
    return Undefined{key.string() ? *key.string() : "an item"};
}

Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step, Budget& budget) {
    if (!value.list() && !value.string()) fail("cannot cut ", kind_name(value));
    const List items = items_of(value, budget);
    const auto size = std::int64_t(items.size());
    const auto bound = [&](const Value& given, std::int64_t otherwise, std::int64_t least, std::int64_t most) {
        std::int64_t at = 0;
        if (given.as<None>()) return otherwise;
        if (!given.integer(at)) fail("a slice is cut at whole numbers, not at ", kind_name(given));
        return std::clamp(at < 0 ? at + size : at, least, most);
    };
    std::int64_t by = 1;
    if (!step.as<None>() && !step.integer(by)) fail("a slice's step is a whole number, not ", kind_name(step));
    if (by == 0) fail("a slice's step cannot be 0");
    by = std::clamp(by, -size - 1, size + 1);
    List out;
    if (by > 0)
        for (std::int64_t i = bound(start, 0, 0, size), end = bound(stop, size, 0, size); i < end; i += by)
            out.push_back(items[std::size_t(i)]);
    else
        for (std::int64_t i = bound(start, size - 1, -1, size - 1), end = bound(stop, -1, -1, size - 1); i > end;
             i += by)
            out.push_back(items[std::size_t(i)]);
    if (value.list()) return make_list(std::move(out), value.tuple());
    std::string text;
    for (const auto& item : out) text += *item.string();
    return text;
}

}  // namespace kerf::core::jinja
