// SPDX-License-Identifier: Apache-2.0
// Four micro models sliced by microsoft/TransformerCompression, with padded calibration windows, tensor by tensor:
// golden/slicegpt-case.safetensors.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "core/curvature/covariance.hpp"
#include "core/eval/evaluate.hpp"
#include "core/linalg/linalg.hpp"
#include "core/pipeline/basis_stage.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/support/error.hpp"
#include "core/weights/safetensors_writer.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path case_file() {
    const fs::path own = test_data("golden/slicegpt-case.safetensors");
    return fs::exists(own) ? own : fs::path(KERF_SHARED) / "golden/slicegpt-case.safetensors";
}

std::vector<float> floats_of(const StoredTensor& tensor) {
    std::vector<float> out(std::size_t(tensor.elements()));
    to_float32(tensor, out);
    return out;
}
template <class T>
std::vector<T> numbers_of(const StoredTensor& tensor) {
    std::vector<T> out(tensor.bytes.size() / sizeof(T));
    std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
    return out;
}

/// The tensors whose names begin so, by what follows.
std::map<std::string, const StoredTensor*> with_prefix(const TensorFile& file, const std::string& prefix) {
    std::map<std::string, const StoredTensor*> out;
    for (const auto& tensor : file.tensors())
        if (tensor.name.starts_with(prefix)) out.emplace(tensor.name.substr(prefix.size()), &tensor);
    return out;
}

json config_of(const std::string& kind) {
    json out{{"vocab_size", 64},
             {"hidden_size", 32},
             {"num_hidden_layers", 2},
             {"num_attention_heads", 4},
             {"torch_dtype", "float32"},
             {"max_position_embeddings", 32},
             {"tie_word_embeddings", false}};
    const json gated{{"num_key_value_heads", 2},
                     {"intermediate_size", 48},
                     {"rms_norm_eps", 1e-5},
                     {"rope_theta", 10000.0},
                     {"hidden_act", "silu"}};
    if (kind == "llama") {
        out.update(gated);
        out.update({{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}}});
    } else if (kind == "phi3") {
        out.update(gated);
        out.update(
            {{"model_type", "phi3"}, {"architectures", {"Phi3ForCausalLM"}}, {"original_max_position_embeddings", 32}});
    } else if (kind == "phi2") {
        out.update({{"model_type", "phi"},
                    {"architectures", {"PhiForCausalLM"}},
                    {"intermediate_size", 64},
                    {"hidden_act", "gelu_new"},
                    {"partial_rotary_factor", 0.5},
                    {"layer_norm_eps", 1e-5},
                    {"rope_theta", 10000.0}});
    } else {
        out.update({{"model_type", "opt"},
                    {"architectures", {"OPTForCausalLM"}},
                    {"ffn_dim", 64},
                    {"activation_function", "relu"},
                    {"do_layer_norm_before", true},
                    {"word_embed_proj_dim", 32},
                    {"tie_word_embeddings", true}});
    }
    return out;
}

/// The dense micro model as a checkpoint.
void write_model(const TensorFile& file, const std::string& kind, const fs::path& folder) {
    fs::create_directories(folder);
    write_atomically(folder / "config.json", config_of(kind).dump());
    const auto tensors = with_prefix(file, kind + ".in.");
    std::vector<PlannedTensor> planned;
    for (const auto& [name, tensor] : tensors) planned.push_back({name, DType::f32, tensor->shape});
    const ShardPlan plan(planned, 1u << 30, {{"format", "pt"}});
    ShardWriter writer(plan, folder, false);
    for (const auto& tensor : plan.tensors()) writer.write(tensor.name, tensors.at(tensor.name)->bytes);
    writer.sync();
}

struct Variant {
    std::string kind, how;  ///< compat: as the reference; fixed: without its change of the function
    friend std::ostream& operator<<(std::ostream& out, const Variant& v) { return out << v.kind << " " << v.how; }
};

class SliceGptCase : public testing::TestWithParam<Variant> {};

