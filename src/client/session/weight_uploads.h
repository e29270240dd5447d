// Uploads of weights to one server: those that it has are found there by their digest, the others are sent.
//
// While it expects hits it does not wait for replies (weight_lookup.h), so a weight may be sent after upload() returned, from
// the model's file. Threads: guarded by the stream's lock.
#pragma once

#include "client/session/command_stream.h"
#include "client/weights/loading.h"
#include "client/weights/weight_lookup.h"

namespace caravan::client {

class WeightUploads {
public:
    using Lock = CommandStream::Lock;

    explicit WeightUploads(CommandStream & stream);

    // The rows are packed in the region. `buffer_size`: of the buffer that the region lies in. Returns when the memory may be
    // reused.
    void upload(Lock & lock, const wire::Region & region, const Range & range, uint64_t offset, const WeightRows & data,
                uint64_t buffer_size);
    // Whether an upload may precede uploads that are not complete.
    bool may_overtake(const Range & range) const { return !lookup_.overlaps(range); }
    // Completes the uploads until at most `left` are incomplete. Call with 0 before any command that is no upload of a weight
    // is queued. Another thread may do the same while the lock is released.
    void complete(Lock & lock, size_t left = 0);

    // Writes digests that were computed since the last call to disk.
    void save_digests() { lookup_.save_digests(); }
    Loading & loading() { return loading_; }

private:
    bool should_look_up(Lock & lock);
    bool find_on_server(Lock & lock, const wire::Region & region, const Range & range, uint64_t offset,
                        const WeightRows & data);
    void send(Lock & lock, const wire::Region & region, uint64_t offset, const WeightRows & data, bool keep);

    CommandStream & stream_;
    WeightLookup lookup_;
    Loading loading_;
};

}  // namespace caravan::client
