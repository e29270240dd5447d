#include "server/session/staging.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace caravan::server {

// Copies one piece after the other.
class CopyThread {
public:
    CopyThread() : thread_([this] { work(); }) {}
    ~CopyThread() {
        {
            std::lock_guard lock(mutex_);
            is_stopping_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }
    CopyThread(const CopyThread &) = delete;

    struct Copy {
        ggml_tensor * tensor;
        uint64_t offset;
        MutableBytes piece;
        bool to_device;
    };
    // Returns the copy's number, from 1 on. At most tunable::staging_pieces may be pending.
    uint64_t append(const Copy & copy) {
        std::unique_lock lock(mutex_);
        copies_[appended_++ % copies_.size()] = copy;
        const uint64_t number = appended_;
        lock.unlock();
        changed_.notify_all();
        return number;
    }
    // Waits for the copy and all before it. 0: none.
    void wait_for(uint64_t number) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return done_ >= number; });
    }

private:
    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [this] { return done_ < appended_ || is_stopping_; });
            if (done_ == appended_) {
                return;
            }
            const Copy copy = copies_[done_ % copies_.size()];
            lock.unlock();
            if (copy.to_device) {
                ggml_backend_tensor_set(copy.tensor, copy.piece.data(), copy.offset, copy.piece.size());
            } else {
                ggml_backend_tensor_get(copy.tensor, copy.piece.data(), copy.offset, copy.piece.size());
            }
            lock.lock();
            ++done_;
            changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::array<Copy, tunable::staging_pieces> copies_{};
    uint64_t appended_ = 0, done_ = 0;
    bool is_stopping_ = false;
    std::thread thread_;
};

Staging::Staging() = default;
Staging::~Staging() = default;

CopyThread & Staging::thread() {
    // Created after the worker was confined: a thread inherits the restrictions that hold when it starts.
    if (thread_ == nullptr) {
        thread_ = std::make_unique<CopyThread>();
    }
    return *thread_;
}

void Staging::allocate(const ggml_tensor & tensor) {
    if (thread_ != nullptr) {  // not for the first time
        return;
    }
    const ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(tensor.buffer));
    const ggml_backend_buffer_type_t type = device == nullptr ? nullptr : ggml_backend_dev_host_buffer_type(device);
    if (type == nullptr) {
        return;
    }
    pinned_.reset(ggml_backend_buft_alloc_buffer(type, pinned_pieces_.size() * tunable::staging_size));
    if (pinned_ == nullptr || !ggml_backend_buffer_is_host(pinned_.get())) {
        pinned_.reset();
        return;
    }
    auto * base = static_cast<std::byte *>(ggml_backend_buffer_get_base(pinned_.get()));
    for (size_t i = 0; i < pinned_pieces_.size(); ++i) {
        pinned_pieces_[i] = {base + i * tunable::staging_size, tunable::staging_size};
    }
}

MutableBytes Staging::place(size_t index, uint64_t size) {
    const size_t length = std::min<uint64_t>(size, tunable::staging_size);
    if (pinned_ != nullptr) {
        return pinned_pieces_[index].first(length);
    }
    std::vector<std::byte> & bytes = pageable_[index];
    bytes.resize(std::max(bytes.size(), length));
    return MutableBytes(bytes).first(length);
}

MutableBytes Staging::piece(uint64_t size) { return place(0, size); }

Result<uint64_t> Staging::write(ggml_tensor & tensor, uint64_t offset, uint64_t size,
                                const std::function<Result<size_t>(MutableBytes)> & fill) {
    if (size <= tunable::staging_size) {
        const MutableBytes bytes = piece(size);
        const auto length = fill(bytes);
        if (length && *length > 0) {
            ggml_backend_tensor_set(&tensor, bytes.data(), offset, *length);
        }
        return length.transform([](size_t n) { return uint64_t{n}; });
    }
    allocate(tensor);
    CopyThread & copies = thread();
    std::array<uint64_t, tunable::staging_pieces> pending{};
    uint64_t done = 0, last = 0;
    Result<> failed;
    for (size_t i = 0; done < size; i = (i + 1) % pending.size()) {
        copies.wait_for(pending[i]);
        const MutableBytes bytes = place(i, size - done);
        const auto length = fill(bytes);
        if (!length || *length == 0) {
            failed = length.transform([](size_t) {});
            break;
        }
        last = pending[i] = copies.append({&tensor, offset + done, bytes.first(*length), true});
        done += *length;
    }
    copies.wait_for(last);
    return failed.transform([&] { return done; });
}

Result<> Staging::read(ggml_tensor & tensor, uint64_t offset, uint64_t size, const std::function<Result<>(ConstBytes)> & sink) {
    if (size <= tunable::staging_size) {
        const MutableBytes bytes = piece(size);
        ggml_backend_tensor_get(&tensor, bytes.data(), offset, bytes.size());
        return sink(bytes);
    }
    allocate(tensor);
    CopyThread & copies = thread();
    struct Pending {
        uint64_t copy = 0;
        MutableBytes bytes;
    };
    std::array<Pending, tunable::staging_pieces> pending;
    uint64_t requested = 0, last = 0;
    const auto request = [&](size_t i) {
        if (requested < size) {
            pending[i].bytes = place(i, size - requested);
            last = pending[i].copy = copies.append({&tensor, offset + requested, pending[i].bytes, false});
            requested += pending[i].bytes.size();
        }
    };
    for (size_t i = 0; i + 1 < pending.size(); ++i) {
        request(i);
    }
    Result<> result;
    uint64_t done = 0;
    for (size_t i = 0; done < size && result; i = (i + 1) % pending.size()) {
        copies.wait_for(pending[i].copy);
        request((i + pending.size() - 1) % pending.size());  // into the piece that was sent last
        result = sink(pending[i].bytes);
        done += pending[i].bytes.size();
    }
    copies.wait_for(last);
    return result;
}

}  // namespace caravan::server
