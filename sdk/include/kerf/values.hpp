// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <string>
#include <string_view>

#include "kerf/error.hpp"

namespace kerf::inline v1 {

/// A read-only tree of values: a config.json, or validated options. Paths are dotted, list elements by number:
/// `rope_scaling.factor`, `architectures.0`. A value that is null counts as absent. Every error names the path.
class Config {
public:
    /// `who` and `what` go into messages: "llama", "config.json".
    Config(const kerf_host* host, const kerf_values* values, std::string_view who, std::string_view what)
        : table_(detail::service<kerf_values_1>(host, "kerf.values/1")), values_(values), who_(who), what_(what) {}

    bool has(std::string_view path) const {
        const auto kind = table_->kind(values_, full(path));
        return kind != KERF_VALUE_ABSENT && kind != KERF_VALUE_NULL;
    }
    /// Whether the key is there at all, be it null.
    bool mentions(std::string_view path) const { return table_->kind(values_, full(path)) != KERF_VALUE_ABSENT; }
    bool is_table(std::string_view path) const { return table_->kind(values_, full(path)) == KERF_VALUE_TABLE; }
    bool is_list(std::string_view path) const { return table_->kind(values_, full(path)) == KERF_VALUE_LIST; }
    std::int64_t size(std::string_view path) const { return table_->size(values_, full(path)); }

    bool flag(std::string_view path) const { return read<std::int32_t>(path, table_->flag) != 0; }
    std::int64_t integer(std::string_view path) const { return read<std::int64_t>(path, table_->integer); }
    double real(std::string_view path) const { return read<double>(path, table_->real); }
    std::string text(std::string_view path) const {
        return std::string(detail::view(read<kerf_text>(path, table_->text)));
    }
    /// An integer of at least 1: a size or a number of things.
    std::int64_t count(std::string_view path) const {
        const auto value = integer(path);
        if (value < 1) bad_value(what_, ": ", prefix_, path, " = ", value, ", but at least 1 is needed");
        return value;
    }

    bool flag(std::string_view path, bool otherwise) const { return has(path) ? flag(path) : otherwise; }
    std::int64_t integer(std::string_view path, std::int64_t otherwise) const {
        return has(path) ? integer(path) : otherwise;
    }
    double real(std::string_view path, double otherwise) const { return has(path) ? real(path) : otherwise; }
    std::string text(std::string_view path, std::string_view otherwise) const {
        return has(path) ? text(path) : std::string(otherwise);
    }
    std::int64_t count(std::string_view path, std::int64_t otherwise) const {
        return has(path) ? count(path) : otherwise;
    }

    /// The tree below `path`, for `config.at("rope_scaling").real("factor")`.
    Config at(std::string_view path) const {
        Config below = *this;
        below.prefix_ += std::string(path) + ".";
        return below;
    }

    /// Refuses a value that this adapter does not support; absent is fine. `must_be("pretraining_tp", 1)`.
    void must_be(std::string_view path, bool only) const {
        if (has(path) && flag(path) != only) unsupported(path, flag(path) ? "true" : "false", only ? "true" : "false");
    }
    void must_be(std::string_view path, int only) const {
        if (has(path) && integer(path) != only) unsupported(path, integer(path), only);
    }
    void must_be(std::string_view path, const char* only) const {
        if (has(path) && text(path) != only) unsupported(path, text(path), only);
    }
    void must_be(std::string_view path, std::initializer_list<std::string_view> allowed) const {
        if (!has(path)) return;
        const auto value = text(path);
        std::ostringstream known;
        for (const auto choice : allowed) {
            if (value == choice) return;
            known << (known.tellp() > 0 ? ", " : "") << choice;
        }
        unsupported(path, value, known.str());
    }
    /// Refuses a value that is there at all.
    void must_be_absent(std::string_view path) const {
        if (has(path)) refuse(what_, ": ", prefix_, path, " is not supported by the adapter ", who_);
    }
    template <class Value, class Only>
    [[noreturn]] void unsupported(std::string_view path, const Value& value, const Only& only) const {
        refuse(what_, ": ", prefix_, path, " = ", value, " is not supported by the adapter ", who_, " (only ", only,
               ")");
    }

    const std::string& who() const noexcept { return who_; }
    /// A path as messages name it: below an `at`, the whole of it.
    std::string where(std::string_view path) const { return what_ + ": " + prefix_ + std::string(path); }

private:
    /// The whole path; valid until the next call on this object, which is as long as the host needs it.
    kerf_text full(std::string_view path) const {
        if (prefix_.empty()) return detail::text(path);
        scratch_ = prefix_;
        scratch_ += path;
        return detail::text(scratch_);
    }
    template <class Value>
    Value read(std::string_view path, kerf_code (*function)(const kerf_values*, kerf_text, Value*, kerf_error*)) const {
        if (!has(path)) bad_value(what_, ": ", prefix_, path, " is missing");
        Value out{};
        try {
            detail::call([&](kerf_error* e) { return function(values_, full(path), &out, e); });
        } catch (const Error& error) {
            throw Error(error.code(), what_, ": ", error.what());
        }
        return out;
    }

    const kerf_values_1* table_;
    const kerf_values* values_;
    std::string who_, what_, prefix_;
    mutable std::string scratch_;
};

}  // namespace kerf::inline v1
