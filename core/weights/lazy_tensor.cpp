// SPDX-License-Identifier: Apache-2.0
#include "core/weights/lazy_tensor.hpp"

namespace kerf::core {

void TensorSource::read_rows(std::int64_t first, std::span<float> out) const {
    if (lazy) return lazy->read_rows(first, out);
    std::int64_t width = 1;
    for (std::size_t d = 1; d < stored->shape.size(); ++d) width *= stored->shape[d];
    const std::size_t size = dtype_bytes(stored->dtype);
    to_float32({stored->name,
                stored->dtype,
                {std::int64_t(out.size())},
                stored->bytes.subspan(std::size_t(first * width) * size, out.size() * size)},
               out);
}

std::vector<float> TensorSource::read() const {
    std::vector<float> out(std::size_t(stored->elements()));
    read_rows(0, out);
    return out;
}

void TensorSource::for_each_part(const std::function<void(const StoredTensor&)>& visit) const {
    if (lazy)
        lazy->for_each_part(visit);
    else
        visit(*stored);
}

}  // namespace kerf::core
