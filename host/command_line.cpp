// SPDX-License-Identifier: Apache-2.0
#include "host/command_line.hpp"

// A comma separates nothing: values of --set and file names may hold any.
#define CXXOPTS_VECTOR_DELIMITER '\0'
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cxxopts.hpp>

#include "core/support/error.hpp"
#include "core/version.hpp"

namespace kerf::host {
namespace {

using core::bad_input;

/// What cxxopts calls the arguments that are no options.
constexpr auto positional = "words";

const CommandDoc* find_doc(std::string_view name) {
    const auto& docs = command_docs();
    const auto found = std::find_if(docs.begin(), docs.end(), [&](const auto& doc) { return doc.name == name; });
    return found == docs.end() ? nullptr : &*found;
}

[[noreturn]] void unknown_command(const std::string& name) {
    for (const auto* later : {"bench", "tune"})
        if (name == later) bad_input("kerf ", name, " is not available in this version");
    std::vector<std::string> known{"help"};
    for (const auto& doc : command_docs()) known.push_back(doc.name);
    const auto near = core::nearest(name, known);
    bad_input("unknown command \"", name, "\"",
              near.empty() ? "; kerf --help lists them" : core::text("; did you mean kerf ", near, "?"));
}

std::vector<OptionDoc> all_options(const CommandDoc& doc) {
    auto out = doc.options;
    out.insert(out.end(), common_options().begin(), common_options().end());
    return out;
}

bool is_switch(const CommandDoc& doc, const std::string& name) {
    const auto options = all_options(doc);
    return std::any_of(options.begin(), options.end(),
                       [&](const auto& option) { return option.name == name && option.argument.empty(); });
}

cxxopts::Options cxxopts_of(const CommandDoc& doc) {
    cxxopts::Options options("kerf " + doc.name, doc.summary);
    for (const auto& option : all_options(doc)) {
        const std::string name = option.name == "help" ? "h,help" : option.name;
        if (option.argument.empty())
            options.add_options()(name, option.help);
        else
            options.add_options()(name, option.help, cxxopts::value<std::vector<std::string>>(), option.argument);
    }
    options.add_options()(positional, "", cxxopts::value<std::vector<std::string>>());
    options.parse_positional(positional);
    return options;
}

/// cxxopts' complaint in our words. It quotes names with ‘ and ’.
std::string complaint(const std::string& theirs, const CommandDoc& doc) {
    constexpr std::string_view open = "‘", close = "’";
    const auto begin = theirs.find(open);
    const auto end = theirs.find(close);
    if (begin == std::string::npos || end == std::string::npos || end < begin) return theirs;
    const std::string name = theirs.substr(begin + open.size(), end - begin - open.size());
    if (theirs.find("does not exist") != std::string::npos) {
        std::vector<std::string> known;
        for (const auto& option : all_options(doc)) known.push_back(option.name);
        const auto near = core::nearest(name, known);
        const std::string dashes = name.size() == 1 ? "-" : "--";
        return core::text("unknown option ", dashes, name, near.empty() ? "" : "; did you mean --" + near + "?");
    }
    if (theirs.find("does not take an argument") != std::string::npos) return core::text("--", name, " takes no value");
    if (theirs.find("an argument") != std::string::npos) return core::text("--", name, " needs a value");
    return core::text("\"", name, "\" is not an option");
}

/// Takes the command's name, of one word or two, off the front.
const CommandDoc& take_command(std::vector<std::string>& arguments) {
    const std::string first = arguments.front();
    if (first.starts_with('-')) bad_input("the command comes first, then its options; kerf --help lists the commands");
    if (arguments.size() > 1) {
        if (const auto* doc = find_doc(first + " " + arguments[1])) {
            arguments.erase(arguments.begin(), arguments.begin() + 2);
            return *doc;
        }
    }
    const auto* doc = find_doc(first);
    if (!doc) unknown_command(first);
    arguments.erase(arguments.begin());
    return *doc;
}

void check_words(const CommandDoc& doc, const std::vector<std::string>& words) {
    std::size_t most = doc.words.empty() ? 0 : 1;
    most += static_cast<std::size_t>(std::count(doc.words.begin(), doc.words.end(), ' '));
    const auto needed = most - static_cast<std::size_t>(std::count(doc.words.begin(), doc.words.end(), '['));
    if (words.size() < needed) bad_input("kerf ", doc.name, " needs ", doc.words, "; see kerf help ", doc.name);
    if (words.size() > most) bad_input("kerf ", doc.name, " does not know what to do with \"", words[most], "\"");
}

std::string overview() {
    std::string out = core::text("kerf ", core::version(),
                                 ": makes large language models smaller\n\nusage: kerf COMMAND [OPTION]...\n\n");
    std::size_t width = 0;
    for (const auto& doc : command_docs()) width = std::max(width, doc.name.size() + doc.words.size() + 1);
    for (const auto& doc : command_docs()) {
        std::string call = doc.name + (doc.words.empty() ? "" : " ") + doc.words;
        call.resize(width, ' ');
        out += "  " + call + "  " + doc.summary + "\n";
    }
    return out + "\nkerf help COMMAND says more. --version prints the version.\n";
}

}  // namespace

void CommandLine::read_arguments(const CommandDoc& doc, const std::vector<std::string>& arguments) {
    std::vector<const char*> raw{"kerf"};
    for (const auto& argument : arguments) raw.push_back(argument.c_str());
    try {
        const auto parsed = cxxopts_of(doc).parse(static_cast<int>(raw.size()), raw.data());
        for (const auto& pair : parsed.arguments()) {
            if (pair.key() == positional)
                words_.push_back(pair.value());
            else if (pair.value() != "false" || !is_switch(doc, pair.key()))
                values_[pair.key()].push_back(pair.value());
        }
    } catch (const cxxopts::exceptions::exception& error) {
        bad_input(complaint(error.what(), doc), "; see kerf help ", doc.name);
    }
}

CommandLine CommandLine::parse(const std::vector<std::string>& arguments) {
    CommandLine out;
    if (arguments.empty()) bad_input("a command is missing; kerf --help lists them");
    const std::string& first = arguments.front();
    if (first == "--version" || first == "--help" || first == "-h" || first == "help") {
        out.command_ = first == "--version" ? "version" : "help";
        if (first != "help") return out;
        std::string name;
        for (std::size_t i = 1; i < arguments.size(); ++i) name += (i > 1 ? " " : "") + arguments[i];
        if (!name.empty() && !find_doc(name)) unknown_command(name);
        out.words_ = {name};
        return out;
    }
    std::vector<std::string> rest = arguments;
    const CommandDoc& doc = take_command(rest);
    out.read_arguments(doc, rest);
    if (out.has("help")) {
        out.command_ = "help";
        out.words_ = {doc.name};
        return out;
    }
    out.command_ = doc.name;
    check_words(doc, out.words_);
    for (const auto& option : all_options(doc))
        if (!option.repeats && out.has(option.name) && out.values_[option.name].size() > 1)
            bad_input("--", option.name, " is given twice");
    return out;
}

std::string CommandLine::text(std::string_view option, std::string otherwise) const {
    const auto found = values_.find(std::string(option));
    if (found == values_.end()) return otherwise;
    if (found->second.back().empty()) bad_input("--", option, " needs a value");
    return found->second.back();
}

std::vector<std::string> CommandLine::list(std::string_view option) const {
    const auto found = values_.find(std::string(option));
    return found == values_.end() ? std::vector<std::string>() : found->second;
}

std::optional<std::int64_t> CommandLine::integer(std::string_view option, std::int64_t least) const {
    if (!has(option)) return {};
    const std::string word = text(option);
    std::int64_t value = 0;
    const auto [end, status] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (status != std::errc() || end != word.data() + word.size() || value < least)
        bad_input("--", option, " ", word, ": a whole number is expected, ", least, " or larger");
    return value;
}

std::optional<double> CommandLine::real(std::string_view option) const {
    if (!has(option)) return {};
    const std::string word = text(option);
    double value = 0;
    const auto [end, status] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (status != std::errc() || end != word.data() + word.size() || !std::isfinite(value))
        bad_input("--", option, " ", word, ": a number is expected");
    return value;
}

std::string help_text(const std::string& command) {
    if (command.empty()) return overview();
    const auto* doc = find_doc(command);
    if (!doc) unknown_command(command);
    std::string out = core::text("usage: kerf ", doc->name, doc->words.empty() ? "" : " ", doc->words,
                                 " [OPTION]...\n\n", doc->summary, "\n\n");
    std::size_t width = 0;
    for (const auto& option : all_options(*doc))
        width = std::max(width, option.name.size() + option.argument.size() + 3);
    for (const auto& option : all_options(*doc)) {
        std::string name = "--" + option.name + (option.argument.empty() ? "" : " ") + option.argument;
        name.resize(width, ' ');
        out += "  " + name + "  " + option.help + (option.repeats ? " (may be repeated)" : "") + "\n";
    }
    if (!doc->examples.empty()) out += "\n";
    for (const auto& example : doc->examples) out += "  " + example + "\n";
    return out;
}

}  // namespace kerf::host