TEST_P(SliceGptCase, EveryStepIsTheReferences) {
    const auto& [kind, how] = GetParam();
    if (!fs::exists(case_file())) GTEST_SKIP() << "needs ../shared/golden/slicegpt-case.safetensors";
    const auto file = open_safetensors(case_file());
    const auto golden = [&](const std::string& name) -> const StoredTensor& { return *file->find(kind + "." + name); };
    const ScratchFolder scratch;
    write_model(*file, kind, scratch.path() / "model");
    const Model dense = Model::open(scratch.path() / "model", components());
    const Windows eval = token_windows(case_file(), "eval_tokens");
    const auto logits_of = [&](const Model& model) { return logits(model, eval, DType::f32, scratch.path()); };
    EXPECT_LE(distance(logits_of(dense), floats_of(golden("logits_dense"))), 1e-4);

    TextSource source;
    source.source = "tokens";
    source.path = case_file();
    source.tensor = "calib_tokens";
    source.mask = "calib_mask";
    source.samples = source.length = 0;
    const Windows windows = calibration_windows(source, nullptr, 64);
    ASSERT_LT(*std::min_element(windows.used.begin(), windows.used.end()), 16);
    const MethodComponent& slicegpt = *components().method("slicegpt");
    const json options{{"sparsity", 0.25},
                       {how == "compat" ? "compatibility" : "signal", how == "compat" ? json(true) : json("raw")}};
    const auto method = std::make_shared<MethodInstance>(
        slicegpt, components().host,
        validate_options({slicegpt.table->options_schema.data, slicegpt.table->options_schema.size}, options,
                         "slicegpt", {}));
    BasisStage stage = BasisStage::plan(method, dense, windows.samples * windows.length, {});
    EXPECT_LE(distance(logits_of(stage.fused), floats_of(golden(how + ".logits_fused"))), 1e-4);
    for (const auto& [name, tensor] : with_prefix(*file, how == "compat" ? kind + ".fused." : "none"))
        EXPECT_LE(distance(stage.fused.checkpoint().read(name), floats_of(*tensor)), 1e-6) << name;

    const auto eigenvalues = numbers_of<double>(golden(how + ".pca_eigenvalues"));
    const auto projectors = floats_of(golden(how + ".pca_projectors"));
    std::size_t chosen = 0;
    BasisRunner::Hooks hooks;
    hooks.chosen = [&](std::size_t p, const std::map<std::string, double>& metrics) {
        const double* expected = eigenvalues.data() + 32 * p;
        const std::size_t kept = p + 1 < stage.bases.size() ? 23 : 31;
        EXPECT_NEAR(metrics.at("eigenvalue_largest"), expected[0], 1e-5 * expected[0]) << p;
        EXPECT_NEAR(metrics.at("eigenvalue_kept"), expected[kept], 1e-5 * expected[kept]) << p;
        EXPECT_NEAR(metrics.at("eigenvalue_smallest"), expected[31], 1e-5 * expected[31]) << p;
        ++chosen;
    };
    hooks.progress = [](double) {};
    hooks.log = [](int, const std::string& message) { ADD_FAILURE() << message; };
    hooks.check_cancelled = [] {};
    BasisRunner runner(stage, &windows, DType::f32, true, scratch.path(), scratch.path(), hooks);
    runner.start();
    for (std::size_t block = 0; block < 2; ++block) runner.block(block);
    EXPECT_EQ(chosen, stage.bases.size() - (how == "compat" ? 0 : 1));
    for (std::size_t p = 0; p + 1 < stage.bases.size(); ++p) {
        ASSERT_EQ(stage.bases[p]->size(), 24);
        const auto& q = stage.bases[p]->values();
        double apart = 0;
        for (std::size_t i = 0; i < 32; ++i)
            for (std::size_t j = 0; j < 32; ++j) {
                double sum = 0;
                for (std::size_t k = 0; k < 24; ++k) sum += q[i * 24 + k] * q[j * 24 + k];
                apart = std::max(apart, std::abs(sum - double(projectors[p * 1024 + i * 32 + j])));
            }
        EXPECT_LE(apart, 1e-4) << p;
    }
    EXPECT_LE(distance(logits_of(stage.result), floats_of(golden(how + ".logits_sliced"))), 1e-4);
    const auto figures = read_json(fs::exists(test_data("golden/slicegpt.json"))
                                       ? test_data("golden/slicegpt.json")
                                       : fs::path(KERF_SHARED) / "golden/slicegpt.json")["case"]["figures"][kind];
    EXPECT_EQ(stage.result.parameters(), figures[how + "_s0.25_params"].get<std::int64_t>());
    for (const auto& [name, tensor] : with_prefix(*file, how == "compat" ? kind + ".sliced." : "none")) {
        if (name.ends_with("shortcut_Q")) continue;  // under a name of our own, and turned
        const auto ours = stage.result.checkpoint().read(name), theirs = floats_of(*tensor);
        ASSERT_EQ(ours.size(), theirs.size()) << name;
        // The columns of bases have free signs: magnitudes have none.
        for (std::size_t i = 0; i < ours.size(); ++i)
            ASSERT_NEAR(std::abs(ours[i]), std::abs(theirs[i]), 1e-4) << name << " " << i;
    }
}

