// SPDX-License-Identifier: Apache-2.0
#include "core/exec/resident_weights.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "kernels/cpu/matvec.hpp"

namespace kerf::core {
namespace {

constexpr std::size_t cache_line = 64, huge_page = std::size_t{2} << 20;

/// Rows that one thread takes at a time: enough to stream, few enough to share a product between threads.
constexpr std::int64_t piece_bytes = std::int64_t{64} << 10;
/// Less than this is done before another thread has looked up.
constexpr std::int64_t small_bytes = std::int64_t{32} << 10;

std::string key_of(const Op& linear) {
    return linear.transposed ? linear.weight + " transposed" : linear.weight;
}

std::size_t padded(std::size_t bytes) {
    return (bytes + cache_line - 1) / cache_line * cache_line;
}

std::vector<const Op*> distinct_linears(const Graph& graph) {
    std::vector<const Op*> out;
    std::map<std::string, const Op*> known;
    const auto add = [&](const std::vector<Op>& ops) {
        for (const auto& op : ops)
            if (op.kind == OpKind::linear && known.emplace(key_of(op), &op).second) out.push_back(&op);
    };
    add(graph.prologue);
    for (const auto& block : graph.blocks) add(block.ops);
    add(graph.epilogue);
    return out;
}

void check_memory(std::uint64_t bytes, DType type) {
    const auto machine = std::uint64_t(::sysconf(_SC_PHYS_PAGES)) * std::uint64_t(::sysconf(_SC_PAGE_SIZE));
    if (bytes > machine)
        bad_environment("the weights take ", format_bytes(double(bytes)), " in memory, this machine has ",
                        format_bytes(double(machine)),
                        type == DType::f32 ? "; bfloat16 weights take half" : "; a smaller model is needed");
}

/// Rows of a 16-bit matrix as float32, for BLAS.
void widen(DType type, const std::byte* from, std::span<float> out) {
    StoredTensor stored;
    stored.dtype = type;
    stored.shape = {std::int64_t(out.size())};
    stored.bytes = {from, out.size() * dtype_bytes(type)};
    to_float32(stored, out);
}

}  // namespace

void Unmap::operator()(std::byte* at) const {
    ::munmap(at, bytes);
}

ResidentWeights::ResidentWeights(const Graph& graph, const WeightSource& source, DType type) : type_(type) {
    const auto linears = distinct_linears(graph);
    std::vector<std::size_t> places;
    std::size_t total = 0;
    for (const Op* op : linears) {
        places.push_back(total);
        total += padded(std::size_t(op->rows * op->columns) * dtype_bytes(type));
        bytes_ += std::uint64_t(op->rows * op->columns) * dtype_bytes(type);
    }
    check_memory(total, type);
    // Room to begin on a huge page; what is never touched costs nothing.
    const std::size_t mapped = total + huge_page;
    void* memory = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        bad_environment("the system gives no ", format_bytes(double(total)), " of memory for the weights");
    memory_ = {static_cast<std::byte*>(memory), Unmap{mapped}};
    static_cast<void>(::madvise(memory, mapped, MADV_HUGEPAGE));
    std::byte* const first = memory_.get() + (huge_page - reinterpret_cast<std::uintptr_t>(memory) % huge_page);
    for (std::size_t i = 0; i < linears.size(); ++i)
        matrices_[key_of(*linears[i])] = {first + places[i], linears[i]->rows, linears[i]->columns};
    parallel_for(std::int64_t(linears.size()), 1, [&](std::int64_t i, std::int64_t) {
        load(*linears[std::size_t(i)], source, first + places[std::size_t(i)]);
    });
}

void ResidentWeights::load(const Op& linear, const WeightSource& source, std::byte* to) const {
    const std::vector<float> values = linear_weight(source, linear);
    from_float32(values, type_, {to, values.size() * dtype_bytes(type_)});
}

const ResidentMatrix& ResidentWeights::matrix(const Op& linear) const {
    return matrices_.find(key_of(linear))->second;
}

void ResidentWeights::multiply(std::span<const Product> products, const float* x, std::int64_t vectors) const {
    if (vectors == 0) return;
    if (vectors <= few)
        stream(products, x, vectors);
    else
        for (const auto& product : products) through_blas(product, x, vectors);
}

/// All products of a shared input in one parallel region, cut into pieces of rows by their sizes alone.
void ResidentWeights::stream(std::span<const Product> products, const float* x, std::int64_t vectors) const {
    struct Piece {
        const Product* product;
        std::int64_t lo, hi;
    };
    thread_local std::vector<Piece> pieces;  // kept: a call of some microseconds should not ask for memory
    pieces.clear();
    std::int64_t bytes = 0;
    for (const auto& product : products) {
        const auto& [at, rows, columns] = *product.weight;
        const std::int64_t row_bytes = columns * std::int64_t(dtype_bytes(type_));
        const std::int64_t step = std::max<std::int64_t>(4, piece_bytes / std::max<std::int64_t>(1, row_bytes) / 4 * 4);
        for (std::int64_t lo = 0; lo < rows; lo += step) pieces.push_back({&product, lo, std::min(rows, lo + step)});
        bytes += rows * row_bytes;
    }
    const auto& cut = pieces;  // the lambda below runs in other threads, which have a `pieces` of their own
    const auto run = [&, this](std::int64_t first, std::int64_t last) {
        for (std::int64_t p = first; p < last; ++p) {
            const Piece& piece = cut[std::size_t(p)];
            const Product& product = *piece.product;
            dot(*product.weight, piece.lo, piece.hi, x, vectors, product.y);
            if (product.bias == nullptr) continue;
            for (std::int64_t t = 0; t < vectors; ++t)
                for (std::int64_t row = piece.lo; row < piece.hi; ++row)
                    product.y[t * product.weight->rows + row] += product.bias[row];
        }
    };
    const auto count = std::int64_t(pieces.size());
    parallel_for(count, bytes < small_bytes ? count : 1, run);
}

void ResidentWeights::dot(const ResidentMatrix& matrix, std::int64_t lo, std::int64_t hi, const float* x,
                          std::int64_t vectors, float* y) const {
    const auto& kernels = kernels::best_matvec_kernels();
    const kernels::Vectors<const float> from{x, vectors, matrix.columns};
    const kernels::Vectors<float> to{y + lo, vectors, matrix.rows};
    if (type_ == DType::f32) {
        const auto* weights = reinterpret_cast<const float*>(matrix.at) + lo * matrix.columns;
        kernels.dot_f32({weights, hi - lo, matrix.columns}, from, to);
        return;
    }
    const auto* weights = reinterpret_cast<const std::uint16_t*>(matrix.at) + lo * matrix.columns;
    (type_ == DType::bf16 ? kernels.dot_bf16 : kernels.dot_f16)({weights, hi - lo, matrix.columns}, from, to);
}

void ResidentWeights::through_blas(const Product& product, const float* x, std::int64_t vectors) const {
    const auto& [at, rows, columns] = *product.weight;
    // 16-bit weights are widened a slice at a time, which stays in the last cache level until BLAS has packed it.
    const std::int64_t slice = type_ == DType::f32 ? rows : std::max<std::int64_t>(64, (1 << 20) / columns);
    std::vector<float> wide(type_ == DType::f32 ? 0 : std::size_t(std::min(slice, rows) * columns));
    for (std::int64_t lo = 0; lo < rows; lo += slice) {
        const std::int64_t here = std::min(slice, rows - lo);
        const float* weights = reinterpret_cast<const float*>(at);
        if (type_ != DType::f32) {
            const std::byte* from = at + std::size_t(lo * columns) * dtype_bytes(type_);
            parallel_for(here, 16, [&](std::int64_t first, std::int64_t last) {
                widen(type_, from + std::size_t(first * columns) * dtype_bytes(type_),
                      std::span(wide).subspan(std::size_t(first * columns), std::size_t((last - first) * columns)));
            });
            weights = wide.data();
        }
        linalg::gemm<float>(false, true, vectors, here, columns, 1.0f, x, columns, weights, columns, 0.0f,
                            product.y + lo, rows);
    }
    if (product.bias == nullptr) return;
    for (std::int64_t t = 0; t < vectors; ++t)
        for (std::int64_t row = 0; row < rows; ++row) product.y[t * rows + row] += product.bias[row];
}

}  // namespace kerf::core
