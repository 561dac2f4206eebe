// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string_view>

#include "core/weights/gguf_model.hpp"

/// What only the reader of GGUF models needs to know.
namespace kerf::core::gguf {

/// What the format's converter does to a tensor.
enum class Change {
    none,
    rotary_q,     ///< the rows of each head interleaved
    rotary_k,     ///< the same, of KV heads
    three_parts,  ///< q, k and v one below the other; Hugging Face has three tensors
    grouped,      ///< q, k and v of all heads; Hugging Face has them by KV group
    transposed,
    plus_one,
    experts  ///< stacked; Hugging Face has one tensor an expert
};

/// A module of a GGUF file and what it is called in Hugging Face files, without ".weight" or ".bias". {} in a name is
/// the number of the expert; the three names of `three_parts` are separated by spaces.
struct Module {
    std::string_view stored, name;
    Change change = Change::none;
};

struct Architecture {
    std::string_view name;  ///< general.architecture
    std::string_view model_type, class_name;
    std::string_view blocks;  ///< prefix of a block's modules; {} is its number
    std::span<const Module> outside, inside;
    void (*describe)(const GgufFile& file, nlohmann::json& config);
    bool (*is_it)(const GgufFile& file);  ///< null: whenever the name is right
};

/// The key of a family's metadata: "llama." + key.
std::string key_of(const GgufFile& file, std::string_view key);
/// A number that the format may also give block by block; Error(input) when blocks differ.
std::uint64_t count_of(const GgufFile& file, std::string_view key);
std::uint64_t count_of(const GgufFile& file, std::string_view key, std::uint64_t otherwise);

// One a family, for Architecture::describe. The keys that all have in common are in `config` already.
void describe_llama(const GgufFile& file, nlohmann::json& config);
void describe_mixtral(const GgufFile& file, nlohmann::json& config);
void describe_qwen(const GgufFile& file, nlohmann::json& config);
void describe_phi2(const GgufFile& file, nlohmann::json& config);
void describe_phi3(const GgufFile& file, nlohmann::json& config);
void describe_falcon(const GgufFile& file, nlohmann::json& config);
void describe_gpt2(const GgufFile& file, nlohmann::json& config);
void describe_gpt_neox(const GgufFile& file, nlohmann::json& config);
void describe_gemma2(const GgufFile& file, nlohmann::json& config);

}  // namespace kerf::core::gguf
