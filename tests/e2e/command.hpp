// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "core/weights/safetensors_writer.hpp"
#include "core/weights/tensor.hpp"

/// What the end-to-end tests share: the kerf command as a child process, and a small random model.
namespace kerf::e2e {

namespace fs = std::filesystem;

inline std::string slurp(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
}
inline void spill(const fs::path& path, const std::string& content) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
}

class Folder {
public:
    Folder() {
        const auto* test = testing::UnitTest::GetInstance()->current_test_info();
        std::string name = std::string(test->test_suite_name()) + "." + test->name() + "." + std::to_string(::getpid());
        static int made = 0;
        name.append(1, '.').append(std::to_string(made++));
        std::replace(name.begin(), name.end(), '/', '_');
        path_ = fs::temp_directory_path() / ("kerf-e2e." + name);
        fs::remove_all(path_);
        fs::create_directories(path_);
    }
    ~Folder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    fs::path operator/(const std::string& name) const { return path_ / name; }
    const fs::path& path() const { return path_; }

private:
    fs::path path_;
};

struct Outcome {
    int code = -1;  ///< exit status; 128 + signal when one ended it
    std::string out, err;
    std::uint64_t peak_bytes = 0;
};

/// Runs build/bin/kerf. `environment` is added to ours.
inline Outcome kerf(const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& environment = {}) {
    char out_name[] = "/tmp/kerf-e2e-out-XXXXXX", err_name[] = "/tmp/kerf-e2e-err-XXXXXX";
    const int out = ::mkstemp(out_name), err = ::mkstemp(err_name);
    const pid_t child = ::fork();
    if (child == 0) {
        ::dup2(::open("/dev/null", O_RDONLY), 0);
        ::dup2(out, 1);
        ::dup2(err, 2);
        for (const auto& [key, value] : environment) ::setenv(key.c_str(), value.c_str(), 1);
        const std::string program = KERF_BUILD "/bin/kerf";
        std::vector<char*> argv{const_cast<char*>(program.c_str())};
        for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
        argv.push_back(nullptr);
        ::execv(program.c_str(), argv.data());
        ::_exit(127);
    }
    int status = 0;
    rusage usage{};
    ::wait4(child, &status, 0, &usage);
    Outcome outcome;
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.out = slurp(out_name);
    outcome.err = slurp(err_name);
    outcome.peak_bytes = std::uint64_t(usage.ru_maxrss) * 1024;
    for (const int fd : {out, err}) ::close(fd);
    ::unlink(out_name);
    ::unlink(err_name);
    return outcome;
}

/// Dimensions of a random Llama-shaped model.
struct TinyShape {
    std::int64_t layers = 2, hidden = 64, intermediate = 96, heads = 4, kv_heads = 2, vocabulary = 128;
};

/// Seeded normal numbers by Box and Muller on a generator whose output is specified.
class Noise {
public:
    explicit Noise(std::uint64_t seed) : bits_(seed) {}
    float operator()() {
        const double u = (double(bits_() >> 11) + 1) / 9007199254740993.0,
                     v = double(bits_() >> 11) / 9007199254740992.0;
        return float(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v));
    }
    std::uint64_t below(std::uint64_t bound) { return bits_() % bound; }

private:
    std::mt19937_64 bits_;
};

inline nlohmann::json tiny_config(const TinyShape& s) {
    return {{"architectures", {"LlamaForCausalLM"}},
            {"model_type", "llama"},
            {"hidden_act", "silu"},
            {"hidden_size", s.hidden},
            {"intermediate_size", s.intermediate},
            {"num_attention_heads", s.heads},
            {"num_key_value_heads", s.kv_heads},
            {"num_hidden_layers", s.layers},
            {"vocab_size", s.vocabulary},
            {"max_position_embeddings", 4096},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", 10000.0},
            {"tie_word_embeddings", false},
            {"torch_dtype", "float16"}};
}

