// SPDX-License-Identifier: Apache-2.0
#include "core/plugin_api/options.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/plugin_api/host_table.hpp"
#include "core/support/error.hpp"
#include "core/support/text.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

constexpr std::array<std::pair<std::string_view, OptionSpec::Type>, 4> types{{{"int", OptionSpec::Type::integer},
                                                                              {"real", OptionSpec::Type::real},
                                                                              {"flag", OptionSpec::Type::flag},
                                                                              {"text", OptionSpec::Type::text}}};

/// Reads one entry of a schema; `where` starts every complaint.
class EntryReader {
public:
    EntryReader(const json& entry, std::string where) : entry_(entry), where_(std::move(where)) {
        if (!entry.is_object()) fail("is not an object");
    }
    [[noreturn]] void fail(const std::string& what) const { bad_input(where_, " ", what); }
    std::string text_at(const char* key) const {
        if (!entry_.contains(key) || !entry_[key].is_string()) fail(text("has no text \"", key, "\""));
        return entry_[key].get<std::string>();
    }
    std::optional<json> number(const char* key) const {
        if (!entry_.contains(key)) return {};
        if (!entry_[key].is_number()) fail(text("has something else than a number as \"", key, "\""));
        return entry_[key];
    }
    std::vector<json> list(const char* key) const {
        if (!entry_.contains(key)) return {};
        if (!entry_[key].is_array()) fail(text("has something else than a list as \"", key, "\""));
        return entry_[key].get<std::vector<json>>();
    }
    std::vector<std::string> texts(const char* key) const {
        std::vector<std::string> out;
        for (const auto& value : list(key)) {
            if (!value.is_string()) fail(text("has something else than texts in \"", key, "\""));
            out.push_back(value.get<std::string>());
        }
        return out;
    }
    bool flag(const char* key) const {
        if (!has(key)) return false;
        if (!entry_[key].is_boolean()) fail(text("has something else than true or false as \"", key, "\""));
        return entry_[key].get<bool>();
    }
    bool has(const char* key) const { return entry_.contains(key); }
    EntryReader inner(const char* key) const { return {at(key), text(where_, ": ", key)}; }
    const json& at(const char* key) const {
        if (!entry_.contains(key)) fail(text("has no \"", key, "\""));
        return entry_[key];
    }

private:
    const json& entry_;
    std::string where_;
};

OptionSpec read_entry(const EntryReader& in) {
    OptionSpec out;
    out.name = in.text_at("name");
    if (out.name.empty() || out.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") != std::string::npos)
        in.fail("needs a name of lower-case letters, digits and _");
    const auto type = in.text_at("type");
    const auto* known = std::find_if(types.begin(), types.end(), [&](const auto& t) { return t.first == type; });
    if (known == types.end()) in.fail(text("is of the unknown type \"", type, "\""));
    out.type = known->second;
    out.min = in.number("min");
    out.max = in.number("max");
    out.exclusive_min = in.number("exclusive_min");
    out.exclusive_max = in.number("exclusive_max");
    if (const auto step = in.number("multiple_of")) {
        if (!step->is_number_integer() || step->get<std::int64_t>() < 1)
            in.fail("needs a whole number above 0 as \"multiple_of\"");
        out.multiple_of = step->get<std::int64_t>();
    }
    out.also = in.list("also");
    if (std::any_of(out.also.begin(), out.also.end(), [](const json& v) { return !v.is_number(); }))
        in.fail("has something else than numbers in \"also\"");
    out.choices = in.texts("choices");
    out.whole_stage = in.flag("whole_stage");
    if (in.has("goes_with")) {
        const EntryReader partner = in.inner("goes_with");
        out.partner = partner.text_at("option");
        out.partner_values = partner.texts("values");
        if (out.partner_values.empty()) partner.fail("has no \"values\"");
    }
    out.help = in.text_at("help");
    out.fallback = in.at("default");
    if (const auto fault = out.fault(out.fallback); !fault.empty())
        in.fail(text("has a default that it does not allow itself: ", out.fallback.dump(), " ", fault));
    return out;
}

std::string number_fault(const OptionSpec& spec, const json& value) {
    const double number = value.get<double>();
    if (!std::isfinite(number)) return "must be finite";
    if (std::any_of(spec.also.begin(), spec.also.end(), [&](const json& other) { return other == value; })) return {};
    const auto number_or = [](const std::optional<json>& bound, double otherwise) {
        return bound ? bound->get<double>() : otherwise;
    };
    const bool inside = number >= number_or(spec.min, -HUGE_VAL) && number <= number_or(spec.max, HUGE_VAL) &&
                        number > number_or(spec.exclusive_min, -HUGE_VAL) &&
                        number < number_or(spec.exclusive_max, HUGE_VAL) &&
                        (!spec.multiple_of || std::fmod(number, static_cast<double>(*spec.multiple_of)) == 0);
    return inside ? std::string{} : text("must be ", spec.limits());
}

std::string joined(const std::vector<std::string>& words) {
    std::string out;
    for (const auto& word : words) out += (out.empty() ? "" : ", ") + word;
    return out;
}

[[noreturn]] void unknown_option(const std::string& prefix, const std::string& name,
                                 const std::vector<OptionSpec>& specs) {
    std::vector<std::string> known;
    for (const auto& spec : specs) known.push_back(spec.name);
    const auto near = nearest(name, known);
    if (!near.empty()) bad_input(prefix, "unknown option \"", name, "\"; did you mean \"", near, "\"?");
    bad_input(prefix, "unknown option \"", name, "\"; ", known.empty() ? "it takes none" : "known: " + joined(known));
}

}  // namespace

