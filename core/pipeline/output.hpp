// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/codec/gptq_format.hpp"
#include "core/pipeline/stage.hpp"
#include "core/weights/safetensors_writer.hpp"

namespace kerf::core {

/// What a method made of one linear.
struct Compressed {
    std::vector<float> weight;       ///< float32 [out, in], exactly as it will be read back from the output
    std::optional<GptqCodes> codes;  ///< layout int-group/1
    int bits = 0;
    std::map<std::string, double> metrics;
};

/// How the result of one stage lies on disk, worked out before any weight is read.
class OutputLayout {
public:
    struct Options {
        std::string format = "hf";   ///< hf | gptq
        std::optional<DType> dtype;  ///< of dense floating tensors; none = as in the original model
        bool keep_exact = false;     ///< an intermediate result: compressed linears stay float32
        std::uint64_t shard_bytes = 5'000'000'000;
    };
    /// `original`: the recipe's input, which decides the dtypes of "auto". Error(input) when a linear cannot be packed.
    OutputLayout(const Model& model, const Model& original, const Stage* stage, Options options);

    const ShardPlan& shards() const noexcept { return *shards_; }
    const Options& options() const noexcept { return options_; }
    /// Stored tensors that belong to a block and are copied as they are; `blocks()` for all that belong to none.
    const std::vector<std::string>& copied(std::size_t block) const { return copied_[block]; }
    std::size_t outside() const noexcept { return copied_.size() - 1; }
    DType dtype_of(const std::string& stored_name) const;
    const GptqLayout* packed(const std::string& linear) const;
    std::uint64_t linear_bytes(const std::string& linear) const { return linear_bytes_.at(linear); }
    /// The GPTQ settings that go into config.json; null for dense output.
    nlohmann::json quantization_config() const;
    GptqVersion version() const noexcept { return version_; }

private:
    void place_linear(const Model& model, const Target& target, std::vector<PlannedTensor>& out);

    Options options_;
    GptqVersion version_ = GptqVersion::v1;
    std::unique_ptr<ShardPlan> shards_;
    std::vector<std::vector<std::string>> copied_;
    std::map<std::string, DType> dtypes_;
    std::map<std::string, GptqLayout> packed_;
    std::map<std::string, std::uint64_t> linear_bytes_;
    nlohmann::json settings_;
};

/// Writes the result of one stage into its folder, tensor by tensor, each at its final place.
class ResultWriter {
public:
    ResultWriter(const OutputLayout& layout, const Model& model, const std::filesystem::path& folder, bool resume);
    void write_linear(const Target& target, const Compressed& made);
    /// Copies what a block (or layout.outside()) holds beside its compressed linears.
    /// From `edited`, when it is given: the model with what was pruned in this block.
    void write_copied(std::size_t block, const Model* edited = nullptr);
    void sync() { writer_->sync(); }
    const std::map<std::string, std::string>& checksums() const { return writer_->checksums(); }

private:
    void copy_floating(const Checkpoint& from, const StoredTensor& stored, DType dtype);

    const OutputLayout& layout_;
    const Model& model_;
    std::unique_ptr<ShardWriter> writer_;
};

/// config.json of the output: the input's, with dtype and quantisation settings as they now are.
nlohmann::json output_config(const Model& original, const OutputLayout& layout);
/// Writes config.json; with `any_shape`, for a graph that the family's class in transformers cannot express, the one by
/// which transformers runs any graph, and the module that it needs for that.
void write_config(const std::filesystem::path& folder, const nlohmann::json& config, const Graph& graph,
                  bool any_shape);
/// Copies tokenizer and generation files; for a GGUF file, writes what its metadata says.
void copy_side_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace kerf::core
