// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "core/weights/tensor_file.hpp"
#include "kerf/curvature.hpp"
#include "kerf/tensor.hpp"
#include "kernel.hpp"
#include "options.hpp"

namespace kerf::test {

/// A matrix with memory of its own.
template <class T>
struct Owned {
    Shape shape;
    std::vector<T> data;
    Owned() = default;
    explicit Owned(Shape s) : shape(s), data(static_cast<std::size_t>(s.rows * s.columns)) {}
    MatrixView<T> view() { return {data.data(), shape}; }
    MatrixView<const T> view() const { return {data.data(), shape}; }
    T& operator()(std::int64_t r, std::int64_t c) { return data[static_cast<std::size_t>(r * shape.columns + c)]; }
    const T& operator()(std::int64_t r, std::int64_t c) const {
        return data[static_cast<std::size_t>(r * shape.columns + c)];
    }
};

/// tests/data/golden/gptq-case.safetensors: one layer with what the reference makes of it.
class GoldenCase {
public:
    GoldenCase() : file_(core::open_safetensors(KERF_TEST_DATA "/golden/gptq-case.safetensors")) {
        std::ifstream in(KERF_TEST_DATA "/golden/gptq.json");
        figures_ = nlohmann::json::parse(in).at("case").at("cases");
    }
    Owned<float> matrix(const std::string& name) const {
        const auto* tensor = file_->find(name);
        if (!tensor || tensor->shape.size() != 2) throw std::runtime_error("no matrix " + name + " in the golden case");
        Owned<float> out({tensor->shape[0], tensor->shape[1]});
        core::to_float32(*tensor, out.data);
        return out;
    }
    const nlohmann::json& figures() const { return figures_; }

private:
    std::unique_ptr<core::TensorFile> file_;
    nlohmann::json figures_;
};

/// What kerf.curvature/1 gives a method, made from H in double precision.
struct TestFactor {
    Owned<float> upper;
    std::vector<std::int64_t> order;
    std::vector<std::uint8_t> dead;
    double lambda = 0;
};

inline std::vector<std::int64_t> order_for(const std::vector<float>& diagonal, Order order, std::int64_t group) {
    const auto n = static_cast<std::int64_t>(diagonal.size());
    std::vector<std::int64_t> places(diagonal.size());
    std::iota(places.begin(), places.end(), 0);
    if (order == Order::none) return places;
    if (order == Order::descending) return argsort_descending(diagonal);
    std::vector<float> largest;
    for (std::int64_t first = 0; first + group <= n; first += group)
        largest.push_back(*std::max_element(diagonal.begin() + first, diagonal.begin() + first + group));
    auto groups = argsort_descending(largest);
    if (n % group != 0) groups.push_back(n / group);
    places.clear();
    for (const auto g : groups) {
        const auto first = diagonal.begin() + g * group;
        const std::vector<float> part(first, diagonal.begin() + std::min(n, (g + 1) * group));
        for (const auto i : argsort_descending(part)) places.push_back(g * group + i);
    }
    return places;
}

/// U upper with UᵀU = (P (H + λI) Pᵀ)⁻¹: columns of the inverse from the last one to the first.
inline TestFactor factor_of(const Owned<float>& gram, Order order, std::int64_t group, double damp) {
    const std::int64_t n = gram.shape.rows;
    TestFactor made;
    std::vector<float> diagonal(static_cast<std::size_t>(n));
    made.dead.resize(diagonal.size());
    double mean = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::size_t>(i);
        made.dead[at] = gram(i, i) == 0;
        diagonal[at] = made.dead[at] ? 1.0f : gram(i, i);
        mean += diagonal[at] / static_cast<double>(n);
    }
    made.lambda = damp * mean;
    made.order = order_for(diagonal, order, group);
    // H = R Rᵀ with R upper (a Cholesky from the last row up), then U = R⁻¹.
    Owned<double> r({n, n}), u({n, n});
    for (std::int64_t j = n - 1; j >= 0; --j) {
        for (std::int64_t i = j; i >= 0; --i) {
            const auto a = made.order[static_cast<std::size_t>(i)], b = made.order[static_cast<std::size_t>(j)];
            double sum = i == j ? diagonal[static_cast<std::size_t>(a)] + made.lambda : gram(a, b);
            for (std::int64_t k = j + 1; k < n; ++k) sum -= r(i, k) * r(j, k);
            r(i, j) = i == j ? std::sqrt(sum) : sum / r(j, j);
        }
    }
    made.upper = Owned<float>({n, n});
    for (std::int64_t c = 0; c < n; ++c) {
        u(c, c) = 1 / r(c, c);
        for (std::int64_t i = c - 1; i >= 0; --i) {
            double sum = 0;
            for (std::int64_t k = i + 1; k <= c; ++k) sum += r(i, k) * u(k, c);
            u(i, c) = -sum / r(i, i);
        }
        for (std::int64_t i = 0; i <= c; ++i) made.upper(i, c) = static_cast<float>(u(i, c));
    }
    return made;
}

