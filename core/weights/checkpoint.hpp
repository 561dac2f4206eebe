// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/weights/tensor_file.hpp"

namespace kerf::core {

/// A model folder in Hugging Face layout, mapped and lazy: model.safetensors, model.safetensors.index.json + shards,
/// pytorch_model.bin, or pytorch_model.bin.index.json + shards. Opening reads headers alone.
class Checkpoint {
public:
    /// Errors (input): no weights, a missing shard, a tensor that the index names and its shard lacks, one name in two shards.
    static Checkpoint open(const std::filesystem::path& folder);

    const StoredTensor* find(std::string_view name) const;
    /// find() or Error(input) "tensor X is missing from FOLDER".
    const StoredTensor& at(std::string_view name) const;
    std::vector<std::string> names() const;  ///< sorted
    std::uint64_t bytes() const;             ///< of all tensors
    const std::filesystem::path& folder() const noexcept { return folder_; }
    std::vector<std::filesystem::path> files() const;

    /// float32 copy of a tensor; its pages are handed back. NaN or infinity is Error(input) that names tensor and element.
    std::vector<float> read(std::string_view name) const;
    void read_into(std::string_view name, std::span<float> out) const;
    void forget(std::string_view name) const;

private:
    struct Place {
        const TensorFile* file;
        const StoredTensor* tensor;
    };
    std::filesystem::path folder_;
    std::vector<std::pair<std::filesystem::path, std::unique_ptr<TensorFile>>> files_;
    std::map<std::string, Place, std::less<>> places_;
};

}  // namespace kerf::core
