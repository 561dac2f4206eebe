// SPDX-License-Identifier: Apache-2.0
#include "core/calibration/dataset.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/calibration/random.hpp"
#include "core/support/file.hpp"
#include "tests/unit/text_fixture.hpp"

namespace kerf::test {
namespace {

using core::calibration_windows;
using core::evaluation_windows;
using core::TextSource;
using core::Windows;

/// A token a byte, and an end of sequence: what a window holds can be read as text.
class Bytes final : public core::Tokenizer {
public:
    Ids encode(std::string_view text, bool) const override {
        Ids out;
        for (const char c : text) out.push_back(static_cast<unsigned char>(c));
        return out;
    }
    std::string decode(std::span<const std::int64_t> ids, bool) const override {
        std::string out;
        for (const auto id : ids) out += id == 256 ? '$' : static_cast<char>(id);
        return out;
    }
    std::int64_t vocabulary() const override { return 257; }
    std::optional<std::int64_t> bos() const override { return std::nullopt; }
    std::optional<std::int64_t> eos() const override { return 256; }
};

class Dataset : public testing::Test {
protected:
    TextSource source(const std::string& kind, const std::string& name, const std::string& content) {
        TextSource out;
        out.source = kind;
        out.path = folder_.write(name, content);
        return out;
    }
    std::vector<std::string> texts(const Windows& windows) const {
        std::vector<std::string> out;
        for (std::int64_t i = 0; i < windows.samples; ++i) out.push_back(bytes_.decode(windows.window(i), false));
        return out;
    }
    std::string gzip(const std::string& name, const std::string& content) const {
        const auto path = (folder_ / name).string();
        gzFile file = gzopen(path.c_str(), "wb");
        gzwrite(file, content.data(), static_cast<unsigned>(content.size()));
        gzclose(file);
        return path;
    }

