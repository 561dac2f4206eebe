// SPDX-License-Identifier: Apache-2.0
#include "core/exec/cached_attention.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "core/exec/positions.hpp"
#include "core/exec/resident_weights.hpp"
#include "core/exec/row_ops.hpp"
#include "core/linalg/linalg.hpp"
#include "core/support/parallel.hpp"
#include "kernels/cpu/matvec.hpp"

namespace kerf::core {
namespace {

/// Queries of one head that are worked on at once: 32 rows of scores over 8192 positions are 1 MiB a thread.
constexpr std::int64_t tile_rows = 32;

/// One head, some queries of one run.
struct Tile {
    const AttentionRun* run;
    std::int64_t head, lo, hi;
};

/// Products q·k of a query at `position` with the keys from `from` on → softmax weights.
class Scores {
public:
    explicit Scores(const Op& op) : op_(op) {
        if (op.alibi) slopes_ = alibi_slopes(op.heads);
    }
    void weigh(std::int64_t head, std::int64_t from, std::span<float> scores) const {
        if (op_.alibi)
            for (std::size_t j = 0; j < scores.size(); ++j)
                scores[j] += alibi_bias(slopes_[std::size_t(head)], from + std::int64_t(j));
        row_ops::scale(op_.value, scores, scores);
        if (op_.softcap > 0) row_ops::softcap(op_.softcap, scores, scores);
        row_ops::softmax(scores);
    }
    std::int64_t first_visible(std::int64_t position) const {
        return op_.window > 0 ? std::max<std::int64_t>(0, position - op_.window + 1) : 0;
    }

private:
    const Op& op_;
    std::vector<float> slopes_;
};

void attend_row_by_row(const Op& op, const Scores& scores, const Tile& tile) {
    const auto& kernels = kernels::best_matvec_kernels();
    const AttentionRun& run = *tile.run;
    const std::int64_t d = op.head_dim, group = tile.head / (op.heads / op.kv_heads);
    thread_local std::vector<float> room;
    for (std::int64_t i = tile.lo; i < tile.hi; ++i) {
        const std::int64_t position = run.first + i, from = scores.first_visible(position);
        const std::int64_t seen = position - from + 1, place = (i * op.heads + tile.head) * d;
        if (std::int64_t(room.size()) < seen) room.resize(std::size_t(seen));
        kernels.dot_f32({run.cache->keys(group) + from * d, seen, d}, {run.q + place, 1, d}, {room.data(), 1, seen});
        scores.weigh(tile.head, from, std::span(room.data(), std::size_t(seen)));
        kernels.mix({run.cache->values(group) + from * d, seen, d}, room.data(), run.out + place);
    }
}

void attend_through_blas(const Op& op, const Scores& scores, const Tile& tile) {
    const AttentionRun& run = *tile.run;
    const std::int64_t d = op.head_dim, width = op.heads * d, group = tile.head / (op.heads / op.kv_heads);
    const std::int64_t rows = tile.hi - tile.lo, from = scores.first_visible(run.first + tile.lo);
    const std::int64_t seen = run.first + tile.hi - from;
    thread_local std::vector<float> room;
    if (std::int64_t(room.size()) < rows * seen) room.resize(std::size_t(rows * seen));
    const std::int64_t place = tile.lo * width + tile.head * d;
    linalg::gemm<float>(false, true, rows, seen, d, 1.0f, run.q + place, width, run.cache->keys(group) + from * d, d,
                        0.0f, room.data(), seen);
    for (std::int64_t i = 0; i < rows; ++i) {
        // what a query does not see, before its window and behind itself, has no weight
        const std::int64_t position = run.first + tile.lo + i, begin = scores.first_visible(position) - from;
        const std::int64_t end = position - from + 1;
        float* row = room.data() + i * seen;
        std::fill(row, row + begin, 0.0f);
        scores.weigh(tile.head, from + begin, std::span(row + begin, std::size_t(end - begin)));
        std::fill(row + end, row + seen, 0.0f);
    }
    linalg::gemm<float>(false, false, rows, d, seen, 1.0f, room.data(), seen, run.cache->values(group) + from * d, d,
                        0.0f, run.out + place, width);
}

}  // namespace

KeyValues::KeyValues(const Op& attention, std::int64_t capacity)
    : capacity_(capacity),
      kv_heads_(attention.kv_heads),
      head_dim_(attention.head_dim),
      keys_(std::make_unique_for_overwrite<float[]>(std::size_t(kv_heads_ * capacity * head_dim_))),
      values_(std::make_unique_for_overwrite<float[]>(std::size_t(kv_heads_ * capacity * head_dim_))) {}

void KeyValues::store(std::int64_t first, std::int64_t count, const float* k, const float* v) {
    const std::size_t bytes = std::size_t(head_dim_) * sizeof(float);
    for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t head = 0; head < kv_heads_; ++head) {
            const std::int64_t from = (i * kv_heads_ + head) * head_dim_;
            const std::int64_t to = (head * capacity_ + first + i) * head_dim_;
            std::memcpy(keys_.get() + to, k + from, bytes);
            std::memcpy(values_.get() + to, v + from, bytes);
        }
}

void attend_cached(const Op& attention, std::span<const AttentionRun> runs) {
    const Scores scores(attention);
    thread_local std::vector<Tile> tiles;
    tiles.clear();
    for (const auto& run : runs) {
        const std::int64_t step = run.count <= ResidentWeights::few ? run.count : tile_rows;
        for (std::int64_t lo = 0; lo < run.count; lo += step)
            for (std::int64_t head = 0; head < attention.heads; ++head)
                tiles.push_back({&run, head, lo, std::min(run.count, lo + step)});
    }
    const auto& cut = tiles;
    parallel_for(std::int64_t(tiles.size()), 1, [&](std::int64_t lo, std::int64_t) {
        const Tile& tile = cut[std::size_t(lo)];
        if (tile.run->count <= ResidentWeights::few)
            attend_row_by_row(attention, scores, tile);
        else
            attend_through_blas(attention, scores, tile);
    });
}

}  // namespace kerf::core
