// The folder of the store.
#include "cache/store.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

// Sets a variable, or unsets it if `value` is null, until the end of the scope.
class Variable {
public:
    Variable(const char * name, const char * value) : name_(name) {
        if (const char * old = std::getenv(name)) {
            old_ = old;
        }
        set(value);
    }
    Variable(const Variable &) = delete;
    ~Variable() { set(old_ ? old_->c_str() : nullptr); }

    void set(const char * value) const {
        if (value != nullptr) {
            ::setenv(name_, value, 1);
        } else {
            ::unsetenv(name_);
        }
    }

private:
    const char * name_;
    std::optional<std::string> old_;
};

TEST(CacheDirectory, UsesTheVariablesOfLlamaCpp) {
    const Variable llama("LLAMA_CACHE", "/llama");
    const Variable xdg("XDG_CACHE_HOME", "/xdg");
    const Variable home("HOME", "/home/me");
    EXPECT_EQ(default_directory().value_or(""), "/llama/rpc");
    for (const char * unset : {"", static_cast<const char *>(nullptr)}) {
        llama.set(unset);
#ifdef __APPLE__
        EXPECT_EQ(default_directory().value_or(""), "/home/me/Library/Caches/llama.cpp/rpc");
        xdg.set(unset);
#else
        xdg.set("/xdg");
        EXPECT_EQ(default_directory().value_or(""), "/xdg/llama.cpp/rpc");
        xdg.set(unset);
        EXPECT_EQ(default_directory().value_or(""), "/home/me/.cache/llama.cpp/rpc");
#endif
        home.set(unset);
        EXPECT_FALSE(default_directory());
        home.set("/home/me");
    }
}

}  // namespace
}  // namespace caravan::cache
