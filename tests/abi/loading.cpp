// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/job.hpp"
#include "core/support/error.hpp"
#include "host/loader/plugin.hpp"

namespace kerf::host {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path fixture(const std::string& name) {
    return fs::path(KERF_FIXTURES) / ("fixture_" + name + ".so");
}

std::string refusal(const std::string& name) {
    try {
        load_plugin(fixture(name));
    } catch (const core::Error& error) {
        EXPECT_EQ(error.fault(), core::Fault::input) << error.what();
        return error.what();
    }
    return "taken";
}

TEST(PluginLoading, EveryUnsoundPluginIsRefusedWithTheReason) {
    const std::pair<const char*, const char*> cases[] = {
        {"short_table", "a method table has 4 bytes, at least 120"},
        {"empty_table", "a method table has 0 bytes"},
        {"huge_table", "a method table has 4294967295 bytes"},
        {"table_abi", "a method table is of ABI 9"},
        {"null_slot", "the method fixture leaves a function out"},
        {"null_table", "a method table is NULL"},
        {"no_tables", "claims 1 methods but gives no table"},
        {"too_many", "it claims 4294967295 methods"},
        {"overwrites", "overwrote the host's struct_size"},
        {"unlisted", "which its manifest does not list"},
        {"missing", "lists the method second, which it does not offer"},
        {"schema", "a default that it does not allow itself: 99 must be between 2 and 8"},
        {"entry_error", "refuses to start: no licence!!"},
        {"no_entry", "does not export kerf_plugin_entry"},
        {"throws", "threw an exception from its entry point: thrown from the entry point"},
    };
    for (const auto& [name, reason] : cases) {
        const auto said = refusal(name);
        EXPECT_NE(said.find(reason), std::string::npos) << name << " said: " << said;
        EXPECT_NE(said.find(std::string("fixture_") + name), std::string::npos) << said;
    }
}

TEST(PluginLoading, ARefusedManifestRunsNoInstructionOfThePlugin) {
    // Their constructors abort.
    EXPECT_NE(refusal("abi_2").find("plugin ABI 2.0, this kerf speaks 1.1"), std::string::npos);
    EXPECT_NE(refusal("torch").find("LibTorch 1.0.0"), std::string::npos);
}

TEST(PluginLoading, ASoundPluginGivesItsTables) {
    const auto plugin = load_plugin(fixture("sound"));
    ASSERT_EQ(plugin.methods.size(), 1u);
    EXPECT_TRUE(plugin.adapters.empty());
    EXPECT_EQ(plugin.manifest.id, "org.example.fixture");
}

TEST(PluginLoading, APluginBuiltWithLibTorchSaysWithWhichVersion) {
    EXPECT_EQ(read_manifest(fixture("torch_tier")).torch, "exact:" + this_host().torch);
    EXPECT_EQ(read_manifest(fixture("thrower")).torch, "none");
    EXPECT_EQ(load_plugin(fixture("torch_tier")).methods.size(), 1u);
}

/// Loaded plugins stay, and the system knows them by inode: no folder goes before the process ends, or the next test's
/// file might be taken for an earlier one.
class Folders : public testing::Environment {
public:
    void TearDown() override { fs::remove_all(root()); }
    static fs::path root() { return fs::temp_directory_path() / ("kerf-plugins-" + std::to_string(getpid())); }
};
const auto* const folders = testing::AddGlobalTestEnvironment(new Folders);

class PluginFolder : public testing::Test {
protected:
    PluginFolder() : folder_(Folders::root() / testing::UnitTest::GetInstance()->current_test_info()->name()) {
        fs::create_directories(folder_);
    }
    void put(const std::string& name, const std::string& as) { fs::copy_file(fixture(name), folder_ / as); }
    fs::path folder_;
};

TEST_F(PluginFolder, TwoPluginsWithOneIdAreAnErrorThatNamesBothFiles) {
    put("sound", "a.so");
    put("sound", "b.so");
    const auto registry = Registry::scan({folder_});
    EXPECT_EQ(registry.plugins().size(), 1u);
    ASSERT_EQ(registry.problems().size(), 1u);
    const auto& said = registry.problems()[0].message;
    EXPECT_NE(said.find("two plugins have the id org.example.fixture"), std::string::npos) << said;
    EXPECT_NE(said.find((folder_ / "a.so").string()), std::string::npos) << said;
    EXPECT_NE(said.find((folder_ / "b.so").string()), std::string::npos) << said;
    EXPECT_THROW(registry.require_sound(), core::Error);
}

TEST_F(PluginFolder, TwoMethodsWithOneNameAreAnErrorThatNamesBothFiles) {
    put("sound", "a.so");
    put("same_method", "b.so");
    const auto registry = Registry::scan({folder_});
    ASSERT_EQ(registry.problems().size(), 1u);
    const auto& said = registry.problems()[0].message;
    EXPECT_NE(said.find("two plugins offer the method fixture"), std::string::npos) << said;
    EXPECT_NE(said.find("a.so"), std::string::npos);
    EXPECT_NE(said.find("b.so"), std::string::npos);
}

TEST_F(PluginFolder, TheSameFileByTwoWaysIsOnePlugin) {
    put("sound", "a.so");
    fs::create_symlink("a.so", folder_ / "link.so");
    const auto registry = Registry::scan({folder_, folder_ / "a.so"});
    EXPECT_EQ(registry.plugins().size(), 1u);
    EXPECT_TRUE(registry.problems().empty());
}

TEST_F(PluginFolder, OneBadFileDoesNotHideTheOthers) {
    put("sound", "b.so");
    put("null_slot", "a.so");
    fs::create_symlink("loop.so", folder_ / "loop.so");
    const auto registry = Registry::scan({folder_});
    EXPECT_EQ(registry.problems().size(), 2u);
    const auto components = registry.components();
    ASSERT_EQ(components.methods.size(), 1u);
    EXPECT_EQ(components.methods[0].id, "fixture");
    EXPECT_EQ(components.methods[0].plugin, "org.example.fixture");
    EXPECT_EQ(components.methods[0].file.filename(), "b.so");
}

TEST_F(PluginFolder, AFolderThatIsNotThereIsAnError) {
    EXPECT_THROW(Registry::scan({folder_ / "absent"}), core::Error);
}

/// The thrower's method, in the hands of a host.
class Thrower {
public:
    Thrower() : plugin_(load_plugin(fixture("thrower"))) {}
    const kerf_adapter& adapter() const { return *plugin_.adapters.at(0); }

