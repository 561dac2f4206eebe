// SPDX-License-Identifier: Apache-2.0
#include "core/text/template_value.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "core/text/unicode.hpp"

namespace kerf::core::jinja {
namespace {

/// What a list or dict of some values comes to.
struct Measure {
    int depth = 1;
    std::size_t weight = 1;

    void add(const Value& value) {
        depth = std::max(depth, value.depth() + 1);
        weight += value.weight();
    }
    void check() const {
        if (depth > most_depth) fail("values nest more than ", most_depth, " deep");
        if (weight > most_weight) fail("a value becomes larger than ", most_weight, " items");
    }
};

/// As Python quotes: with ' unless the text has ' and no ".
std::string quoted(const std::string& text) {
    const bool twice = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
    const char quote = twice ? '"' : '\'';
    std::string out(1, quote);
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == quote || c == '\\') {
            out += '\\';
            out += c;
        } else if (c == '\n') {
            out += "\\n";
        } else if (c == '\r') {
            out += "\\r";
        } else if (c == '\t') {
            out += "\\t";
        } else if (byte < 0x20 || byte == 0x7f) {
            constexpr const char* digits = "0123456789abcdef";
            out += "\\x";
            out += digits[byte >> 4];
            out += digits[byte & 15];
        } else {
            out += c;
        }
    }
    return out + quote;
}

std::string json_text(const std::string& text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

class JsonWriter {
public:
    JsonWriter(int indent, const std::string& item_separator, const std::string& key_separator, bool sort_keys)
        : indent_(indent), item_separator_(item_separator), key_separator_(key_separator), sort_keys_(sort_keys) {}

    void write(const Value& value) {
        std::int64_t whole = 0;
        if (value.as<None>())
            out += "null";
        else if (const auto* flag = value.as<bool>())
            out += *flag ? "true" : "false";
        else if (value.integer(whole))
            out += std::to_string(whole);
        else if (const auto* real = value.as<double>())
            out += std::isnan(*real)   ? "NaN"
                   : std::isinf(*real) ? (*real < 0 ? "-Infinity" : "Infinity")
                                       : float_text(*real);
        else if (value.string())
            out += json_text(*value.string());
        else if (value.list())
            write_list(*value.list());
        else if (value.dict())
            write_dict(*value.dict());
        else
            fail("tojson cannot write ", kind_name(value));
    }
    std::string out;

private:
    void line() {
        if (indent_ < 0) return;
        out += '\n';
        out.append(std::size_t(level_ * indent_), ' ');
    }
    void write_list(const List& items) {
        if (items.empty()) {
            out += "[]";
            return;
        }
        out += '[';
        ++level_;
        for (std::size_t i = 0; i < items.size(); ++i) {
            if (i > 0) out += item_separator_;
            line();
            write(items[i]);
        }
        --level_;
        line();
        out += ']';
    }
    void write_dict(const Dict& items) {
        if (items.empty()) {
            out += "{}";
            return;
        }
        std::vector<std::pair<std::string, const Value*>> entries;
        for (const auto& [key, value] : items) entries.emplace_back(key_text(key), &value);
        if (sort_keys_)
            std::stable_sort(entries.begin(), entries.end(),
                             [](const auto& a, const auto& b) { return a.first < b.first; });
        out += '{';
        ++level_;
        for (std::size_t i = 0; i < entries.size(); ++i) {
            if (i > 0) out += item_separator_;
            line();
            out += json_text(entries[i].first) + key_separator_;
            write(*entries[i].second);
        }
        --level_;
        line();
        out += '}';
    }
    static std::string key_text(const Value& key) {
        if (key.string()) return *key.string();
        JsonWriter writer(-1, ", ", ": ", false);
        writer.write(key);
        return writer.out;
    }

    int indent_, level_ = 0;
    const std::string &item_separator_, &key_separator_;
    bool sort_keys_;
};

}  // namespace

int Value::depth() const {
    if (const auto* box = as<std::shared_ptr<const ListBox>>()) return (*box)->depth;
    if (const auto* box = as<std::shared_ptr<const DictBox>>()) return (*box)->depth;
    return 0;
}

bool Value::integer(std::int64_t& out) const {
    if (const auto* whole = as<std::int64_t>()) out = *whole;
    if (const auto* flag = as<bool>()) out = *flag;
    return as<std::int64_t>() || as<bool>();
}

bool Value::number(double& out) const {
    std::int64_t whole = 0;
    if (const auto* real = as<double>()) {
        out = *real;
        return true;
    }
    if (!integer(whole)) return false;
    out = double(whole);
    return true;
}

std::size_t Value::weight() const {
    if (const auto* box = as<std::shared_ptr<const ListBox>>()) return (*box)->weight;
    if (const auto* box = as<std::shared_ptr<const DictBox>>()) return (*box)->weight;
    return string() ? 1 + string()->size() / 16 : 1;
}

Value make_list(List items, bool tuple) {
    Measure all;
    for (const auto& item : items) all.add(item);
    all.check();
    return Value(std::shared_ptr<const ListBox>(
        std::make_shared<ListBox>(ListBox{std::move(items), tuple, all.depth, all.weight})));
}

Value make_dict(Dict items) {
    Measure all;
    for (const auto& [key, value] : items) {
        all.add(key);
        all.add(value);
    }
    all.check();
    return Value(
        std::shared_ptr<const DictBox>(std::make_shared<DictBox>(DictBox{std::move(items), all.depth, all.weight})));
}

