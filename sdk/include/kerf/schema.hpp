// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kerf/json.hpp"
#include "kerf/values.hpp"

namespace kerf::inline v1 {

/// One option while it is described; every call returns the option, so that they chain. The host checks recipes against
/// what is said here before any work starts, so a method need not check again.
class Option {
public:
    /// min <= value <= max
    Option& within(double min, double max) { return (min_ = min, max_ = max, *this); }
    Option& at_least(double min) { return (min_ = min, *this); }
    Option& at_most(double max) { return (max_ = max, *this); }
    /// value > bound
    Option& above(double bound) { return (exclusive_min_ = bound, *this); }
    /// value < bound
    Option& below(double bound) { return (exclusive_max_ = bound, *this); }
    Option& multiple_of(std::int64_t step) { return (multiple_of_ = step, *this); }
    /// A number that is allowed whatever the limits say: `.multiple_of(32).also(-1)`.
    Option& also(double value) { return (also_.push_back(value), *this); }
    /// The texts that are allowed.
    Option& one_of(std::initializer_list<std::string_view> choices) {
        choices_.assign(choices.begin(), choices.end());
        return *this;
    }
    /// Has a meaning for a stage alone: an override may not have it, unless with its default.
    Option& whole_stage() { return (whole_stage_ = true, *this); }
    /// Has a meaning only where the text option `name` is one of `values`; elsewhere the host warns that it does
    /// nothing.
    Option& goes_with(std::string_view name, std::initializer_list<std::string_view> values) {
        partner_ = name;
        partner_values_.assign(values.begin(), values.end());
        return *this;
    }
    /// One line for `kerf plugins describe`.
    Option& help(std::string_view line) { return (help_ = line, *this); }

private:
    template <class>
    friend class Schema;

    void number(std::string& out, std::string_view key, double value) const {
        // Limits of an int option are written as integers, so that a reader needs no rounding rule.
        if (type_ == "int")
            detail::member(out, key, static_cast<std::int64_t>(value));
        else
            detail::member(out, key, value);
    }
    void write(std::string& out) const {
        std::string entry = "{";
        detail::member(entry, "name", name_);
        detail::member(entry, "type", type_);
        entry += ",\"default\":" + default_;
        if (min_) number(entry, "min", *min_);
        if (max_) number(entry, "max", *max_);
        if (exclusive_min_) number(entry, "exclusive_min", *exclusive_min_);
        if (exclusive_max_) number(entry, "exclusive_max", *exclusive_max_);
        if (multiple_of_) detail::member(entry, "multiple_of", *multiple_of_);
        if (!also_.empty() && type_ == "int")
            detail::member_list(entry, "also", std::vector<std::int64_t>(also_.begin(), also_.end()));
        if (!also_.empty() && type_ != "int") detail::member_list(entry, "also", also_);
        if (!choices_.empty()) detail::member_list(entry, "choices", choices_);
        if (whole_stage_) entry += ",\"whole_stage\":true";
        if (!partner_.empty()) {
            std::string partner = "{";
            detail::member(partner, "option", partner_);
            detail::member_list(partner, "values", partner_values_);
            entry += ",\"goes_with\":" + partner + "}";
        }
        detail::member(entry, "help", help_);
        out += entry + "}";
    }

    std::string name_, type_, default_, help_;
    std::optional<double> min_, max_, exclusive_min_, exclusive_max_;
    std::optional<std::int64_t> multiple_of_;
    std::vector<double> also_;
    std::vector<std::string> choices_, partner_values_;
    std::string partner_;
    bool whole_stage_ = false;
};

/// The options of a method: names, types, defaults (the initialisers of the struct's members) and limits. Member types:
/// integers ("int"), float and double ("real"), bool ("flag"), std::string ("text").
template <class Options>
class Schema {
public:
    template <class Member>
    Option& operator()(std::string_view name, Member Options::*member) {
        Field field;
        field.option.name_ = name;
        field.option.type_ = type_name<Member>();
        detail::json(field.option.default_, Options{}.*member);
        field.read = [member](Options& into, const Config& values, std::string_view path) {
            if (!values.has(path)) return;
            if constexpr (std::same_as<Member, bool>)
                into.*member = values.flag(path);
            else if constexpr (std::integral<Member>)
                into.*member = narrowed<Member>(values, path);
            else if constexpr (std::floating_point<Member>)
                into.*member = static_cast<Member>(values.real(path));
            else
                into.*member = values.text(path);
        };
        fields_.push_back(std::move(field));
        return fields_.back().option;
    }

    /// A member of a base of Options: what several methods share.
    template <class Base, class Member>
    Option& operator()(std::string_view name, Member Base::*member) requires(!std::same_as<Base, Options>) {
        return (*this)(name, static_cast<Member Options::*>(member));
    }

    /// The JSON of docs/abi.md.
    std::string json() const {
        std::string out = "[";
        for (const auto& field : fields_) {
            if (out.size() > 1) out += ",";
            field.option.write(out);
        }
        return out + "]";
    }
    Options read(const Config& values) const {
        Options out{};
        for (const auto& field : fields_) field.read(out, values, field.option.name_);
        return out;
    }

private:
    struct Field {
        Option option;
        std::function<void(Options&, const Config&, std::string_view)> read;
    };

    template <class Member>
    static constexpr const char* type_name() {
        if constexpr (std::same_as<Member, bool>)
            return "flag";
        else if constexpr (std::integral<Member>)
            return "int";
        else if constexpr (std::floating_point<Member>)
            return "real";
        else {
            static_assert(std::same_as<Member, std::string>,
                          "an option is an integer, a float or double, a bool or a std::string");
            return "text";
        }
    }
    template <class Member>
    static Member narrowed(const Config& values, std::string_view path) {
        const auto value = values.integer(path);
        if (!std::in_range<Member>(value)) bad_value(path, " = ", value, " is out of range");
        return static_cast<Member>(value);
    }

    // Chained calls hold a reference to the last option only, so growth of the vector is harmless.
    std::vector<Field> fields_;
};

}  // namespace kerf::inline v1
