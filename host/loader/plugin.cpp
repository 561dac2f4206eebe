// SPDX-License-Identifier: Apache-2.0
#include "host/loader/plugin.hpp"

#include <algorithm>
#include <boost/dll/shared_library.hpp>
#include <cstdlib>
#include <system_error>

#include "core/plugin_api/axis.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/options.hpp"
#include "core/support/error.hpp"

namespace kerf::host {
namespace {

namespace fs = std::filesystem;
using core::bad_input;
using core::text;

constexpr std::uint32_t most_components = 1024, largest_table = 1u << 16;

std::string_view view_of(kerf_text t) {
    return t.data ? std::string_view(t.data, t.size) : std::string_view{};
}

/// Loaded libraries are kept for ever: LibTorch and thread-local objects in plugins do not survive an unload.
boost::dll::shared_library& keep(boost::dll::shared_library library) {
    static auto* const libraries = new std::vector<std::unique_ptr<boost::dll::shared_library>>;
    return *libraries->emplace_back(std::make_unique<boost::dll::shared_library>(std::move(library)));
}

boost::dll::shared_library& open(const fs::path& file) {
    using namespace boost::dll;
    try {
        return keep(shared_library(file, load_mode::rtld_now | load_mode::rtld_local));
    } catch (const std::system_error& error) {
        bad_input(file.string(), " cannot be loaded: ", error.what());
    }
}

/// Takes the tables of one plugin apart; every complaint starts with the file.
class TableReader {
public:
    TableReader(const fs::path& file, const Manifest& manifest) : file_(file), manifest_(manifest) {}

    template <class... Pieces>
    [[noreturn]] void fail(const Pieces&... pieces) const {
        bad_input(file_.string(), " is no sound plugin: ", pieces...);
    }
    template <class Table>
    std::vector<const Table*> read(std::uint32_t count, const Table* const* tables,
                                   const std::vector<std::string>& promised, const char* kind) const {
        if (count > most_components) fail("it claims ", count, " ", kind, "s");
        if (count > 0 && !tables) fail("it claims ", count, " ", kind, "s but gives no table");
        std::vector<const Table*> out;
        std::vector<std::string> names;
        for (std::uint32_t i = 0; i < count; ++i) {
            names.push_back(check(tables[i], kind));
            if (std::find(promised.begin(), promised.end(), names.back()) == promised.end())
                fail("it offers the ", kind, " ", names.back(), ", which its manifest does not list");
            if (std::count(names.begin(), names.end(), names.back()) > 1)
                fail("it offers the ", kind, " ", names.back(), " twice");
            out.push_back(tables[i]);
        }
        for (const auto& name : promised)
            if (std::find(names.begin(), names.end(), name) == names.end())
                fail("its manifest lists the ", kind, " ", name, ", which it does not offer");
        return out;
    }

private:
    template <class Table>
    std::string check(const Table* table, const char* kind) const {
        if (!table) fail("a ", kind, " table is NULL");
        if (table->struct_size < least_size(table) || table->struct_size > largest_table)
            fail("a ", kind, " table has ", table->struct_size, " bytes, at least ", least_size(table), " are needed");
        if (table->abi >> 16 != KERF_ABI_MAJOR) fail("a ", kind, " table is of ABI ", table->abi >> 16);
        const std::string id(view_of(table->id));
        if (!valid_id(id)) fail("a ", kind, " has no valid id");
        if (view_of(table->version).empty()) fail("the ", kind, " ", id, " has no version");
        check_slots(*table, id);
        return id;
    }
    /// What a table of band 1.0 has: plugins that were built then are still welcome.
    static constexpr std::size_t least_size(const kerf_method*) { return offsetof(kerf_method, scope); }
    static constexpr std::size_t least_size(const kerf_adapter*) { return sizeof(kerf_adapter); }

    static bool has_functions(const kerf_method& m) {
        if (!m.create || !m.destroy) return false;
        switch (core::method_scope(m)) {
            case KERF_SCOPE_LINEARS:
                return m.cost && m.compress;
            case KERF_SCOPE_AXES:
                return KERF_HAS(kerf_method, &m, plan_axes) && KERF_HAS(kerf_method, &m, prune_axis);
            case KERF_SCOPE_MODEL:
                return KERF_HAS(kerf_method, &m, plan_axes) && KERF_HAS(kerf_method, &m, prune_model);
            case KERF_SCOPE_BASES:
                return KERF_HAS(kerf_method, &m, bases) && m.bases->struct_size >= sizeof(kerf_bases) &&
                       m.bases->plan && m.bases->survey && m.bases->basis;
            default:
                return true;
        }
    }
    void check_slots(const kerf_method& m, const std::string& id) const {
        const auto scope = core::method_scope(m);
        if (scope < KERF_SCOPE_LINEARS || scope > KERF_SCOPE_BASES)
            fail("the method ", id, " has the scope ", scope, ", which this kerf does not know; update kerf");
        if (!has_functions(m)) fail("the method ", id, " leaves a function out");
        try {
            core::parse_schema(view_of(m.options_schema), id);
        } catch (const core::Error& error) {
            fail(error.what());
        }
    }
    void check_slots(const kerf_adapter& a, const std::string& id) const {
        if (!a.accepts || !a.describe) fail("the adapter ", id, " leaves a function out");
    }

