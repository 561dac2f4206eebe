// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "loop.hpp"

namespace kerf::gptq {

/// The column loop as the paper has it, row by row, nothing lazy, nothing clever: what ColumnLoop is held against.
/// Grids are fitted on the columns with all updates, or in advance; per row only, and only with U in storage order.
/// Returns the codes [out, in]; `loss` becomes Σ ½ e².
inline std::vector<std::uint8_t> plain_column_loop(const Settings& s, const Problem& problem, double& loss) {
    const std::int64_t rows = problem.weight.rows(), columns = problem.weight.columns();
    const bool fixed = s.static_groups || s.group_size >= columns;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * columns));
    std::vector<float> w(static_cast<std::size_t>(columns)), importance(w.size());
    for (std::int64_t c = 0; c < columns; ++c) {
        const float u = problem.upper(c, c);
        importance[static_cast<std::size_t>(c)] = 1.0f / (u * u);
    }
    loss = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < columns; ++c) {
            const auto at = static_cast<std::size_t>(c);
            w[at] = problem.dead[at] ? 0.0f : problem.weight(r, c);
        }
        std::vector<Grid<1>> grids;
        const auto fit = [&](std::int64_t c) {
            const std::int64_t last = c + s.group_size < columns ? c + s.group_size : columns;
            fit_grid<1>(s.grid, w.data() + c, last - c, s.weighted ? importance.data() + c : nullptr,
                        grids.emplace_back());
        };
        for (std::int64_t c = 0; fixed && c < columns; c += s.group_size) fit(c);
        for (std::int64_t c = 0; c < columns; ++c) {
            if (!fixed && c % s.group_size == 0) fit(c);
            const auto at = static_cast<std::size_t>(c);
            float code, value;
            quantise<1>(s.grid, grids[at / static_cast<std::size_t>(s.group_size)], &w[at], &code, &value);
            codes[static_cast<std::size_t>(r * columns + c)] = static_cast<std::uint8_t>(code);
            const float e = (w[at] - value) / problem.upper(c, c);
            loss += 0.5 * static_cast<double>(e) * e;
            for (std::int64_t j = c + 1; j < columns; ++j) w[static_cast<std::size_t>(j)] -= e * problem.upper(c, j);
        }
    }
    return codes;
}

}  // namespace kerf::gptq