Value from_json(const nlohmann::ordered_json& json) {
    using Kind = nlohmann::ordered_json::value_t;
    switch (json.type()) {
        case Kind::boolean:
            return json.get<bool>();
        case Kind::number_integer:
        case Kind::number_unsigned:
            return json.get<std::int64_t>();
        case Kind::number_float:
            return json.get<double>();
        case Kind::string:
            return json.get<std::string>();
        case Kind::array: {
            List items;
            for (const auto& item : json) items.push_back(from_json(item));
            return make_list(std::move(items));
        }
        case Kind::object: {
            Dict items;
            for (const auto& [key, value] : json.items()) items.emplace_back(key, from_json(value));
            return make_dict(std::move(items));
        }
        default:
            return None{};
    }
}

std::string kind_name(const Value& value) {
    if (const auto* missing = value.as<Undefined>())
        return missing->name.empty() ? "an undefined value" : "'" + missing->name + "', which is undefined";
    if (value.as<None>()) return "None";
    if (value.as<bool>()) return "a boolean";
    if (value.as<std::int64_t>()) return "a whole number";
    if (value.as<double>()) return "a number";
    if (value.string()) return "a text";
    if (value.list()) return value.tuple() ? "a tuple" : "a list";
    if (value.dict()) return "a dict";
    if (value.as<Namespace*>()) return "a namespace";
    if (value.as<std::shared_ptr<const LoopState>>()) return "a loop";
    return "a function";
}

bool truthy(const Value& value) {
    double number = 0;
    if (value.number(number)) return number != 0;
    if (value.undefined() || value.as<None>()) return false;
    if (value.string()) return !value.string()->empty();
    if (value.list()) return !value.list()->empty();
    if (value.dict()) return !value.dict()->empty();
    return true;
}

bool equal(const Value& a, const Value& b) {
    std::int64_t i = 0, j = 0;
    double x = 0, y = 0;
    if (a.integer(i) && b.integer(j)) return i == j;
    if (a.number(x) && b.number(y)) return x == y;
    if (a.string() && b.string()) return *a.string() == *b.string();
    if (a.list() && b.list())
        return a.tuple() == b.tuple() && a.list()->size() == b.list()->size() &&
               std::equal(a.list()->begin(), a.list()->end(), b.list()->begin(), equal);
    if (a.dict() && b.dict()) {
        if (a.dict()->size() != b.dict()->size()) return false;
        return std::all_of(a.dict()->begin(), a.dict()->end(), [&](const auto& entry) {
            const Value* other = find(*b.dict(), entry.first);
            return other && equal(entry.second, *other);
        });
    }
    if (a.as<Namespace*>() && b.as<Namespace*>()) return *a.as<Namespace*>() == *b.as<Namespace*>();
    return (a.as<None>() && b.as<None>()) || (a.undefined() && b.undefined());
}

bool less(const Value& a, const Value& b) {
    double x = 0, y = 0;
    std::int64_t i = 0, j = 0;
    if (a.integer(i) && b.integer(j)) return i < j;
    if (a.number(x) && b.number(y)) return x < y;
    if (a.string() && b.string()) return *a.string() < *b.string();  // UTF-8 sorts as its code points do
    if (a.list() && b.list())
        return std::lexicographical_compare(a.list()->begin(), a.list()->end(), b.list()->begin(), b.list()->end(),
                                            less);
    fail("there is no order between ", kind_name(a), " and ", kind_name(b));
}

bool contains(const Value& container, const Value& item) {
    if (const auto* text = container.string()) {
        if (!item.string()) fail("'in' looks for a text in a text, not for ", kind_name(item));
        return text->find(*item.string()) != std::string::npos;
    }
    if (container.list())
        return std::any_of(container.list()->begin(), container.list()->end(),
                           [&](const Value& one) { return equal(one, item); });
    if (container.dict()) return find(*container.dict(), item) != nullptr;
    if (container.undefined()) return false;
    fail("'in' cannot look into ", kind_name(container));
}

const Value* find(const Dict& dict, const Value& key) {
    for (const auto& [have, value] : dict)
        if (equal(have, key)) return &value;
    return nullptr;
}

std::string float_text(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
    std::array<char, 400> buffer;
    const double size = std::abs(value);
    const bool scientific = size != 0 && (size < 1e-4 || size >= 1e16);
    const auto [end, status] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                             scientific ? std::chars_format::scientific : std::chars_format::fixed);
    std::string out(buffer.data(), end);
    if (!scientific && out.find('.') == std::string::npos) out += ".0";
    return out;
}

std::string to_text(const Value& value) {
    if (value.string()) return *value.string();
    if (value.undefined()) return {};
    return representation(value);
}

std::string representation(const Value& value) {
    std::int64_t whole = 0;
    if (value.as<None>()) return "None";
    if (const auto* flag = value.as<bool>()) return *flag ? "True" : "False";
    if (value.integer(whole)) return std::to_string(whole);
    if (const auto* real = value.as<double>()) return float_text(*real);
    if (value.string()) return quoted(*value.string());
    if (value.undefined()) return "Undefined";
    std::string out;
    if (value.list()) {
        for (const auto& item : *value.list()) out += (out.empty() ? "" : ", ") + representation(item);
        if (!value.tuple()) return "[" + out + "]";
        return "(" + out + (value.list()->size() == 1 ? ",)" : ")");
    }
    if (value.dict()) {
        for (const auto& [key, item] : *value.dict())
            out += (out.empty() ? "" : ", ") + representation(key) + ": " + representation(item);
        return "{" + out + "}";
    }
    fail("cannot print ", kind_name(value));
}

std::string to_json(const Value& value, int indent, const std::string& item_separator, const std::string& key_separator,
                    bool sort_keys) {
    JsonWriter writer(indent, item_separator, key_separator, sort_keys);
    writer.write(value);
    return std::move(writer.out);
}

}  // namespace kerf::core::jinja
