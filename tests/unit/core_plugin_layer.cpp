// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/job.hpp"
#include "kerf/job.hpp"
#include "kerf/layer.hpp"

namespace kerf {
namespace {

const kerf_host* const table = core::host_table();
constexpr std::int64_t rows = 3, columns = 8;

/// A layer of 3 x 8, and the parts of a replacement that fits it, to be spoilt.
class ReplaceTest : public testing::Test {
protected:
    ReplaceTest()
        : weight(rows * columns),
          codes(rows * columns, 3),
          scales(rows * 2, 0.5f),
          zeros(rows * 2, 2.0f),
          index(columns) {
        for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(i);
        for (std::size_t c = 0; c < index.size(); ++c) index[c] = c < 4 ? 0 : 1;
        layer.name = "model.layers.0.fc1";
        layer.out = rows;
        layer.in = columns;
        layer.weight = weight.data();
    }

    std::string replace(std::string_view layout, int bits, const std::vector<kerf_part>& parts) {
        const kerf_replacement given{sizeof(kerf_replacement), bits, detail::text(layout), parts.data(), parts.size()};
        char message[512];
        kerf_error error{sizeof(kerf_error), KERF_OK, sizeof(message), 0, message};
        if (table->replace(&layer, &given, &error) == KERF_OK) return "done";
        return std::string(message, error.length);
    }
    std::string replace_codes(int bits = 2, std::int64_t groups = 2) {
        detail::DlView c(MatrixView<std::uint8_t>(codes.data(), {rows, columns})),
            s(MatrixView<float>(scales.data(), {rows, groups})), z(MatrixView<float>(zeros.data(), {rows, groups})),
            i(std::span(index.data(), index.size()));
        return replace("int-group/1", bits,
                       {{detail::text("codes"), c.get()},
                        {detail::text("scales"), s.get()},
                        {detail::text("zeros"), z.get()},
                        {detail::text("group_index"), i.get()}});
    }
    void expect_refused(const std::string& said, const std::string& reason) {
        EXPECT_NE(said.find(reason), std::string::npos) << said;
        EXPECT_NE(said.find("model.layers.0.fc1"), std::string::npos) << said;
        EXPECT_FALSE(layer.replacement.has_value());
    }

