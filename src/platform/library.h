// Shared libraries of this process, which are never unloaded.
#pragma once

#include <string>

#include "base/error.h"

namespace caravan::platform {

class Library {
public:
    // Loads the library `name`, and leaves it loaded: its threads may run at any time. Errc::not_found: it is not
    // installed. Errc::unsupported: it cannot be loaded; the error's text is the loader's reason.
    static Result<Library> load(const std::string & name);

    // The library or program that contains this function. Errc::not_found: none.
    static Result<Library> containing(const void * function);
    // Those whose symbols are visible to all libraries: the program, what it is linked with, and what was loaded globally.
    static Library global();

    // Null if neither the library nor one that it needs has no such symbol. A symbol with several versions: the default one.
    void * symbol(const char * name) const;

private:
    explicit Library(void * handle) : handle_(handle) {}
    void * handle_;
};

// The path of the library or program that contains this function; "" if unknown.
std::string library_of(const void * function);

// Keeps that library loaded until the process exits, even if somebody closes it. False if that is impossible.
bool pin_library_of(const void * function);

}  // namespace caravan::platform