INSTANTIATE_TEST_SUITE_P(Micro, SliceGptCase,
                         testing::Values(Variant{"llama", "compat"}, Variant{"llama", "fixed"},
                                         Variant{"opt", "compat"}, Variant{"phi2", "compat"}, Variant{"phi3", "compat"},
                                         Variant{"phi3", "fixed"}),
                         [](const auto& info) { return info.param.kind + "_" + info.param.how; });

TEST(SliceGptPca, CovarianceAndAxesOfTheUnitCase) {
    if (!fs::exists(case_file())) GTEST_SKIP() << "needs ../shared/golden/slicegpt-case.safetensors";
    const auto file = open_safetensors(case_file());
    constexpr std::int64_t n = 12;
    CovarianceSum sum("case", n, CovarianceSum::Signal::raw);
    for (const char* batch : {"0", "1"}) {
        const auto x = floats_of(*file->find(std::string("pca.X") + batch));
        const auto mask = numbers_of<std::int64_t>(*file->find(std::string("pca.mask") + batch));
        for (std::size_t t = 0; t < mask.size(); ++t)
            if (mask[t] != 0) sum.add(x.data() + std::int64_t(t) * n, 1);
    }
    std::vector<double> h = sum.finish();
    const auto near = [](const std::vector<double>& ours, const std::vector<double>& theirs, const char* what) {
        ASSERT_EQ(ours.size(), theirs.size());
        double scale = 0;
        for (const double value : theirs) scale = std::max(scale, std::abs(value));
        for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(ours[i], theirs[i], 1e-10 * scale) << what << i;
    };
    near(h, numbers_of<double>(*file->find("pca.H_undamped")), "H ");
    double mean = 0;
    for (std::int64_t i = 0; i < n; ++i) mean += h[std::size_t(i * n + i)] / n;
    std::vector<double> ascending(n), values, vectors = h;
    linalg::symmetric_eigen(n, vectors.data(), n, ascending.data());
    for (auto value = ascending.rbegin(); value != ascending.rend(); ++value) values.push_back(*value + 0.01 * mean);
    near(values, numbers_of<double>(*file->find("pca.eigenvalues")), "eigenvalue ");
    const auto q = numbers_of<double>(*file->find("pca.Q_up_to_column_sign"));
    for (std::int64_t k = 0; k < n; ++k) {
        double dot = 0;
        for (std::int64_t r = 0; r < n; ++r) dot += q[std::size_t(r * n + k)] * vectors[std::size_t(r * n + n - 1 - k)];
        EXPECT_NEAR(std::abs(dot), 1, 1e-10) << "axis " << k;
    }
}

}  // namespace
}  // namespace kerf::core
