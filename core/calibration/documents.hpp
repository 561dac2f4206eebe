// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/calibration/dataset.hpp"

namespace kerf::core {

/// The documents of a jsonl, json, c4 or alpaca source. Lines are streamed at each pass (gzip is unpacked on the way);
/// the array of a json file is held. Errors (input) name the file and the line or element.
class Documents {
public:
    explicit Documents(const TextSource& source);

    /// In the order of the file, until `use` returns false.
    using Use = std::function<bool(std::size_t index, std::string_view text)>;
    void each(const Use& use) const;

private:
    std::string where_, field_;
    bool alpaca_ = false, held_ = false;
    std::vector<std::string> texts_;  // where held_
};

}  // namespace kerf::core
