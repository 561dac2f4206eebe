// SPDX-License-Identifier: Apache-2.0
#include "host/show_axes.hpp"

#include <algorithm>
#include <map>
#include <vector>

#include "core/support/text.hpp"
#include "host/console/format.hpp"

namespace kerf::host {
namespace {

using core::text;
using nlohmann::json;
using Rows = std::vector<std::vector<std::string>>;

/// "model.layers.12.mlp" → "model.layers.*.mlp", and its numbers.
std::string pattern_of(const std::string& name, std::vector<std::int64_t>* numbers = nullptr) {
    std::string out;
    std::size_t begin = 0;
    while (begin <= name.size()) {
        const std::size_t end = std::min(name.find('.', begin), name.size());
        const std::string part = name.substr(begin, end - begin);
        const bool is_number = !part.empty() && part.size() < 10 &&
                               std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
        if (is_number && numbers) numbers->push_back(std::stoll(part));
        if (begin > 0) out += '.';
        out += is_number ? "*" : part;
        begin = end + 1;
    }
    return out;
}

/// {0, 1, 2, 5} → "0-2,5"
std::string ranges_of(const std::vector<std::int64_t>& numbers) {
    std::string out;
    for (std::size_t first = 0, last = 0; first < numbers.size(); first = last + 1) {
        last = first;
        while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
        if (!out.empty()) out += ',';
        out += last > first ? text(numbers[first], "-", numbers[last]) : text(numbers[first]);
    }
    return out;
}

/// Names that are alike but for their numbers as one: "model.layers.0-3.mlp", or "experts.*.mlp (32)".
std::string joined(const std::vector<std::string>& names) {
    std::vector<std::int64_t> numbers;
    std::string pattern;
    for (const auto& name : names) pattern = pattern_of(name, &numbers);
    if (names.size() == 1) return names[0];
    const auto star = pattern.find('*');
    if (numbers.size() == names.size()) return pattern.replace(star, 1, ranges_of(numbers));
    return text(pattern, " (", names.size(), ")");
}

/// Things in the order of their first key, each key with all that has it.
template <class T>
class Grouped {
public:
    std::vector<T>& operator[](const std::vector<std::string>& key) {
        const auto [at, is_new] = index_.try_emplace(key, groups_.size());
        if (is_new) groups_.emplace_back();
        return groups_[at->second];
    }
    const std::vector<std::vector<T>>& groups() const { return groups_; }

private:
    std::map<std::vector<std::string>, std::size_t> index_;
    std::vector<std::vector<T>> groups_;
};

std::vector<std::string> place_key(const json& place) {
    return {pattern_of(place["tensor"].get<std::string>()), place["dimension"].dump(), place["role"].get<std::string>(),
            place["extent"].dump(), place["indices"].get<std::string>()};
}

std::vector<std::string> axis_key(const json& axis) {
    std::vector<std::string> key{pattern_of(axis["name"].get<std::string>()), axis["size"].dump(), axis["unit"].dump()};
    for (const auto& place : axis["places"])
        for (auto& part : place_key(place)) key.push_back(std::move(part));
    return key;
}

std::string title_of(const std::vector<const json*>& axes) {
    std::vector<std::string> names;
    for (const auto* axis : axes) names.push_back((*axis)["name"].get<std::string>());
    const json& axis = *axes[0];
    std::string out = text(joined(names), ": ", axis["size"], " ", axis["size"] == 1 ? "unit" : "units", " of ",
                           axis["unit"], ", ", axis["kind"].get<std::string>());
    if (axis["view"].get<bool>()) out += ", view";
    if (axis.contains("balanced")) out += text(", ", axis["balanced"], " groups lose equally many");
    if (axis.contains("keep")) out += text(", ", axis["keep"], " must stay");
    if (axis.contains("fixed")) out += ", fixed: " + axis["fixed"].get<std::string>();
    return out;
}

Rows rows_of(const std::vector<const json*>& axes) {
    Grouped<const json*> places;
    for (const auto* axis : axes)
        for (const auto& place : (*axis)["places"]) places[place_key(place)].push_back(&place);
    Rows rows{{"  tensor", "dim", "role", "size", "indices of unit u"}};
    for (const auto& group : places.groups()) {
        std::vector<std::string> names;
        for (const auto* place : group) names.push_back((*place)["tensor"].get<std::string>());
        const json& place = *group[0];
        rows.push_back({text("  ", joined(names)), place["dimension"].dump(), place["role"].get<std::string>(),
                        place["extent"].dump(), place["indices"].get<std::string>()});
    }
    if ((*axes[0]).contains("whole"))
        for (const auto& tensor : (*axes[0])["whole"][0])
            rows.push_back({text("  ", pattern_of(tensor.get<std::string>())), "", "whole", "", "all of it"});
    return rows;
}

}  // namespace

std::string show_axes(const json& axes) {
    Grouped<const json*> alike;
    for (const auto& axis : axes["axes"]) alike[axis_key(axis)].push_back(&axis);
    std::string out = text(axes["model"].get<std::string>(), ": ", axes["axes"].size(), " axes, ",
                           short_count(axes["parameters"].get<double>()), " parameters\n");
    for (const auto& group : alike.groups())
        out += text("\n", title_of(group), "\n", aligned_table(rows_of(group), "lrlrl"));
    return out;
}

}  // namespace kerf::host
