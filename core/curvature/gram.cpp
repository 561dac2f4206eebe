// SPDX-License-Identifier: Apache-2.0
#include "core/curvature/gram.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <utility>

#include "core/linalg/blas.hpp"
#include "core/linalg/linalg.hpp"
#include "core/linalg/tiles.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "kernels/cpu/gram_bf16.hpp"

namespace kerf::core {
namespace {

using Kernel = kernels::GramKernelBf16;
using kernels::PackedBf16;
using linalg::ceil_div;

/// Edge of the tiles that the triangle is cut into: enough of them for many cores, large enough that a tile's product
/// (edge² · chunk) outweighs reading its two panels of the chunk (2 · edge · chunk).
std::int64_t tile_edge(std::int64_t features) {
    return features >= 1024 ? 256 : features >= 256 ? 128 : 64;
}

/// Row r of tiles holds [rows, columns up to its diagonal tile's end], row-major, after the rows of tiles above it.
struct TileRow {
    std::int64_t first, rows, columns, offset;
};

TileRow tile_row(std::int64_t row, std::int64_t features) {
    const std::int64_t edge = tile_edge(features), first = row * edge, rows = std::min(edge, features - first);
    return {first, rows, first + rows, edge * edge * row * (row + 1) / 2};
}

std::int64_t sum_size(std::int64_t features) {
    const TileRow last = tile_row(ceil_div(features, tile_edge(features)) - 1, features);
    return last.offset + last.rows * last.columns;
}

struct AlignedDelete {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(64)); }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;

AlignedBytes aligned_bytes(std::int64_t bytes) {
    return AlignedBytes(new (std::align_val_t(64)) std::byte[static_cast<std::size_t>(bytes)]);
}

std::int64_t row_stage_bytes(std::int64_t features) {
    return GramAccumulator::chunk_tokens * features * 4;
}

/// One packed form of a chunk.
std::int64_t packed_form_bytes(std::int64_t features) {
    return PackedBf16::size_of(GramAccumulator::chunk_tokens, features) * 4;
}

std::int64_t packed_stage_bytes(const Kernel* kernel, std::int64_t features) {
    if (kernel == nullptr) return 0;
    const std::int64_t tail = kernels::gram_block_tokens * features * 2;
    return packed_form_bytes(features) * (kernel->turned ? 2 : 1) + tail;
}

}  // namespace

/// The chunk that is being filled: as float32 rows, or packed for a bf16 kernel (whole blocks of 32 tokens, and the
/// tokens of the block begun as they came).
class GramAccumulator::Stage {
public:
    explicit Stage(std::int64_t features) : features_(features) {}

    std::int64_t tokens() const { return filled_ + tail_; }
    bool packed() const { return kernel_ != nullptr; }
    const Kernel* kernel() const { return kernel_; }
    bool full() const { return tokens() == chunk_tokens; }
    void clear() { filled_ = tail_ = 0; }

    /// Chooses the form, null = rows; only while empty.
    void use(const Kernel* kernel) {
        if (kernel == kernel_ && memory_) return;
        kernel_ = kernel;
        memory_.reset();
        memory_ = aligned_bytes(packed() ? packed_stage_bytes(kernel_, features_) : row_stage_bytes(features_));
    }

    /// Each takes what fits into the chunk, and says how many tokens that was.
    std::int64_t append_rows(const float* x, std::int64_t tokens) {
        const std::int64_t take = std::min(tokens, chunk_tokens - filled_);
        std::copy_n(x, take * features_, rows() + filled_ * features_);
        filled_ += take;
        return take;
    }
    std::int64_t append_widened(const std::uint16_t* x, std::int64_t tokens) {
        const std::int64_t take = std::min(tokens, chunk_tokens - filled_);
        float* to = rows() + filled_ * features_;
        parallel_for(take, 64, [&](std::int64_t lo, std::int64_t hi) {
            kernels::widen_bf16(x + lo * features_, to + lo * features_, (hi - lo) * features_);
        });
        filled_ += take;
        return take;
    }
    std::int64_t append_packed(const std::uint16_t* x, std::int64_t tokens) {
        constexpr std::int64_t block = kernels::gram_block_tokens;
        const std::int64_t room = std::min(tokens, chunk_tokens - this->tokens());
        if (tail_ > 0 || room < block) {
            const std::int64_t take = std::min(room, block - tail_);
            std::copy_n(x, take * features_, tail_rows() + tail_ * features_);
            tail_ += take;
            if (tail_ == block) close_tail();
            return take;
        }
        const std::int64_t whole = room / block * block;
        pack(x, whole);
        return whole;
    }
    /// Packs the last, incomplete block.
    void close_tail() {
        const std::int64_t tokens = std::exchange(tail_, 0);
        if (tokens > 0) pack(tail_rows(), tokens);
    }

