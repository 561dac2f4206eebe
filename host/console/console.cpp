// SPDX-License-Identifier: Apache-2.0
#include "host/console/console.hpp"

#include <spdlog/sinks/ansicolor_sink.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>

#include "core/support/error.hpp"
#include "host/console/progress.hpp"

namespace kerf::host {
namespace {

std::atomic<bool> stop_flag = false;
static_assert(std::atomic<bool>::is_always_lock_free);  // a signal handler may touch it

void on_stop_signal(int) {
    stop_flag = true;
    constexpr std::string_view words = "\nkerf: stopping after the current layer; once more stops at once\n";
    // The run ends with a message of its own; if this one cannot be written, nothing is lost.
    if (::write(STDERR_FILENO, words.data(), words.size()) < 0) return;
}

bool is_set(const char* variable) {
    const char* value = std::getenv(variable);
    return value && *value;
}

/// Whether stderr is a screen on which a line can be drawn again.
bool is_screen() {
    const char* term = std::getenv("TERM");
    return ::isatty(STDERR_FILENO) == 1 && !(term && std::string_view(term) == "dumb");
}

int screen_columns() {
    winsize size{};
    return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

spdlog::level::level_enum level_from(const std::string& word) {
    constexpr std::array<std::pair<std::string_view, spdlog::level::level_enum>, 5> levels{
        {{"debug", spdlog::level::debug},
         {"info", spdlog::level::info},
         {"warning", spdlog::level::warn},
         {"error", spdlog::level::err},
         {"off", spdlog::level::off}}};
    const auto* known = std::find_if(levels.begin(), levels.end(), [&](const auto& l) { return l.first == word; });
    if (known == levels.end())
        core::bad_input("--log-level ", word, ": one of debug, info, warning, error and off is expected");
    return known->second;
}

spdlog::level::level_enum level_from(int level) {
    constexpr std::array<spdlog::level::level_enum, 4> levels{spdlog::level::debug, spdlog::level::info,
                                                              spdlog::level::warn, spdlog::level::err};
    return levels[static_cast<std::size_t>(std::clamp(level, 0, 3))];
}

double now_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

struct Console::Parts {
    std::shared_ptr<spdlog::logger> logger;
    std::optional<ProgressMeter> meter;
    std::mutex mutex;
    bool bar = false;
    std::string line;  // the bar as it stands on the screen

    void draw() const {
        const std::string text = "\r" + line + "\x1b[K";
        std::fwrite(text.data(), 1, text.size(), stderr);
        std::fflush(stderr);
    }
    void erase() const {
        if (line.empty()) return;
        std::fputs("\r\x1b[K", stderr);
        std::fflush(stderr);
    }
};

Console::Console(const Settings& settings) : parts_(std::make_unique<Parts>()) {
    const auto color = is_set("NO_COLOR") ? spdlog::color_mode::never : spdlog::color_mode::automatic;
    auto sink = std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>(color);
    parts_->logger = std::make_shared<spdlog::logger>("kerf", std::move(sink));
    parts_->logger->set_pattern("[%T] %^%l%$: %v");
    const auto level = level_from(settings.log_level);
    parts_->logger->set_level(settings.quiet ? std::max(level, spdlog::level::err) : level);
    parts_->bar = is_screen();
    if (!settings.quiet && (parts_->bar || !settings.json)) parts_->meter.emplace(parts_->bar, screen_columns());
}

Console::~Console() {
    clear();
}

void Console::log(int level, const std::string& message) {
    const std::lock_guard lock(parts_->mutex);
    if (!parts_->logger->should_log(level_from(level))) return;
    parts_->erase();
    parts_->logger->log(level_from(level), "{}", message);
    if (!parts_->line.empty()) parts_->draw();
}

void Console::progress(const std::string& phase, const std::string& detail, double done, double total) {
    const std::lock_guard lock(parts_->mutex);
    if (!parts_->meter) return;
    const auto line = parts_->meter->update({phase, detail, done, total}, now_seconds());
    if (!line) return;
    if (!parts_->bar) {
        parts_->logger->info("{}", *line);
        return;
    }
    parts_->line = *line;
    parts_->draw();
}

void Console::clear() {
    const std::lock_guard lock(parts_->mutex);
    parts_->erase();
    parts_->line.clear();
}

core::Observer Console::observer() {
    return {.progress = [this](const auto& phase, const auto& detail, double done,
                               double total) { progress(phase, detail, done, total); },
            .log = [this](int level, const std::string& message) { log(level, message); },
            .cancelled = [] { return stop_requested(); }};
}

void catch_stop_signals() {
    struct sigaction action {};
    action.sa_handler = on_stop_signal;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    sigemptyset(&action.sa_mask);
    for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

bool stop_requested() {
    return stop_flag;
}

void write_out(std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
        if (written >= 0) {
            text.remove_prefix(static_cast<std::size_t>(written));
        } else if (errno == EPIPE) {
            return;
        } else if (errno != EINTR) {
            core::bad_environment("stdout: cannot be written: ", std::strerror(errno));
        }
    }
}

void write_error_line(const std::string& line) {
    std::string one_line = line;
    std::replace(one_line.begin(), one_line.end(), '\n', ' ');
    one_line += "\n";
    std::fwrite(one_line.data(), 1, one_line.size(), stderr);
}

}  // namespace kerf::host
