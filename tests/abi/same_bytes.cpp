// SPDX-License-Identifier: Apache-2.0
// same_bytes A.so METHOD B.so METHOD: whether two methods turn the same layers into the same bytes.
// same_bytes C.so: whether a plugin stands the trial of `kerf plugins check`.
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/job.hpp"
#include "core/support/parallel.hpp"
#include "host/loader/check.hpp"
#include "host/loader/plugin.hpp"

namespace {

using namespace kerf;

struct Sample {
    std::int64_t out, in;
    std::vector<float> weight, gram;
    Sample(std::int64_t rows, std::int64_t columns, double phase)
        : out(rows), in(columns), weight(std::size_t(rows * columns)), gram(std::size_t(columns * columns)) {
        for (std::size_t i = 0; i < weight.size(); ++i)
            weight[i] = float(0.05 * std::sin(phase + 0.37 * double(i % 4093)) * (1 + double(i % 7)));
        for (std::int64_t i = 0; i < in; ++i)
            for (std::int64_t j = 0; j < in; ++j)
                gram[std::size_t(i * in + j)] = float(std::exp(-0.05 * double(std::abs(i - j))) +
                                                      (i == j ? 1 + std::abs(std::sin(phase + double(i))) : 0));
    }
};

core::Replacement compress(const kerf_method& method, const nlohmann::json& options, const Sample& sample) {
    void* self = nullptr;
    const auto all =
        core::validate_options({method.options_schema.data, method.options_schema.size}, options, "example", {});
    core::check_call("create",
                     [&](kerf_error* e) { return method.create(core::host_table(), core::as_values(all), &self, e); });
    core::Curvature curvature("input", sample.in, 4096, sample.gram);
    kerf_layer layer;
    layer.name = "layer";
    layer.out = sample.out;
    layer.in = sample.in;
    layer.weight = sample.weight.data();
    layer.curvature = &curvature;
    kerf_job job;
    core::check_call("compress", [&](kerf_error* e) { return method.compress(self, &job, &layer, e); });
    method.destroy(self);
    return layer.replacement.value();
}

const kerf_method& method_of(const char* file, std::string_view id) {
    static std::vector<host::LoadedPlugin> loaded;
    loaded.push_back(host::load_plugin(file));
    for (const auto* method : loaded.back().methods)
        if (std::string_view(method->id.data, method->id.size) == id) return *method;
    core::bad_input(file, " has no method ", id);
}

bool equal(const core::Replacement& a, const core::Replacement& b) {
    return a.layout == b.layout && a.bits == b.bits && a.codes == b.codes && a.scales == b.scales &&
           a.zeros == b.zeros && a.group_index == b.group_index;
}

int compare(const kerf_method& first, const kerf_method& second) {
    const nlohmann::json settings[] = {
        nlohmann::json::object(), {{"bits", 2}, {"group", 32}}, {{"bits", 8}, {"group", 64}, {"damp", 0.5}}};
    for (const auto& [rows, columns] : {std::pair{64, 256}, {33, 320}, {1, 48}, {129, 100}})
        for (const auto& options : settings) {
            const Sample sample(rows, columns, 0.1 * rows);
            core::set_threads(1);
            const auto a = compress(first, options, sample);
            core::set_threads(3);
            if (!equal(a, compress(second, options, sample))) {
                std::cerr << rows << " x " << columns << " with " << options << ": the bytes differ\n";
                return 1;
            }
        }
    std::cout << "same bytes for 4 shapes and 3 settings\n";
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc == 5) return compare(method_of(argv[1], argv[2]), method_of(argv[3], argv[4]));
        const auto report = host::check_plugin(argv[argc - 1], 20);
        for (const auto& problem : report.problems) std::cerr << problem << "\n";
        return report.sound() ? 0 : 1;
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