    kerf_layer layer;
    std::vector<float> weight;
    std::vector<std::uint8_t> codes;
    std::vector<float> scales, zeros;
    std::vector<std::int32_t> index;
};

TEST_F(ReplaceTest, CodesStandForScaleTimesCodeMinusZero) {
    codes[5] = 0;
    scales[1] = 2.0f;
    ASSERT_EQ(replace_codes(), "done");
    const auto dense = layer.replacement->to_dense();
    EXPECT_EQ(dense[0], 0.5f);
    EXPECT_EQ(dense[5], -4.0f);
    EXPECT_EQ(layer.replacement->groups, 2);
    EXPECT_EQ(layer.replacement->bits, 2);
}

TEST_F(ReplaceTest, TheHostCopiesAndHonoursStrides) {
    std::vector<float> wide(rows * 2 * columns, -1.0f);
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < columns; ++c)
            wide[static_cast<std::size_t>(r * 2 * columns + 2 * c)] = static_cast<float>(r * 100 + c);
    std::int64_t shape[] = {rows, columns}, strides[] = {2 * columns, 2};
    DLTensor t{wide.data() - 4, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, strides, 16};
    ASSERT_EQ(replace("dense/1", 0, {{detail::text("weight"), &t}}), "done");
    std::fill(wide.begin(), wide.end(), 0.0f);
    EXPECT_EQ(layer.replacement->weight[2 * columns + 7], 207.0f);
}

TEST_F(ReplaceTest, CodesThatDoNotFitAreRefusedByPlace) {
    codes[columns + 3] = 4;
    expect_refused(replace_codes(), "codes[1, 3] = 4, which does not fit in 2 bits");
}
TEST_F(ReplaceTest, ScalesThatAreNotFiniteAreRefused) {
    scales[3] = std::numeric_limits<float>::infinity();
    expect_refused(replace_codes(), "scales[1, 1] = inf, which is not finite");
}
TEST_F(ReplaceTest, ZerosThatAreNotWholeAreRefused) {
    zeros[0] = 1.5f;
    expect_refused(replace_codes(), "zeros[0, 0] = 1.5, which is no whole number");
}
TEST_F(ReplaceTest, GroupsOutOfRangeAreRefused) {
    index[7] = 2;
    expect_refused(replace_codes(), "group_index[7] = 2, but there are 2 groups");
    index[7] = -1;
    expect_refused(replace_codes(), "group_index[7] = -1, but there are 2 groups");
}
TEST_F(ReplaceTest, BitsOutOfRangeAreRefused) {
    expect_refused(replace_codes(0), "bits = 0, but codes have 1 to 8 bits");
    expect_refused(replace_codes(9), "bits = 9, but codes have 1 to 8 bits");
}
TEST_F(ReplaceTest, DenseWeightsThatAreNotFiniteAreRefused) {
    weight[9] = std::nanf("");
    detail::DlView w(MatrixView<float>(weight.data(), {rows, columns}));
    expect_refused(replace("dense/1", 0, {{detail::text("weight"), w.get()}}),
                   "weight[1, 1] = nan, which is not finite");
}
TEST_F(ReplaceTest, WrongShapesTypesNamesAndLayoutsAreRefused) {
    detail::DlView turned(MatrixView<float>(weight.data(), {columns, rows})),
        good(MatrixView<float>(weight.data(), {rows, columns}));
    detail::DlView ints(MatrixView<std::int32_t>(index.data(), {1, columns}));
    expect_refused(replace("dense/1", 0, {{detail::text("weight"), turned.get()}}),
                   "weight has shape [8, 3], expected [3, 8]");
    expect_refused(replace("dense/1", 0, {{detail::text("weight"), ints.get()}}), "weight has the wrong element type");
    expect_refused(replace("dense/1", 0, {}), "the part \"weight\" is missing");
    expect_refused(replace("dense/1", 0, {{detail::text("weight"), nullptr}}), "the part \"weight\" is missing");
    expect_refused(replace("dense/1", 0, {{detail::text("weight"), good.get()}, {detail::text("extra"), good.get()}}),
                   "has no part \"extra\"");
    expect_refused(replace("dense/1", 0, {{detail::text("weight"), good.get()}, {detail::text("weight"), good.get()}}),
                   "weight is given twice");
    expect_refused(replace("dense/1", 4, {{detail::text("weight"), good.get()}}), "a dense weight has 0");
    expect_refused(replace("nf4/1", 4, {}), "knows no layout \"nf4/1\"");
    good.get()->strides = nullptr;
    expect_refused(replace("dense/1", 0, {{detail::text("weight"), good.get()}}), "with shape and strides");
}
TEST_F(ReplaceTest, ASecondReplaceIsRefused) {
    ASSERT_EQ(replace_codes(), "done");
    EXPECT_NE(replace_codes().find("a second time"), std::string::npos);
}

TEST_F(ReplaceTest, WhatIsNotThereIsAClearError) {
    kerf_job job;
    const Linear linear(table, &layer);
    const Job view(table, &job);
    try {
        view.gram(linear);
        FAIL() << "a Gram matrix out of nothing";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), Code::unsupported);
        EXPECT_NE(std::string(error.what()).find("has to declare that it needs it"), std::string::npos);
    }
    EXPECT_THROW(view.factor(linear, {}), Error);
    layer.weight = nullptr;
    EXPECT_THROW(linear.weight(), Error);
    EXPECT_EQ(linear.name(), "model.layers.0.fc1");
}

