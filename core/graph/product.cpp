// SPDX-License-Identifier: Apache-2.0
#include "core/graph/product.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

struct Dense {
    std::int64_t rows = 0, columns = 0;
    std::vector<double> values;  // row-major
};

/// Elements that one thread works on at a time where they are only read and written.
constexpr std::int64_t elements_at_once = 1 << 15;

Dense turned(const Dense& m) {
    Dense out{m.columns, m.rows, std::vector<double>(m.values.size())};
    constexpr std::int64_t square = 16;  // a cache line or two on each side
    parallel_for(m.columns, square, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t r0 = 0; r0 < m.rows; r0 += square)
            for (std::int64_t c = lo; c < hi; ++c)
                for (std::int64_t r = r0; r < std::min(m.rows, r0 + square); ++r)
                    out.values[std::size_t(c * m.rows + r)] = m.values[std::size_t(r * m.columns + c)];
    });
    return out;
}

/// op(a) · op(b)
Dense multiplied(const double* a, std::int64_t a_rows, std::int64_t a_columns, bool turn_a, const double* b,
                 std::int64_t b_rows, std::int64_t b_columns, bool turn_b) {
    const std::int64_t m = turn_a ? a_columns : a_rows, k = turn_a ? a_rows : a_columns;
    const std::int64_t inner = turn_b ? b_columns : b_rows, n = turn_b ? b_rows : b_columns;
    if (k != inner) internal_error("a product of ", m, " x ", k, " and ", inner, " x ", n);
    Dense out{m, n, std::vector<double>(std::size_t(m * n))};
    linalg::gemm<double>(turn_a, turn_b, m, n, k, 1.0, a, a_columns, b, b_columns, 0.0, out.values.data(), n);
    return out;
}

class ProductTensor final : public LazyTensor {
public:
    ProductTensor(const std::string& name, ProductSum sum, const Computation::Find& find)
        : LazyTensor({name, find(sum.like).stored->dtype, sum.shape, {}}), sum_(std::move(sum)) {
        const auto add = [&](const std::string& source) {
            if (!source.empty()) sources_.emplace(source, find(source));
        };
        for (const auto& term : sum_.terms) {
            add(term.source);
            for (const auto* factors : {&term.left, &term.right})
                for (const auto& factor : *factors) add(factor.tensor);
        }
        by_rows_ = !sum_.turned && sum_.shape.size() == 2 &&
                   std::all_of(sum_.terms.begin(), sum_.terms.end(), [&](const Product& term) {
                       return term.left.empty() && !term.turned && !term.source.empty() &&
                              sources_.at(term.source).has_cheap_rows();
                   });
    }

    void read_rows(std::int64_t first, std::span<float> out) const override {
        const std::int64_t width = sum_.shape.size() > 1 ? sum_.shape[1] : 1, rows = std::int64_t(out.size()) / width;
        Dense total;
        for (const auto& term : sum_.terms) {
            Dense made = by_rows_ ? evaluated(term, first, rows) : evaluated(term, 0, -1);
            if (total.values.empty())
                total = std::move(made);
            else
                for (std::size_t i = 0; i < total.values.size(); ++i) total.values[i] += made.values.at(i);
        }
        if (sum_.terms.empty()) total = {sum_.shape[0], width, std::vector<double>(std::size_t(described_.elements()))};
        if (sum_.constant != 0)
            for (double& value : total.values) value += sum_.constant;
        if (sum_.turned) total = turned(total);
        const std::int64_t skip = by_rows_ ? 0 : first * width;
        const std::int64_t stored_rows = by_rows_ ? rows : sum_.shape[0];
        if (std::int64_t(total.values.size()) != stored_rows * width)
            internal_error(described_.name, ": the product has ", total.values.size(), " elements, ",
                           format_shape(sum_.shape), " is expected");
        parallel_for(std::int64_t(out.size()), elements_at_once, [&](std::int64_t lo, std::int64_t hi) {
            for (std::int64_t i = lo; i < hi; ++i) out[std::size_t(i)] = float(total.values[std::size_t(skip + i)]);
        });
    }
    std::string storage() const override { return std::string(dtype_name(described_.dtype)) + ", computed"; }
    std::uint64_t stored_bytes() const override {
        return std::uint64_t(described_.elements()) * dtype_bytes(described_.dtype);
    }
    bool has_cheap_rows() const noexcept override { return by_rows_; }
    void for_each_part(const std::function<void(const StoredTensor&)>& visit) const override {
        for (const auto& [name, source] : sources_) source.for_each_part(visit);
    }

private:
    /// `rows` of the source from `first` on, −1: all; nothing for the unit matrix.
    std::optional<Dense> source_of(const Product& term, std::int64_t first, std::int64_t rows) const {
        if (term.source.empty()) return {};
        const TensorSource& source = sources_.at(term.source);
        const auto& shape = source.stored->shape;
        const std::int64_t width = shape.size() > 1 ? shape[1] : 1;
        Dense out{rows < 0 ? shape[0] : rows, width, {}};
        std::vector<float> values(std::size_t(out.rows * width));
        source.read_rows(first, values);
        out.values.resize(values.size());
        parallel_for(std::int64_t(values.size()), elements_at_once, [&](std::int64_t lo, std::int64_t hi) {
            std::copy(values.begin() + lo, values.begin() + hi, out.values.begin() + lo);
        });
        return term.turned ? turned(out) : out;
    }

