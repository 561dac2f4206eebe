// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/support/file.hpp"
#include "core/weights/tensor.hpp"

namespace kerf::core {

/// A mapped file of named tensors. Everything about it is validated before open() returns: nothing a file says can make
/// a reader allocate or read out of bounds. Errors are Error(input) and name the file.
class TensorFile {
public:
    virtual ~TensorFile() = default;
    const std::vector<StoredTensor>& tensors() const noexcept { return tensors_; }  ///< sorted by name
    const StoredTensor* find(std::string_view name) const;
    const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
    /// Hands a tensor's pages back to the system; nothing happens to a tensor that lies outside the mapping.
    void forget(const StoredTensor& tensor) const noexcept;
    /// Asks the system to read a tensor before it is needed; returns at once.
    void prefetch(const StoredTensor& tensor) const noexcept;

protected:
    bool is_mapped(const StoredTensor& tensor) const noexcept;
    TensorFile() = default;
    /// Maps a regular file; Error(input) when there is none.
    explicit TensorFile(const std::filesystem::path& path);
    /// Sorts the tensors by name and refuses two of one name.
    void index_tensors();

    std::filesystem::path path_;
    MappedFile mapped_;
    std::vector<StoredTensor> tensors_;
    std::map<std::string, std::string> metadata_;
};

/// safetensors: 8-byte length, JSON header (≤ 100 MB), data. Holes, overlaps, duplicate names, a header past the end of
/// the file, and shape × dtype ≠ bytes are refused.
std::unique_ptr<TensorFile> open_safetensors(const std::filesystem::path& path);

/// A torch.save zip archive (pytorch_model.bin). The pickle is read by an allow-list of opcodes; the only callables are
/// tensor rebuilds and OrderedDict, nothing is ever executed. Strided views (transposes, slices) are
/// copied out into memory that the object owns; contiguous ones are mapped.
std::unique_ptr<TensorFile> open_torch_archive(const std::filesystem::path& path);

}  // namespace kerf::core
