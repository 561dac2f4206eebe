// SPDX-License-Identifier: Apache-2.0
#include "core/weights/tensor_file.hpp"

#include <algorithm>
#include <functional>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

/// A named pipe would block, and a folder cannot be mapped: only regular files pass.
const std::filesystem::path& regular_file(const std::filesystem::path& path) {
    std::error_code reason;
    const auto status = std::filesystem::status(path, reason);
    if (!std::filesystem::exists(status)) bad_input(path.string(), ": no such file");
    if (!std::filesystem::is_regular_file(status)) bad_input(path.string(), ": is not a regular file");
    return path;
}

}  // namespace

TensorFile::TensorFile(const std::filesystem::path& path)
    : path_(path), mapped_(MappedFile::open(regular_file(path))) {}

const StoredTensor* TensorFile::find(std::string_view name) const {
    const auto at =
        std::lower_bound(tensors_.begin(), tensors_.end(), name,
                         [](const StoredTensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

bool TensorFile::is_mapped(const StoredTensor& tensor) const noexcept {
    const auto file = mapped_.bytes();
    const std::less_equal<const std::byte*> before;
    return !tensor.bytes.empty() && before(file.data(), tensor.bytes.data()) &&
           before(tensor.bytes.data() + tensor.bytes.size(), file.data() + file.size());
}

void TensorFile::forget(const StoredTensor& tensor) const noexcept {
    // Dropping the pages of memory that no file backs would clear it.
    if (is_mapped(tensor)) mapped_.forget(tensor.bytes);
}

void TensorFile::prefetch(const StoredTensor& tensor) const noexcept {
    if (is_mapped(tensor)) mapped_.prefetch(tensor.bytes);
}

void TensorFile::index_tensors() {
    const auto by_name = [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; };
    std::sort(tensors_.begin(), tensors_.end(), by_name);
    const auto twin = std::adjacent_find(tensors_.begin(), tensors_.end(),
                                         [](const StoredTensor& a, const StoredTensor& b) { return a.name == b.name; });
    if (twin != tensors_.end()) bad_input(path_.string(), ": holds two tensors of the name ", twin->name);
}

}  // namespace kerf::core
