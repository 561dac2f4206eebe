// SPDX-License-Identifier: Apache-2.0
#include "core/plugin_api/options.hpp"
#include "core/support/error.hpp"
#include "host/commands/commands.hpp"
#include "host/console/format.hpp"
#include "host/loader/check.hpp"

namespace kerf::host {
namespace {

using nlohmann::json;

std::string text_of(const kerf_text& text) {
    return text.data ? std::string(text.data, text.size) : std::string();
}

/// A method or an adapter, with what its plugin says of itself.
template <class Component>
json component_json(const char* kind, const Component& component, const LoadedPlugin& plugin) {
    return {{"kind", kind},
            {"id", text_of(component.id)},
            {"version", text_of(component.version)},
            {"summary", text_of(component.summary)},
            {"plugin", plugin.manifest.id},
            {"abi", plugin.manifest.abi.text()},
            {"torch", plugin.manifest.torch},
            {"file", plugin.file.string()}};
}

json options_json(const kerf_method& method) {
    json out = json::array();
    for (const auto& option : core::parse_schema(text_of(method.options_schema), text_of(method.id)))
        out.push_back({{"name", option.name},
                       {"type", core::type_name(option.type)},
                       {"default", option.fallback},
                       {"range", option.limits()},
                       {"help", option.help}});
    return out;
}

/// Every component, methods first; of `id` alone when one is given.
json components_json(const Registry& registry, const std::string& id = {}) {
    json out = json::array();
    for (const auto& plugin : registry.plugins())
        for (const auto* method : plugin.methods) {
            if (!id.empty() && text_of(method->id) != id) continue;
            json entry = component_json("method", *method, plugin);
            if (!id.empty()) {
                entry["needs_calibration"] = method->needs != 0;
                entry["options"] = options_json(*method);
            }
            out.push_back(std::move(entry));
        }
    for (const auto& plugin : registry.plugins())
        for (const auto* adapter : plugin.adapters)
            if (id.empty() || text_of(adapter->id) == id) out.push_back(component_json("adapter", *adapter, plugin));
    return out;
}

[[noreturn]] void unknown_component(const std::string& id, const json& all) {
    std::vector<std::string> known;
    for (const auto& component : all) known.push_back(component["id"]);
    const auto near = core::nearest(id, known);
    core::bad_input("there is no method or adapter \"", id, "\"",
                    near.empty() ? "; kerf plugins lists them" : core::text("; did you mean \"", near, "\"?"));
}

std::string described(const json& component) {
    std::string out;
    std::vector<std::vector<std::string>> head;
    for (const auto* key : {"plugin", "abi", "torch", "file"}) head.push_back({key, component[key]});
    if (component.contains("options"))
        head.push_back({"calibration", component["needs_calibration"] ? "needed" : "not needed"});
    out += core::text(component["kind"].get<std::string>(), " ", component["id"].get<std::string>(), " ",
                      component["version"].get<std::string>(), ": ", component["summary"].get<std::string>(), "\n\n",
                      aligned_table(head, "ll"));
    if (!component.contains("options")) return out;
    if (component["options"].empty()) return out + "\nIt takes no options.\n";
    std::vector<std::vector<std::string>> rows{{"option", "type", "default", "range", "what it is"}};
    for (const auto& option : component["options"])
        rows.push_back({option["name"], option["type"], option["default"].dump(), option["range"], option["help"]});
    return out + "\n" + aligned_table(rows, "lllll");
}

}  // namespace

int plugins_command(const CommandLine& line, Console&) {
    const Registry registry = find_plugins(line);
    const json components = components_json(registry);
    if (line.has("json")) {
        json problems = json::array();
        for (const auto& problem : registry.problems())
            problems.push_back({{"file", problem.file.string()}, {"message", problem.message}});
        write_json({{"components", components}, {"problems", problems}});
    } else {
        std::vector<std::vector<std::string>> rows{{"kind", "id", "version", "plugin", "ABI", "LibTorch", "file"}};
        for (const auto& c : components)
            rows.push_back({c["kind"], c["id"], c["version"], c["plugin"], c["abi"], c["torch"], c["file"]});
        write_out(components.empty() ? "No plugins were found; --plugin-path says where to look.\n"
                                     : aligned_table(rows, "lllllll"));
    }
    registry.require_sound();
    return 0;
}

int describe_command(const CommandLine& line, Console&) {
    const Registry registry = find_plugins(line);
    const std::string& id = line.words().front();
    const json found = components_json(registry, id);
    if (found.empty()) {
        registry.require_sound();
        unknown_component(id, components_json(registry));
    }
    if (line.has("json")) {
        write_json(found.size() == 1 ? found[0] : json{{"components", found}});
        return 0;
    }
    for (const auto& component : found) write_out(described(component));
    return 0;
}

int check_command(const CommandLine& line, Console&) {
    const CheckReport report = check_plugin(line.words().front());
    if (line.has("json")) {
        write_json({{"file", line.words().front()},
                    {"sound", report.sound()},
                    {"passed", report.passed},
                    {"problems", report.problems}});
    } else {
        std::string out;
        for (const auto& passed : report.passed) out += "ok       " + passed + "\n";
        for (const auto& problem : report.problems) out += "problem  " + problem + "\n";
        write_out(out);
    }
    if (report.sound()) return 0;
    const std::string& file = line.words().front();
    const std::string& first = report.problems.front();
    const std::size_t more = report.problems.size() - 1;
    core::bad_input(first.find(file) == std::string::npos ? file + ": " : "", first,
                    more > 0 ? core::text(" (and ", more, " more)") : "");
}

}  // namespace kerf::host
