// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/pipeline/run.hpp"
#include "core/support/error.hpp"
#include "host/commands/commands.hpp"
#include "host/show.hpp"

namespace kerf::host {
namespace {

using core::bad_input;
namespace fs = std::filesystem;

fs::path absolute(const std::string& word) {
    const fs::path out = fs::absolute(word).lexically_normal();
    return out.has_filename() ? out : out.parent_path();
}

std::string quoted(const std::string& text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// A conversion is a recipe without stages.
core::Recipe recipe_of(const CommandLine& line) {
    core::Recipe out;
    out.file = "kerf convert";
    out.model.path = absolute(line.words()[0]);
    out.output.path = absolute(line.words()[1]);
    out.output.overwrite = line.has("overwrite");
    out.output.format = line.text("format", "hf");
    if (out.output.format == "gptq")
        bad_input(
            "--format gptq: packing needs a method that chooses the integers; kerf run with a stage (gptq, rtn) "
            "and output.format = \"gptq\" does it");
    if (out.output.format != "hf") bad_input("--format ", out.output.format, ": only hf can be written");
    const auto dtype = line.text("dtype", "auto");
    if (dtype != "auto" && dtype != "float32" && dtype != "float16" && dtype != "bfloat16")
        bad_input("--dtype ", dtype, ": auto, float32, float16 or bfloat16 is expected");
    if (dtype != "auto") out.output.dtype = core::dtype_from_name(dtype);
    out.text = core::text("[model]\npath = ", quoted(out.model.path.string()), "\n\n[output]\ndtype = \"", dtype,
                          "\"\nformat = \"", out.output.format, "\"\npath = ", quoted(out.output.path.string()), "\n");
    return out;
}

}  // namespace

int convert_command(const CommandLine& line, Console& console) {
    const core::Recipe recipe = recipe_of(line);
    std::error_code status;
    if (fs::exists(recipe.output.path, status) && !recipe.output.overwrite)
        bad_input(recipe.output.path.string(), ": is there already; choose another folder or add --overwrite");
    const Registry plugins = find_plugins(line);
    plugins.require_sound();
    use_threads(line);
    catch_stop_signals();
    nlohmann::json result;
    try {
        // What an interrupted conversion left beside OUT is gone on with.
        result = core::run_recipe(recipe, plugins.components(), true, console.observer());
    } catch (const core::Error& error) {
        if (error.fault() != core::Fault::cancelled) throw;
        throw core::Error(error.fault(), "interrupted; the same command goes on where this one stopped");
    }
    console.clear();
    if (line.has("json"))
        write_json(result);
    else
        write_out(show_run(result));
    return 0;
}

}  // namespace kerf::host
