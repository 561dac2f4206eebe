// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::host {

/// One option of a command.
struct OptionDoc {
    std::string name;      ///< without dashes
    std::string argument;  ///< what its value is called in the help; empty for a switch
    std::string help;
    bool repeats = false;
};

/// One command: what it takes and what its help says.
struct CommandDoc {
    std::string name;  ///< "run", "plugins describe"
    std::string
        words;  ///< "RECIPE", "MODEL [PROMPT]": one upper-case word an argument, in brackets where it may be missing
    std::string summary;  ///< a sentence
    std::vector<OptionDoc> options;
    std::vector<std::string> examples;
};

/// Every command, in the order of the help.
const std::vector<CommandDoc>& command_docs();
/// Options that every command takes.
const std::vector<OptionDoc>& common_options();

/// A command line, checked against command_docs().
class CommandLine {
public:
    /// `arguments`: without the program's name. Error(input) on anything unknown, missing or of the wrong kind.
    static CommandLine parse(const std::vector<std::string>& arguments);

    /// A name of command_docs(), "help" or "version".
    const std::string& command() const noexcept { return command_; }
    const std::vector<std::string>& words() const noexcept { return words_; }
    bool has(std::string_view option) const { return values_.contains(std::string(option)); }
    std::string text(std::string_view option, std::string otherwise = {}) const;
    std::vector<std::string> list(std::string_view option) const;
    /// Error(input) unless it is a whole number, `least` or larger.
    std::optional<std::int64_t> integer(std::string_view option, std::int64_t least) const;
    /// Error(input) unless it is a finite number.
    std::optional<double> real(std::string_view option) const;

private:
    void read_arguments(const CommandDoc& doc, const std::vector<std::string>& arguments);

    std::string command_;
    std::vector<std::string> words_;
    std::map<std::string, std::vector<std::string>> values_;
};

/// The help of a command, or of kerf itself for an empty name. Error(input) on an unknown one.
std::string help_text(const std::string& command);

}  // namespace kerf::host
