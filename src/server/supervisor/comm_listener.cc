#include "server/supervisor/comm_listener.h"

#include <algorithm>
#include <utility>

#include "base/formatted.h"
#include "wire/stock_comm.h"

namespace caravan::server {

using Step = ControlMessage::Step;

CommListener::CommListener(const ServerOptions & options, WorkerPool & workers) : options_(options), workers_(workers) {
    workers_.on_comm = [this](WorkerProcess & worker, const ControlMessage & question) { reply(worker, question); };
}

Result<> CommListener::set_port(uint16_t server_port) {
    const uint32_t port = server_port + wire::comm_port_offset;
    if (port > 0xffff) {
        return fail(Errc::invalid_argument, "--stock-comm: clients expect port {}, {} above that of the server, and there is "
                    "none; use a lower port", port, wire::comm_port_offset);
    }
    port_ = static_cast<uint16_t>(port);
    // Released at once: rank 1 tries again for as long as connections are refused, but not after one was closed.
    return net::bind_to(options_.host, port_).transform([](const auto &) {}).transform_error([&](Error error) {
        return Error{error.code, formatted("--stock-comm needs port {} as well: {}", port_, error.text)};
    });
}

WorkerProcess * CommListener::holder() {
    const auto worker = std::ranges::find(workers_.all(), holder_, &WorkerProcess::pid);
    const bool is_there = worker != workers_.all().end() && worker->control &&
                          worker->state == WorkerProcess::State::serving && !worker->end_reported;
    return is_there ? &*worker : nullptr;
}

void CommListener::update() {
    if (holder_ != -1 && holder() == nullptr) {
        holder_ = -1;
    }
    if (holder_ == -1) {
        listeners_.clear();
        question_ = 0;
    }
}

Result<> CommListener::reserve(const WorkerProcess & worker) {
    update();
    if (!options_.stock_comm) {
        return fail(Errc::unavailable, "this server runs without --stock-comm");
    }
    if (holder_ != -1 && holder_ != worker.pid) {
        return fail(Errc::unavailable, "another session adds up tensors with a stock client's servers, and only one can");
    }
    holder_ = worker.pid;
    return {};
}

Result<> CommListener::listen(const WorkerProcess & worker, const ControlMessage & question) {
    update();
    if (holder_ != worker.pid) {
        return fail(Errc::unavailable, "the session has not reserved the comm");
    }
    if (question.port != port_) {
        return fail(Errc::unavailable, "the client expects this server at port {}, but {} is reserved", question.port, port_);
    }
    if (listeners_.empty()) {
        auto listeners = net::listen_on(options_.host, port_);
        if (!listeners) {
            return std::unexpected(listeners.error());
        }
        listeners_ = std::move(*listeners);
    }
    question_ = question.number;
    return {};
}

void CommListener::reply(WorkerProcess & worker, const ControlMessage & question) {
    Result<> done;
    switch (question.step) {
        case Step::reserve: done = reserve(worker); break;
        case Step::accept:
            if (done = listen(worker, question); done) {
                return;  // the reply is a connection
            }
            break;
        case Step::stop:
        case Step::release:
            if (holder_ == worker.pid) {
                listeners_.clear();
                question_ = 0;
                holder_ = question.step == Step::release ? -1 : holder_;
            }
            return;
        default: return;
    }
    send_reply(worker, question.step, question.number, done);
}

void CommListener::send_reply(const WorkerProcess & worker, Step step, uint32_t number, const Result<> & done) {
    ControlMessage reply{.kind = ControlMessage::Kind::comm, .step = step, .number = number, .count = done ? 1u : 0u};
    reply.set_text(done ? "" : done.error().text);
    send_control(worker.control.get(), reply);
}

void CommListener::accept() {
    WorkerProcess * const worker = holder();
    for (const net::Listener & listener : listeners_) {
        if (worker == nullptr || question_ == 0) {
            return;
        }
        const auto socket = net::accept_socket(listener.fd.get());
        if (!socket) {
            send_reply(*worker, Step::accept, std::exchange(question_, 0), std::unexpected(socket.error()));
        } else if (*socket) {
            const ControlMessage connection{
                .kind = ControlMessage::Kind::comm, .step = Step::accept, .number = question_, .count = 1};
            if (send_control(worker->control.get(), connection, socket->get())) {
                question_ = 0;
            }
        }
    }
}

}  // namespace caravan::server
