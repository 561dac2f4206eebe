// SPDX-License-Identifier: Apache-2.0
/// export_model MODEL OUT IDS: writes MODEL into the folder OUT as kerf exports models of any shape to transformers,
/// whatever its shape, and OUT/kerf-logits.f32, the logits that kerf computes for "input_ids" of the safetensors file
/// IDS: float32 [samples · length, vocabulary].
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "core/calibration/dataset.hpp"
#include "core/eval/evaluate.hpp"
#include "core/export/export.hpp"
#include "core/pipeline/output.hpp"
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

void run(const fs::path& from, const fs::path& to, const fs::path& ids) {
    initialise_execution();
    const auto registry = kerf::host::Registry::scan({fs::path(KERF_BUILD) / "lib/kerf"});
    const Components components = registry.components();
    const Model model = Model::open(from, components);
    fs::create_directories(to);
    copy_weights(from, to);
    copy_side_files(from, to);
    write_config(to, model.config(), model.graph(), true);
    const auto values = logits(model, windows_of(ids), DType::f32, to);
    std::ofstream(to / "kerf-logits.f32", std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()), std::streamsize(values.size() * sizeof(float)));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::cerr << "usage: export_model MODEL OUT IDS\n";
        return 2;
    }
    try {
        run(argv[1], argv[2], argv[3]);
    } catch (const std::exception& error) {
        std::cerr << "export_model: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
