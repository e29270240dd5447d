/* Uses all of include/caravan.h: use_api ENDPOINT idle|busy. Prints "ready" when the server may be killed, while this program
 * is idle or launches graphs, and at the end statistics as lines "name value". Exits with 1, and the line of the failed check,
 * if something is not as the header states. */
#define _POSIX_C_SOURCE 200809L
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "caravan.h"
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

enum { elements = 256, rounds = 10 };

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%d: %s; last error: %s\n", __LINE__, #condition, caravan->last_error()); \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

static const struct caravan_api_v1 * caravan;
static int loss_pipe[2];

static void write_loss(struct caravan_server * server, const char * reason, void * user_data) {
    (void)server;
    if (write(loss_pipe[1], user_data, 1) != 1 || write(loss_pipe[1], reason, strlen(reason) + 1) < 0) {
        abort();
    }
}

static void check_failures(void) {
    struct caravan_server * server = NULL;
    struct caravan_server_options options = {.size = sizeof options, .endpoint = "a:b:c"};
    CHECK(strcmp(caravan->last_error(), "") == 0);
    CHECK(caravan->add_server(NULL, &server) == CARAVAN_INVALID_ARGUMENT);
    CHECK(caravan->add_server(&options, NULL) == CARAVAN_INVALID_ARGUMENT);
    CHECK(caravan->add_server(&options, &server) == CARAVAN_INVALID_ARGUMENT);
    CHECK(strstr(caravan->last_error(), "a:b:c") != NULL);
    options.endpoint = "unix:/no/such/socket";
    CHECK(caravan->add_server(&options, &server) == CARAVAN_UNAVAILABLE);
    CHECK(strstr(caravan->last_error(), "/no/such/socket") != NULL);
    options.reply_timeout_s = UINT32_MAX;
    CHECK(caravan->add_server(&options, &server) == CARAVAN_INVALID_ARGUMENT);
    options.reply_timeout_s = 0;
    options.size = sizeof options.size;
    CHECK(caravan->add_server(&options, &server) == CARAVAN_INVALID_ARGUMENT);
    CHECK(caravan->find_server("127.0.0.1:9", &server) == CARAVAN_NOT_FOUND);
    CHECK(caravan->get_statistics(NULL, NULL) == CARAVAN_INVALID_ARGUMENT);
    CHECK(caravan->set_loss_callback(NULL, NULL, NULL) == CARAVAN_INVALID_ARGUMENT);
    CHECK(caravan->device_count(NULL) == 0 && caravan->device(NULL, 0) == NULL && caravan->registry(NULL) == NULL);
    CHECK(server == NULL);
}

static struct caravan_statistics statistics_of(const struct caravan_server * server) {
    struct caravan_statistics statistics = {.size = sizeof statistics};
    CHECK(caravan->get_statistics(server, &statistics) == CARAVAN_OK);
    CHECK(statistics.size == sizeof statistics && statistics.reserved == 0);
    return statistics;
}

static void print(const char * name, uint64_t value) { printf("%s %llu\n", name, (unsigned long long)value); }

