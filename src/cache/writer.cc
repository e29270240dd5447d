#include "cache/writer.h"

#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/size_text.h"
#include "cache/eviction.h"
#include "cache/fnv_index.h"

namespace caravan::cache {

void Writer::append(ConstBytes data) {
    while (!over_ && !data.empty()) {
        const ConstBytes chunk = data.first(std::min(data.size(), chunk_size));
        data = data.subspan(chunk.size());
        if (chunk.size() > size_ - taken_) {
            give_up("more bytes than announced");
            return;
        }
        if (fnv_) {
            fnv_ = wire::fnv1a(chunk, *fnv_);
        }
        digest_.update(chunk);
        taken_ += chunk.size();
        if (const auto written = file_.write(chunk); !written) {
            give_up(written.error());
        }
    }
}

// There is no fsync. After a power failure a blob may be short or hold zeros although it has its name; readers check
// every byte before it counts, so such an entry only costs one more upload. Waiting for gigabytes to reach the disk
// would cost every upload.
bool Writer::commit() {
    if (over_) {
        return false;
    }
    if (taken_ != size_) {  // the peer went away: nothing to warn about here
        over_ = true;
        file_.discard();
        return false;
    }
    const std::string digest = digest_.hex();
    const std::filesystem::path blob = store_->layout.blob(digest);
    // Over a blob of that name, if there is one: should that be damaged, it is mended.
    if (const auto moved = file_.close().and_then([&] { return file_.move_over(blob); }); !moved) {
        give_up(moved.error());
        return false;
    }
    const auto entered = fnv_ ? enter(store_->layout, {*fnv_, size_}, digest) : true;
    if (!entered || !*entered) {
        ::unlink(blob.c_str());  // no index file leads to it: another key would be another content
        entered ? give_up("other bytes are stored under the same FNV-1a hash and size, and stay")
                : give_up(entered.error());
        return false;
    }
    over_ = true;
    if (store_->max_bytes != 0) {
        make_room(store_->layout, store_->max_bytes, 0);  // others may have stored something meanwhile
    }
    return true;
}

void Writer::give_up(std::string_view reason) {
    over_ = true;
    file_.discard();
    log_warning("weight cache: {} are not kept: {}", size_text(size_), reason);
}

void Writer::give_up(const Error & error) {
    over_ = true;
    file_.discard();
    if (!store_->failed.exchange(true)) {
        log_warning("weight cache: nothing more is kept in this session: {}", error.text);
    }
}

}  // namespace caravan::cache
