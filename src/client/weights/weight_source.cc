#include "client/weights/weight_source.h"

#include "platform/file.h"

namespace caravan::client {

Result<platform::Mapping> map_weights(const WeightSource & source) {
    const auto file = platform::open_to_read(source.path);
    if (!file) {
        return fail(Errc::io, "cannot read {}: {}", source.path.string(), file.error().text);
    }
    if (cache::FileStamp::of(file->get()) != source.stamp) {
        return fail(Errc::not_found, "{} changed while it was being loaded", source.path.string());
    }
    auto mapping = platform::Mapping::map(file->get(), source.rows.offset, source.rows.span());
    if (!mapping) {
        return fail(Errc::io, "cannot map {}: {}", source.path.string(), mapping.error().text);
    }
    return mapping;
}

}  // namespace caravan::client