int main(int argc, char ** argv) {
    if (argc != 3) {
        return 2;
    }
    const bool is_idle = strcmp(argv[2], "idle") == 0;
    ggml_backend_load_all();
    ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
    caravan = rpc == NULL ? NULL : ggml_backend_reg_get_proc_address(rpc, CARAVAN_API_V1);
    if (caravan == NULL) {
        fputs("the RPC back-end is not Caravan's\n", stderr);
        return 1;
    }
    CHECK(caravan->size >= sizeof *caravan);
    printf("version %s\n", caravan->version);
    check_failures();

    /* A server and its devices. */
    const struct caravan_server_options options = {
        .size = sizeof options, .endpoint = argv[1], .connect_timeout_s = 20, .reply_timeout_s = 60};
    struct caravan_server *server = NULL, *again = NULL, *found = NULL;
    CHECK(caravan->add_server(&options, &server) == CARAVAN_OK);
    CHECK(caravan->add_server(&options, &again) == CARAVAN_OK && again == server);
    CHECK(caravan->find_server(argv[1], &found) == CARAVAN_OK && found == server);
    CHECK(caravan->device_count(server) == 1 && caravan->device(server, 1) == NULL);
    ggml_backend_dev_t device = caravan->device(server, 0);
    CHECK(ggml_backend_reg_dev_get(caravan->registry(server), 0) == device);
    struct caravan_statistics none = {.size = sizeof none};
    CHECK(caravan->get_statistics(server, &none) == CARAVAN_NOT_FOUND);

    /* y = 2 x. */
    ggml_backend_t backend = ggml_backend_dev_init(device, NULL);
    CHECK(backend != NULL);
    const struct ggml_init_params params = {.mem_size = 1 << 20, .mem_buffer = NULL, .no_alloc = true};
    struct ggml_context * context = ggml_init(params);
    struct ggml_tensor * x = ggml_new_tensor_1d(context, GGML_TYPE_F32, elements);
    struct ggml_tensor * y = ggml_scale(context, x, 2.0f);
    struct ggml_cgraph * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, y);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(context, backend);
    CHECK(buffer != NULL);
    const struct caravan_statistics before = statistics_of(server);
    CHECK(before.session == 1 && before.state == CARAVAN_SESSION_OPEN && before.whole.launches == 0);
    float in[elements], out[elements];
    for (int round = 0; round < rounds; ++round) {
        for (int i = 0; i < elements; ++i) {
            in[i] = (float)(i + round);
        }
        ggml_backend_tensor_set(x, in, 0, sizeof in);
        CHECK(ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS);
        ggml_backend_tensor_get(y, out, 0, sizeof out);
        for (int i = 0; i < elements; ++i) {
            CHECK(out[i] == 2.0f * in[i]);
        }
    }

    /* The statistics match. */
    const struct caravan_statistics after = statistics_of(server);
    CHECK(after.session == 1 && after.state == CARAVAN_SESSION_OPEN);
    CHECK(after.whole.launches == rounds);
    CHECK(after.whole.bytes_sent - before.whole.bytes_sent > rounds * sizeof in);
    CHECK(after.whole.bytes_sent - before.whole.bytes_sent < rounds * (sizeof in + 1000));
    CHECK(after.whole.bytes_received - before.whole.bytes_received >= rounds * sizeof out);
    CHECK(after.whole.round_trips - before.whole.round_trips >= rounds / 2);
    CHECK(after.whole.sends >= after.whole.round_trips && after.whole.waiting_ns > 0);
    CHECK(after.whole.duration_ns > before.whole.duration_ns);
    CHECK(after.weight_bytes == 0 && after.min_round_trip_ns == 0);

    /* The server is lost. */
    CHECK(pipe(loss_pipe) == 0);
    char mark = '!';
    CHECK(caravan->set_loss_callback(server, write_loss, &mark) == CARAVAN_OK);
    puts("ready now");
    fflush(stdout);
    while (!is_idle && ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS) {
        ggml_backend_tensor_get(y, out, 0, sizeof out);
    }
    char reason[4096] = "";
    ssize_t size = 0;
    while (size < 2 || reason[size - 1] != '\0') {
        const ssize_t got = read(loss_pipe[0], reason + size, sizeof reason - (size_t)size);
        CHECK(got > 0);
        size += got;
    }
    CHECK(reason[0] == mark);
    printf("lost: %s\n", reason + 1);
    CHECK(ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS);
    const struct caravan_statistics lost = statistics_of(server);
    CHECK(lost.session == 1 && lost.state == CARAVAN_SESSION_LOST && lost.whole.launches >= rounds);
    CHECK(caravan->set_loss_callback(server, NULL, NULL) == CARAVAN_OK);
    ggml_backend_buffer_free(buffer);
    ggml_backend_free(backend);
    const struct caravan_statistics ended = statistics_of(server);
    CHECK(ended.state == CARAVAN_SESSION_LOST && ended.whole.bytes_sent == lost.whole.bytes_sent);
    CHECK(close(loss_pipe[1]) == 0 && read(loss_pipe[0], reason, 1) == 0); /* notified once */

    printf("transport %s\ndialect %s\n", ended.transport, ended.dialect);
    print("launches", ended.whole.launches);
    print("bytes_sent", ended.whole.bytes_sent);
    print("bytes_received", ended.whole.bytes_received);
    ggml_free(context);
    return 0;
}
