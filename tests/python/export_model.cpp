// SPDX-License-Identifier: Apache-2.0
/// export_model MODEL OUT IDS [ragged]: writes MODEL into the folder OUT as kerf exports models of any shape to
/// transformers, as it is or, with "ragged", with another cut in every block; and OUT/kerf-logits.f32, the logits that
/// kerf computes for "input_ids" of the safetensors file IDS: float32 [samples · length, vocabulary].
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <numeric>
#include <string_view>

#include "core/calibration/dataset.hpp"
#include "core/eval/evaluate.hpp"
#include "core/graph/axes.hpp"
#include "core/graph/edit.hpp"
#include "core/pipeline/output.hpp"
#include "core/pipeline/save.hpp"
#include "host/loader/plugin.hpp"

namespace fs = std::filesystem;
using namespace kerf::core;

namespace {

Windows windows_of(const fs::path& ids) {
    TextSource source;
    source.source = "tokens";
    source.path = ids;
    source.tensor = "input_ids";
    source.samples = 0;
    source.length = 0;
    return calibration_windows(source, nullptr, std::int64_t{1} << 30);
}

void copy_weights(const fs::path& from, const fs::path& to) {
    for (const auto& entry : fs::directory_iterator(from)) {
        const auto name = entry.path().filename().string();
        if (entry.path().extension() == ".safetensors" || entry.path().extension() == ".bin" ||
            name.ends_with(".index.json"))
            fs::copy_file(entry.path(), to / name);
    }
}

/// The first units of an axis that go; in every block a few others, so that no config says what is left.
std::int64_t units_to_remove(const Axis& axis) {
    if (!axis.fixed.empty() || axis.size <= axis.keep + axis.block + 1) return 0;
    switch (axis.kind) {
        case AxisKind::residual:
            return 3;
        case AxisKind::mlp:
            return 1 + axis.block;
        case AxisKind::heads:
        case AxisKind::kv_groups:
            return axis.block % 2;
        case AxisKind::experts:
            return axis.block == 0 ? 1 : 0;
        case AxisKind::rotary_pairs:
        case AxisKind::value_features:
            return axis.block == 0 ? 2 : 0;  // where no head goes
        default:
            return 0;
    }
}

Model ragged(const Model& model) {
    const auto axes = find_axes(model.graph());
    std::vector<Removal> removals;
    for (const Axis& axis : axes) {
        std::vector<std::int64_t> units(std::size_t(units_to_remove(axis)));
        std::iota(units.begin(), units.end(), 0);
        if (!units.empty()) removals.push_back({axis.name, units});
    }
    return model.edited(remove(model.graph(), axes, removals));
}

void run(const fs::path& from, const fs::path& to, const fs::path& ids, bool cut) {
    initialise_execution();
    const auto registry = kerf::host::Registry::scan({fs::path(KERF_BUILD) / "lib/kerf"});
    const Components components = registry.components();
    const Model whole = Model::open(from, components), model = cut ? ragged(whole) : whole;
    fs::create_directories(to.parent_path());
    if (cut) {
        save_model(model, components, to);
    } else {  // save_model would write a checkpoint of the family
        fs::create_directory(to);
        copy_weights(from, to);
        copy_side_files(from, to);
        write_config(to, model.config(), model.graph(), true);
    }
    const auto values = logits(model, windows_of(ids), DType::f32, to);
    std::ofstream(to / "kerf-logits.f32", std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()), std::streamsize(values.size() * sizeof(float)));
}

}  // namespace

int main(int argc, char** argv) {
    const bool cut = argc == 5 && std::string_view(argv[4]) == "ragged";
    if (argc != 4 && !cut) {
        std::cerr << "usage: export_model MODEL OUT IDS [ragged]\n";
        return 2;
    }
    try {
        run(argv[1], argv[2], argv[3], cut);
    } catch (const std::exception& error) {
        std::cerr << "export_model: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
