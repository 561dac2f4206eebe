// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>

#include "core/text/template_library.hpp"
#include "core/text/template_text.hpp"

namespace kerf::core::jinja {

// ---- Arguments ----------------------------------------------------------------------------------------------------

const Value* Arguments::get(std::size_t place, std::string_view name) const {
    if (place < positional.size()) return &positional[place];
    if (!name.empty())
        for (const auto& [have, value] : named)
            if (have == name) return &value;
    return nullptr;
}
Value Arguments::value(std::size_t place, std::string_view name, Value otherwise) const {
    const Value* given = get(place, name);
    return given ? *given : otherwise;
}
std::string Arguments::text(std::size_t place, std::string_view name, const std::string& otherwise) const {
    const Value* given = get(place, name);
    if (!given) return otherwise;
    if (!given->string()) fail("a text is needed here, not ", kind_name(*given));
    return *given->string();
}
std::int64_t Arguments::integer(std::size_t place, std::string_view name, std::int64_t otherwise) const {
    const Value* given = get(place, name);
    std::int64_t out = otherwise;
    if (given && !given->integer(out)) fail("a whole number is needed here, not ", kind_name(*given));
    return out;
}
bool Arguments::flag(std::size_t place, std::string_view name, bool otherwise) const {
    const Value* given = get(place, name);
    return given ? truthy(*given) : otherwise;
}
void Arguments::check(std::string_view who, std::size_t most, std::initializer_list<std::string_view> names) const {
    if (positional.size() > most) fail("'", who, "' takes at most ", most, " arguments, not ", positional.size());
    for (const auto& [name, value] : named)
        if (std::find(names.begin(), names.end(), name) == names.end())
            fail("'", who, "' has no argument '", name, "'");
}

namespace {

constexpr std::size_t largest_text = std::size_t{16} << 20;

void check_size(std::size_t size) {
    if (size > largest_text) fail("a text becomes longer than ", largest_text, " bytes");
}

/// "a.b.0" of a value, for map(attribute=…) and its like.
Value path_of(const Value& value, const Value& path, Budget& budget) {
    std::int64_t place = 0;
    if (path.integer(place)) return item_of(value, path, budget);
    if (!path.string()) fail("an attribute's name is a text, not ", kind_name(path));
    Value out = value;
    const std::string dot = ".";
    for (const auto& part : split(*path.string(), &dot, -1, false)) {
        std::int64_t index = 0;
        const auto [end, status] = std::from_chars(part.data(), part.data() + part.size(), index);
        out = status == std::errc() && end == part.data() + part.size() ? item_of(out, index, budget)
                                                                        : item_of(out, part, budget);
    }
    return out;
}

// ---- filters: one function each -----------------------------------------------------------------------------------

using Filter = Value (*)(const Value&, const Arguments&, Budget&);

Value trim(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("trim", 1, {"chars"});
    const std::string text = to_text(value);
    budget.spend(text.size());
    const Value which = arguments.value(0, "chars", None{});
    if (which.string() && which.string()->empty()) return text;
    return stripped(text, which.as<None>() ? "" : arguments.text(0, "chars", ""), true, true);
}

Value tojson(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("tojson", 4, {"ensure_ascii", "indent", "separators", "sort_keys"});
    const Value separators = arguments.value(2, "separators", None{});
    const Value* given_indent = arguments.get(1, "indent");
    const bool lines = given_indent && !given_indent->as<None>();
    const auto indent = lines ? arguments.integer(1, "indent", 0) : -1;
    if (arguments.flag(0, "ensure_ascii", false)) fail("tojson with ensure_ascii is not supported");
    if (indent > 64) fail("tojson: an indent of ", indent, " is too wide");
    std::string item = lines ? "," : ", ", key = ": ";
    if (separators.list()) {
        if (separators.list()->size() != 2 || !(*separators.list())[0].string() || !(*separators.list())[1].string())
            fail("tojson: separators are two texts");
        item = *(*separators.list())[0].string();
        key = *(*separators.list())[1].string();
    }
    std::string out = to_json(value, lines ? int(std::max<std::int64_t>(0, indent)) : -1, item, key,
                              arguments.flag(3, "sort_keys", false));
    budget.spend(out.size());
    check_size(out.size());
    return out;
}

Value default_filter(const Value& value, const Arguments& arguments, Budget&) {
    arguments.check("default", 2, {"default_value", "boolean"});
    const bool falsy_too = arguments.flag(1, "boolean", false);
    if (value.undefined() || (falsy_too && !truthy(value))) return arguments.value(0, "default_value", "");
    return value;
}

Value length(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("length", 0, {});
    if (value.string()) return std::int64_t(character_count(*value.string()));
    if (value.list()) return std::int64_t(value.list()->size());
    if (value.dict()) return std::int64_t(value.dict()->size());
    return std::int64_t(items_of(value, budget).size());
}

Value join(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("join", 2, {"d", "attribute"});
    const std::string separator = to_text(arguments.value(0, "d", ""));
    const Value attribute = arguments.value(1, "attribute", None{});
    std::string out;
    bool first = true;
    for (const auto& item : items_of(value, budget)) {
        const std::string text = to_text(attribute.as<None>() ? item : path_of(item, attribute, budget));
        budget.spend(text.size() + separator.size());
        check_size(out.size() + text.size() + separator.size());
        out += (first ? "" : separator) + text;
        first = false;
    }
    return out;
}

Value items(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("items", 0, {});
    if (value.undefined()) return make_list({});
    if (!value.dict()) fail("items needs a dict, not ", kind_name(value));
    return call_method({value, "items"}, {}, budget);
}

Value replace(const Value& value, const Arguments& arguments, Budget& budget) {
    Arguments rest = arguments;
    return call_method({to_text(value), "replace"}, rest, budget);
}

Value first(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("first", 0, {});
    const List all = items_of(value, budget);
    return all.empty() ? Value(Undefined{"the first item of an empty list"}) : all.front();
}
Value last(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("last", 0, {});
    const List all = items_of(value, budget);
    return all.empty() ? Value(Undefined{"the last item of an empty list"}) : all.back();
}

Value to_int(const Value& value, const Arguments& arguments, Budget&) {
    arguments.check("int", 1, {"default"});
    const std::int64_t otherwise = arguments.integer(0, "default", 0);
    std::int64_t whole = 0;
    if (value.integer(whole)) return whole;
    double real = 0;
    if (value.string()) {
        const std::string text = stripped(*value.string(), "", true, true);
        const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), whole);
        if (status == std::errc() && end == text.data() + text.size()) return whole;
        const auto [stop, result] = std::from_chars(text.data(), text.data() + text.size(), real);
        if (result != std::errc() || stop != text.data() + text.size()) return otherwise;
    } else if (!value.number(real)) {
        return otherwise;
    }
    return std::abs(real) < 9e18 ? Value(std::int64_t(real)) : Value(otherwise);
}

