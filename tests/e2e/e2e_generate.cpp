// SPDX-License-Identifier: Apache-2.0
// kerf generate as a command: what goes to stdout and what to stderr, and what is refused.
#include "tests/e2e/command.hpp"

namespace kerf::e2e {
namespace {

const std::string model = KERF_TEST_DATA "/models/llama-tiny";

Outcome generate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"generate", model});
    return kerf(arguments);
}

void expect_refused(const std::vector<std::string>& arguments, const std::string& part) {
    const Outcome outcome = kerf(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(outcome.err.starts_with("kerf: error: ")) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
}

TEST(Generate, StdoutHoldsTheTextAloneAndStderrTheSpeed) {
    const Outcome text = generate({"The city of", "--tokens", "12", "--ignore-eos"});
    ASSERT_EQ(text.code, 0) << text.err;
    EXPECT_NE(text.err.find("tokens/s"), std::string::npos) << text.err;
    const Outcome quiet = generate({"The city of", "--tokens", "12", "--ignore-eos", "--quiet"});
    EXPECT_EQ(quiet.err, "");
    EXPECT_EQ(quiet.out, text.out);
    const Outcome json = generate({"The city of", "--tokens", "12", "--ignore-eos", "--json"});
    const auto result = nlohmann::json::parse(json.out);
    EXPECT_EQ(result["texts"][0]["text"].get<std::string>() + "\n", text.out);
    EXPECT_EQ(result["texts"][0]["tokens"].size(), 12u);
    EXPECT_EQ(result["texts"][0]["finish"], "length");
    EXPECT_EQ(result["decoded_tokens"], 11);
    EXPECT_EQ(result["texts"][0]["prompt_tokens"], result["prompt_tokens"]);
}

TEST(Generate, TheSameSeedGivesTheSameTextAtAnyNumberOfThreads) {
    const auto draw = [](const std::string& seed, const std::string& threads) {
        return generate({"In the year", "--temperature", "1.2", "--top-k", "50", "--top-p", "0.95", "--tokens", "24",
                         "--repetition-penalty", "1.1", "--seed", seed, "--threads", threads})
            .out;
    };
    const std::string one = draw("5", "1");
    EXPECT_FALSE(one.empty());
    EXPECT_EQ(draw("5", "3"), one);
    EXPECT_NE(draw("6", "1"), one);
}

TEST(Generate, PromptsOfAFileComeInTheirOrderAndAsEachAlone) {
    const Folder folder;
    spill(folder / "prompts.txt", "The city of\r\n\nHe was\nIt is");
    spill(folder / "prompts.jsonl",
          "{\"prompt\": \"The city of\"}\n{\"prompt\": \"He was\"}\n{\"prompt\": \"It is\"}\n");
    std::string each;
    for (const auto* prompt : {"The city of", "He was", "It is"}) each += generate({prompt, "--tokens", "9"}).out;
    EXPECT_EQ(generate({"--prompts", (folder / "prompts.txt").string(), "--tokens", "9"}).out, each);
    EXPECT_EQ(generate({"--prompts", (folder / "prompts.jsonl").string(), "--tokens", "9"}).out, each);
}

TEST(Generate, EndsBeforeAStopText) {
    const std::string text = generate({"The city of", "--tokens", "20", "--ignore-eos"}).out;
    const std::string stop = text.substr(text.size() / 2, 3);
    EXPECT_EQ(generate({"The city of", "--tokens", "20", "--ignore-eos", "--stop", stop, "--stop", "never there"}).out,
              text.substr(0, text.find(stop)) + "\n");
}

TEST(Generate, AChatIsThePromptThatTheTemplateMakes) {
    const Folder folder;
    for (const auto& entry : fs::directory_iterator(model))
        fs::copy(entry.path(), folder / entry.path().filename().string());
    spill(folder / "chat_template.jinja",
          "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt "
          "%}assistant:"
          "{% endif %}");
    const std::string path = folder.path().string();
    const Outcome chat = kerf({"generate", path, "Hello", "--chat", "--system", "Be kind.", "--tokens", "8", "--json"});
    ASSERT_EQ(chat.code, 0) << chat.err;
    spill(folder / "chat.jsonl",
          R"({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]})");
    const Outcome file =
        kerf({"generate", path, "--prompts", (folder / "chat.jsonl").string(), "--chat", "--tokens", "8", "--json"});
    ASSERT_EQ(file.code, 0) << file.err;
    const auto one = nlohmann::json::parse(chat.out)["texts"][0], other = nlohmann::json::parse(file.out)["texts"][0];
    EXPECT_EQ(one["tokens"], other["tokens"]);
    EXPECT_EQ(one["prompt_tokens"], other["prompt_tokens"]);

    expect_refused({"generate", model, "Hello", "--chat"}, "no chat template");
    spill(folder / "chat_template.jinja", "{{ raise_exception('Only users may speak.') }}");
    expect_refused({"generate", path, "Hello", "--chat"}, "Only users may speak.");
    spill(folder / "chat_template.jinja", "\n{% import 'x' %}");
    expect_refused({"generate", path, "Hello", "--chat"}, "chat_template.jinja: line 2: the statement 'import'");
    spill(folder / "chat_template.jinja",
          "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
    expect_refused({"generate", path, "Hello", "--chat"}, "too many steps");
}

TEST(Generate, RefusesWhatItCannotDoInOneLine) {
    const Folder folder;
    std::string words;
    for (int i = 0; i < 600; ++i) words += "word ";
    expect_refused({"generate", model, words}, "more than the 512 positions");
    expect_refused({"generate", model}, "PROMPT or --prompts FILE");
    expect_refused({"generate", model, "a", "--prompts", "x"}, "not both");
    expect_refused({"generate", model, "a", "b"}, "does not know what to do with \"b\"");
    expect_refused({"generate", "/no/such/model", "a"}, "/no/such/model");
    expect_refused({"generate", model, "a", "--tokens", "0"}, "--tokens 0");
    expect_refused({"generate", model, "a", "--temperature", "-1"}, "temperature -1");
    expect_refused({"generate", model, "a", "--temperature", "warm"}, "--temperature warm: a number");
    expect_refused({"generate", model, "a", "--temperature", "0", "--top-k", "5"}, "--temperature 0");
    expect_refused({"generate", model, "a", "--top-p", "1.5"}, "top-p 1.5");
    expect_refused({"generate", model, "a", "--weights", "int3"}, "--weights int3");
    expect_refused({"generate", model, "a", "--system", "x"}, "--chat");
    expect_refused({"generate", model, "--prompts", (folder / "none.txt").string()}, "none.txt");
    spill(folder / "empty.txt", "\n\n");
    expect_refused({"generate", model, "--prompts", (folder / "empty.txt").string()}, "has no prompt");
    spill(folder / "bad.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": 3}\n");
    expect_refused({"generate", model, "--prompts", (folder / "bad.jsonl").string()}, "bad.jsonl:2");
    spill(folder / "chat.jsonl", "{\"messages\": []}\n");
    expect_refused({"generate", model, "--prompts", (folder / "chat.jsonl").string()}, "--chat");
}

}  // namespace
}  // namespace kerf::e2e
