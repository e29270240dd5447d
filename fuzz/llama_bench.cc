// The output of llama-bench.
#include "bench/llama_bench.h"

#include "kit.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    bench::ModelFacts facts;
    const auto tests = bench::parse_tests(std::string(reinterpret_cast<const char *>(data), size), &facts);
    for (const bench::Test & test : tests.value_or(std::vector<bench::Test>())) {
        fuzz::require(test.tokens_per_second() > 0, "each accepted result has a speed");
    }
    return 0;
}