    float* rows() { return reinterpret_cast<float*>(memory_.get()); }
    PackedBf16 form() const {
        PackedBf16 form;
        form.pairs = reinterpret_cast<std::uint32_t*>(memory_.get());
        if (kernel_->turned) form.turned = form.pairs + packed_form_bytes(features_) / 4;
        form.panels = PackedBf16::panels_of(features_);
        form.panel_stride = PackedBf16::stride_of(chunk_tokens);
        return form;
    }

    float value(std::int64_t token, std::int64_t feature) {
        if (!packed()) return rows()[token * features_ + feature];
        const PackedBf16 packed = form();
        const std::int64_t panel = feature / kernels::gram_panel_features;
        const std::uint32_t pair = packed.pairs[panel * packed.panel_stride + token / 2 * 16 + feature % 16];
        return std::bit_cast<float>(token % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    }

private:
    std::uint16_t* tail_rows() {
        const std::int64_t forms = kernel_->turned ? 2 : 1;
        return reinterpret_cast<std::uint16_t*>(memory_.get() + forms * packed_form_bytes(features_));
    }
    void pack(const std::uint16_t* x, std::int64_t tokens) {
        const PackedBf16 packed = form();
        parallel_for(packed.panels, 16, [&](std::int64_t lo, std::int64_t hi) {
            kernel_->pack(x, features_, tokens, features_, lo, hi, filled_ / kernels::gram_block_tokens, packed);
        });
        filled_ += tokens;
    }

    std::int64_t features_, filled_ = 0, tail_ = 0;
    const Kernel* kernel_ = nullptr;
    AlignedBytes memory_;
};

GramAccumulator::GramAccumulator(std::string input_name, std::int64_t features)
    : name_(std::move(input_name)), features_(features) {
    if (features < 1) internal_error(name_, ": a Gram matrix of ", features, " features");
    sum_.resize(static_cast<std::size_t>(sum_size(features)));
    stage_ = std::make_unique<Stage>(features);
}
GramAccumulator::~GramAccumulator() = default;
GramAccumulator::GramAccumulator(GramAccumulator&&) noexcept = default;
GramAccumulator& GramAccumulator::operator=(GramAccumulator&&) noexcept = default;

void GramAccumulator::add(const float* x, std::int64_t tokens) {
    if (stage_->packed()) fold_stage();
    tokens_ += tokens;
    while (tokens > 0) {
        std::int64_t taken = chunk_tokens;
        if (stage_->tokens() == 0 && tokens >= chunk_tokens) {
            fold(x, taken);  // a whole chunk needs no copy
        } else {
            stage_->use(nullptr);
            taken = stage_->append_rows(x, tokens);
            if (stage_->full()) fold_stage();
        }
        x += taken * features_;
        tokens -= taken;
    }
}

void GramAccumulator::add_bf16(const std::uint16_t* x, std::int64_t tokens) {
    const Kernel* kernel = kernels::active_gram_kernel_bf16();
    if (stage_->kernel() != kernel) fold_stage();
    tokens_ += tokens;
    while (tokens > 0) {
        stage_->use(kernel);
        const std::int64_t taken =
            stage_->packed() ? stage_->append_packed(x, tokens) : stage_->append_widened(x, tokens);
        if (stage_->full()) fold_stage();
        x += taken * features_;
        tokens -= taken;
    }
}

/// Adds product(row, rows, column, columns, c), c [rows, ldc], to the sums, tile by tile of the lower triangle.
template <class TileProduct>
void GramAccumulator::fold_tiles(const TileProduct& product) {
    const std::int64_t edge = tile_edge(features_), side = ceil_div(features_, edge);
    parallel_for(side * (side + 1) / 2, 1, [&](std::int64_t lo, std::int64_t hi) {
        // Kept by the thread: mapping 256 KiB anew for each tile would cost 5 % of its product.
        thread_local std::vector<float> scratch;
        scratch.resize(static_cast<std::size_t>(edge * edge));
        for (std::int64_t t = lo; t < hi; ++t) {
            const auto [row, column] = linalg::lower_tile(t);
            const TileRow in = tile_row(row, features_);
            const std::int64_t first = column * edge, columns = std::min(edge, features_ - first);
            product(in.first, in.rows, first, columns, scratch.data(), edge);
            for (std::int64_t i = 0; i < in.rows; ++i) {
                double* to = sum_.data() + in.offset + i * in.columns + first;
                const float* from = scratch.data() + i * edge;
                const std::int64_t count = row == column ? i + 1 : columns;
                for (std::int64_t j = 0; j < count; ++j) to[j] += static_cast<double>(from[j]);
            }
        }
    });
}

void GramAccumulator::fold(const float* rows, std::int64_t tokens) {
    fold_tiles([&](std::int64_t row, std::int64_t count, std::int64_t column, std::int64_t columns, float* c,
                   std::int64_t ldc) {
        blas::gram_tile(row == column, count, columns, tokens, 1.0f, rows + row, features_, rows + column, features_,
                        0.0f, c, ldc);
    });
    check_sums(rows, tokens);
    folded_ += tokens;
}

void GramAccumulator::fold_stage() {
    if (stage_->tokens() == 0) return;
    if (!stage_->packed()) {
        fold(stage_->rows(), stage_->tokens());
    } else {
        stage_->close_tail();
        const PackedBf16 packed = stage_->form();
        const std::int64_t tokens = stage_->tokens(), blocks = ceil_div(tokens, kernels::gram_block_tokens);
        const auto whole_steps = [](std::int64_t n) {
            return ceil_div(n, kernels::gram_step_features) * kernels::gram_step_features;
        };
        fold_tiles([&](std::int64_t row, std::int64_t count, std::int64_t column, std::int64_t columns, float* c,
                       std::int64_t ldc) {
            stage_->kernel()->tile(packed, blocks, row, whole_steps(count), column, whole_steps(columns), c, ldc);
        });
        check_sums(nullptr, tokens);
        folded_ += tokens;
    }
    stage_->clear();
}

/// A NaN or an infinity in x_j makes the sum of x_j² one, so the diagonal tells. `rows` is the chunk just folded, null
/// when it is the packed one.
void GramAccumulator::check_sums(const float* rows, std::int64_t tokens) const {
    for (std::int64_t j = 0; j < features_; ++j) {
        const TileRow in = tile_row(j / tile_edge(features_), features_);
        if (std::isfinite(sum_[static_cast<std::size_t>(in.offset + (j - in.first) * in.columns + j)])) continue;
        for (std::int64_t t = 0; t < tokens; ++t) {
            const float value = rows != nullptr ? rows[t * features_ + j] : stage_->value(t, j);
            if (!std::isfinite(value))
                throw Error(Fault::numeric,
                            text(name_, ": the activation of calibration token ", folded_ + t, ", feature ", j, " is ",
                                 value, "; look for NaN or very large weights in the layers before it"));
        }
        throw Error(Fault::numeric,
                    text(name_, ": the activations of feature ", j,
                         " are so large that their squares overflow float32 (in calibration tokens ", folded_, " to ",
                         folded_ + tokens - 1, "); look for very large weights in the layers before it"));
    }
}

std::uint64_t GramAccumulator::memory(std::int64_t features) {
    const std::int64_t edge = tile_edge(features);
    const std::int64_t stage =
        std::max(row_stage_bytes(features), packed_stage_bytes(kernels::active_gram_kernel_bf16(), features));
    return static_cast<std::uint64_t>(sum_size(features) * 8 + stage + threads() * edge * edge * 4);
}

std::vector<float> GramAccumulator::finish() {
    fold_stage();
    stage_.reset();
    if (tokens_ == 0)
        bad_input(name_,
                  ": no calibration token reached this input, so there is no Gram matrix; check the samples and "
                  "the length of [calibration]");
    std::vector<float> gram(static_cast<std::size_t>(features_ * features_));
    const double scale = 1.0 / static_cast<double>(tokens_);
    const std::int64_t side = ceil_div(features_, tile_edge(features_));
    parallel_for(side, 1, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t row = lo; row < hi; ++row) {
            const TileRow in = tile_row(row, features_);
            for (std::int64_t i = in.first; i < in.first + in.rows; ++i) {
                const double* from = sum_.data() + in.offset + (i - in.first) * in.columns;
                float* to = gram.data() + i * features_;
                for (std::int64_t j = 0; j <= i; ++j) to[j] = static_cast<float>(from[j] * scale);
            }
        }
    });
    std::vector<double>().swap(sum_);
    linalg::symmetrise(features_, gram.data(), features_);
    return gram;
}

}  // namespace kerf::core
