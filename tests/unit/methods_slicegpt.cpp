// SPDX-License-Identifier: Apache-2.0
// How many features SliceGPT keeps, against the tables of golden/slicegpt.json.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "kerf/error.hpp"
#include "plugins/slicegpt/sizes.hpp"

namespace kerf::slicegpt {
namespace {

using nlohmann::json;

json golden() {
    return json::parse(std::ifstream(KERF_TEST_DATA "/golden/slicegpt.json"));
}

/// The positions of a model of `blocks` blocks, each feature of each of `parameters`.
Residual residual_of(std::int64_t features, std::int64_t blocks, bool parallel, std::int64_t parameters = 1) {
    Residual out;
    out.blocks = blocks;
    out.positions.push_back({Position::Kind::embedding, "first", -1, features, parameters});
    for (std::int64_t b = 0; b < blocks; ++b) {
        if (!parallel) out.positions.push_back({Position::Kind::inside, "inside", b, features, parameters});
        out.positions.push_back({Position::Kind::block, "behind", b, features, parameters});
    }
    return out;
}

TEST(SliceGptSizes, OfASparsityAreTheReferencesToTheLastBitOfTheProduct) {
    const json rows = golden()["target_dimension"]["rows"];
    ASSERT_GT(rows.size(), 200u);
    for (const auto& row : rows)
        EXPECT_EQ(sliced_size(row[0], row[1], row[2]), row[3].get<std::int64_t>()) << row.dump();
}

TEST(SliceGptSizes, ByDepthAreTheReferencesAtEveryPosition) {
    for (const auto& row : golden()["linear_scheduler"]) {
        const bool parallel = row["parallel"];
        const Residual residual = residual_of(row["hidden_size"], row["layers"], parallel);
        Options options;
        options.scheduler = "linear";
        options.round_interval = row["round_interval"];
        options.slice_head = row["do_slice_head"];
        options.mlp_start = row["mlp_start"];
        options.mlp_end = row["mlp_end"];
        if (!parallel) {
            options.attention_start = row["attn_start"];
            options.attention_end = row["attn_end"];
        }
        std::vector<std::int64_t> expected{row["sizes"]["embedding"][0]};
        for (std::size_t b = 0; b < row["layers"].get<std::size_t>(); ++b) {
            if (!parallel) expected.push_back(row["sizes"]["attention_output"][b]);
            expected.push_back(row["sizes"]["mlp_output"][b]);
        }
        EXPECT_EQ(Sizes(options, residual).of_positions({}), expected) << row.dump();
        EXPECT_EQ(expected.back(), row["sizes"]["head"].get<std::int64_t>());
    }
}

TEST(SliceGptSizes, ByEnergyAreTheLeastMultiplesThatKeepIt) {
    const Residual residual = residual_of(8, 1, true);
    Options options;
    options.scheduler = "energy";
    options.round_interval = 2;
    options.slice_head = true;
    const Spectra spectra{{8, 4, 2, 1, 1, 0, 0, 0}, {1, 1, 1, 1, 1, 1, 1, 1}};
    for (const auto& [energy, first, second] : {std::tuple{0.5, 2, 4}, {0.75, 2, 6}, {0.76, 4, 8}, {1.0, 6, 8}}) {
        options.energy = energy;
        EXPECT_EQ(Sizes(options, residual).of_positions(spectra), (std::vector<std::int64_t>{first, second})) << energy;
    }
}

TEST(SliceGptSizes, UnderABudgetTakeFromWhereLeastIsLost) {
    Residual residual = residual_of(16, 2, true, 100);
    residual.other_parameters = 50;
    Options options;
    options.scheduler = "budget";
    options.round_interval = 4;
    options.sparsity = 0.25;
    // 3 positions of 16 features of 100, two shortcuts of 16 · 16.
    residual.parameters = 50 + 3 * 1600;
    const std::vector<double> flat(16, 1.0);
    std::vector<double> steep(16, 0.0);
    steep[0] = 1;
    const auto sizes = Sizes(options, residual).of_positions({flat, steep, flat});
    EXPECT_EQ(sizes.back(), 16) << "the head's position stays";
    EXPECT_EQ(sizes[1], 4) << "nothing is lost there but the last interval";
    std::int64_t total = residual.other_parameters + 100 * (sizes[0] + sizes[1] + sizes[2]);
    total += sizes[0] * sizes[1] + sizes[1] * sizes[2];
    EXPECT_LE(total, residual.parameters * 3 / 4);
    EXPECT_GT(total, residual.parameters * 3 / 4 - 4 * 120) << "no interval more than had to go";
    options.sparsity = 0.99;
    EXPECT_THROW(Sizes(options, residual).of_positions({flat, steep, flat}), Error);
}

}  // namespace
}  // namespace kerf::slicegpt
