// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/codec/gptq_format.hpp"
#include "core/weights/tensor_file.hpp"

namespace kerf::core {

/// A model folder in Hugging Face layout, mapped and lazy: model.safetensors, model.safetensors.index.json + shards,
/// pytorch_model.bin, or pytorch_model.bin.index.json + shards; the first of these that is there. Opening reads headers
/// alone.
///
/// A GPTQ-packed checkpoint (config.json: quantization_config.quant_method = "gptq") shows the weights that it stands
/// for: P.qweight, P.qzeros, P.scales and P.g_idx are one tensor P.weight of dtype f16, shape [out, in] and empty
/// `bytes`, which read() decodes; the four themselves are not among names().
class Checkpoint {
public:
    /// Errors (input): no weights, a missing shard, a tensor that the index names and its shard lacks
    /// or the other way round, one name in two shards, a quantization_config that kerf cannot decode.
    static Checkpoint open(const std::filesystem::path& folder);

    const StoredTensor* find(std::string_view name) const;
    /// find() or Error(input) "tensor X is missing from FOLDER".
    const StoredTensor& at(std::string_view name) const;
    std::vector<std::string> names() const;  ///< sorted
    std::uint64_t bytes() const;             ///< of all tensors as stored
    const std::filesystem::path& folder() const noexcept { return folder_; }
    std::vector<std::filesystem::path> files() const;

    /// float32 copy of a tensor; its pages are handed back. NaN or infinity is Error(input) that names tensor and
    /// element.
    std::vector<float> read(std::string_view name) const;
    void read_into(std::string_view name, std::span<float> out) const;
    void forget(std::string_view name) const;
    /// Asks the system to read a tensor before it is needed; returns at once.
    void prefetch(std::string_view name) const;

private:
    /// A weight that several stored tensors stand for.
    struct Packed {
        StoredTensor logical;
        GptqLayout layout;
        GptqVersion version;
        const StoredTensor *qweight, *qzeros, *scales, *g_idx;  // g_idx may be null
    };
    struct Place {
        const TensorFile* file;
        const StoredTensor* tensor;
        std::shared_ptr<const Packed> packed;  // null for a tensor that is stored as it is
    };
    struct GptqSettings;

    const Place& place(std::string_view name) const;
    void for_each_part(const Place& found, void (*visit)(const TensorFile&, const StoredTensor&)) const;
    void add_file(const std::string& file);
    void open_index(const std::string& index);
    void show_packed(const GptqSettings& settings);
    void show_packed_layer(const std::string& layer, const GptqSettings& settings);
    static void decode(const Packed& packed, std::span<float> out);

    std::filesystem::path folder_;
    std::vector<std::pair<std::filesystem::path, std::unique_ptr<TensorFile>>> files_;
    std::map<std::string, Place, std::less<>> places_;
};

}  // namespace kerf::core