    Dense evaluated(const Product& term, std::int64_t first, std::int64_t rows) const {
        std::optional<Dense> m = source_of(term, first, rows);
        for (const auto& factor : term.right) apply_right(factor, m);
        for (const auto& factor : term.left) apply_left(factor, m);
        if (!m) internal_error(described_.name, ": a product of nothing");
        return *std::move(m);
    }

    static Dense dense_of(const Factor& factor) {
        const Basis& q = *factor.basis;
        Dense out{q.features(), q.size(), q.values()};
        return factor.kind == Factor::Kind::transposed ? turned(out) : out;
    }

    void apply_right(const Factor& factor, std::optional<Dense>& m) const {
        const bool by_basis = factor.kind == Factor::Kind::basis || factor.kind == Factor::Kind::transposed;
        if (by_basis) {
            const Basis& q = *factor.basis;
            m = m ? multiplied(m->values.data(), m->rows, m->columns, false, q.values().data(), q.features(), q.size(),
                               factor.kind == Factor::Kind::transposed)
                  : dense_of(factor);
            return;
        }
        if (!m) internal_error(described_.name, ": a unit matrix without a size");
        if (factor.kind == Factor::Kind::centring) return centre_rows(*m);
        if (factor.tensor.empty()) {
            for (double& value : m->values) value *= factor.offset;
            return;
        }
        const std::vector<float> t = sources_.at(factor.tensor).read();
        if (std::int64_t(t.size()) != m->columns)
            internal_error(described_.name, ": ", factor.tensor, " has ", t.size(), " elements, not ", m->columns);
        if (factor.kind == Factor::Kind::diagonal) {
            const std::int64_t rows = std::max<std::int64_t>(1, elements_at_once / m->columns);
            parallel_for(m->rows, rows, [&](std::int64_t lo, std::int64_t hi) {
                for (std::int64_t r = lo; r < hi; ++r)
                    for (std::int64_t c = 0; c < m->columns; ++c)
                        m->values[std::size_t(r * m->columns + c)] *= double(t[std::size_t(c)]) + factor.offset;
            });
            return;
        }
        const std::vector<double> column(t.begin(), t.end());
        m = multiplied(m->values.data(), m->rows, m->columns, false, column.data(), m->columns, 1, false);
    }

    void apply_left(const Factor& factor, std::optional<Dense>& m) const {
        if (factor.kind == Factor::Kind::basis || factor.kind == Factor::Kind::transposed) {
            const Basis& q = *factor.basis;
            m = m ? multiplied(q.values().data(), q.features(), q.size(), factor.kind == Factor::Kind::transposed,
                               m->values.data(), m->rows, m->columns, false)
                  : dense_of(factor);
            return;
        }
        if (!m || factor.kind != Factor::Kind::centring)
            internal_error(described_.name, ": a factor that does not go to the left");
        Dense columns = turned(*m);
        centre_rows(columns);
        m = turned(columns);
    }

    static void centre_rows(Dense& m) {
        for (std::int64_t r = 0; r < m.rows; ++r) {
            double* row = m.values.data() + r * m.columns;
            double sum = 0;
            for (std::int64_t c = 0; c < m.columns; ++c) sum += row[c];
            for (std::int64_t c = 0; c < m.columns; ++c) row[c] -= sum / double(m.columns);
        }
    }

    ProductSum sum_;
    std::map<std::string, TensorSource> sources_;
    bool by_rows_ = false;
};

class ProductComputation final : public Computation {
public:
    explicit ProductComputation(ProductSum sum) : sum_(std::move(sum)) {}
    std::shared_ptr<const LazyTensor> bind(const std::string& name, const Find& find) const override {
        return std::make_shared<ProductTensor>(name, sum_, find);
    }

private:
    ProductSum sum_;
};

}  // namespace

const std::vector<double>& Basis::values() const {
    if (values_.empty()) internal_error("a basis of ", features_, " x ", size_, " is used before it is known");
    return values_;
}

std::shared_ptr<const Computation> computation(ProductSum sum) {
    return std::make_shared<ProductComputation>(std::move(sum));
}

}  // namespace kerf::core