Value to_float(const Value& value, const Arguments& arguments, Budget&) {
    arguments.check("float", 1, {"default"});
    double real = 0;
    if (value.number(real)) return real;
    if (value.string()) {
        const std::string text = stripped(*value.string(), "", true, true);
        const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), real);
        if (status == std::errc() && end == text.data() + text.size()) return real;
    }
    return arguments.value(0, "default", 0.0);
}

Value absolute(const Value& value, const Arguments& arguments, Budget&) {
    arguments.check("abs", 0, {});
    std::int64_t whole = 0;
    double real = 0;
    if (value.integer(whole)) return whole == INT64_MIN ? whole : std::abs(whole);
    if (!value.number(real)) fail("abs needs a number, not ", kind_name(value));
    return std::abs(real);
}

Value indent(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("indent", 3, {"width", "first", "blank"});
    const Value width = arguments.value(0, "width", 4);
    const std::int64_t columns = width.string() ? 0 : arguments.integer(0, "width", 4);
    if (columns < 0 || columns > 256) fail("indent: a width of ", columns, " is out of range");
    const std::string blanks = width.string() ? *width.string() : std::string(std::size_t(columns), ' ');
    const bool all = arguments.flag(1, "first", false), blank = arguments.flag(2, "blank", false);
    std::string out;
    bool begin = true;
    const std::string text = to_text(value), newline = "\n";
    const auto lines = split(text, &newline, -1, false);
    check_size(text.size() + lines.size() * blanks.size());
    budget.spend(text.size() + lines.size() * blanks.size());
    for (const auto& line : lines) {
        if (!begin) out += '\n';
        if (begin ? all : blank || !line.empty()) out += blanks;
        out += line;
        begin = false;
    }
    return out;
}

