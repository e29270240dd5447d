#include "cache/weights.h"

#include <utility>

namespace caravan::cache {

Weights::Weights(const WeightOptions & options) {
    if (options.keep) {
        if (auto store = Store::open(options.directory, options.max_bytes)) {
            store_.emplace(std::move(*store));
            problem_ = store_->problem();
        } else {
            problem_ = store.error().text;
        }
    }
    if (!options.model_dirs.empty()) {
        (void)open_digests(options.directory);  // the indexer logs a failure
        models_.emplace(options.directory, options.model_dirs);
    }
}

namespace {

std::optional<Reader> mark_from_model(std::optional<Reader> found) {
    if (found) {
        found->set_from_model();
    }
    return found;
}

}  // namespace

std::optional<Reader> Weights::find(uint64_t fnv, uint64_t size) {
    auto found = models_ ? mark_from_model(models_->find(fnv, size)) : std::nullopt;
    return found || !store_ ? std::move(found) : store_->find(fnv, size);
}

std::optional<Reader> Weights::find_digest(std::string_view hex, uint64_t size) {
    auto found = models_ ? mark_from_model(models_->find_digest(hex, size)) : std::nullopt;
    return found || !store_ ? std::move(found) : store_->find_digest(hex, size);
}

std::optional<Reader> Weights::find_part(std::string_view hex, const Rows & part, std::string_view tensor_hex,
                                         uint64_t tensor_size) {
    auto found = find_digest(hex, part.bytes());
    if (!found) {
        found = find_digest(tensor_hex, tensor_size);
        if (found) {
            found->narrow(part, hex);
        }
    }
    return found;
}

void Weights::seal() {
    if (store_) {
        store_->seal();
    }
}

std::vector<std::filesystem::path> Weights::model_files() const {
    return models_ ? models_->targets() : std::vector<std::filesystem::path>();
}

std::optional<Writer> Weights::begin(uint64_t size, Keys keys) const {
    return store_ ? store_->begin(size, keys) : std::nullopt;
}

}  // namespace caravan::cache
