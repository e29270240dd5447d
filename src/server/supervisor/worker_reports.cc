#include "server/supervisor/worker_reports.h"

#include "base/log.h"

namespace caravan::server {
namespace {

constexpr uint32_t max_devices = 4096;  // of one server

}  // namespace

void WorkerReports::receive(const ControlMessage & message) {
    switch (message.kind) {
        case ControlMessage::Kind::confined:
            if (!confinement_.empty() && confinement_ != message.text) {
                log_warning("a worker process is not confined as those before it: {}", message.text);
            }
            confinement_ = message.text;
            break;
        case ControlMessage::Kind::cache:
            cache_is_readable_ = message.count != 0;
            if (cache_problem_ != message.text) {
                cache_problem_ = message.text;
                if (cache_problem_.empty()) {
                    log_info("weight cache: weights are kept again");
                } else {
                    log_warning("{}; sessions go on, and weights are not kept", cache_problem_);
                }
            }
            break;
        case ControlMessage::Kind::note:
            if (last_note_ != message.text) {
                last_note_ = message.text;
                log_info("{}", last_note_);
            }
            break;
        case ControlMessage::Kind::device:
            if (message.number < message.count && message.count <= max_devices) {
                devices_.resize(message.count);
                devices_[message.number] = message;
            }
            break;
        default: break;
    }
}

}  // namespace caravan::server