/// tr(D H Dᵀ) in double precision.
inline double quadratic(const Owned<float>& d, const Owned<float>& h) {
    double sum = 0;
    for (std::int64_t r = 0; r < d.shape.rows; ++r)
        for (std::int64_t i = 0; i < d.shape.columns; ++i)
            for (std::int64_t j = 0; j < d.shape.columns; ++j) sum += static_cast<double>(d(r, i)) * h(i, j) * d(r, j);
    return sum;
}

/// What the column loop made of a layer.
struct Rounded {
    Owned<std::uint8_t> codes;
    Owned<float> scales, zeros, values;
    std::vector<std::int32_t> group_index;
    gptq::Figures figures;
};

/// The loop with memory of its own, panels one after the other (or in reversed order).
inline Rounded run_loop(const gptq::Kernel& kernel, const gptq::Settings& settings, const Owned<float>& weight,
                        const Owned<float>& gram, const TestFactor& factor, bool reversed = false) {
    const Shape shape = weight.shape;
    const auto sizes = gptq::work_sizes(settings, shape);
    const std::int64_t groups = (shape.columns + settings.group_size - 1) / settings.group_size;
    std::vector<float> panels(static_cast<std::size_t>(sizes.panels)), packed(static_cast<std::size_t>(sizes.packed)),
        block(static_cast<std::size_t>(sizes.block));
    std::vector<std::uint32_t> zeros(static_cast<std::size_t>(sizes.zeros));
    std::vector<gptq::PanelGrid> grids(static_cast<std::size_t>(sizes.grids));
    Rounded out{Owned<std::uint8_t>(shape),
                Owned<float>({shape.rows, groups}),
                Owned<float>({shape.rows, groups}),
                Owned<float>(shape),
                std::vector<std::int32_t>(static_cast<std::size_t>(shape.columns)),
                {}};
    const gptq::Problem problem{weight.view(), factor.upper.view(), gram.view(),
                                factor.order,  factor.dead,         factor.lambda};
    const gptq::Result result{out.codes.view(), out.values.view(), out.scales.view(), out.zeros.view(),
                              out.group_index};
    const Parallel parallel = [reversed](std::int64_t n, const std::function<void(std::int64_t)>& body) {
        for (std::int64_t i = 0; i < n; ++i) body(reversed ? n - 1 - i : i);
    };
    out.figures =
        gptq::ColumnLoop(kernel, settings, problem,
                         {panels.data(), packed.data(), grids.data(), block.data(), zeros.data()}, result, parallel)
            .run();
    return out;
}

/// Factor and loop for options as a recipe gives them.
inline Rounded run_options(const gptq::Options& options, const Owned<float>& weight, const Owned<float>& gram) {
    const auto settings = gptq::settings_of(options, weight.shape.columns);
    const auto factor =
        factor_of(gram, gptq::order_of(options, weight.shape.columns), settings.group_size, options.damp);
    return run_loop(*gptq::kernels().back(), settings, weight, gram, factor);
}

}  // namespace kerf::test
