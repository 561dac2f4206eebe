// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/weights/tensor.hpp"
#include "tests/unit/test_files.hpp"

namespace kerf::test {

/// Writes GGUF files, right or (by `claimed_…`, `offset` and raw values) wrong.
class GgufBuilder {
public:
    // Type numbers of the format.
    static constexpr std::uint32_t u8 = 0, i8 = 1, u32 = 4, i32 = 5, f32 = 6, boolean = 7, string = 8, array = 9,
                                   u64 = 10;
    static constexpr std::uint32_t type_f32 = 0, type_f16 = 1, type_q8_0 = 8, type_bf16 = 30;

    std::uint32_t version = 3;
    std::uint64_t alignment = 32;
    std::uint64_t claimed_tensors = 0, claimed_values = 0;  // 0: the true number

    struct Tensor {
        std::string name;
        std::vector<std::uint64_t> dimensions;  // as in the file: the columns first
        std::uint32_t type = type_f32;
        std::string bytes;
        std::int64_t offset = -1;  // -1: behind the one before
    };
    std::vector<Tensor> tensors;

    static std::string text_bytes(const std::string& text) { return raw<std::uint64_t>(text.size()) + text; }

    GgufBuilder& value(const std::string& key, std::uint32_t type, const std::string& bytes) {
        values_.push_back(text_bytes(key) + raw(type) + bytes);
        return *this;
    }
    GgufBuilder& text(const std::string& key, const std::string& text) { return value(key, string, text_bytes(text)); }
    GgufBuilder& count(const std::string& key, std::uint32_t number) { return value(key, u32, raw(number)); }
    GgufBuilder& real(const std::string& key, float number) { return value(key, f32, raw(number)); }
    GgufBuilder& flag(const std::string& key, bool yes) { return value(key, boolean, std::string(1, char(yes))); }
    GgufBuilder& texts(const std::string& key, const std::vector<std::string>& all) {
        std::string bytes = raw(string) + raw<std::uint64_t>(all.size());
        for (const auto& one : all) bytes += text_bytes(one);
        return value(key, array, bytes);
    }
    GgufBuilder& reals(const std::string& key, const std::vector<float>& all) {
        return value(key, array, raw(f32) + raw<std::uint64_t>(all.size()) + raw_all(all));
    }
    GgufBuilder& integers(const std::string& key, const std::vector<std::int32_t>& all) {
        return value(key, array, raw(i32) + raw<std::uint64_t>(all.size()) + raw_all(all));
    }

    /// `shape` as Hugging Face has it, [out, in].
    GgufBuilder& tensor(const std::string& name, const std::vector<std::int64_t>& shape, std::uint32_t type,
                        const std::string& bytes) {
        tensors.push_back({name, {shape.rbegin(), shape.rend()}, type, bytes, -1});
        return *this;
    }
    GgufBuilder& floats(const std::string& name, const std::vector<std::int64_t>& shape,
                        const std::vector<float>& values) {
        return tensor(name, shape, type_f32, raw_all(values));
    }
    GgufBuilder& narrow(const std::string& name, const std::vector<std::int64_t>& shape, core::DType dtype,
                        const std::vector<float>& values) {
        std::string bytes(values.size() * 2, '\0');
        core::from_float32(values, dtype, std::as_writable_bytes(std::span(bytes)));
        return tensor(name, shape, dtype == core::DType::f16 ? type_f16 : type_bf16, bytes);
    }

    std::string build() const {
        std::string out = "GGUF" + raw(version) + raw(claimed_tensors ? claimed_tensors : tensors.size()) +
                          raw(claimed_values ? claimed_values : values_.size());
        for (const auto& value : values_) out += value;
        std::string data;
        for (const auto& tensor : tensors) {
            data.resize((data.size() + alignment - 1) / alignment * alignment, '\0');
            out += text_bytes(tensor.name) + raw(static_cast<std::uint32_t>(tensor.dimensions.size())) +
                   raw_all(tensor.dimensions) + raw(tensor.type) +
                   raw(tensor.offset >= 0 ? static_cast<std::uint64_t>(tensor.offset) : data.size());
            data += tensor.bytes;
        }
        out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
        return out + data;
    }

private:
    std::vector<std::string> values_;
};

/// A complete model of the llama architecture, so small that a test can try every byte of it: one block of two heads
/// (one KV head) of 4 features, hidden size 8, 6 tokens.
inline GgufBuilder smallest_llama() {
    GgufBuilder file;
    file.text("general.architecture", "llama")
        .count("llama.block_count", 1)
        .count("llama.context_length", 64)
        .count("llama.embedding_length", 8)
        .count("llama.feed_forward_length", 16)
        .count("llama.attention.head_count", 2)
        .count("llama.attention.head_count_kv", 1)
        .real("llama.attention.layer_norm_rms_epsilon", 1e-5f)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", {"<s>", "a", "b", "ab", "c", "d"})
        .integers("tokenizer.ggml.token_type", {3, 1, 1, 1, 1, 1})
        .texts("tokenizer.ggml.merges", {"a b"})
        .count("tokenizer.ggml.bos_token_id", 0)
        .count("tokenizer.ggml.eos_token_id", 0);
    float next = 0;
    const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
        std::int64_t elements = 1;
        for (const auto size : shape) elements *= size;
        std::vector<float> values(static_cast<std::size_t>(elements));
        for (auto& value : values) value = static_cast<float>(static_cast<int>(next += 1) % 17 - 8) / 16;
        file.floats(name, shape, values);
    };
    add("token_embd.weight", {6, 8});
    add("output_norm.weight", {8});
    add("blk.0.attn_norm.weight", {8});
    add("blk.0.attn_q.weight", {8, 8});
    add("blk.0.attn_k.weight", {4, 8});
    add("blk.0.attn_v.weight", {4, 8});
    add("blk.0.attn_output.weight", {8, 8});
    add("blk.0.ffn_norm.weight", {8});
    add("blk.0.ffn_gate.weight", {16, 8});
    add("blk.0.ffn_up.weight", {16, 8});
    add("blk.0.ffn_down.weight", {8, 16});
    return file;
}

}  // namespace kerf::test
