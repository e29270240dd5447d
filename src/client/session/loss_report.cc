#include "client/session/loss_report.h"

#include "base/config.h"
#include "base/log.h"
#include "client/session/end_program.h"
#include "client/session/session_history.h"
#include "tunables/client.h"

namespace caravan::client {

void LossReport::report(const Error & error) {
    if (!is_needed_) {
        return;
    }
    if (on_loss() == OnLoss::exit) {
        end_program(formatted("RPC server {} is lost: {} (GGML_RPC_ON_LOSS=exit)", endpoint_.text(), error.text));
    }
    if (is_reported_.exchange(true)) {
        return;
    }
    log_error("RPC server {} is lost: {}. Calls to its devices fail; load the model again once the server is back",
              endpoint_.text(), error.text);
    logged_at_ = Clock::now();
    if (history_ != nullptr) {
        history_->notify_loss(error);
    }
}

void LossReport::repeat(const Error & error, TimePoint now) {
    TimePoint logged_at = logged_at_;
    if (is_needed_ && logged_at != no_deadline && now - logged_at >= tunable::loss_repeat_interval &&
        logged_at_.compare_exchange_strong(logged_at, now)) {
        log_error("RPC server {}: graph not computed: the server was lost ({})", endpoint_.text(), error.text);
    }
}

}  // namespace caravan::client
