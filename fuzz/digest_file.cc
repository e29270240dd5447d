// Digest files of model files.
#include "cache/digest_file.h"

#include <fcntl.h>
#include <unistd.h>

#include "cache/digest.h"
#include "kit.h"

namespace {

std::filesystem::path make_file() {
    std::string name = "/dev/shm/caravan-fuzz-XXXXXX";
    const int fd = ::mkostemp(name.data(), O_CLOEXEC);
    caravan::fuzz::require(fd >= 0, "a file can be created in /dev/shm");
    ::close(fd);
    return name;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    // Removed at exit; a finding leaves it behind.
    static const struct File {
        std::filesystem::path path = make_file();
        UniqueFd fd{::open(path.c_str(), O_WRONLY | O_CLOEXEC)};
        ~File() { ::unlink(path.c_str()); }
    } file;
    fuzz::require(::ftruncate(file.fd.get(), 0) == 0 &&
                      ::pwrite(file.fd.get(), data, size, 0) == static_cast<ssize_t>(size),
                  "the file can be written");
    if (const auto digests = cache::load_digests(file.path)) {
        for (const cache::PartDigest & part : digests->parts) {
            fuzz::require(part.rows.are_within(digests->stamp.size), "a part lies within its file");
        }
        for (const cache::TensorDigest & tensor : digests->tensors) {
            fuzz::require(cache::is_digest_hex(tensor.digest), "digests are valid");
            fuzz::require(tensor.extent.size <= digests->stamp.size &&
                              tensor.extent.offset <= digests->stamp.size - tensor.extent.size,
                          "tensors lie within the file");
        }
        (void)cache::lies_below(digests->path, {"/models", "/"});
    }
    return 0;
}
