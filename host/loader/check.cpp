// SPDX-License-Identifier: Apache-2.0
#include "host/loader/check.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "core/support/error.hpp"
#include "host/loader/manifest.hpp"
#include "host/loader/trial.hpp"

namespace kerf::host {
namespace {

using core::text;

/// Both ends of a pipe, closed when done.
class Pipe {
public:
    Pipe() {
        if (pipe2(ends_.data(), O_CLOEXEC) != 0) core::bad_environment("pipe: ", std::strerror(errno));
    }
    ~Pipe() {
        close_reader();
        close_writer();
    }
    Pipe(const Pipe&) = delete;
    Pipe& operator=(const Pipe&) = delete;
    int reader() const { return ends_[0]; }
    int writer() const { return ends_[1]; }
    void close_reader() { close_end(0); }
    void close_writer() { close_end(1); }

private:
    void close_end(std::size_t i) {
        if (ends_[i] >= 0) close(ends_[i]);
        ends_[i] = -1;
    }
    std::array<int, 2> ends_{-1, -1};
};

/// The child's way of talking: a letter, a text, a newline. B begins a step, P is a problem, E ends everything.
class Reporter final : public TrialReporter {
public:
    explicit Reporter(int descriptor) : descriptor_(descriptor) {}
    void begin(const std::string& step) override { send('B', step); }
    void problem(const std::string& what) override { send('P', what); }
    void end() { send('E', ""); }

private:
    void send(char kind, std::string line) {
        for (char& c : line)
            if (c == '\n') c = ' ';
        line = kind + line + "\n";
        for (std::size_t at = 0; at < line.size();) {
            const auto sent = write(descriptor_, line.data() + at, line.size() - at);
            if (sent <= 0) _exit(3);
            at += static_cast<std::size_t>(sent);
        }
    }
    int descriptor_;
};

[[noreturn]] void run_child(const std::filesystem::path& file, Pipe& reports, Pipe& output) {
    reports.close_reader();
    output.close_reader();
    dup2(output.writer(), STDOUT_FILENO);
    dup2(output.writer(), STDERR_FILENO);
    Reporter reporter(reports.writer());
    try {
        try_plugin(file, reporter);
    } catch (const std::exception& error) {
        reporter.problem(error.what());
    } catch (...) {
        reporter.problem("an exception of unknown type");
    }
    std::fflush(nullptr);  // what it printed shall be seen
    reporter.end();
    _exit(0);
}

/// What the child said, put together by the parent.
class Listener {
public:
    explicit Listener(CheckReport& report) : report_(report) {}

    void hear(std::string_view bytes) {
        pending_ += bytes;
        for (auto end = pending_.find('\n'); end != std::string::npos; end = pending_.find('\n')) {
            line(pending_.substr(0, end));
            pending_.erase(0, end + 1);
        }
    }
    void hear_output(std::string_view bytes) {
        if (output_.size() < 200) output_ += bytes.substr(0, 200 - output_.size());
    }
    void finish(bool timed_out, int status, int seconds) {
        const std::string during = step_.empty() ? "" : " while " + step_;
        if (timed_out)
            report_.problems.push_back(text("did not end within ", seconds, " s", during));
        else if (WIFSIGNALED(status))
            report_.problems.push_back(text("crashed (", strsignal(WTERMSIG(status)), ")", during));
        else if (!ended_)
            report_.problems.push_back(text("ended the process (exit code ", WEXITSTATUS(status), ")", during));
        if (!output_.empty())
            report_.problems.push_back(text("writes to stdout or stderr: \"", printable(), "\"; use the host's log"));
    }

private:
    void line(const std::string& line) {
        if (line.empty()) return;
        if (line[0] == 'P') {
            report_.problems.push_back(line.substr(1));
            failed_ = true;
            return;
        }
        if (!step_.empty() && !failed_) report_.passed.push_back(step_);
        step_ = line.substr(1);
        failed_ = false;
        ended_ = line[0] == 'E';
    }
    std::string printable() const {
        std::string out;
        for (const char c : output_) out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
        return out;
    }

    CheckReport& report_;
    std::string pending_, step_, output_;
    bool ended_ = false, failed_ = false;
};

/// Reads both pipes until they close or the time is up; true when it was.
bool listen(Listener& listener, const Pipe& reports, const Pipe& output, int seconds) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    std::array<pollfd, 2> sources{{{reports.reader(), POLLIN, 0}, {output.reader(), POLLIN, 0}}};
    while (sources[0].fd >= 0 || sources[1].fd >= 0) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
        if (left <= 0) return true;
        if (poll(sources.data(), sources.size(), static_cast<int>(left)) < 0 && errno != EINTR) return true;
        for (std::size_t i = 0; i < sources.size(); ++i) {
            if (sources[i].fd < 0 || sources[i].revents == 0) continue;
            std::array<char, 4096> bytes;
            const auto got = read(sources[i].fd, bytes.data(), bytes.size());
            if (got <= 0)
                sources[i].fd = -1;
            else if (i == 0)
                listener.hear({bytes.data(), static_cast<std::size_t>(got)});
            else
                listener.hear_output({bytes.data(), static_cast<std::size_t>(got)});
        }
    }
    return false;
}

}  // namespace

CheckReport check_plugin(const std::filesystem::path& file, int seconds) {
    CheckReport report;
    // What can be known without running it, first: such a plugin is not even tried.
    try {
        const auto manifest = read_manifest(file);
        report.passed.push_back("reading its manifest");
        check_compatible(manifest, this_host(), file);
        report.passed.push_back("comparing its versions with this kerf's");
    } catch (const core::Error& error) {
        report.problems.push_back(error.what());
        return report;
    }
    Pipe reports, output;
    std::fflush(nullptr);  // what the child finds unwritten, it would write once more
    const pid_t child = fork();
    if (child < 0) core::bad_environment("fork: ", std::strerror(errno));
    if (child == 0) run_child(file, reports, output);
    reports.close_writer();
    output.close_writer();
    Listener listener(report);
    const bool timed_out = listen(listener, reports, output, seconds);
    if (timed_out) kill(child, SIGKILL);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    listener.finish(timed_out, status, seconds);
    return report;
}

}  // namespace kerf::host
