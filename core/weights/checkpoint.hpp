// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/codec/gptq_format.hpp"
#include "core/weights/lazy_tensor.hpp"
#include "core/weights/selection.hpp"
#include "core/weights/tensor_file.hpp"

namespace kerf::core {

/// A model folder in Hugging Face layout, mapped and lazy: model.safetensors, model.safetensors.index.json + shards,
/// pytorch_model.bin, or pytorch_model.bin.index.json + shards; the first of these that is there. Opening reads headers
/// alone.
///
/// A GPTQ-packed checkpoint (config.json: quantization_config.quant_method = "gptq") shows the weights that it stands
/// for: P.qweight, P.qzeros, P.scales and P.g_idx are one tensor P.weight of dtype f16, shape [out, in] and empty
/// `bytes`, which read() decodes; the four themselves are not among names().
///
/// A GGUF file stands for the folder that it was made of (core/weights/gguf_model.hpp): its tensors have their Hugging
/// Face names, shapes and order. Those in quantised blocks are of dtype f16 and have empty `bytes`.
class Checkpoint {
public:
    /// A folder, or a GGUF file. Errors (input): no weights, a missing shard, a tensor that the index names and its
    /// shard lacks or the other way round, one name in two shards, a quantization_config that kerf cannot decode.
    static Checkpoint open(const std::filesystem::path& path);

    /// Shows a packed weight as [in, out] from now on, for a model that stores this one so; a weight that is not packed
    /// stays as it is.
    void show_transposed(std::string_view name);
    /// Whether there are weights that open() would look at: in a folder, or because `path` is a GGUF file.
    static bool present(const std::filesystem::path& path);

    const StoredTensor* find(std::string_view name) const;
    /// find() or Error(input) "tensor X is missing from FOLDER".
    const StoredTensor& at(std::string_view name) const;
    std::vector<std::string> names() const;  ///< sorted
    std::uint64_t bytes() const;             ///< of all tensors as stored
    /// What a tensor is stored as, for people ("BF16", "Q4_1", "GPTQ 4-bit"), and the bytes that it takes.
    std::string storage(std::string_view name) const;
    std::uint64_t stored_bytes(std::string_view name) const;
    const std::filesystem::path& folder() const noexcept { return folder_; }
    std::vector<std::filesystem::path> files() const;

    /// float32 copy of a tensor; its pages are handed back. NaN or infinity is Error(input) that names tensor and
    /// element.
    std::vector<float> read(std::string_view name) const;
    void read_into(std::string_view name, std::span<float> out) const;
    /// The same for rows from `first` on, as many as `out` has places for; pages are kept.
    void read_rows(std::string_view name, std::int64_t first, std::span<float> out) const;
    /// Reads a whole tensor and hands it on in pieces, in order; they are small where it can be read in small pieces.
    void read_pieces(std::string_view name, const std::function<void(std::span<const float>)>& take) const;
    void forget(std::string_view name) const;
    /// Asks the system to read a tensor before it is needed; returns at once.
    void prefetch(std::string_view name) const;

    /// The same files seen through edits: a tensor that is made by a selection has the dtype of its source (float32
    /// when it has none), its own shape, and empty `bytes`. What is edited already can be edited again. Computations
    /// name their sources as the graph does; `stored_name` says what those are called here. Error(input) for a source
    /// that is missing, Error(internal) for a selection that does not fit it.
    Checkpoint edited(const TensorEdits& edits,
                      const std::function<std::string(const std::string&)>& stored_name = {}) const;

private:
    struct Place {
        const TensorFile* file = nullptr;
        const StoredTensor* tensor = nullptr;
        std::shared_ptr<const LazyTensor> lazy;  // null for a tensor that is stored as it is
    };
    struct GptqSettings;

    const Place& place(std::string_view name) const;
    void for_each_part(const Place& found, void (*visit)(const TensorFile&, const StoredTensor&)) const;
    void check_finite(const StoredTensor& tensor, std::int64_t first, std::span<const float> values) const;
    void add_file(const std::string& file);
    void open_index(const std::string& index);
    void open_gguf(const std::filesystem::path& path);
    void show_packed(const GptqSettings& settings);
    void show_packed_layer(const std::string& layer, const GptqSettings& settings);

    std::filesystem::path folder_;
    std::vector<std::pair<std::filesystem::path, std::shared_ptr<const TensorFile>>> files_;
    // Shared by copies, because places point into it.
    std::shared_ptr<std::deque<StoredTensor>> renamed_ = std::make_shared<std::deque<StoredTensor>>();
    std::map<std::string, Place, std::less<>> places_;
};

}  // namespace kerf::core
