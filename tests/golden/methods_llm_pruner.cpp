// SPDX-License-Identifier: Apache-2.0
// golden/llm-pruner-case.safetensors: importances and ranks of the reference's classes on synthetic groups, and of a
// whole model's.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "core/weights/tensor_file.hpp"
#include "importance.hpp"
#include "selection.hpp"

namespace kerf::llm_pruner {
namespace {

const std::map<std::string, Criterion> criteria{{"l1", Criterion::l1},
                                                {"l2", Criterion::l2},
                                                {"vectorize", Criterion::vectorize},
                                                {"param_first", Criterion::param_first},
                                                {"param_second", Criterion::param_second},
                                                {"param_mix", Criterion::param_mix}};
const std::map<std::string, Reduction> reductions{{"sum", Reduction::sum},     {"mean", Reduction::mean},
                                                  {"max", Reduction::max},     {"prod", Reduction::prod},
                                                  {"first", Reduction::first}, {"second", Reduction::second}};

class Case {
public:
    Case() : file_(core::open_safetensors(KERF_TEST_DATA "/golden/llm-pruner-case.safetensors")) {}
    const core::StoredTensor& at(const std::string& name) const {
        const auto* tensor = file_->find(name);
        if (!tensor) throw std::runtime_error("no " + name + " in the golden case");
        return *tensor;
    }
    std::vector<float> floats(const std::string& name) const {
        const auto& tensor = at(name);
        std::vector<float> out(static_cast<std::size_t>(tensor.elements()));
        core::to_float32(tensor, out);
        return out;
    }
    std::vector<std::string> names(const std::string& start) const {
        std::vector<std::string> out;
        for (const auto& tensor : file_->tensors())
            if (tensor.name.starts_with(start)) out.push_back(tensor.name);
        return out;
    }

private:
    std::unique_ptr<core::TensorFile> file_;
};

/// W, G and A of one weight of the case.
struct Weight {
    std::vector<float> w, g, a;
    Shape shape;
    Weight(const Case& file, const std::string& name)
        : w(file.floats(name + ".W")), g(file.floats(name + ".G")), a(file.floats(name + ".A")) {
        const auto& stored = file.at(name + ".W").shape;
        shape = stored.size() == 1 ? Shape{1, stored[0]} : Shape{stored[0], stored[1]};
    }
    Salient view() const { return {{w.data(), shape}, {g.data(), shape}, {a.data(), shape}}; }
};

struct Side {
    std::string weight;
    int dimension;
};
struct Made {
    std::vector<Side> sides;
    std::int64_t units;
};

/// The groups in the reference's order of members.
const std::map<std::string, Made> groups{{"gqa.attn", {{{"gqa.k", 0}, {"gqa.o", 1}, {"gqa.v", 0}, {"gqa.q", 0}}, 4}},
                                         {"mha.attn", {{{"mha.k", 0}, {"mha.o", 1}, {"mha.v", 0}, {"mha.q", 0}}, 8}},
                                         {"mlp", {{{"gqa.gate", 0}, {"gqa.up", 0}, {"gqa.down", 1}}, 48}},
                                         {"hidden",
                                          {{{"hid.norm", 1},
                                            {"gqa.q", 1},
                                            {"gqa.k", 1},
                                            {"gqa.v", 1},
                                            {"gqa.o", 0},
                                            {"gqa.gate", 1},
                                            {"gqa.up", 1},
                                            {"gqa.down", 0},
                                            {"hid.embed", 1}},
                                           32}}};

std::vector<double> importance(const Case& file, const std::string& group, Criterion criterion, Reduction reduction,
                               Alignment alignment, bool embedding = true) {
    const Made& made = groups.at(group);
    std::vector<Member> members;
    for (const auto& side : made.sides) {
        if (side.weight == "hid.embed" && !embedding) continue;
        Member member;
        member.values = channel_values(criterion, Weight(file, side.weight).view(), side.dimension);
        member.each = static_cast<std::int64_t>(member.values.size()) / made.units;
        members.push_back(std::move(member));
    }
    return channel_importance(members, made.units, reduction, alignment);
}

void expect_close(const std::vector<double>& got, const std::vector<float>& expected, double tolerance,
                  const std::string& name) {
    ASSERT_EQ(got.size(), expected.size()) << name;
    double largest = 0;
    for (const float value : expected) largest = std::max(largest, std::abs(static_cast<double>(value)));
    for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], static_cast<double>(expected[i]), tolerance * largest) << name << " at " << i;
}

std::vector<std::string> pieces(const std::string& name) {
    std::vector<std::string> out{""};
    for (const char c : name)
        if (c == '.')
            out.emplace_back();
        else
            out.back() += c;
    return out;
}

/// "ref.gqa.attn.l1.mean" → "gqa.attn", "l1", "mean"
struct Entry {
    std::string group, criterion, reduction;
    explicit Entry(const std::string& name, bool with_reduction) {
        auto parts = pieces(name);
        if (with_reduction) {
            reduction = parts.back();
            parts.pop_back();
        }
        criterion = parts.back();
        for (std::size_t i = 1; i + 1 < parts.size(); ++i) group += (i > 1 ? "." : "") + parts[i];
    }
};

bool is_magnitude(const std::string& criterion) {
    return criterion == "l1" || criterion == "l2";
}

TEST(LlmPrunerGolden, EveryImportanceIsTheReferences) {
    const Case file;
    const auto names = file.names("ref.");
    ASSERT_GE(names.size(), 90u);
    for (const auto& name : names) {
        const Entry entry(name, true);
        // The reference leaves the embedding out of magnitudes.
        const auto got = importance(file, entry.group, criteria.at(entry.criterion), reductions.at(entry.reduction),
                                    Alignment::reference, !is_magnitude(entry.criterion));
        expect_close(got, file.floats(name), 1e-5, name);
    }
}

TEST(LlmPrunerGolden, EveryExactImportanceIsTheOracles) {
    const Case file;
    const auto names = file.names("exact.");
    ASSERT_EQ(names.size(), 8u);
    for (const auto& name : names) {
        const Entry entry(name, false);
        const auto reduction = is_magnitude(entry.criterion) ? Reduction::mean : Reduction::sum;
        const auto got = importance(file, entry.group, criteria.at(entry.criterion), reduction, Alignment::exact);
        expect_close(got, file.floats(name), 1e-5, name);
    }
}

TEST(LlmPrunerGolden, UnitsRankAsInTheReference) {
    const Case file;
    for (const auto& name : file.names("rank.")) {
        const Entry entry(name, true);
        const auto channels =
            importance(file, entry.group, criteria.at(entry.criterion), reductions.at(entry.reduction),
                       Alignment::reference, !is_magnitude(entry.criterion));
        Group group;
        group.importance = unit_importance(channels, groups.at(entry.group).units);
        group.initial = group.units();
        std::vector<float> rank = file.floats(name);
        // What goes at every sparsity is the start of the rank.
        for (std::int64_t count = 1; count < group.units(); ++count) {
            const double sparsity = (static_cast<double>(count) - 0.5) / static_cast<double>(group.units());
            std::vector<std::int64_t> expected(rank.begin(), rank.begin() + count);
            std::sort(expected.begin(), expected.end());
            EXPECT_EQ(select_local(std::span(&group, 1), sparsity, {})[0], expected) << name << ", " << count;
        }
    }
}

}  // namespace
}  // namespace kerf::llm_pruner
