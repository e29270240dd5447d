#include "server/worker/indexer.h"

#include <cstdlib>

#include "base/counted.h"
#include "base/log.h"
#include "base/size_text.h"
#include "cache/digest_file.h"
#include "indexer/indexer.h"
#include "platform/poll.h"
#include "platform/process_control.h"
#include "server/confine/confinement.h"
#include "server/ipc/server_log.h"
#include "wire/native.h"

namespace caravan::server {
int run_indexer(int line, const WorkerOptions & options) {
    const cache::WeightOptions & weights = options.weights;
    // ^C reaches the whole process group; the supervisor decides.
    platform::ignore({platform::Condition::interrupt, platform::Condition::file_too_long});
    platform::lower_priority();
    const std::vector<cache::ModelFile> models = cache::models_to_index(weights.directory, weights.model_dirs);
    if (options.confined) {
        (void)cache::open_digests(weights.directory);  // index_models() reports an error
        FileRules files = indexer_rules(cache::layout_in(weights.directory));
        for (const cache::ModelFile & model : models) {
            files.readable_files.push_back(model.target);
        }
        // The result is ignored: the workers report the confinement to the supervisor.
        confine({.network = Network::none, .files = std::move(files)});
    }
    const auto stop = [line] {
        platform::Watch watch{line, platform::readable, 0};
        return platform::poll({&watch, 1}, 0).value_or(0) > 0;
    };
    const auto report = cache::index_models(weights.directory, weights.model_dirs, models, stop);
    if (!report) {
        log_error("model-dir: {}", report.error().text);
    } else if (models.empty()) {
        log_warning("model-dir: there is no *.gguf file");
    } else if (report->tensors == 0 && !stop()) {
        log_warning("model-dir: nothing can be loaded from here: no tensor of more than {} in {}",
                    size_text(wire::find_threshold), counted(models.size(), "model file"));
    } else if (!stop()) {
        log_info("model-dir: {} of {}, {}, can be loaded from here ({} of them hashed now)", counted(report->tensors, "tensor"),
                 counted(report->files, "file"), size_text(report->bytes), report->hashed);
    }
    end_server_log();
    return report ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace caravan::server
