// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/text/tokenizer.hpp"

namespace kerf::core {

/// Where token windows come from: [calibration] of a recipe, or one entry of evaluation.perplexity.
struct TextSource {
    std::string source = "text";  ///< text | jsonl | json | c4 | alpaca | tokens
    std::filesystem::path path;
    std::string tensor;  ///< source = tokens: name of the int64 [samples, length] tensor
    std::string mask;  ///< source = tokens: likewise, 1 for tokens and 0 for the padding behind them; empty: no padding
    std::string field = "text";  ///< jsonl, json, c4: the key that holds the text
    std::int64_t samples = 128;  ///< 0 = all windows
    std::int64_t length = 2048;
    std::uint64_t seed = 0;
};

/// Token windows, all of one length.
struct Windows {
    std::int64_t samples = 0, length = 0;
    std::vector<std::int64_t> ids;   ///< [samples, length]
    std::vector<std::int64_t> used;  ///< by window: tokens before the padding; empty: all of them
    std::string sha256;              ///< of the ids (and of `used`), for provenance
    std::span<const std::int64_t> window(std::int64_t i) const {
        return std::span(ids).subspan(std::size_t(i * length), std::size_t(length));
    }
};

/// Calibration windows: random offsets drawn with `seed` (text), random long-enough documents (jsonl, json, c4), packed
/// instruction records (alpaca), or as stored (tokens). Errors (input): empty text, text shorter than one window, no
/// document long enough, ids at or past `vocabulary`, a missing file or key.
Windows calibration_windows(const TextSource& source, const Tokenizer* tokenizer, std::int64_t vocabulary);

/// Evaluation windows: the whole text tokenised once, cut into contiguous windows of `length`, the tail dropped, the
/// first `samples` of them (0 = all).
Windows evaluation_windows(const TextSource& source, const Tokenizer* tokenizer, std::int64_t vocabulary);

}  // namespace kerf::core
