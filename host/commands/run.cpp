// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/run.hpp"

#include "core/support/error.hpp"
#include "host/commands/commands.hpp"
#include "host/recipe.hpp"
#include "host/show.hpp"

namespace kerf::host {
namespace {

core::Recipe recipe_of(const CommandLine& line) {
    return read_recipe(line.words().front(), {line.list("set"), line.text("output"), line.text("memory")});
}

void check_processes(const CommandLine& line) {
    if (line.integer("processes", 1).value_or(1) != 1)
        core::bad_input("--processes ", line.text("processes"), " is not available in this version; leave it out");
}

}  // namespace

int run_command(const CommandLine& line, Console& console) {
    check_processes(line);
    const core::Recipe recipe = recipe_of(line);
    const Registry plugins = find_plugins(line);
    plugins.require_sound();
    check_stage_keys(recipe, plugins.components());
    use_threads(line);
    catch_stop_signals();
    nlohmann::json result;
    try {
        result = core::run_recipe(recipe, plugins.components(), line.has("resume"), console.observer());
    } catch (const core::Error& error) {
        if (error.fault() != core::Fault::cancelled) throw;
        throw core::Error(error.fault(), "interrupted; the same command with --resume goes on where this run stopped");
    }
    console.clear();
    if (line.has("json"))
        write_json(result);
    else
        write_out(show_run(result));
    return 0;
}

int plan_command(const CommandLine& line, Console&) {
    const core::Recipe recipe = recipe_of(line);
    const Registry plugins = find_plugins(line);
    plugins.require_sound();
    check_stage_keys(recipe, plugins.components());
    use_threads(line);
    const core::Plan plan = core::make_plan(recipe, plugins.components());
    if (line.has("json"))
        write_json(core::plan_json(plan));
    else
        write_out(show_plan(recipe, plan));
    return 0;
}

}  // namespace kerf::host