/// Sorted by value or attribute; texts without regard to case unless case_sensitive.
Value sorted(const List& all, const std::function<Value(const Value&)>& key, bool reverse, bool case_sensitive,
             Budget& budget) {
    std::vector<std::pair<Value, Value>> keyed;
    for (const auto& item : all) {
        Value by = key(item);
        if (by.string() && !case_sensitive) by = lower(*by.string());
        keyed.emplace_back(std::move(by), item);
    }
    budget.spend(64 * all.size() * (1 + std::size_t(std::log2(double(all.size() + 1)))));
    std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
        return reverse ? less(b.first, a.first) : less(a.first, b.first);
    });
    List out;
    for (auto& [by, item] : keyed) out.push_back(std::move(item));
    return make_list(std::move(out));
}

Value sort(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("sort", 3, {"reverse", "case_sensitive", "attribute"});
    const Value attribute = arguments.value(2, "attribute", None{});
    return sorted(
        items_of(value, budget),
        [&](const Value& v) { return attribute.as<None>() ? v : path_of(v, attribute, budget); },
        arguments.flag(0, "reverse", false), arguments.flag(1, "case_sensitive", false), budget);
}

Value dictsort(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("dictsort", 3, {"case_sensitive", "by", "reverse"});
    if (!value.dict()) fail("dictsort needs a dict, not ", kind_name(value));
    const std::string by = arguments.text(1, "by", "key");
    if (by != "key" && by != "value") fail("dictsort sorts by 'key' or by 'value', not by '", by, "'");
    const Value pairs = call_method({value, "items"}, {}, budget);
    return sorted(
        *pairs.list(), [&](const Value& v) { return (*v.list())[by == "key" ? 0 : 1]; },
        arguments.flag(2, "reverse", false), arguments.flag(0, "case_sensitive", false), budget);
}

Value reverse(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("reverse", 0, {});
    List all = items_of(value, budget);
    std::reverse(all.begin(), all.end());
    if (!value.string()) return make_list(std::move(all));
    std::string out;
    for (const auto& c : all) out += *c.string();
    return out;
}

Value unique(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("unique", 2, {"case_sensitive", "attribute"});
    const Value attribute = arguments.value(1, "attribute", None{});
    List keys, out;
    for (const auto& item : items_of(value, budget)) {
        Value key = attribute.as<None>() ? item : path_of(item, attribute, budget);
        if (key.string() && !arguments.flag(0, "case_sensitive", false)) key = lower(*key.string());
        budget.spend(64 * keys.size());
        if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return equal(k, key); })) continue;
        keys.push_back(std::move(key));
        out.push_back(item);
    }
    return make_list(std::move(out));
}

/// Arguments behind the first `count`.
Arguments rest_of(const Arguments& arguments, std::size_t count) {
    Arguments out = arguments;
    out.positional.erase(out.positional.begin(),
                         out.positional.begin() + std::ptrdiff_t(std::min(count, out.positional.size())));
    return out;
}

Value map(const Value& value, const Arguments& arguments, Budget& budget) {
    const Value* attribute = nullptr;
    for (const auto& [name, given] : arguments.named)
        if (name == "attribute") attribute = &given;
    List out;
    for (const auto& item : items_of(value, budget)) {
        budget.spend();
        if (attribute) {
            Value found = path_of(item, *attribute, budget);
            if (found.undefined() && arguments.get(9, "default")) found = *arguments.get(9, "default");
            out.push_back(std::move(found));
        } else {
            out.push_back(apply_filter(arguments.text(0, "", ""), item, rest_of(arguments, 1), budget));
        }
    }
    return make_list(std::move(out));
}

/// select, reject (by the item) and selectattr, rejectattr (by one of its attributes).
Value chosen(const Value& value, const Arguments& arguments, Budget& budget, bool by_attribute, bool keep) {
    const std::size_t before = by_attribute ? 1 : 0;
    if (by_attribute && arguments.positional.empty()) fail("selectattr and rejectattr need an attribute's name");
    List out;
    for (const auto& item : items_of(value, budget)) {
        budget.spend();
        const Value subject = by_attribute ? path_of(item, arguments.positional[0], budget) : item;
        const bool met = arguments.positional.size() > before ? apply_test(arguments.text(before, "", ""), subject,
                                                                           rest_of(arguments, before + 1), budget)
                                                              : truthy(subject);
        if (met == keep) out.push_back(item);
    }
    return make_list(std::move(out));
}