inline std::vector<core::PlannedTensor> tiny_tensors(const TinyShape& s) {
    const std::int64_t kv = s.hidden / s.heads * s.kv_heads;
    std::vector<core::PlannedTensor> out{{"lm_head.weight", core::DType::f16, {s.vocabulary, s.hidden}},
                                         {"model.embed_tokens.weight", core::DType::f16, {s.vocabulary, s.hidden}},
                                         {"model.norm.weight", core::DType::f16, {s.hidden}}};
    for (std::int64_t l = 0; l < s.layers; ++l) {
        const std::string p = "model.layers." + std::to_string(l) + ".";
        const std::vector<std::pair<std::string, std::vector<std::int64_t>>> parts{
            {"input_layernorm.weight", {s.hidden}},
            {"mlp.down_proj.weight", {s.hidden, s.intermediate}},
            {"mlp.gate_proj.weight", {s.intermediate, s.hidden}},
            {"mlp.up_proj.weight", {s.intermediate, s.hidden}},
            {"post_attention_layernorm.weight", {s.hidden}},
            {"self_attn.k_proj.weight", {kv, s.hidden}},
            {"self_attn.o_proj.weight", {s.hidden, s.hidden}},
            {"self_attn.q_proj.weight", {s.hidden, s.hidden}},
            {"self_attn.v_proj.weight", {kv, s.hidden}}};
        for (const auto& [name, shape] : parts) out.push_back({p + name, core::DType::f16, shape});
    }
    return out;
}

/// Writes config.json and model.safetensors of a random model.
inline void make_tiny_model(const fs::path& folder, const TinyShape& shape = {}) {
    fs::create_directories(folder);
    spill(folder / "config.json", tiny_config(shape).dump(1));
    const core::ShardPlan plan(tiny_tensors(shape), 1u << 30, {{"format", "pt"}});
    core::ShardWriter writer(plan, folder, false);
    Noise noise(7);
    for (const auto& tensor : plan.tensors()) {
        std::vector<float> values(tensor.bytes() / 2);
        const bool norm = tensor.shape.size() == 1;
        for (float& value : values) value = norm ? 1 + 0.1f * noise() : 0.15f * noise();
        std::vector<std::byte> bytes(tensor.bytes());
        core::from_float32(values, core::DType::f16, bytes);
        writer.write(tensor.name, bytes);
    }
    writer.sync();
}

/// A safetensors file with int64 tensors "calib" and "eval" of random ids.
inline void make_tokens(const fs::path& file, std::int64_t calibration_windows, std::int64_t length,
                        std::int64_t vocabulary) {
    const fs::path folder = file.parent_path() / (file.stem().string() + ".making");
    fs::create_directories(folder);
    const core::ShardPlan plan(
        {{"calib", core::DType::i64, {calibration_windows, length}}, {"eval", core::DType::i64, {2, length}}},
        1ull << 40, {});
    core::ShardWriter writer(plan, folder, false);
    Noise noise(11);
    for (const auto& tensor : plan.tensors()) {
        std::vector<std::int64_t> ids(tensor.bytes() / 8);
        for (auto& id : ids) id = std::int64_t(noise.below(std::uint64_t(vocabulary)));
        writer.write(tensor.name, std::as_bytes(std::span(ids)));
    }
    fs::rename(folder / plan.shard_name(0), file);
    fs::remove_all(folder);
}

/// Names and contents of the files of a checkpoint that have to be the same whenever and however it was made. Times are
/// in the reports alone.
inline std::map<std::string, std::string> lasting_files(const fs::path& folder) {
    std::map<std::string, std::string> out;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
        const std::string name = fs::relative(entry.path(), folder).string();
        if (entry.is_regular_file() && name != "report.json" && name != "report.html" && name != "metrics.jsonl")
            out[name] = slurp(entry.path());
    }
    return out;
}

}  // namespace kerf::e2e
