#include "base/environment.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "base/config.h"

namespace caravan {
namespace {

std::set<std::string> names_in_table() {
    std::set<std::string> names;
    for (const Variable & variable : variable::all) {
        EXPECT_TRUE(names.insert(variable.name).second) << variable.name << " is listed twice";
    }
    return names;
}

// Upper-case names at the beginning of code spans: `NAME`, `NAME=VALUE`, `$NAME/folder`.
std::set<std::string> names_in_docs() {
    std::ifstream file(CARAVAN_DOCS "/environment.md");
    const std::string page{std::istreambuf_iterator<char>(file), {}};
    constexpr const char * letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    std::set<std::string> names;
    for (size_t open = page.find('`'); open != page.npos;) {
        const size_t close = page.find('`', open + 1);
        std::string span = page.substr(open + 1, close - open - 1);
        span.erase(0, span.starts_with('$') ? 1 : 0);
        const size_t end = std::min(span.find_first_not_of(letters), span.size());
        if (end > 1 && !span.substr(end).starts_with('*')) {
            names.insert(span.substr(0, end));
        }
        open = close == page.npos ? close : page.find('`', close + 1);
    }
    return names;
}

TEST(Environment, DocumentationNamesTheSameVariables) { EXPECT_EQ(names_in_docs(), names_in_table()); }

TEST(Environment, UnsetAndEmptyVariablesAreDistinguished) {
    constexpr Variable number{"CARAVAN_TEST_VARIABLE", "seconds", "7", "test", 1, 9};
    EXPECT_FALSE(is_set(number));
    EXPECT_EQ(env_integer(number), 7);
    ::setenv(number.name, "", 1);
    EXPECT_TRUE(is_set(number));
    EXPECT_EQ(text_of(number), "");
    EXPECT_EQ(env_integer(number), 7);
    ::setenv(number.name, "9", 1);
    EXPECT_EQ(text_of(number), "9");
    EXPECT_EQ(env_integer(number), 9);
    ::unsetenv(number.name);
}

TEST(Environment, ADefaultThatIsNoNumberIsMinusOne) {
    constexpr Variable index{"CARAVAN_TEST_VARIABLE", "an index", "any", "test", 0, 9};
    EXPECT_EQ(env_integer(index), -1);
}

}  // namespace
}  // namespace caravan