Value total(const Value& value, const Arguments& arguments, Budget& budget) {
    arguments.check("sum", 2, {"attribute", "start"});
    const Value attribute = arguments.value(0, "attribute", None{});
    double sum = 0;
    bool whole = true;
    for (const auto& item : items_of(value, budget)) {
        const Value term = attribute.as<None>() ? item : path_of(item, attribute, budget);
        double number = 0;
        std::int64_t integer = 0;
        if (!term.number(number)) fail("sum needs numbers, not ", kind_name(term));
        whole = whole && term.integer(integer);
        sum += number;
    }
    return whole && std::abs(sum) < 9e15 ? Value(std::int64_t(sum)) : Value(sum);
}

Value extreme(const Value& value, Budget& budget, bool largest) {
    const List all = items_of(value, budget);
    if (all.empty()) return Undefined{"the extreme of an empty list"};
    return largest ? *std::max_element(all.begin(), all.end(), less) : *std::min_element(all.begin(), all.end(), less);
}

Value rounded(const Value& value, const Arguments& arguments, Budget&) {
    arguments.check("round", 2, {"precision", "method"});
    double number = 0;
    if (!value.number(number)) fail("round needs a number, not ", kind_name(value));
    const std::string method = arguments.text(1, "method", "common");
    const double power =
        std::pow(10.0, double(std::clamp<std::int64_t>(arguments.integer(0, "precision", 0), -15, 15)));
    const double scaled = number * power;
    if (method == "ceil") return std::ceil(scaled) / power;
    if (method == "floor") return std::floor(scaled) / power;
    return std::nearbyint(scaled) / power;  // halves to even, as Python's round
}

Value escaped(const Value& value, const Arguments&, Budget& budget) {
    std::string out;
    for (const char c : to_text(value)) {
        const char* entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '"'  ? "&#34;"
                             : c == '\'' ? "&#39;"
                                         : nullptr;
        if (entity)
            out += entity;
        else
            out += c;
    }
    budget.spend(out.size());
    check_size(out.size());
    return out;
}

const std::map<std::string, Filter, std::less<>>& filters() {
    static const std::map<std::string, Filter, std::less<>> all{
        {"abs", absolute},
        {"capitalize",
         [](const Value& v, const Arguments&, Budget& b) {
             return call_method({to_text(v), "capitalize"}, {}, b);
         }},
        {"count", length},
        {"d", default_filter},
        {"default", default_filter},
        {"dictsort", dictsort},
        {"e", escaped},
        {"escape", escaped},
        {"first", first},
        {"float", to_float},
        {"indent", indent},
        {"int", to_int},
        {"items", items},
        {"join", join},
        {"last", last},
        {"length", length},
        {"list", [](const Value& v, const Arguments&, Budget& b) { return make_list(items_of(v, b)); }},
        {"lower",
         [](const Value& v, const Arguments&, Budget& b) {
             return call_method({to_text(v), "lower"}, {}, b);
         }},
        {"map", map},
        {"max", [](const Value& v, const Arguments&, Budget& b) { return extreme(v, b, true); }},
        {"min", [](const Value& v, const Arguments&, Budget& b) { return extreme(v, b, false); }},
        {"reject", [](const Value& v, const Arguments& a, Budget& b) { return chosen(v, a, b, false, false); }},
        {"rejectattr", [](const Value& v, const Arguments& a, Budget& b) { return chosen(v, a, b, true, false); }},
        {"replace", replace},
        {"reverse", reverse},
        {"round", rounded},
        {"safe", [](const Value& v, const Arguments&, Budget&) { return v; }},
        {"select", [](const Value& v, const Arguments& a, Budget& b) { return chosen(v, a, b, false, true); }},
        {"selectattr", [](const Value& v, const Arguments& a, Budget& b) { return chosen(v, a, b, true, true); }},
        {"sort", sort},
        {"string",
         [](const Value& v, const Arguments&, Budget& b) {
             std::string out = to_text(v);
             b.spend(out.size());
             check_size(out.size());
             return Value(out);
         }},
        {"sum", total},
        {"title",
         [](const Value& v, const Arguments&, Budget& b) {
             return call_method({to_text(v), "title"}, {}, b);
         }},
        {"tojson", tojson},
        {"trim", trim},
        {"unique", unique},
        {"upper", [](const Value& v, const Arguments&, Budget& b) {
             return call_method({to_text(v), "upper"}, {}, b);
         }}};
    return all;
}

// ---- tests --------------------------------------------------------------------------------------------------------

using Test = bool (*)(const Value&, const Value&);

bool is_whole(const Value& value) {
    return value.as<std::int64_t>() != nullptr;
}
std::int64_t whole_of(const Value& value) {
    std::int64_t out = 0;
    if (!value.integer(out)) fail("a whole number is needed here, not ", kind_name(value));
    return out;
}

