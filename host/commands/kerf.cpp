// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <map>
#include <new>

#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "core/version.hpp"
#include "host/commands/commands.hpp"

namespace kerf::host {
namespace {

constexpr int done = 0, our_mistake = 1, bad_input_or_environment = 2, interrupted = 130;

int exit_code(core::Fault fault) {
    if (fault == core::Fault::cancelled) return interrupted;
    return fault == core::Fault::internal ? our_mistake : bad_input_or_environment;
}

int dispatch(const CommandLine& line) {
    static const std::map<std::string, int (*)(const CommandLine&, Console&)> commands{
        {"run", run_command},
        {"plan", plan_command},
        {"eval", eval_command},
        {"generate", generate_command},
        {"inspect", inspect_command},
        {"convert", convert_command},
        {"plugins", plugins_command},
        {"plugins describe", describe_command},
        {"plugins check", check_command}};
    if (line.command() == "version") {
        write_out(core::text("kerf ", core::version(), "\n"));
        return done;
    }
    if (line.command() == "help") {
        write_out(help_text(line.words().empty() ? "" : line.words().front()));
        return done;
    }
    Console console({line.text("log-level", "info"), line.has("quiet"), line.has("json")});
    return commands.at(line.command())(line, console);
}

/// The first line of a message: LibTorch's go on with a stack trace.
std::string first_line(const std::string& message) {
    return message.substr(0, message.find('\n'));
}

}  // namespace

void use_threads(const CommandLine& line) {
    constexpr std::int64_t most = 4096;
    const auto threads = line.integer("threads", 0).value_or(0);
    if (threads > most) core::bad_input("--threads ", threads, ": at most ", most, " are possible");
    core::set_threads(static_cast<int>(threads));
}

Registry find_plugins(const CommandLine& line) {
    return Registry::scan(plugin_places(line.list("plugin-path")));
}

void write_json(const nlohmann::json& value) {
    // Paths need not be UTF-8; what is not is replaced rather than refused.
    write_out(value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

int run_kerf(const std::vector<std::string>& arguments) noexcept {
    std::signal(SIGPIPE, SIG_IGN);  // a reader that has gone away is no reason to die
    try {
        return dispatch(CommandLine::parse(arguments));
    } catch (const core::Error& error) {
        const bool stopped = error.fault() == core::Fault::cancelled;
        write_error_line((stopped ? "kerf: " : "kerf: error: ") + std::string(error.what()));
        return exit_code(error.fault());
    } catch (const std::bad_alloc&) {
        write_error_line(
            "kerf: error: the system has no memory left; kerf plan says how much a recipe needs, --memory sets a "
            "budget");
        return bad_input_or_environment;
    } catch (const std::exception& error) {
        write_error_line("kerf: internal error: " + first_line(error.what()) +
                         "; please report it with the command and the recipe");
    } catch (...) {
        write_error_line("kerf: internal error of an unknown kind; please report it with the command and the recipe");
    }
    return our_mistake;
}

}  // namespace kerf::host
