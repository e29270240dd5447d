#include "tools/command_line.h"

#include <algorithm>
#include <charconv>
#include <memory>

#include "base/formatted.h"
#include "base/printable.h"
#include "base/size_text.h"

namespace caravan::tools {
namespace {

constexpr size_t column = 26;  // where descriptions begin
constexpr size_t width = 100;
constexpr int64_t unlimited = 1 << 30;  // from here on, a limit is not worth mentioning

// get_type_name() is the name of the type and the text of a validator: "INT:INT in [1 - 4096]".
std::string value_name(const CLI::Option & option) {
    if (!option.get_option_text().empty()) {
        return option.get_option_text();
    }
    if (option.get_type_size() == 0) {
        return "";  // a flag
    }
    const std::string type = option.get_type_name();
    if (const size_t open = type.find('{'); open != type.npos) {
        std::string words = type.substr(open + 1, type.find('}', open) - open - 1);
        std::ranges::replace(words, ',', '|');
        return words;
    }
    const std::string name = type.substr(0, type.find(':'));
    return name == "INT" || name == "UINT" || name == "FLOAT" ? "N" : name;
}

std::string range_text(const CLI::Option & option) {
    const std::string type = option.get_type_name();
    const size_t begin = type.find(" in ["), middle = type.find(" - ", begin), end = type.find(']', begin);
    if (begin == type.npos || middle == type.npos || end == type.npos) {
        return "";
    }
    const std::string low = type.substr(begin + 5, middle - begin - 5), high = type.substr(middle + 3, end - middle - 3);
    return formatted("; {} to {}", low, high);
}

// A description may end with a default in brackets; the range precedes it.
std::string text_of(const CLI::Option & option) {
    std::string out = option.get_description();
    out.insert(out.ends_with(']') ? out.rfind(" [") : out.size(), range_text(option));
    out += option.get_required() ? " (required)" : "";
    return out + (option.get_default_str().empty() ? "" : formatted(" [{}]", option.get_default_str()));
}

std::string names_of(const CLI::Option & option) {
    if (option.get_positional()) {
        return "";
    }
    std::string out = option.get_snames().empty() ? "    " : "-" + option.get_snames().front() + ", ";
    for (const std::string & name : option.get_lnames()) {
        out += (out.ends_with(' ') ? "--" : ", --") + name;
    }
    return out + (value_name(option).empty() ? "" : " ");
}

// Appends `text`, wrapped between `column` and `width`. `at` is the current column.
void put_wrapped(std::string & out, std::string_view text, size_t at) {
    out.append(column - at, ' ');
    at = column;
    while (!text.empty()) {
        const size_t end = std::min(text.find(' '), text.size());
        if (at + end > width && at > column) {
            out.back() = '\n';
            out.append(column, ' ');
            at = column;
        }
        out += text.substr(0, end);
        out += ' ';
        at += end + 1;
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    out.back() = '\n';
}

class HelpFormatter : public CLI::Formatter {
public:
    std::string make_help(const CLI::App * app, std::string, CLI::AppFormatMode) const override {
        std::string out = formatted("{}\n\nUsage: {} {}\n", app->get_description(), app->get_name(), app->get_usage());
        put_all(out, "Arguments", app->get_options([](const CLI::Option * option) { return option->get_positional(); }));
        put_all(out, "Options", app->get_options([](const CLI::Option * option) {
            return option->nonpositional() && !option->get_group().empty();
        }));
        return out + app->get_footer() + "\n";
    }

private:
    static void put_all(std::string & out, std::string_view title, const std::vector<const CLI::Option *> & options) {
        if (!options.empty()) {
            out += formatted("\n{}:\n", title);
        }
        for (const CLI::Option * option : options) {
            const std::string left = "  " + names_of(*option) + value_name(*option);
            const bool is_wide = left.size() + 2 > column;
            out += left + (is_wide ? "\n" : "");
            put_wrapped(out, text_of(*option), is_wide ? 0 : left.size());
        }
    }
};

// CLI11 prints the type of a missing value, not its name, and the same for an option that is given twice.
std::string failure_text(const CLI::App & app, const CLI::Error & error) {
    const std::string text = error.what();
    const CLI::Option * option = app.get_option_no_throw(text.substr(0, text.find(':')));
    if (error.get_exit_code() != static_cast<int>(CLI::ExitCodes::ArgumentMismatch) || option == nullptr) {
        return text;
    }
    if (std::ranges::count(app.parse_order(), option) > 1) {
        return formatted("{}: given more than once", option->get_name());
    }
    const std::string name = value_name(*option);
    return formatted("{}: the value is missing{}", option->get_name(),
                     name.empty() ? "" : formatted(": {} {}", option->get_name(), name));
}

}  // namespace

void set_up(CLI::App & app, const std::string & usage, const std::string & version, const char * footer) {
    app.formatter(std::make_shared<HelpFormatter>());
    app.usage(usage);
    app.footer(footer);
    app.set_help_flag("-h,--help", "print this help and exit");
    app.set_version_flag("--version", version, "print the version and exit");
    app.failure_message([](const CLI::App * failed, const CLI::Error & error) {
        return formatted("{}\n{} --help lists the options.\n", failure_text(*failed, error), failed->get_name());
    });
}

CLI::Validator whole_number(int64_t low, int64_t high, const std::string & example) {
    return CLI::Validator(
        [=](std::string & text) {
            int64_t number = 0;
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
            if (error == std::errc() && end == text.data() + text.size() && number >= low && number <= high) {
                return std::string();
            }
            const std::string range =
                high < unlimited ? formatted("from {} to {}", low, high) : formatted("of {} or more", low);
            return formatted("\"{}\" is not a whole number {}; write, for example, {}", printable(text), range, example);
        },
        formatted("INT in [{} - {}]", low, high));
}

CLI::Validator one_of(const std::vector<std::string> & words) {
    return CLI::Validator(
        [=](std::string & text) {
            if (std::ranges::contains(words, text)) {
                return std::string();
            }
            std::string accepted;
            for (const std::string & word : words) {
                accepted += (accepted.empty() ? "" : word == words.back() ? " or " : ", ") + word;
            }
            return formatted("\"{}\" is not {}", printable(text), accepted);
        },
        "");
}

CLI::Validator as_size(uint64_t least, const std::string & zero) {
    return CLI::Validator(
        [=](std::string & text) {
            const auto bytes = parse_size(text);
            if (!bytes) {
                return formatted("\"{}\" is not a size: write 500M, 1.5G or 50GiB (K, M, G and T are powers of 1024)",
                                 printable(text));
            }
            if (*bytes < least && (*bytes > 0 || zero.empty())) {
                return formatted("{} is too little: the minimum is {}{}; write, for example, 500M or 50G", size_text(*bytes),
                                 size_text(least), zero.empty() ? "" : formatted(" (0: {})", zero));
            }
            text = std::to_string(*bytes);
            return std::string();
        },
        "");
}

}  // namespace caravan::tools
