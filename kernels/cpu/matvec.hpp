// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

/// Products of a matrix that lies in memory row by row with one vector or a few, as decoding needs them: every weight
/// is read once, so they run at the speed of the memory if they do little else. 16-bit weights are widened in
/// registers.
///
/// Every level computes the same bits. A dot product has 16 partial sums; sum l takes the columns l, l + 16, l + 32, …
/// in order, each by a fused multiply-add, and the sums are added as a tree (l and l + 8, then l and l + 4, …). So
/// results depend neither on the level, nor on how many rows or vectors a call has, nor on who computes which rows.
namespace kerf::kernels {

/// Least first: plain C++; AVX2 with FMA and F16C; AVX-512F.
enum class VectorLevel { plain, avx2, avx512 };

std::string_view vector_level_name(VectorLevel level);
/// Whether processor and system have it.
bool supports(VectorLevel level);

/// `rows` rows of `columns` elements, one after the other.
template <class Element>
struct Rows {
    const Element* at = nullptr;
    std::int64_t rows = 0, columns = 0;
};

/// `count` vectors `stride` elements apart.
template <class Element>
struct Vectors {
    Element* at = nullptr;
    std::int64_t count = 0, stride = 0;
};

/// One implementation. bfloat16 and float16 elements are their bits.
struct MatvecKernels {
    /// y[t][r] = Σ_c w[r, c] · x[t][c]
    void (*dot_f32)(Rows<float> w, Vectors<const float> x, Vectors<float> y);
    void (*dot_bf16)(Rows<std::uint16_t> w, Vectors<const float> x, Vectors<float> y);
    void (*dot_f16)(Rows<std::uint16_t> w, Vectors<const float> x, Vectors<float> y);
    /// y[c] = Σ_r share[r] · v[r, c], over r in order, each by a fused multiply-add.
    void (*mix)(Rows<float> v, const float* share, float* y);
};

/// The kernels of a level that supports() allows, null for the others.
const MatvecKernels* matvec_kernels(VectorLevel level);
/// Those of the best level.
const MatvecKernels& best_matvec_kernels();

}  // namespace kerf::kernels