    std::string run(const std::string& where) {
        const json options{{"where", where}};
        try {
            const auto& method = *plugin_.methods.at(0);
            void* self = nullptr;
            core::check_call("create", [&](kerf_error* e) {
                return method.create(core::host_table(), core::as_values(options), &self, e);
            });
            const std::shared_ptr<void> owner(self, method.destroy);
            kerf_linear_shape shape{sizeof(kerf_linear_shape), 0, 8, 4, 0, {"layer", 5}};
            kerf_cost cost{};
            cost.struct_size = sizeof(cost);
            core::check_call("cost", [&](kerf_error* e) { return method.cost(self, &shape, &cost, e); });
            return compress(method, self);
        } catch (const core::Error& error) {
            return error.what();
        }
    }

private:
    static std::string compress(const kerf_method& method, void* self) {
        const std::vector<float> weight(32, 1.5f);
        kerf_layer layer;
        layer.name = "layer";
        layer.out = 8;
        layer.in = 4;
        layer.weight = weight.data();
        kerf_job job;
        const auto finish = [&] { EXPECT_EQ(job.memory.live(), 0u); };
        try {
            core::check_call("compress", [&](kerf_error* e) { return method.compress(self, &job, &layer, e); });
        } catch (const core::Error& error) {
            finish();
            EXPECT_FALSE(layer.replacement.has_value());
            return error.what();
        }
        finish();
        return layer.replacement && layer.replacement->weight == weight ? "done" : "wrong weight";
    }
    LoadedPlugin plugin_;
};

TEST(SdkThunks, WhateverIsThrownBecomesAMessageAndFreesItsMemory) {
    Thrower thrower;
    EXPECT_EQ(thrower.run("nowhere"), "done");
    EXPECT_EQ(thrower.run("check"), "create: thrown by check");
    EXPECT_EQ(thrower.run("cost"), "cost: an exception of unknown type");
    EXPECT_EQ(thrower.run("compress"), "compress: thrown by compress");
    EXPECT_EQ(thrower.run("piece"), "compress: not positive definite at pivot 3");
}

TEST(SdkThunks, AdaptersToo) {
    Thrower thrower;
    const auto call = [&](const json& config, bool describe) {
        std::int32_t yes = 0;
        try {
            core::check_call("adapter", [&](kerf_error* e) {
                if (!describe) return thrower.adapter().accepts(core::host_table(), core::as_values(config), &yes, e);
                return thrower.adapter().describe(
                    core::host_table(), core::as_values(config), [](void*, kerf_text) {}, nullptr, e);
            });
        } catch (const core::Error& error) {
            return std::string(error.what());
        }
        return std::string(yes ? "yes" : "no");
    };
    EXPECT_EQ(call({{"model_type", "thrower"}}, false), "yes");
    EXPECT_EQ(call({{"model_type", "llama"}}, false), "no");
    EXPECT_EQ(call({{"explode", 1}}, false), "adapter: out of memory");
    EXPECT_EQ(call({{"model_type", 7}}, false),
              "adapter: config.json: model_type is a whole number, but a text is needed");
    EXPECT_EQ(call({{"flavour", "mint"}}, true),
              "adapter: config.json: flavour = mint is not supported by the adapter throwing_adapter (only vanilla)");
    EXPECT_EQ(call({{"flavour", "vanilla"}}, true), "adapter: an exception of unknown type");
}

}  // namespace
}  // namespace kerf::host
