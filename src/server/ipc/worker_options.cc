#include "server/ipc/worker_options.h"

#include <charconv>

namespace caravan::server {
namespace {

constexpr std::string_view cache = "--cache", unconfined = "--no-confinement", local_links = "--local-links";
constexpr std::string_view threads = "--threads", grace = "--session-grace", links = "--links", device = "--device",
                           max_memory = "--max-memory", cache_size = "--cache-size", cache_dir = "--cache-dir",
                           model_dir = "--model-dir";

template <class Number>
bool parse(const std::string & text, Number & number) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc() && end == text.data() + text.size();
}

bool set_flag(WorkerOptions & options, std::string_view name) {
    if (name == cache) {
        options.weights.keep = true;
    } else if (name == unconfined) {
        options.confined = false;
    } else if (name == local_links) {
        options.local_links = true;
    } else {
        return false;
    }
    return true;
}

bool set_value(WorkerOptions & options, std::string_view name, const std::string & value) {
    if (name == threads) {
        return parse(value, options.threads) && options.threads > 0;
    }
    if (name == grace) {
        seconds::rep count = 0;
        const bool is_valid = parse(value, count) && count >= 0;
        options.session_grace = seconds(count);
        return is_valid;
    }
    if (name == links) {
        auto networks = net::Networks::parse(value);
        const bool is_valid = networks.has_value();
        options.links = std::move(networks).value_or(net::Networks());
        return is_valid;
    }
    if (name == max_memory) {
        return parse(value, options.max_memory);
    }
    if (name == cache_size) {
        return parse(value, options.weights.max_bytes);
    }
    if (name == device) {
        options.devices.push_back(value);
    } else if (name == cache_dir) {
        options.weights.directory = value;
    } else if (name == model_dir) {
        options.weights.model_dirs.emplace_back(value);
    } else {
        return false;
    }
    return true;
}

}  // namespace

std::vector<std::string> to_arguments(const WorkerOptions & options) {
    std::vector<std::string> arguments;
    const auto add = [&](std::string_view name, std::string value) {
        arguments.emplace_back(name);
        arguments.push_back(std::move(value));
    };
    add(threads, std::to_string(options.threads));
    add(grace, std::to_string(options.session_grace.count()));
    if (options.links) {
        add(links, options.links->text());
    }
    if (options.local_links) {
        arguments.emplace_back(local_links);
    }
    for (const std::string & name : options.devices) {
        add(device, name);
    }
    if (options.max_memory != WorkerOptions::no_limit) {
        add(max_memory, std::to_string(options.max_memory));
    }
    if (!options.confined) {
        arguments.emplace_back(unconfined);
    }
    if (options.weights.keep) {
        arguments.emplace_back(cache);
        add(cache_size, std::to_string(options.weights.max_bytes));
    }
    if (!options.weights.directory.empty()) {
        add(cache_dir, options.weights.directory.string());
    }
    for (const std::filesystem::path & dir : options.weights.model_dirs) {
        add(model_dir, dir.string());
    }
    return arguments;
}

Result<WorkerOptions> from_arguments(std::span<const std::string> arguments) {
    WorkerOptions options;
    for (size_t i = 0; i < arguments.size(); ++i) {
        if (set_flag(options, arguments[i])) {
            continue;
        }
        if (i + 1 == arguments.size() || !set_value(options, arguments[i], arguments[i + 1])) {
            return fail(Errc::invalid_argument, "unknown or invalid option {}", arguments[i]);
        }
        ++i;
    }
    return options;
}

}  // namespace caravan::server
