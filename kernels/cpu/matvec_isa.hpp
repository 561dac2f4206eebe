// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "kernels/cpu/matvec.hpp"

/// Private to kernels/cpu: the entry points of the files that are compiled for one instruction set each.
namespace kerf::kernels::detail {

void dot_f32_avx2(Rows<float> w, Vectors<const float> x, Vectors<float> y);
void dot_bf16_avx2(Rows<uint16_t> w, Vectors<const float> x, Vectors<float> y);
void dot_f16_avx2(Rows<uint16_t> w, Vectors<const float> x, Vectors<float> y);
void mix_avx2(Rows<float> v, const float* share, float* y);

void dot_f32_avx512(Rows<float> w, Vectors<const float> x, Vectors<float> y);
void dot_bf16_avx512(Rows<uint16_t> w, Vectors<const float> x, Vectors<float> y);
void dot_f16_avx512(Rows<uint16_t> w, Vectors<const float> x, Vectors<float> y);
void mix_avx512(Rows<float> v, const float* share, float* y);

}  // namespace kerf::kernels::detail
