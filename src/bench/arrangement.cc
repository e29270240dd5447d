#include "bench/arrangement.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace caravan::bench {
namespace {

constexpr std::array<std::pair<Kind, std::string_view>, 8> names{{{Kind::caravan, "caravan"},
                                                                   {Kind::one, "one"},
                                                                   {Kind::tensor, "tensor"},
                                                                   {Kind::tcp, "tcp"},
                                                                   {Kind::rdma, "rdma"},
                                                                   {Kind::stock, "stock"},
                                                                   {Kind::stock_tensor, "stock-tensor"},
                                                                   {Kind::local, "local"}}};
constexpr const char * all_layers = "999";


}  // namespace

Result<Kind> parse_kind(std::string_view name) {
    const auto found = std::ranges::find(names, name, &std::pair<Kind, std::string_view>::second);
    if (found == names.end()) {
        return fail(Errc::invalid_argument, "\"{}\" is not an arrangement: use one of {}", name, other_names());
    }
    return found->first;
}

std::string_view name_of(Kind kind) {
    return std::ranges::find(names, kind, &std::pair<Kind, std::string_view>::first)->second;
}

std::string other_names() {
    std::string out;
    for (const auto & [kind, name] : std::span(names).subspan(1)) {
        out += (out.empty() ? "" : ", ") + std::string(name);
    }
    return out;
}

std::string Arrangement::servers() const {
    std::string out;
    for (const std::string & endpoint : endpoints) {
        out += (out.empty() ? "" : ",") + endpoint;
    }
    return out;
}

Environment environment_of(const Arrangement & arrangement, const Settings & settings) {
    // Servers in GGML_RPC_SERVERS would add devices to every run, including the local one.
    Environment out{{"GGML_RPC_SERVERS", ""}, {"GGML_BACKEND_PATH", is_ours(arrangement.kind) ? settings.plugin : ""}};
    if (arrangement.kind == Kind::tcp || arrangement.kind == Kind::rdma) {
        out["GGML_RPC_TRANSPORT"] = arrangement.name();
    }
    return out;
}

std::vector<std::string> command_of(const Arrangement & arrangement, const Settings & settings) {
    std::vector<std::string> out{settings.program, "-m", settings.model, "-o", "json", "--progress"};
    const auto add = [&](const char * option, const std::string & value) { out.insert(out.end(), {option, value}); };
    add("-p", std::to_string(settings.prompt));
    add("-n", std::to_string(settings.generate));
    add("-r", std::to_string(settings.repetitions));
    if (settings.threads != 0) {
        add("-t", std::to_string(settings.threads));
    }
    const bool local = arrangement.endpoints.empty();
    if (!local) {
        add("--rpc", arrangement.servers());
    }
    const std::string & device = local ? settings.local_device : settings.device;
    if (!device.empty()) {
        add("-dev", device);
    } else if (local) {
        add("-dev", "none");
    }
    add("-ngl", local && device.empty() ? "0" : all_layers);
    if (is_split_by_tensors(arrangement.kind)) {
        add("-sm", "tensor");
        if (!std::ranges::contains(settings.more, "-fa") && !std::ranges::contains(settings.more, "--flash-attn")) {
            add("-fa", "1");  // which it requires
        }
    }
    out.insert(out.end(), settings.more.begin(), settings.more.end());
    return out;
}

}  // namespace caravan::bench
