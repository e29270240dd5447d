#include "bench/installed.h"

#include <filesystem>
#include <ranges>
#include <string_view>

#include "base/environment.h"
#include "platform/file.h"
#include "platform/process.h"

namespace caravan::bench {
namespace {

namespace fs = std::filesystem;

constexpr const char * plugin_file = "libggml-rpc-caravan.so";
constexpr std::string_view initialized = "calling init: ";  // printed by glibc

bool is_program(const fs::path & path) {
    std::error_code error;
    return fs::is_regular_file(path, error) && platform::may_execute(path);
}

// The libraries that llama-bench loaded, from its stderr under LD_DEBUG=files.
struct Loaded {
    bool known = false;    // the loader printed its libraries
    bool ours = false;     // the plug-in of the settings
    bool refused = false;  // the plug-in was loaded, but does not fit this ggml
    std::string other;     // a plug-in that outranks stock; may be empty
};

Loaded loaded_by(const Child & child, const std::string & plugin) {
    Loaded out;
    std::error_code error;
    for (const Child::Line & line : child.err) {
        out.refused |= line.text.contains("plug-in is disabled");
        const size_t at = line.text.find(initialized);
        if (at == line.text.npos) {
            continue;
        }
        const fs::path library = line.text.substr(at + initialized.size());
        out.known = true;
        if (fs::equivalent(library, plugin, error)) {
            out.ours = true;
        }
        if (library.filename().string().starts_with("libggml-rpc-")) {
            out.other = library.string();
        }
    }
    return out;
}

}  // namespace

Result<std::string> find_llama_bench() {
    if (const std::string_view named = text_of(variable::llama_bench); !named.empty()) {
        if (is_program(named)) {
            return fs::absolute(named).string();
        }
        return fail(Errc::not_found, "LLAMA_BENCH={} is not an executable file", named);
    }
    for (const auto part : std::views::split(text_of(variable::path), ':')) {
        const fs::path folder(std::string_view(part.begin(), part.end()));
        // A llama-bench beside a plug-in is a launcher, which would load the plug-in in every arrangement.
        if (!folder.empty() && is_program(folder / "llama-bench") && !fs::exists(folder / plugin_file)) {
            return fs::absolute(folder / "llama-bench").string();
        }
    }
    return fail(Errc::not_found, "llama-bench is not on PATH: install llama.cpp's tools (Debian: apt install "
                                 "llama.cpp-tools), or name the program in LLAMA_BENCH");
}

Result<std::string> find_plugin() {
    std::error_code error;
    const fs::path folder = platform::program_path().parent_path();
    const fs::path below_prefix = folder.parent_path() / CARAVAN_BACKEND_DIR_BELOW_PREFIX;  // cmake --install --prefix
    for (const fs::path & path :
         {folder / plugin_file, below_prefix / plugin_file, fs::path(CARAVAN_BACKEND_DIR) / plugin_file}) {
        if (fs::exists(path, error)) {
            return path.string();
        }
    }
    return fail(Errc::not_found, "no {} beside this program, in {} or in {}: build it, or name it with --plugin",
                plugin_file, below_prefix.string(), CARAVAN_BACKEND_DIR);
}

Result<> check(const Arrangement & arrangement, const Settings & settings, TimePoint deadline) {
    if (arrangement.endpoints.empty()) {
        return {};
    }
    Environment environment = environment_of(arrangement, settings);
    environment["LD_DEBUG"] = "files";  // glibc names each library that it initializes
    const auto child =
        run_child({settings.program, "--rpc", arrangement.servers(), "--list-devices"}, environment, deadline);
    if (!child) {
        return std::unexpected(child.error());
    }
    const Loaded loaded = loaded_by(*child, settings.plugin);
    if (is_ours(arrangement.kind) && loaded.known && (!loaded.ours || loaded.refused)) {
        return fail(Errc::unsupported, "llama-bench does not load the plug-in {}{}", settings.plugin,
                    loaded.refused ? ": it was built for another ggml" : "");
    }
    if (is_stock(arrangement.kind) && !loaded.other.empty() && !loaded.refused) {
        return fail(Errc::unavailable, "{} is installed and outranks ggml's own plug-in: move it away for this run",
                    loaded.other);
    }
    for (const std::string & endpoint : arrangement.endpoints) {
        if (!child->succeeded() || !child->out.contains(endpoint)) {
            return fail(Errc::unavailable, "llama-bench gets no device from {} ({}); run rpc-doctor {} for the reason",
                        endpoint, child->exit_text(), endpoint);
        }
    }
    return {};
}

}  // namespace caravan::bench
