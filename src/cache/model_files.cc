#include "cache/model_files.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <optional>
#include <set>
#include <system_error>

#include "cache/digest_file.h"
#include "platform/file.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

constexpr int max_links = 40;  // on one path, as in the kernel

struct Resolved {
    fs::path target;
    bool is_trusted = true;  // root or this user owns every link
};

// std::nullopt if a component does not exist, or there are too many links.
std::optional<Resolved> resolve(const fs::path & path) {
    Resolved resolved{.target = "/"};
    std::deque<fs::path> rest(std::next(path.begin()), path.end());  // behind the root
    for (int links = 0; !rest.empty();) {
        const fs::path name = std::move(rest.front());
        rest.pop_front();
        if (name.empty() || name == ".") {
            continue;
        }
        if (name == "..") {
            resolved.target = resolved.target.parent_path();
            continue;
        }
        const fs::path next = resolved.target / name;
        const auto status = platform::status_of_name(next);
        if (!status) {
            return std::nullopt;
        }
        if (!status->is_link) {
            resolved.target = next;
            continue;
        }
        std::error_code error;
        const fs::path link = fs::read_symlink(next, error);
        if (error || ++links > max_links) {
            return std::nullopt;
        }
        resolved.is_trusted = resolved.is_trusted && platform::is_trusted_owner(status->owner);
        if (link.is_absolute()) {
            resolved.target = "/";
        }
        rest.insert(rest.begin(), link.is_absolute() ? std::next(link.begin()) : link.begin(), link.end());
    }
    return resolved;
}

}  // namespace

std::vector<ModelFile> find_models(const std::vector<fs::path> & model_dirs, const fs::path & store,
                                   const OnSkipped & on_skipped) {
    std::error_code unknown;
    const fs::path store_place = fs::weakly_canonical(store, unknown);
    std::vector<ModelFile> found;
    const auto add = [&](const fs::directory_entry & entry) {
        std::error_code gone;
        if (entry.path().extension() != ".gguf" || !entry.is_regular_file(gone)) {
            return;
        }
        if (!entry.is_symlink(gone)) {
            found.push_back({entry.path(), entry.path()});
            return;
        }
        const auto resolved = resolve(entry.path());
        if (!resolved || lies_below(resolved->target, {store_place})) {
            return;
        }
        if (!resolved->is_trusted && !lies_below(resolved->target, model_dirs)) {
            on_skipped(entry.path(), "a symbolic link owned by another user leads out of the directory");
            return;
        }
        found.push_back({entry.path(), resolved->target});
    };
    for (const fs::path & dir : model_dirs) {
        std::error_code error;
        fs::recursive_directory_iterator at(dir, fs::directory_options::skip_permission_denied, error), end;
        while (!error && at != end) {
            if (at->path() == store_place) {
                at.disable_recursion_pending();
            } else {
                add(*at);
            }
            at.increment(error);
        }
        if (error) {
            on_skipped(dir, error.message());
        }
    }
    std::ranges::sort(found, {}, &ModelFile::path);
    std::set<fs::path> seen;
    std::erase_if(found, [&](const ModelFile & model) { return !seen.insert(model.target).second; });
    return found;
}

}  // namespace caravan::cache
