#include "client/session/loss_report.h"

#include "base/config.h"
#include "base/log.h"
#include "client/session/end_program.h"
#include "client/session/session_history.h"

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
    if (history_ != nullptr) {
        history_->notify_loss(error);
    }
}

}  // namespace caravan::client