std::string_view type_name(OptionSpec::Type type) {
    return std::find_if(types.begin(), types.end(), [&](const auto& t) { return t.second == type; })->first;
}

std::string OptionSpec::fault(const json& value) const {
    switch (type) {
        case Type::flag:
            return value.is_boolean() ? "" : "must be true or false";
        case Type::text:
            if (!value.is_string()) return "must be a text";
            if (!choices.empty() &&
                std::find(choices.begin(), choices.end(), value.get<std::string>()) == choices.end())
                return text("must be ", limits());
            return {};
        case Type::integer:
            if (!value.is_number_integer()) return "must be a whole number";
            if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t(INT64_MAX))
                return "is too large";
            return number_fault(*this, value);
        case Type::real:
            return value.is_number() ? number_fault(*this, value) : "must be a number";
    }
    return {};
}

std::string OptionSpec::limits() const {
    if (!choices.empty()) return text("one of ", joined(choices));
    std::string out;
    const auto add = [&](const std::string& piece) { out += (out.empty() ? "" : " and ") + piece; };
    if (min && max)
        add(text("between ", min->dump(), " and ", max->dump()));
    else if (min)
        add(text("at least ", min->dump()));
    else if (max)
        add(text("at most ", max->dump()));
    if (exclusive_min) add(text("above ", exclusive_min->dump()));
    if (exclusive_max) add(text("below ", exclusive_max->dump()));
    if (multiple_of) add(text("a multiple of ", *multiple_of));
    for (const auto& value : also) out += text(out.empty() ? "" : ", or ", value.dump());
    return out;
}

namespace {

/// As a person would write it; JSON has no word for NaN.
std::string shown(const json& value) {
    if (value.is_number_float() && !std::isfinite(value.get<double>())) return text(value.get<double>());
    return value.dump();
}

}  // namespace

void check_override(const std::vector<OptionSpec>& specs, const json& values, const std::string& where) {
    for (const auto& spec : specs)
        if (spec.whole_stage && values.contains(spec.name) && values[spec.name] != spec.fallback)
            bad_input(where, ": ", spec.name, " = ", shown(values[spec.name]),
                      " is for a whole stage; put it there (here it can only be ", shown(spec.fallback), ")");
}

std::vector<std::string> idle_options(const std::vector<OptionSpec>& specs, const json& given, const json& full) {
    std::vector<std::string> out;
    for (const auto& spec : specs) {
        if (spec.partner.empty() || !given.is_object() || !given.contains(spec.name) || !full.contains(spec.partner))
            continue;
        if (given[spec.name] == spec.fallback || !full[spec.partner].is_string()) continue;
        const auto value = full[spec.partner].get<std::string>();
        if (std::find(spec.partner_values.begin(), spec.partner_values.end(), value) != spec.partner_values.end())
            continue;
        out.push_back(text(spec.name, " = ", shown(given[spec.name]), " does nothing with ", spec.partner, " = \"",
                           value, "\"; it goes with ", joined(spec.partner_values)));
    }
    return out;
}

std::vector<OptionSpec> parse_schema(std::string_view schema, std::string_view method) {
    const json document = json::parse(schema, nullptr, false);
    if (!document.is_array()) bad_input("method ", method, ": its options schema is not a JSON list");
    std::vector<OptionSpec> out;
    for (std::size_t i = 0; i < document.size(); ++i) {
        const EntryReader entry(document[i], text("method ", method, ": options schema: entry ", i));
        out.push_back(read_entry(entry));
        for (std::size_t j = 0; j < i; ++j)
            if (out[j].name == out[i].name) entry.fail(text("repeats the option \"", out[i].name, "\""));
    }
    return out;
}

json validate_options(std::string_view schema, const json& given, std::string_view method,
                      const std::map<std::string, std::string>& where) {
    const auto specs = parse_schema(schema, method);
    if (!given.is_null() && !given.is_object())
        bad_input("stage ", method, ": options are a table of names and values");
    const auto prefix = [&](const std::string& option) {
        const auto line = where.find(option);
        return text(line == where.end() ? "" : line->second + ": ", "stage ", method, ": ");
    };
    json out = json::object();
    for (const auto& spec : specs) out[spec.name] = spec.fallback;
    if (given.is_null()) return out;
    for (const auto& [name, value] : given.items()) {
        const auto spec = std::find_if(specs.begin(), specs.end(), [&](const auto& s) { return s.name == name; });
        if (spec == specs.end()) unknown_option(prefix(name), name, specs);
        if (const auto fault = spec->fault(value); !fault.empty())
            bad_input(prefix(name), name, " = ", shown(value), ": ", fault);
        out[name] = value;
    }
    return out;
}

}  // namespace kerf::core
