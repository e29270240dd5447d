#include "abi/abi_check.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>

#include "abi/host_buffer_type.h"
#include "abi/op_names.h"
#include "support/graph_kit.h"

namespace caravan::abi {
namespace {

TEST(Abi, MatchesTheLoadedGgml) {
    const auto checked = check();
    EXPECT_TRUE(checked) << checked.error().text;
}

TEST(Abi, FindsTheSlotsOfUseCounts) {
    test::GraphKit kit;
    ggml_tensor * x = kit.f32(8);
    std::vector<ggml_tensor *> all{x};
    for (int i = 0; i < 20; ++i) {
        all.push_back(x = ggml_add(kit.context(), x, all.front()));
    }
    ggml_cgraph * graph = kit.graph({x}, 1);
    std::set<size_t> slots;
    for (const ggml_tensor * tensor : all) {
        const size_t slot = find_slot(graph->visited, tensor);
        ASSERT_LT(slot, graph->visited.size);
        EXPECT_EQ(graph->visited.keys[slot], tensor);
        slots.insert(slot);
    }
    EXPECT_EQ(slots.size(), all.size());
    EXPECT_EQ(graph->use_counts[find_slot(graph->visited, all[0])], 21);
    EXPECT_EQ(graph->use_counts[find_slot(graph->visited, all[5])], 1);
    EXPECT_EQ(graph->use_counts[find_slot(graph->visited, all[20])], 0);
    EXPECT_EQ(find_slot(graph->visited, kit.f32(8)), SIZE_MAX);
}

TEST(Abi, FindsInsertedTensorsUntilTheSetIsFull) {
    test::GraphKit kit;
    std::vector<ggml_tensor *> keys(16);
    uint32_t used = 0;
    ggml_hash_set set{11, &used, keys.data()};
    std::vector<ggml_tensor *> tensors;
    std::set<size_t> slots;
    for (int i = 0; i < 11; ++i) {
        tensors.push_back(kit.f32(1));
        slots.insert(insert_slot(set, tensors.back()));
    }
    EXPECT_EQ(slots.size(), 11u);
    EXPECT_FALSE(slots.contains(SIZE_MAX));
    for (ggml_tensor * tensor : tensors) {
        EXPECT_EQ(insert_slot(set, tensor), find_slot(set, tensor));
    }
    EXPECT_EQ(insert_slot(set, kit.f32(1)), SIZE_MAX);
    EXPECT_EQ(find_slot(set, kit.f32(1)), SIZE_MAX);
    ggml_hash_set none{0, nullptr, nullptr};
    EXPECT_EQ(find_slot(none, tensors[0]), SIZE_MAX);
    EXPECT_EQ(insert_slot(none, tensors[0]), SIZE_MAX);
}

TEST(Abi, BufferLayoutsMatchThePublicAccessors) {
    ggml_backend_buffer_type_t type = ggml_backend_cpu_buffer_type();
    EXPECT_STREQ(type->calls.get_name(type), ggml_backend_buft_name(type));
    EXPECT_EQ(type->calls.get_alignment(type), ggml_backend_buft_get_alignment(type));
    EXPECT_EQ(type->device, ggml_backend_buft_get_device(type));
    EXPECT_TRUE(type->calls.is_host(type));

    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(type, 100);
    ASSERT_NE(buffer, nullptr);
    EXPECT_EQ(buffer->buft, ggml_backend_buffer_get_type(buffer));
    EXPECT_EQ(buffer->size, ggml_backend_buffer_get_size(buffer));
    EXPECT_EQ(buffer->calls.get_base(buffer), ggml_backend_buffer_get_base(buffer));
    EXPECT_EQ(buffer->usage, GGML_BACKEND_BUFFER_USAGE_ANY);
    ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    EXPECT_EQ(buffer->usage, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    buffer->calls.clear(buffer, 7);
    EXPECT_EQ(static_cast<const char *>(ggml_backend_buffer_get_base(buffer))[99], 7);
    ggml_backend_buffer_free(buffer);
}

TEST(Abi, DeviceAndBackendLayoutsMatchThePublicAccessors) {
    ggml_backend_load_all();
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ASSERT_NE(device, nullptr);
    EXPECT_STREQ(device->calls.get_name(device), ggml_backend_dev_name(device));
    EXPECT_STREQ(device->calls.get_description(device), ggml_backend_dev_description(device));
    EXPECT_EQ(device->calls.get_type(device), ggml_backend_dev_type(device));
    EXPECT_EQ(device->reg, ggml_backend_dev_backend_reg(device));
    EXPECT_EQ(device->calls.get_buffer_type(device), ggml_backend_dev_buffer_type(device));
    ggml_backend_reg_t reg = device->reg;
    EXPECT_EQ(reg->api_version, backend_api_version);
    EXPECT_STREQ(reg->calls.get_name(reg), ggml_backend_reg_name(reg));
    EXPECT_EQ(reg->calls.get_device_count(reg), ggml_backend_reg_dev_count(reg));
    EXPECT_EQ(reg->calls.get_device(reg, 0), ggml_backend_reg_dev_get(reg, 0));
    EXPECT_EQ(reg->calls.get_proc_address(reg, "ggml_backend_set_n_threads"),
              ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"));

    ggml_backend_t backend = ggml_backend_dev_init(device, nullptr);
    ASSERT_NE(backend, nullptr);
    EXPECT_STREQ(backend->calls.get_name(backend), ggml_backend_name(backend));
    EXPECT_EQ(backend->device, ggml_backend_get_device(backend));
    EXPECT_EQ(backend->guid, ggml_backend_guid(backend));
    ggml_backend_free(backend);
}

TEST(Abi, StockRpcPlugInHasTheSameTables) {
    std::filesystem::path found;
    for (const auto & entry : std::filesystem::directory_iterator("/usr/lib")) {
        const auto candidate = entry.path() / "ggml/backends0/libggml-rpc.so";
        if (std::error_code ignored; std::filesystem::exists(candidate, ignored)) {
            found = candidate;
        }
    }
    if (found.empty()) {
        GTEST_SKIP() << "the stock RPC plug-in is not installed";
    }
    void * library = ::dlopen(found.c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << ::dlerror();
    const auto init = reinterpret_cast<ggml_backend_reg_t (*)()>(::dlsym(library, "ggml_backend_init"));
    ASSERT_NE(init, nullptr);
    ggml_backend_reg_t reg = init();
    ASSERT_NE(reg, nullptr);
    EXPECT_EQ(reg->api_version, backend_api_version);
    EXPECT_STREQ(reg->calls.get_name(reg), "RPC");
    EXPECT_EQ(reg->calls.get_device_count(reg), 0u);
    // llama.cpp looks these up by name, so Caravan's plug-in exports them too.
    for (const char * name : {"ggml_backend_rpc_add_server", "ggml_backend_rpc_start_server"}) {
        EXPECT_NE(reg->calls.get_proc_address(reg, name), nullptr) << name;
    }
    EXPECT_EQ(reg->calls.get_proc_address(reg, "no such function"), nullptr);
}

TEST(Abi, OpNamesAreThoseOfTheGgmlThatCaravanWasComparedWith) {
    if (!std::string_view(ggml_version()).starts_with("0.27.")) {
        GTEST_SKIP() << "this is ggml " << ggml_version();
    }
    ASSERT_EQ(op_names.size(), size_t{GGML_OP_COUNT});
    for (size_t i = 0; i < op_names.size(); ++i) {
        EXPECT_EQ(op_names[i], ggml_op_name(static_cast<ggml_op>(i)));
    }
    ASSERT_EQ(unary_op_names.size(), size_t{GGML_UNARY_OP_COUNT});
    for (size_t i = 0; i < unary_op_names.size(); ++i) {
        EXPECT_EQ(unary_op_names[i], ggml_unary_op_name(static_cast<ggml_unary_op>(i)));
    }
    ASSERT_EQ(glu_op_names.size(), size_t{GGML_GLU_OP_COUNT});
    for (size_t i = 0; i < glu_op_names.size(); ++i) {
        EXPECT_EQ(glu_op_names[i], ggml_glu_op_name(static_cast<ggml_glu_op>(i)));
    }
    EXPECT_TRUE(check_host());
    EXPECT_EQ(host_api_version(), backend_api_version);
    for (size_t i = 0; i < op_names.size(); ++i) {
        EXPECT_TRUE(is_same_op(static_cast<ggml_op>(i))) << op_names[i];
    }
}

TEST(Abi, BufferTypeHasTheLayoutOfTheHost) {
    const ggml_backend_buffer_type type{
        .calls = {.get_name = [](ggml_backend_buffer_type_t) { return "name"; },
                  .alloc_buffer = [](ggml_backend_buffer_type_t, size_t) -> ggml_backend_buffer_t { return nullptr; },
                  .alloc_buffer_n = [](ggml_backend_buffer_type_t, ggml_tensor **, int) {
                      return static_cast<ggml_backend_buffer_t>(nullptr);
                  },
                  .get_alignment = [](ggml_backend_buffer_type_t) -> size_t { return 1; },
                  .get_max_size = [](ggml_backend_buffer_type_t) -> size_t { return 2; },
                  .get_alloc_size = [](ggml_backend_buffer_type_t, const ggml_tensor *) -> size_t { return 3; },
                  .get_alloc_size_n = [](ggml_backend_buffer_type_t, ggml_tensor **, int) -> size_t { return 4; },
                  .is_host = [](ggml_backend_buffer_type_t) { return true; }},
        .device = reinterpret_cast<ggml_backend_dev_t>(0x10),
        .context = reinterpret_cast<void *>(0x20)};
    HostBufferType newest(type, 3), older(type, 2);
    EXPECT_EQ(std::memcmp(newest.get(), &type, sizeof type), 0);
    EXPECT_EQ(context_of(newest.get(), 3), type.context);
    // As ggml 0.25 reads it: six calls, the device, the context.
    void * words[8];
    std::memcpy(words, older.get(), sizeof words);
    EXPECT_EQ(words[0], reinterpret_cast<void *>(type.calls.get_name));
    EXPECT_EQ(words[1], reinterpret_cast<void *>(type.calls.alloc_buffer));
    EXPECT_EQ(words[2], reinterpret_cast<void *>(type.calls.get_alignment));
    EXPECT_EQ(words[3], reinterpret_cast<void *>(type.calls.get_max_size));
    EXPECT_EQ(words[4], reinterpret_cast<void *>(type.calls.get_alloc_size));
    EXPECT_EQ(words[5], reinterpret_cast<void *>(type.calls.is_host));
    EXPECT_EQ(words[6], type.device);
    EXPECT_EQ(words[7], type.context);
    EXPECT_EQ(context_of(older.get(), 2), type.context);
}

}  // namespace
}  // namespace caravan::abi
