// SPDX-License-Identifier: Apache-2.0
#include "core/report/environment.hpp"

#include <sys/utsname.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <thread>

#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

std::string processor() {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);)
        if (line.starts_with("model name"))
            if (const auto colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
    return "unknown";
}

std::string system() {
    utsname name{};
    if (::uname(&name) != 0) return "unknown";
    return std::string(name.sysname) + " " + name.release + " " + name.machine;
}

}  // namespace

nlohmann::json environment_json() {
    const auto memory = std::uint64_t(::sysconf(_SC_PHYS_PAGES)) * std::uint64_t(::sysconf(_SC_PAGE_SIZE));
    return {{"processor", processor()},
            {"cores", std::thread::hardware_concurrency()},
            {"threads", threads()},
            {"memory_bytes", memory},
            {"system", system()}};
}

}  // namespace kerf::core
