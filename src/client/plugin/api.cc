#include "client/plugin/api.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/printable.h"
#include "client/plugin/registry.h"

namespace caravan::client {
namespace {

constexpr uint32_t max_timeout_s = 7 * 24 * 3600;
constexpr size_t max_text = 4096;  // bytes

// Version 1 was published with these layouts; members may only be added at the end.
static_assert(offsetof(caravan_server_options, reply_timeout_s) == 20 && sizeof(caravan_server_options) == 24);
static_assert(sizeof(caravan_counts) == 64);
static_assert(offsetof(caravan_statistics, transport) == 24 && offsetof(caravan_statistics, whole) == 56 &&
              offsetof(caravan_statistics, min_round_trip_ns) == 208 && sizeof(caravan_statistics) == 216);
static_assert(offsetof(caravan_api_v1, last_error) == 72 && sizeof(caravan_api_v1) == 80);

thread_local std::string failure;

caravan_status status_of(Errc code) {
    switch (code) {
        case Errc::invalid_argument: return CARAVAN_INVALID_ARGUMENT;
        case Errc::not_found: return CARAVAN_NOT_FOUND;
        case Errc::unavailable:
        case Errc::closed:
        case Errc::reset: return CARAVAN_UNAVAILABLE;
        case Errc::timed_out: return CARAVAN_TIMED_OUT;
        case Errc::protocol:
        case Errc::unsupported: return CARAVAN_INCOMPATIBLE;
        default: return CARAVAN_FAILED;
    }
}

// Runs `function`, which returns a Result<>; nothing is thrown into C.
template <class Function>
caravan_status report(Function function) noexcept {
    try {
        const Result<> result = function();
        if (result) {
            return CARAVAN_OK;
        }
        const Error & error = result.error();
        failure = printable(error.advice.empty() ? error.text : error.text + ": " + error.advice, max_text);
        return status_of(error.code);
    } catch (...) {
        failure.clear();  // no memory
        return CARAVAN_FAILED;
    }
}

Registry::Server * server_of(const caravan_server * server) {
    return const_cast<Registry::Server *>(reinterpret_cast<const Registry::Server *>(server));
}

Result<> set_server(Result<Registry::Server *> found, caravan_server ** server) {
    if (!found) {
        return std::unexpected(found.error());
    }
    *server = reinterpret_cast<caravan_server *>(*found);
    return {};
}

std::unexpected<Error> is_null(std::string_view argument) {
    return fail(Errc::invalid_argument, "{}: null pointer", argument);
}

caravan_status add_server(const caravan_server_options * options, caravan_server ** server) {
    return report([&]() -> Result<> {
        if (options == nullptr || server == nullptr) {
            return is_null("add_server");
        }
        if (options->size < sizeof *options || options->endpoint == nullptr) {
            return fail(Errc::invalid_argument, "caravan_server_options: set size and endpoint");
        }
        if (std::max(options->connect_timeout_s, options->reply_timeout_s) > max_timeout_s) {
            return fail(Errc::invalid_argument, "caravan_server_options: a time-out of more than {} s", max_timeout_s);
        }
        ConnectionOptions timeouts;
        if (options->connect_timeout_s != 0) {
            timeouts.connect_timeout = seconds(options->connect_timeout_s);
        }
        if (options->reply_timeout_s != 0) {
            timeouts.reply_timeout = seconds(options->reply_timeout_s);
        }
        return set_server(Registry::instance().try_to_add(options->endpoint, timeouts), server);
    });
}

caravan_status find_server(const char * endpoint, caravan_server ** server) {
    return report([&]() -> Result<> {
        if (endpoint == nullptr || server == nullptr) {
            return is_null("find_server");
        }
        return set_server(Registry::instance().find_server(endpoint), server);
    });
}

size_t device_count(const caravan_server * server) { return server == nullptr ? 0 : server_of(server)->devices.size(); }

ggml_backend_dev_t device(const caravan_server * server, size_t index) {
    return index < device_count(server) ? server_of(server)->devices[index]->ggml_device() : nullptr;
}

ggml_backend_reg_t registry(const caravan_server * server) {
    return server == nullptr ? nullptr : Registry::instance().entry_of(*server_of(server));
}

caravan_counts counts_of(const Tally & tally) {
    return {.duration_ns = static_cast<uint64_t>(tally.seconds * 1e9),
            .sends = tally.stream.sends,
            .bytes_sent = tally.stream.bytes_sent,
            .bytes_received = tally.stream.bytes_received,
            .round_trips = tally.stream.round_trips,
            .launches = tally.launches,
            .waiting_ns = tally.stream.waiting_ns,
            .sending_ns = tally.stream.sending_ns};
}

int32_t state_of(SessionRecord::State state) {
    switch (state) {
        case SessionRecord::State::open: return CARAVAN_SESSION_OPEN;
        case SessionRecord::State::closed: return CARAVAN_SESSION_CLOSED;
        case SessionRecord::State::lost: break;
    }
    return CARAVAN_SESSION_LOST;
}

template <size_t size>
void store_text(char (&field)[size], std::string_view text) {
    field[text.copy(field, size - 1)] = '\0';
}

caravan_status get_statistics(const caravan_server * server, caravan_statistics * statistics) {
    return report([&]() -> Result<> {
        if (server == nullptr || statistics == nullptr) {
            return is_null("get_statistics");
        }
        if (statistics->size < sizeof *statistics) {
            return fail(Errc::invalid_argument, "caravan_statistics: set size");
        }
        RemoteServer & remote = *server_of(server)->remote;
        const auto latest = remote.history().latest();
        if (!latest) {
            return fail(Errc::not_found, "RPC server {}: no session was opened", remote.endpoint().text());
        }
        const SessionStats & stats = latest->stats;
        caravan_statistics out{.size = sizeof out,
                               .session = latest->number,
                               .state = state_of(latest->state),
                               .reserved = 0,
                               .transport = {},
                               .dialect = {},
                               .whole = counts_of(stats.whole),
                               .since_load = counts_of(stats.since_load),
                               .weight_bytes = stats.weights.bytes,
                               .weight_bytes_from_cache = stats.weights.from_cache,
                               .weight_ns = static_cast<uint64_t>(stats.weights.seconds() * 1e9),
                               .min_round_trip_ns = stats.round_trip_ns.value_or(0)};
        store_text(out.transport, text_of(stats.transport));
        store_text(out.dialect, stats.dialect);
        *statistics = out;
        return {};
    });
}

caravan_status set_loss_callback(caravan_server * server, caravan_loss_callback callback, void * user_data) {
    return report([&]() -> Result<> {
        if (server == nullptr) {
            return is_null("set_loss_callback");
        }
        SessionHistory::LossCallback notify;
        if (callback != nullptr) {
            notify = [=](const Error & error) { callback(server, printable(error.text, max_text).c_str(), user_data); };
        }
        server_of(server)->remote->history().set_loss_callback(std::move(notify));
        return {};
    });
}

const char * last_error() { return failure.c_str(); }

}  // namespace

const caravan_api_v1 & api_v1() {
    static constexpr caravan_api_v1 only{.size = sizeof only,
                                         .version = CARAVAN_VERSION,
                                         .add_server = add_server,
                                         .find_server = find_server,
                                         .device_count = device_count,
                                         .device = device,
                                         .registry = registry,
                                         .get_statistics = get_statistics,
                                         .set_loss_callback = set_loss_callback,
                                         .last_error = last_error};
    return only;
}

}  // namespace caravan::client
