// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/events.hpp"

#include <chrono>

#include "core/support/file.hpp"

namespace kerf::core {

void Events::add(std::string_view event, nlohmann::json figures) const {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    figures["event"] = event;
    figures["time"] = double(std::chrono::duration_cast<std::chrono::milliseconds>(now).count()) / 1000;
    const bool there = std::filesystem::exists(file_);
    File file = File::open(file_, there ? File::Mode::read_write : File::Mode::write_new);
    file.append(figures.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace kerf::core
