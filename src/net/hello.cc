#include "net/hello.h"

#include "base/config.h"
#include "net/exact_io.h"
#include "wire/frame.h"
#include "wire/native.h"
#ifdef GGML_RPC_RDMA
#include "net/rdma/verbs.h"
#endif

namespace caravan::net {

const std::string & why_no_rdma() {
#ifdef GGML_RPC_RDMA
    static const std::string why = rdma::load_verbs() ? "" : rdma::load_verbs().error().text;
#else
    static const std::string why = "built without it (-DGGML_RPC_RDMA=ON)";
#endif
    return why;
}

wire::Extension own_extension() {
    wire::Extension extension;
    extension.features = wire::feature_admission | wire::feature_confirm | (dialect_is_native() ? wire::feature_native : 0);
    if (shares_memory()) {
        extension.features |= wire::feature_shared_memory;
    }
    if (reconnect_time().count() > 0) {
        extension.features |= wire::feature_resume;
    }
    if (transport_mode() != TransportMode::tcp && why_no_rdma().empty()) {
        extension.features |= wire::feature_rdma | wire::feature_rails;
    }
    if (built_with_rdma && transport_mode() == TransportMode::rdma) {
        extension.features |= wire::feature_only_rdma;
    }
    return extension;
}

Result<wire::HelloReply> exchange_hello(SocketHandle socket, uint64_t token, TimePoint deadline) {
    wire::Extension extension = own_extension();
    extension.token = token;
    return exchange_hello(socket, load<wire::HelloRequest>(const_bytes(&extension, sizeof extension).data()), deadline);
}

Result<wire::HelloReply> exchange_hello(SocketHandle socket, const wire::HelloRequest & hello, TimePoint deadline) {
    auto done = send_exact(socket, wire::frame(wire::Command::hello, hello), deadline);
    uint64_t size = 0;
    wire::HelloReply reply{};
    done = done ? receive_exact(socket, mutable_bytes(&size, sizeof size), deadline) : done;
    if (done && size != sizeof reply) {
        done = fail(Errc::protocol, "the reply is not an RPC protocol message");
    }
    done = done ? receive_exact(socket, mutable_bytes(&reply, sizeof reply), deadline) : done;
    return done ? Result<wire::HelloReply>(reply) : std::unexpected(done.error());
}

bool is_compatible(const wire::HelloReply & server) {
    return server.major == wire::stock_major && server.minor <= wire::stock_minor;
}

}  // namespace caravan::net