    const fs::path& file_;
    const Manifest& manifest_;
};

kerf_plugin enter(const fs::path& file, kerf_plugin_entry_fn entry) {
    kerf_plugin out{};
    out.struct_size = sizeof(kerf_plugin);
    out.abi = KERF_ABI_VERSION;
    try {
        core::check_call(text(file.string(), " refuses to start"),
                         [&](kerf_error* error) { return entry(core::host_table(), &out, error); });
    } catch (const core::Error& error) {
        throw core::Error(core::Fault::input, error.what());  // whatever the code: this plugin cannot be used
    } catch (const std::exception& error) {
        bad_input(file.string(), " is no sound plugin: it threw an exception from its entry point: ", error.what());
    } catch (...) {
        bad_input(file.string(), " is no sound plugin: it threw an exception from its entry point");
    }
    if (out.struct_size != sizeof(kerf_plugin))
        bad_input(file.string(), " is no sound plugin: it overwrote the host's struct_size");
    return out;
}

template <class Components, class Names>
void refuse_same_id(const LoadedPlugin& a, const LoadedPlugin& b, const Names& ours, const Components& theirs,
                    const char* kind) {
    for (const auto& name : ours)
        if (std::find(theirs.begin(), theirs.end(), name) != theirs.end())
            bad_input("two plugins offer the ", kind, " ", name, ": ", b.file.string(), " and ", a.file.string(),
                      "; remove one of them");
}

}  // namespace

LoadedPlugin load_plugin(const fs::path& file, const HostVersions& host) {
    LoadedPlugin plugin;
    plugin.file = fs::absolute(file);
    plugin.manifest = read_manifest(plugin.file);
    check_compatible(plugin.manifest, host, plugin.file);
    auto& library = open(plugin.file);
    if (!library.has(KERF_ENTRY_NAME))
        bad_input(file.string(), " is no sound plugin: it does not export ", KERF_ENTRY_NAME);
    const auto entry = &library.get<kerf_code(const kerf_host*, kerf_plugin*, kerf_error*)>(KERF_ENTRY_NAME);
    const kerf_plugin tables = enter(plugin.file, entry);
    const TableReader reader(plugin.file, plugin.manifest);
    plugin.methods = reader.read(tables.method_count, tables.methods, plugin.manifest.methods, "method");
    plugin.adapters = reader.read(tables.adapter_count, tables.adapters, plugin.manifest.adapters, "adapter");
    return plugin;
}

Registry Registry::scan(const std::vector<fs::path>& places) {
    Registry out;
    for (const auto& place : places) {
        std::error_code error;
        if (fs::is_regular_file(place, error)) {
            out.add(place);
            continue;
        }
        std::vector<fs::path> files;
        auto entries = fs::directory_iterator(place, error);
        if (error) bad_input("plugin folder ", place.string(), ": ", error.message());
        for (const auto& entry : entries)
            if (entry.path().extension() == ".so") files.push_back(entry.path());
        std::sort(files.begin(), files.end());
        for (const auto& file : files) out.add(file);
    }
    return out;
}

void Registry::add(const fs::path& file) {
    try {
        std::error_code error;
        const auto real = fs::canonical(file, error);
        if (error) bad_input(file.string(), ": ", error.message());
        // The same file by two ways is one plugin.
        if (std::find(seen_.begin(), seen_.end(), real) != seen_.end()) return;
        seen_.push_back(real);
        LoadedPlugin announced{real, read_manifest(real), {}, {}};
        check_compatible(announced.manifest, this_host(), real);
        refuse_duplicates(announced);
        plugins_.push_back(load_plugin(real));
    } catch (const core::Error& error) {
        problems_.push_back({file, error.what()});
    }
}

void Registry::refuse_duplicates(const LoadedPlugin& plugin) const {
    for (const auto& other : plugins_) {
        if (other.manifest.id == plugin.manifest.id)
            bad_input("two plugins have the id ", plugin.manifest.id, ": ", other.file.string(), " and ",
                      plugin.file.string(), "; remove one of them");
        refuse_same_id(plugin, other, plugin.manifest.methods, other.manifest.methods, "method");
        refuse_same_id(plugin, other, plugin.manifest.adapters, other.manifest.adapters, "adapter");
    }
}

void Registry::require_sound() const {
    if (problems_.empty()) return;
    if (problems_.size() == 1) bad_input(problems_[0].message);
    bad_input(problems_[0].message, " (and ", problems_.size() - 1, " more; kerf plugins lists them)");
}

core::Components Registry::components() const {
    core::Components out;
    out.host = core::host_table();
    for (const auto& plugin : plugins_) {
        for (const auto* m : plugin.methods)
            out.methods.push_back(
                {std::string(view_of(m->id)), std::string(view_of(m->version)), plugin.manifest.id, plugin.file, m});
        for (const auto* a : plugin.adapters)
            out.adapters.push_back(
                {std::string(view_of(a->id)), std::string(view_of(a->version)), plugin.manifest.id, plugin.file, a});
    }
    return out;
}

std::vector<fs::path> plugin_places(const std::vector<std::string>& explicit_places) {
    std::vector<fs::path> out(explicit_places.begin(), explicit_places.end());
    if (const char* variable = std::getenv("KERF_PLUGIN_PATH")) {
        std::string_view rest = variable;
        while (!rest.empty()) {
            const auto colon = rest.find(':');
            // An empty entry would mean the current folder, which is never searched.
            if (colon != 0) out.emplace_back(rest.substr(0, colon));
            rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon + 1);
        }
    }
    std::error_code error;
    const auto executable = fs::read_symlink("/proc/self/exe", error);
    if (!error) {
        const auto installed = (executable.parent_path() / ".." / "lib" / "kerf").lexically_normal();
        if (fs::is_directory(installed, error)) out.push_back(installed);
    }
    return out;
}

}  // namespace kerf::host
