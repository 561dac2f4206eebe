// SPDX-License-Identifier: Apache-2.0
// bench_tokenize FOLDER FILE…: ids, their digest and MB/s of one thread, a line a file. bench/tokenize_compare.py runs
// it beside the tokenizers package.
#include <openssl/sha.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/support/file.hpp"
#include "core/text/tokenizer.hpp"

namespace {

std::string digest(const std::vector<std::int64_t>& ids) {
    unsigned char hash[SHA256_DIGEST_LENGTH];
    SHA256(reinterpret_cast<const unsigned char*>(ids.data()), ids.size() * sizeof(ids[0]), hash);
    std::string out;
    for (int i = 0; i < 8; ++i) {
        char two[3];
        std::snprintf(two, sizeof two, "%02x", hash[i]);
        out += two;
    }
    return out;
}

void measure(const kerf::core::Tokenizer& tokenizer, const std::filesystem::path& file) {
    using Clock = std::chrono::steady_clock;
    const std::string text = kerf::core::read_text(file);
    double best = 1e300;
    std::vector<std::int64_t> ids;
    for (int i = 0; i < 3; ++i) {
        const auto begin = Clock::now();
        ids = tokenizer.encode(text, false);
        best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
    }
    std::printf("%s %zu %s %.2f\n", file.filename().c_str(), ids.size(), digest(ids).c_str(),
                static_cast<double>(text.size()) / 1e6 / best);
}

}  // namespace

int main(int arguments, char** words) try {
    if (arguments < 3) {
        std::fprintf(stderr, "bench_tokenize FOLDER FILE…\n");
        return 2;
    }
    const auto tokenizer = kerf::core::Tokenizer::open(words[1]);
    for (int i = 2; i < arguments; ++i) measure(*tokenizer, words[i]);
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
}