    TemporaryFolder folder_;
    Bytes bytes_;
};

TEST(Draw, UsesTheGeneratorOfTheStandard) {
    core::Draw draw(5489);  // [rand.predef]: the 10000th number of a default mt19937_64
    for (int i = 1; i < 10000; ++i) draw.below(UINT64_MAX);
    EXPECT_EQ(draw.below(UINT64_MAX), 9981545732273789042u);
}

TEST(Draw, IsUniform) {
    core::Draw draw(1);
    std::array<double, 6> counts{};
    constexpr double draws = 60000;
    for (int i = 0; i < draws; ++i) ++counts[draw.below(6)];
    for (const double count : counts) EXPECT_NEAR(count, draws / 6, 5 * std::sqrt(draws * 5 / 36));  // 5 sigma
    const auto order = draw.permutation(100);
    EXPECT_EQ(std::set<std::size_t>(order.begin(), order.end()).size(), 100u);
}

TEST_F(Dataset, RandomWindowsStartAnywhereButAtTheVeryLastPlace) {
    auto text = source("text", "a.txt", "abcdefghijkl");
    text.length = 9;  // starts in [0, 12 − 9 − 1]
    text.samples = 200;
    const auto windows = texts(calibration_windows(text, &bytes_, 257));
    EXPECT_EQ(windows.size(), 200u);
    EXPECT_EQ(std::set<std::string>(windows.begin(), windows.end()),
              (std::set<std::string>{"abcdefghi", "bcdefghij", "cdefghijk"}));
}

TEST_F(Dataset, ATextOfExactlyOneWindowIsThatWindow) {
    auto text = source("text", "a.txt", "abcdefghi");
    text.length = 9;
    text.samples = 2;
    EXPECT_EQ(texts(calibration_windows(text, &bytes_, 257)), (std::vector<std::string>{"abcdefghi", "abcdefghi"}));
}

TEST_F(Dataset, TheSeedDecidesTheWindows) {
    std::string letters;
    for (int i = 0; i < 1000; ++i) letters += static_cast<char>('a' + i * i % 26);
    auto text = source("text", "a.txt", letters);
    text.length = 50;
    text.samples = 8;
    const auto first = calibration_windows(text, &bytes_, 257), again = calibration_windows(text, &bytes_, 257);
    EXPECT_EQ(first.ids, again.ids);
    EXPECT_EQ(first.sha256, core::sha256(std::as_bytes(std::span(first.ids))));
    text.seed = 1;
    EXPECT_NE(calibration_windows(text, &bytes_, 257).sha256, first.sha256);
}

TEST_F(Dataset, EvaluationWindowsAreContiguousAndDropTheTail) {
    auto text = source("text", "a.txt", "aaaabbbbccccdd");
    text.length = 4;
    text.samples = 0;
    EXPECT_EQ(texts(evaluation_windows(text, &bytes_, 257)), (std::vector<std::string>{"aaaa", "bbbb", "cccc"}));
    EXPECT_EQ(texts(calibration_windows(text, &bytes_, 257)), (std::vector<std::string>{"aaaa", "bbbb", "cccc"}));
    text.samples = 2;
    EXPECT_EQ(texts(evaluation_windows(text, &bytes_, 257)), (std::vector<std::string>{"aaaa", "bbbb"}));
}

/// Ten documents, each of one letter; those of even letters are too short for a window of 20.
std::string documents(const std::string& key) {
    std::string out;
    for (int i = 0; i < 10; ++i)
        out += nlohmann::json{{key, std::string(i % 2 ? 30 : 15, static_cast<char>('a' + i))}}.dump() + "\n";
    return out;
}

TEST_F(Dataset, EachLongEnoughDocumentIsUsedOnceBeforeOneIsUsedAgain) {
    auto lines = source("jsonl", "a.jsonl", documents("text"));
    lines.length = 20;
    lines.samples = 5;
    const auto five = texts(calibration_windows(lines, &bytes_, 257));
    EXPECT_EQ(std::set<std::string>(five.begin(), five.end()).size(), 5u);
    for (const auto& window : five) EXPECT_EQ(window, std::string(20, window[0]));
    lines.samples = 12;
    const auto twelve = texts(calibration_windows(lines, &bytes_, 257));
    for (const auto& window : five) EXPECT_GE(std::count(twelve.begin(), twelve.end(), window), 2);
    lines.samples = 0;
    EXPECT_EQ(calibration_windows(lines, &bytes_, 257).samples, 5);
}

TEST_F(Dataset, ManyDocumentsAreSampledInBatchesToTheSameRule) {
    std::string lines;
    for (int i = 0; i < 1000; ++i)
        lines += nlohmann::json{{"text", std::to_string(i) + std::string(i % 50 ? 20 : 60, '.')}}.dump() + "\n";
    auto many = source("jsonl", "a.jsonl", lines);
    many.length = 40;
    many.samples = 20;  // as many as there are long documents
    EXPECT_EQ(calibration_windows(many, &bytes_, 257).samples, 20);
}

TEST_F(Dataset, GzipAndPlainLinesAndAnArrayGiveTheSameWindows) {
    auto lines = source("jsonl", "a.jsonl", documents("content"));
    lines.field = "content";
    lines.length = 20;
    lines.samples = 7;
    const auto expected = calibration_windows(lines, &bytes_, 257).ids;
    auto packed = lines;
    packed.source = "c4";
    packed.path = gzip("a.json.gz", documents("content"));
    EXPECT_EQ(calibration_windows(packed, &bytes_, 257).ids, expected);
    std::string array = documents("content");
    array.pop_back();
    std::replace(array.begin(), array.end(), '\n', ',');
    auto whole = lines;
    whole.source = "json";
    whole.path = folder_.write("a.json", "[" + array + "]");
    EXPECT_EQ(calibration_windows(whole, &bytes_, 257).ids, expected);
}

TEST_F(Dataset, DocumentsAreJoinedForEvaluation) {
    auto lines = source("jsonl", "a.jsonl", "{\"text\": \"abc\"}\n\n{\"text\": \"def\"}\r\n");
    lines.length = 8;
    EXPECT_EQ(texts(evaluation_windows(lines, &bytes_, 257)), (std::vector<std::string>{"abc\n\ndef"}));
    lines.source = "c4";
    lines.length = 7;
    EXPECT_EQ(texts(evaluation_windows(lines, &bytes_, 257)), (std::vector<std::string>{"abc def"}));
    auto strings = source("json", "a.json", R"(["abc", "def"])");
    strings.length = 8;
    EXPECT_EQ(texts(evaluation_windows(strings, &bytes_, 257)), (std::vector<std::string>{"abc\n\ndef"}));
}

TEST_F(Dataset, AFewEvaluationWindowsAreThoseOfTheWholeText) {
    std::string lines;
    for (int i = 0; i < 5000; ++i) lines += nlohmann::json{{"text", "document " + std::to_string(i)}}.dump() + "\n";
    auto many = source("jsonl", "a.jsonl", lines);
    many.length = 100;
    many.samples = 0;
    const auto all = evaluation_windows(many, &bytes_, 257);
    many.samples = 3;
    const auto few = evaluation_windows(many, &bytes_, 257);
    EXPECT_EQ(few.samples, 3);
    EXPECT_TRUE(std::equal(few.ids.begin(), few.ids.end(), all.ids.begin()));
}

const std::string records =
    R"([{"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Stop.", "output": "Yes"}])";
const std::string first_record =
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response "
    "that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3$";
const std::string second_record =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nStop.\n\n### Response:\nYes$";

TEST_F(Dataset, InstructionRecordsArePackedInThePromptTemplate) {
    auto alpaca = source("alpaca", "a.json", records);
    alpaca.samples = 0;
    alpaca.length = static_cast<std::int64_t>((first_record + second_record).size());
    EXPECT_EQ(texts(evaluation_windows(alpaca, &bytes_, 257)),
              (std::vector<std::string>{first_record + second_record}));
    const auto shuffled = texts(calibration_windows(alpaca, &bytes_, 257));
    EXPECT_TRUE(shuffled[0] == first_record + second_record || shuffled[0] == second_record + first_record);
    alpaca.path = folder_.write("a.jsonl", "{\"instruction\": \"Stop.\", \"input\": \"\", \"output\": \"Yes\"}\n");
    alpaca.length = static_cast<std::int64_t>(second_record.size());
    EXPECT_EQ(texts(evaluation_windows(alpaca, &bytes_, 257)), (std::vector<std::string>{second_record}));
}

TEST_F(Dataset, InstructionRecordsAreShuffledAgainUntilThereAreEnoughWindows) {
    auto alpaca = source("alpaca", "a.json", records);
    alpaca.length = 64;
    alpaca.samples = 50;
    EXPECT_EQ(calibration_windows(alpaca, &bytes_, 257).samples, 50);
}

std::filesystem::path tokens_file(const TemporaryFolder& folder, const std::string& dtype,
                                  const std::vector<std::int64_t>& ids, const std::string& shape) {
    const std::string bytes = raw_all(ids);
    const auto header = core::text("{\"calib\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[0,",
                                   bytes.size(), "]}}");
    return folder.write("t.safetensors", safetensors_file(header, bytes));
}

TEST_F(Dataset, StoredTokensAreTakenAsTheyAre) {
    TextSource stored;
    stored.source = "tokens";
    stored.tensor = "calib";
    stored.path = tokens_file(folder_, "I64", {1, 2, 3, 4, 5, 6}, "[3,2]");
    stored.length = 2;
    stored.samples = 2;
    EXPECT_EQ(calibration_windows(stored, nullptr, 10).ids, (Ids{1, 2, 3, 4}));
    stored.length = 0;
    for (const std::int64_t samples : {0, 3, 99}) {
        stored.samples = samples;
        const auto all = evaluation_windows(stored, nullptr, 10);
        EXPECT_EQ(all.ids, (Ids{1, 2, 3, 4, 5, 6}));
        EXPECT_EQ(all.samples, 3);
        EXPECT_EQ(all.length, 2);
    }
}

TEST_F(Dataset, WrongStoredTokensAreRefused) {
    TextSource stored;
    stored.source = "tokens";
    stored.tensor = "other";
    stored.length = 2;
    stored.path = tokens_file(folder_, "I64", {1, 2, 3, 4}, "[2,2]");
    expect_refused([&] { calibration_windows(stored, nullptr, 10); }, {"t.safetensors", "other", "calib"});
    stored.tensor = "calib";
    expect_refused([&] { calibration_windows(stored, nullptr, 4); }, {"t.safetensors", "id 4", "4 rows"});
    stored.length = 3;
    expect_refused([&] { calibration_windows(stored, nullptr, 10); }, {"windows of 2", "length = 2"});
    stored.length = 2;
    tokens_file(folder_, "I64", {1, -2, 3, 4}, "[2,2]");
    expect_refused([&] { calibration_windows(stored, nullptr, 10); }, {"id -2"});
    tokens_file(folder_, "I64", {1, 2, 3, 4}, "[4]");
    expect_refused([&] { calibration_windows(stored, nullptr, 10); }, {"[4]", "[samples, length]"});
    tokens_file(folder_, "F64", {1, 2, 3, 4}, "[2,2]");
    expect_refused([&] { calibration_windows(stored, nullptr, 10); }, {"F64"});
    stored.path = folder_ / "none.safetensors";
    expect_refused([&] { calibration_windows(stored, nullptr, 10); }, {"none.safetensors"});
}

TEST_F(Dataset, BadSourcesAreRefusedInWords) {
    auto text = source("text", "a.txt", "too short");
    text.length = 100;
    const auto both = [&](const TextSource& from, const std::vector<std::string>& words) {
        expect_refused([&] { calibration_windows(from, &bytes_, 257); }, words);
        expect_refused([&] { evaluation_windows(from, &bytes_, 257); }, words);
    };
    both(text, {"a.txt", "9 tokens", "100"});
    both(source("text", "empty.txt", ""), {"empty.txt", "is empty"});
    both(source("jsonl", "empty.jsonl", "\n\n"), {"empty.jsonl"});
    both(source("json", "b.json", "{}"), {"b.json", "list of records"});
    both(source("jsonl", "b.jsonl", "{\"text\": \"x\"}\n{\"body\": \"x\"}"), {"b.jsonl:2", "\"text\"", "\"body\""});
    both(source("jsonl", "c.jsonl", "{\"text\": 5}"), {"c.jsonl:1", "no text"});
    both(source("jsonl", "d.jsonl", "{"), {"d.jsonl:1", "JSON"});
    both(source("alpaca", "e.json", R"([{"instruction": "x"}])"), {"e.json", "record 1", "output"});
    auto unknown = source("txet", "f.txt", "x");
    both(unknown, {"txet", "did you mean \"text\"?"});
    auto missing = text;
    for (const std::string kind : {"text", "jsonl", "json", "c4", "alpaca"}) {
        missing.source = kind;
        missing.path = folder_ / "none";
        both(missing, {"none"});
    }
    auto negative = text;
    negative.samples = -1;
    both(negative, {"samples = -1"});
    negative.samples = std::int64_t{1} << 40;
    both(negative, {"more than memory"});
    auto nothing = text;
    nothing.length = 0;
    both(nothing, {"length = 0"});
    expect_refused([&] { calibration_windows(text, nullptr, 257); }, {"no tokenizer"});
    text.length = 4;
    expect_refused([&] { calibration_windows(text, &bytes_, 100); }, {"a.txt", "100 rows"});
}

TEST_F(Dataset, NoDocumentLongEnoughIsAnError) {
    auto lines = source("jsonl", "a.jsonl", documents("text"));
    lines.length = 31;
    expect_refused([&] { calibration_windows(lines, &bytes_, 257); }, {"a.jsonl", "none of its 10 documents", "31"});
}

TEST_F(Dataset, ADamagedGzipFileIsAnError) {
    TextSource packed;
    packed.source = "c4";
    packed.length = 20;
    packed.path = gzip("a.json.gz", documents("text"));
    const std::string whole = read_file(packed.path);
    for (std::size_t cut = 12; cut + 1 < whole.size(); cut += 7) {
        packed.path = folder_.write("b.json.gz", whole.substr(0, whole.size() - cut));
        if (whole.size() - cut < 20) break;
        expect_refused([&] { calibration_windows(packed, &bytes_, 257); }, {"b.json.gz"});
    }
}

}  // namespace
}  // namespace kerf::test