const std::map<std::string, std::pair<std::size_t, Test>, std::less<>>& tests() {
    static const auto callable = [](const Value& v, const Value&) {
        return v.as<Function>() || v.as<const Macro*>() || v.as<std::shared_ptr<const Method>>();
    };
    static const std::map<std::string, std::pair<std::size_t, Test>, std::less<>> all{
        {"boolean", {0, [](const Value& v, const Value&) { return v.as<bool>() != nullptr; }}},
        {"callable", {0, callable}},
        {"defined", {0, [](const Value& v, const Value&) { return !v.undefined(); }}},
        {"divisibleby",
         {1,
          [](const Value& v, const Value& by) {
              if (whole_of(by) == 0) fail("divisibleby 0");
              return whole_of(by) == -1 || whole_of(v) % whole_of(by) == 0;
          }}},
        {"eq", {1, equal}},
        {"equalto", {1, equal}},
        {"even", {0, [](const Value& v, const Value&) { return whole_of(v) % 2 == 0; }}},
        {"false", {0, [](const Value& v, const Value&) { return v.as<bool>() && !*v.as<bool>(); }}},
        {"float", {0, [](const Value& v, const Value&) { return v.as<double>() != nullptr; }}},
        {"ge", {1, [](const Value& v, const Value& w) { return !less(v, w); }}},
        {"gt", {1, [](const Value& v, const Value& w) { return less(w, v); }}},
        {"in", {1, [](const Value& v, const Value& w) { return contains(w, v); }}},
        {"integer", {0, [](const Value& v, const Value&) { return is_whole(v); }}},
        {"iterable",
         {0, [](const Value& v, const Value&) { return v.string() || v.list() || v.dict() || v.undefined(); }}},
        {"le", {1, [](const Value& v, const Value& w) { return !less(w, v); }}},
        {"lower", {0, [](const Value& v, const Value&) { return lower(to_text(v)) == to_text(v); }}},
        {"lt", {1, less}},
        {"mapping", {0, [](const Value& v, const Value&) { return v.dict() != nullptr; }}},
        {"ne", {1, [](const Value& v, const Value& w) { return !equal(v, w); }}},
        {"none", {0, [](const Value& v, const Value&) { return v.as<None>() != nullptr; }}},
        {"number",
         {0,
          [](const Value& v, const Value&) {
              double x = 0;
              return v.number(x);
          }}},
        {"odd", {0, [](const Value& v, const Value&) { return whole_of(v) % 2 != 0; }}},
        {"sameas", {1, [](const Value& v, const Value& w) { return equal(v, w) && kind_name(v) == kind_name(w); }}},
        {"sequence",
         {0, [](const Value& v, const Value&) { return v.string() || v.list() || v.dict() || v.undefined(); }}},
        {"string", {0, [](const Value& v, const Value&) { return v.string() != nullptr; }}},
        {"true", {0, [](const Value& v, const Value&) { return v.as<bool>() && *v.as<bool>(); }}},
        {"undefined", {0, [](const Value& v, const Value&) { return v.undefined(); }}},
        {"upper", {0, [](const Value& v, const Value&) { return upper(to_text(v)) == to_text(v); }}}};
    return all;
}

template <class Names>
[[noreturn]] void unknown(const char* what, const std::string& name, const Names& names) {
    std::string known;
    for (const auto& [each, ignored] : names) known += (known.empty() ? "" : ", ") + each;
    fail("the ", what, " '", name, "' is not supported; kerf knows ", known);
}

}  // namespace

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget) {
    const auto found = filters().find(name);
    if (found == filters().end()) unknown("filter", name, filters());
    budget.walk(value);
    return found->second(value, arguments, budget);
}

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget) {
    const std::string word = name == "=="   ? "eq"
                             : name == "!=" ? "ne"
                             : name == "<"  ? "lt"
                             : name == ">"  ? "gt"
                             : name == "<=" ? "le"
                             : name == ">=" ? "ge"
                                            : name;
    const auto found = tests().find(word);
    if (found == tests().end()) unknown("test", name, tests());
    const auto& [wanted, test] = found->second;
    if (arguments.positional.size() != wanted || !arguments.named.empty())
        fail("the test '", name, "' takes ", wanted == 0 ? "no argument" : "one argument");
    budget.walk(value);
    if (wanted == 0) return test(value, {});
    budget.walk(arguments.positional[0]);
    return test(value, arguments.positional[0]);
}

}  // namespace kerf::core::jinja