TEST_F(ReplaceTest, AFactorIsSharedAndItsDampingReported) {
    std::vector<float> gram(columns * columns, 0.0f);
    for (std::int64_t i = 0; i < columns; ++i)
        gram[static_cast<std::size_t>(i * columns + i)] = static_cast<float>(1 + i % 3);
    core::Curvature curvature("x", columns, 100, gram);
    layer.curvature = &curvature;
    kerf_job job;
    const Linear linear(table, &layer);
    const Job view(table, &job);
    const auto g = view.gram(linear);
    EXPECT_EQ(g.tokens(), 100);
    EXPECT_EQ(g.matrix()(4, 4), 2.0f);
    const auto f = view.factor(linear, {.order = Order::descending, .damp = 0.01});
    EXPECT_EQ(f.order[0], 2);  // the first column with the largest diagonal
    EXPECT_EQ(f.attempts, 1);
    EXPECT_EQ(job.metrics.at("damp"), f.damp);
    EXPECT_EQ(view.factor(linear, {.order = Order::descending, .damp = 0.01}).upper.data(), f.upper.data());
    EXPECT_THROW(view.factor(linear, {.damp = -1}), Error);
    EXPECT_THROW(view.factor(linear, {.order = Order::group_aware}), Error);
}

TEST(HostLinalg, InverseFactorGivesTheInverse) {
    kerf_job job;
    const Job view(table, &job);
    constexpr std::int64_t n = 20;
    auto h = view.matrix<double>({n, n}), u = view.matrix<double>({n, n}), p = view.matrix<double>({n, n}),
         inverse = view.matrix<double>({n, n});
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j) u(i, j) = h(i, j) = std::exp(-0.3 * std::abs(double(i - j))) + (i == j);
    const auto linalg = view.linalg();
    linalg.inverse_factor(u.view());
    linalg.gemm(Transpose::yes, Transpose::no, 1, u, u, 0, inverse.view());
    linalg.gemm(Transpose::no, Transpose::no, 1, h, inverse, 0, p.view());
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j) EXPECT_NEAR(p(i, j), i == j, 1e-13 * n);
}

TEST(HostLinalg, CholeskyNamesThePivotAndClearsTheUpperTriangle) {
    kerf_job job;
    const Job view(table, &job);
    auto a = view.matrix<float>({3, 3});
    const float values[] = {4, 2, 0, 2, 5, 0, 0, 0, -1};
    std::copy_n(values, 9, a.data());
    try {
        view.linalg().cholesky(a.view());
        FAIL() << "-1 has no root";
    } catch (const NotPositiveDefinite& error) {
        EXPECT_EQ(error.pivot, 2);
    }
    std::copy_n(values, 9, a.data());
    a(2, 2) = 9;
    view.linalg().cholesky(a.view());
    EXPECT_EQ(a(0, 1), 0.0f);
    EXPECT_FLOAT_EQ(a(1, 0), 1.0f);
    EXPECT_FLOAT_EQ(a(1, 1), 2.0f);
    EXPECT_FLOAT_EQ(a(2, 2), 3.0f);
}

TEST(HostLinalg, ShapesThatDoNotFitAreErrors) {
    kerf_job job;
    const Job view(table, &job);
    auto a = view.matrix<float>({3, 4}), b = view.matrix<float>({3, 4}), c = view.matrix<float>({3, 3});
    EXPECT_THROW(view.linalg().gemm(Transpose::no, Transpose::no, 1, a, b, 0, c.view()), Error);
    EXPECT_THROW(view.linalg().cholesky(a.view()), Error);
    EXPECT_THROW(view.linalg().syrk(1, a, 0, c.view()), Error);
    EXPECT_THROW(view.linalg().solve_triangular(Triangle::upper, Transpose::no, a, b.view()), Error);
    EXPECT_NO_THROW(view.linalg().gemm(Transpose::no, Transpose::yes, 1, a, b, 0, c.view()));
    std::vector<float> values(2);
    EXPECT_THROW(view.linalg().symmetric_eigen(c.view(), std::span<float>(values)), Error);
}

}  // namespace
}  // namespace kerf
