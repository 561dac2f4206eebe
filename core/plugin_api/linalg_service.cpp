// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>

#include "core/linalg/linalg.hpp"
#include "core/plugin_api/tables.hpp"
#include "core/support/text.hpp"

namespace kerf::core {
namespace {

/// A DLTensor that turned out to be a matrix we can work on.
struct Operand {
    std::byte* data;
    std::int64_t rows, columns, stride;
    bool wide;  ///< float64

    template <class Real>
    Real* as() const {
        return reinterpret_cast<Real*>(data);
    }
};

Operand operand(const DLTensor* t, const char* name) {
    if (!t) bad_input("linalg: ", name, " is missing");
    const bool floating =
        t->dtype.code == kDLFloat && t->dtype.lanes == 1 && (t->dtype.bits == 32 || t->dtype.bits == 64);
    if (!floating || t->device.device_type != kDLCPU)
        throw ServiceFailure(KERF_E_UNSUPPORTED,
                             text("linalg: ", name, " is no float32 or float64 tensor in main memory"));
    if (t->ndim != 2 || !t->shape || !t->strides) bad_input("linalg: ", name, " is no matrix with strides");
    const std::int64_t rows = t->shape[0], columns = t->shape[1];
    if (rows < 0 || columns < 0 || (columns > 1 && t->strides[1] != 1) ||
        (rows > 1 && t->strides[0] < std::max<std::int64_t>(columns, 1)))
        bad_input("linalg: ", name, " needs contiguous rows that do not overlap");
    if (!t->data && rows * columns > 0) bad_input("linalg: ", name, " has no data");
    return {static_cast<std::byte*>(t->data) + t->byte_offset, rows, columns,
            std::max<std::int64_t>(t->strides[0], std::max<std::int64_t>(columns, 1)), t->dtype.bits == 64};
}

void need(bool holds, const char* what) {
    if (!holds) bad_input("linalg: ", what);
}
Operand square(const DLTensor* t, const char* name) {
    const Operand m = operand(t, name);
    if (m.rows != m.columns)
        bad_input("linalg: ", name, " is ", m.rows, " x ", m.columns, ", a square matrix is needed");
    return m;
}

/// Calls `body` with a float or a double, as the operands are.
template <class Body>
void typed(bool wide, const Body& body) {
    if (wide)
        body(double{});
    else
        body(float{});
}

kerf_code gemm(kerf_job*, std::int32_t ta, std::int32_t tb, double alpha, const DLTensor* ta_, const DLTensor* tb_,
               double beta, DLTensor* tc, kerf_error* error) {
    return host_call(error, [&] {
        const Operand a = operand(ta_, "a"), b = operand(tb_, "b"), c = operand(tc, "c");
        const std::int64_t m = ta ? a.columns : a.rows, k = ta ? a.rows : a.columns;
        const std::int64_t kb = tb ? b.columns : b.rows, n = tb ? b.rows : b.columns;
        need(a.wide == b.wide && b.wide == c.wide, "a, b and c differ in type");
        if (k != kb || c.rows != m || c.columns != n)
            bad_input("linalg: gemm of ", m, " x ", k, " by ", kb, " x ", n, " into ", c.rows, " x ", c.columns);
        typed(a.wide, [&](auto real) {
            using Real = decltype(real);
            linalg::gemm<Real>(ta != 0, tb != 0, m, n, k, static_cast<Real>(alpha), a.as<Real>(), a.stride,
                               b.as<Real>(), b.stride, static_cast<Real>(beta), c.as<Real>(), c.stride);
        });
    });
}

kerf_code syrk(kerf_job*, double alpha, const DLTensor* ta, double beta, DLTensor* tc, kerf_error* error) {
    return host_call(error, [&] {
        const Operand a = operand(ta, "a"), c = square(tc, "c");
        need(a.wide == c.wide, "a and c differ in type");
        need(a.columns == c.rows, "syrk needs c with as many rows as a has columns");
        typed(a.wide, [&](auto real) {
            using Real = decltype(real);
            linalg::syrk<Real>(c.rows, a.rows, static_cast<Real>(alpha), a.as<Real>(), a.stride,
                               static_cast<Real>(beta), c.as<Real>(), c.stride);
            linalg::symmetrise<Real>(c.rows, c.as<Real>(), c.stride);
        });
    });
}

void report_pivot(std::int64_t failed, std::int64_t* pivot, std::int64_t size) {
    if (failed < 0) return;
    if (pivot) *pivot = failed;
    throw ServiceFailure(KERF_E_NUMERIC, text("not positive definite at pivot ", failed, " of ", size));
}

kerf_code cholesky(kerf_job*, DLTensor* ta, std::int64_t* pivot, kerf_error* error) {
    return host_call(error, [&] {
        const Operand a = square(ta, "a");
        typed(a.wide, [&](auto real) {
            using Real = decltype(real);
            Real* data = a.as<Real>();
            report_pivot(linalg::cholesky<Real>(a.rows, data, a.stride), pivot, a.rows);
            for (std::int64_t i = 0; i < a.rows; ++i)
                std::fill(data + i * a.stride + i + 1, data + i * a.stride + a.columns, Real{0});
        });
    });
}

/// `replace(n, data, stride)` gives the pivot that failed, or -1.
kerf_code on_symmetric(DLTensor* th, std::int64_t* pivot, kerf_error* error, const auto& replace) {
    return host_call(error, [&] {
        const Operand h = square(th, "h");
        typed(h.wide,
              [&](auto real) { report_pivot(replace(h.rows, h.as<decltype(real)>(), h.stride), pivot, h.rows); });
    });
}

kerf_code inverse_factor(kerf_job*, DLTensor* th, std::int64_t* pivot, kerf_error* error) {
    return on_symmetric(th, pivot, error,
                        [](auto n, auto* h, auto stride) { return linalg::inverse_factor(n, h, stride); });
}

kerf_code inverse(kerf_job*, DLTensor* th, std::int64_t* pivot, kerf_error* error) {
    return on_symmetric(th, pivot, error, [](auto n, auto* h, auto stride) { return linalg::inverse(n, h, stride); });
}

kerf_code solve_triangular(kerf_job*, std::int32_t upper, std::int32_t transpose, const DLTensor* tt, DLTensor* tb,
                           kerf_error* error) {
    return host_call(error, [&] {
        const Operand t = square(tt, "t"), b = operand(tb, "b");
        need(t.wide == b.wide, "t and b differ in type");
        need(t.rows == b.rows, "solve_triangular needs b with as many rows as t");
        typed(t.wide, [&](auto real) {
            using Real = decltype(real);
            linalg::solve_triangular<Real>(upper != 0, transpose != 0, t.rows, b.columns, t.as<Real>(), t.stride,
                                           b.as<Real>(), b.stride);
        });
    });
}

kerf_code symmetric_eigen(kerf_job*, DLTensor* ta, DLTensor* values, kerf_error* error) {
    return host_call(error, [&] {
        const Operand a = square(ta, "a");
        need(values && values->ndim == 1 && values->shape && values->strides && values->shape[0] == a.rows &&
                 (a.rows < 2 || values->strides[0] == 1) && (values->data || a.rows == 0) &&
                 values->device.device_type == kDLCPU && values->dtype.code == kDLFloat && values->dtype.lanes == 1 &&
                 values->dtype.bits == (a.wide ? 64 : 32),
             "symmetric_eigen needs values as a contiguous vector of a's size and type");
        typed(a.wide, [&](auto real) {
            using Real = decltype(real);
            auto* out = reinterpret_cast<Real*>(static_cast<std::byte*>(values->data) + values->byte_offset);
            linalg::symmetric_eigen<Real>(a.rows, a.as<Real>(), a.stride, out);
        });
    });
}

}  // namespace

const kerf_linalg_1 linalg_table{sizeof(kerf_linalg_1), 0,      gemm, syrk, cholesky, inverse_factor, solve_triangular,
                                 symmetric_eigen,       inverse};

}  // namespace kerf::core
