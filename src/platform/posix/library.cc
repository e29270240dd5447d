#include "platform/library.h"

#include <dlfcn.h>

namespace caravan::platform {

Result<Library> Library::load(const std::string & name) {
    void * handle = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) {
        return Library(handle);
    }
    const char * text = ::dlerror();
    const std::string reason = text == nullptr ? "unknown error" : text;
    // Another library that this one needs may be missing as well.
    const bool is_missing = reason.contains(name + ": cannot open shared object file: No such file");
    return fail(is_missing ? Errc::not_found : Errc::unsupported, "{}", reason);
}

Result<Library> Library::containing(const void * function) {
    const std::string path = library_of(function);
    void * handle = path.empty() ? nullptr : ::dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
    return handle != nullptr ? Result<Library>(Library(handle)) : fail(Errc::not_found, "no library contains that function");
}

Library Library::global() { return Library(RTLD_DEFAULT); }

void * Library::symbol(const char * name) const { return ::dlsym(handle_, name); }

std::string library_of(const void * function) {
    Dl_info info{};
    const bool known = ::dladdr(function, &info) != 0 && info.dli_fname != nullptr;
    return known ? info.dli_fname : "";
}

bool pin_library_of(const void * function) {
    const std::string path = library_of(function);
    return !path.empty() && ::dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) != nullptr;
}

}  // namespace caravan::platform
