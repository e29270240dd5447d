/* C API of Caravan's RPC plug-in for ggml: add servers with options, read statistics of sessions, be notified of losses.
 *
 * A program finds it through ggml and links with nothing but ggml:
 *
 *     ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
 *     const struct caravan_api_v1 * caravan =
 *         rpc == NULL ? NULL : ggml_backend_reg_get_proc_address(rpc, CARAVAN_API_V1);
 *     if (caravan == NULL) { ... another RPC back-end, or none: use ggml-rpc.h ... }
 *
 * docs/api.md has a whole program.
 *
 * Compatibility: version 1 keeps its functions, structs and values. Structs that may grow begin with their size, and new
 * members are added at their end; struct caravan_counts does not grow. An incompatible API would have another name than
 * CARAVAN_API_V1, beside this one.
 *
 * Threads: every function may be called by any thread at any time, except from a loss callback.
 *
 * Ownership: the plug-in owns everything that it returns. Servers, registry entries and devices live as long as the process;
 * ggml has no function that removes them. */
#ifndef CARAVAN_H
#define CARAVAN_H

#include <stddef.h>
#include <stdint.h>

#include "ggml-backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The name for ggml_backend_reg_get_proc_address(). The result is a const struct caravan_api_v1 *, not a function. */
#define CARAVAN_API_V1 "caravan_api_v1"

/* Results. Later versions may add values, so treat unknown ones as failures. Zero is success. */
enum caravan_status {
    CARAVAN_OK = 0,
    CARAVAN_INVALID_ARGUMENT = 1, /* a null pointer, a size that is too small, a malformed endpoint */
    CARAVAN_NOT_FOUND = 2,        /* no such server or session; a host name without an address; a server without devices */
    CARAVAN_UNAVAILABLE = 3,      /* the server is not reachable, or refuses this client */
    CARAVAN_TIMED_OUT = 4,        /* no reply in time */
    CARAVAN_INCOMPATIBLE = 5,     /* the peer does not speak the protocol, or lacks what was asked for */
    CARAVAN_FAILED = 6            /* another failure; see last_error() */
};

/* A server that the program uses, by its endpoint. */
struct caravan_server;

struct caravan_server_options {
    size_t size;           /* sizeof(struct caravan_server_options), as the program was compiled */
    const char * endpoint; /* "host:port", "[ipv6]:port", "host" (port 50052) or "unix:/path" */

    /* Seconds, at most a week; 0: as GGML_RPC_CONNECT_TIMEOUT_S and GGML_RPC_TIMEOUT_S (docs/environment.md). */
    uint32_t connect_timeout_s; /* limit of connecting and the handshake */
    uint32_t reply_timeout_s;   /* a server that makes no progress for this long while a reply is awaited is lost */
};

/* Counts of a session, or of a part of it. This struct does not grow. */
struct caravan_counts {
    uint64_t duration_ns;
    uint64_t sends;       /* calls in which the transport accepted bytes */
    uint64_t bytes_sent;
    uint64_t bytes_received;
    uint64_t round_trips; /* waits for a reply that had not arrived; several between two sends count as one */
    uint64_t launches;    /* graphs sent for computation */
    uint64_t waiting_ns;  /* in these waits, sends during them included */
    uint64_t sending_ns;  /* until the transport had accepted bytes that had to leave at once */
};

enum caravan_session_state {
    CARAVAN_SESSION_OPEN = 0,
    CARAVAN_SESSION_CLOSED = 1, /* its last buffer, back-end and event were freed */
    CARAVAN_SESSION_LOST = 2    /* by a fault; computations with its buffers fail */
};

struct caravan_statistics {
    size_t size;        /* before the call: sizeof(struct caravan_statistics). After it: the bytes that the plug-in has set,
                           at most that many; members beyond are unchanged */
    uint64_t session;   /* number of the session with this server, from 1 */
    int32_t state;      /* enum caravan_session_state */
    int32_t reserved;   /* 0 */
    char transport[16]; /* "tcp", "rdma" or "unix" */
    char dialect[16];   /* "native": a Caravan server; "stock" */
    struct caravan_counts whole;
    struct caravan_counts since_load; /* from the first launch after weights were loaded */
    uint64_t weight_bytes;            /* of weights loaded, */
    uint64_t weight_bytes_from_cache; /* of these, bytes that the server had */
    uint64_t weight_ns;               /* time to load them */
    uint64_t min_round_trip_ns;       /* of a small query; 0: not measured, as GGML_RPC_STATS and GGML_RPC_TRACE request */
};

/* Called once for each session that is lost. `reason` is one line of text, valid during the call.
 *
 * The thread that detected the loss calls it, with locks of the plug-in held: a thread of the program inside a function of
 * ggml, or one of the plug-in. So it must not call ggml or this API, must not wait for a thread that does, and must return
 * soon: set an atomic variable, or write to a pipe. With GGML_RPC_ON_LOSS=exit the process ends instead. */
typedef void (*caravan_loss_callback)(struct caravan_server * server, const char * reason, void * user_data);

struct caravan_api_v1 {
    size_t size;          /* bytes of this struct in the plug-in: it has no members beyond */
    const char * version; /* of Caravan, "0.1.0" */

    /* Connects to the server and queries its devices. Blocks for at most connect_timeout_s for each connection and
     * reply_timeout_s for each reply. Returns the same server, with its first options, if the endpoint was added before, by
     * this function, by ggml_backend_rpc_add_server() or through GGML_RPC_SERVERS. Sets *server only if it succeeds. Neither
     * logs a failure nor ends the program (GGML_RPC_REQUIRE). */
    enum caravan_status (*add_server)(const struct caravan_server_options * options, struct caravan_server ** server);

    /* The server that was added under this endpoint, however it was. CARAVAN_NOT_FOUND: there is none. Does not connect. */
    enum caravan_status (*find_server)(const char * endpoint, struct caravan_server ** server);

    /* The devices of the server, by index. device() returns NULL beyond the last one. */
    size_t (*device_count)(const struct caravan_server * server);
    ggml_backend_dev_t (*device)(const struct caravan_server * server, size_t index);

    /* The registry entry of the server: pass it to ggml_backend_register() so that the program's other parts find its devices
     * (llama.cpp uses all that are registered). GGML_RPC_SERVERS registers devices with the entry "RPC"; then this one has
     * none, or is that entry. */
    ggml_backend_reg_t (*registry)(const struct caravan_server * server);

    /* Of the latest session with the server: one is opened by the first buffer or back-end, or by a query of sizes or ops, and
     * serves all devices of the server. CARAVAN_NOT_FOUND: there was none. */
    enum caravan_status (*get_statistics)(const struct caravan_server * server, struct caravan_statistics * statistics);

    /* The callback for later losses of this server's sessions; NULL: none. Replaces the last one, which does not run any more
     * once this function has returned. A loss is detected while the session is idle, within seconds, if the server is
     * Caravan's and the connection not a Unix socket; else by the next call that needs the server. */
    enum caravan_status (*set_loss_callback)(struct caravan_server * server, caravan_loss_callback callback,
                                             void * user_data);

    /* Why the last call of this thread that returned no CARAVAN_OK failed, and what to do: one line of text; "" before the
     * first failure. Valid until this thread's next call. */
    const char * (*last_error)(void);
};

#ifdef __cplusplus
}
#endif

#endif
