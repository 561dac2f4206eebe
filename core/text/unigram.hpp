// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <utility>

#include "core/text/subword_model.hpp"

namespace kerf::core {

/// The unigram language model of sentencepiece (Kudo 2018, arXiv 1804.10959): each piece has the logarithm of a
/// probability, and a text becomes the row of pieces whose sum is largest.
class Unigram final : public SubwordModel {
public:
    struct Options {
        std::optional<std::int64_t> unknown;  ///< the id of a run of characters that no piece covers
        bool byte_fallback = false;           ///< such characters as tokens <0x00> … <0xFF>, where all are there
    };
    using Piece = std::pair<std::string, double>;  ///< text and score

    /// The pieces by id. Error(input), which begins with `where`: none, one that is empty, there twice or longer than
    /// 1024 bytes, a score that is no finite number, an unknown id beyond them.
    Unigram(const std::vector<Piece>& pieces, Options options, const std::string& where);

    const Vocabulary& vocabulary() const override { return vocabulary_; }
    std::unique_ptr<SubwordModel::Session> session() const override { return std::make_unique<Session>(*this); }

    class Session final : public SubwordModel::Session {
    public:
        explicit Session(const Unigram& model) : model_(model) {}
        /// Viterbi: n characters take n times the longest piece. Error(input): a character that no piece covers, and
        /// the model has no token for unknown ones.
        void encode(std::string_view word, std::vector<std::int64_t>& out) override;
        /// Steps along the tree of pieces so far: what a word costs, at most its bytes times those of the longest
        /// piece.
        std::uint64_t steps() const { return steps_; }

    private:
        /// The best way to end at a byte.
        struct Node {
            double score = 0;
            std::int64_t id = -1;
            std::size_t begin = none;
        };
        static constexpr std::size_t none = static_cast<std::size_t>(-1);
        void extend(std::string_view word, std::size_t begin);
        void emit(std::string_view text, std::vector<std::int64_t>& out);

        const Unigram& model_;
        std::vector<Node> nodes_;
        std::vector<std::string_view> parts_;
        std::uint64_t steps_ = 0;
    };

private:
    /// All pieces as one tree, a level a byte.
    struct Branch {
        std::int32_t piece = -1;               // that ends here
        std::int32_t first = 0, children = 0;  // in edges_, by byte
    };
    struct Edge {
        unsigned char byte;
        std::int32_t branch;
    };
    void build_tree();
    std::int32_t child(std::int32_t branch, unsigned char byte) const;

    Vocabulary vocabulary_;
    std::vector<double> scores_;
    Options options_;
    double unknown_score_ = 0;
    ByteTokens bytes_;
    std::vector<Branch> branches_;
    std::vector<Edge> edges_;
    std::array<std::int32_t, 256> roots_{};
};

}  // namespace kerf::core
