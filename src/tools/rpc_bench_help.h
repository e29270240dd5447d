// What rpc-bench --help says below its options.
#pragma once

namespace caravan {

inline constexpr const char * rpc_bench_help = R"(
WITHOUT A MODEL
  The way to each server by itself. A round trip writes a message into the server's memory and reads the same bytes
  back, in one batch; it fails if they differ. Bandwidth is that of messages of one size, sent or asked for one after the
  other for --time; only their payload counts, to which each adds a header of some 300 bytes. Over RDMA too where both
  ends have it; the two transports take turns at each size. Up to 64 MiB of the server's first device are used for each
  transport, and as much is sent as the network takes: not for a network that others need just now.

WITH A MODEL
  The installed, unmodified llama-bench runs the model in each arrangement, once in a round. Each round begins with
  another arrangement, so what disturbs the machine for a while disturbs all of them. The arrangements are

    caravan  Caravan's plug-in with the servers of --rpc; the transport is that of GGML_RPC_TRANSPORT. Always the first
    tcp      the same with GGML_RPC_TRANSPORT=tcp
    rdma     the same with GGML_RPC_TRANSPORT=rdma: without RDMA it fails
    stock    ggml's own RPC plug-in, with the same servers or those of --against-rpc. Where Caravan is installed in
             ggml's folder that plug-in cannot be had; this is said, and not measured
    local    this machine alone, without RPC: its CPU, or the devices of --local-device

  With RPC all layers are at the servers, unless this machine has devices of its own: then llama-bench shares them out,
  and --device RPC0/RPC1 keeps them at the servers. For an overhead over local that means something, servers and this
  machine must be alike, with as many threads (-t here, rpc-server -t there); best is a server on this machine.

  A value of a run is that of its median repetition. The table has the median of the rounds and, in brackets, the least
  and the greatest. A ratio is taken within each round, to the first arrangement; then come median and extremes. So is
  the overhead: the time per generated token less that of local in the same round.

  Load is the time from opening the file until model and context are ready. What the server keeps (rpc-server -c) and
  what this machine's memory has of the file makes it shorter; --cold drops the latter before each run. local may map
  the file and read it only when it computes.

  The second table tells the first load from the later ones, which find what a server has kept of the first, and how much
  of the weights the servers had already (n/a: stock and local do not say).

  The third is what one generated token costs on the way. In each round Caravan's plug-in generates -n tokens and twice
  as many in two runs of their own, and counts; the difference belongs to the tokens alone. A round trip is a wait for
  an answer that was not here yet; sends are calls that moved bytes out. The times are differences too: on a busy machine
  they scatter, and a larger -n helps. Then, where the time of a token goes:

    client   this machine, not waiting for a server                                            measured
    compute  the servers are busy, by their own clocks, several servers added up               measured
    wire     its round trips, each as long as the quickest small question to that server       an estimate
    queue    the rest: bytes on their way, links between servers, threads that wake up.        what is left
             What the others take too much is missing here, so it may be below 0

  Stock's plug-in does not count, and a stock server does not tell what it did: n/a.

  An arrangement that fails is not tried again; the others are measured to the end.

OUTPUT
  md is a table; json has every measurement, and what follows from it; csv has one line for each measurement. Lines of
  progress go to stderr. --plot makes a picture: bars of tokens per second with the slowest and fastest round, or curves
  of latency and bandwidth by size.

ENVIRONMENT
  LLAMA_BENCH          the llama-bench to run [the first on PATH that is not a launcher of Caravan's]
  GGML_RPC_TRANSPORT   auto, tcp: never RDMA, rdma: a session without RDMA is an error [auto]
  TMPDIR               where the plug-in's counts lie while they are needed [/tmp]
  GGML_RPC_POLL_US, GGML_RDMA_DEV, ...
                       as for the programs that use the servers. GGML_RPC_SERVERS is not used.

EXAMPLES
  rpc-bench --rpc 192.168.1.45:50052
  rpc-bench --rpc 192.168.1.45:50052 -m model.gguf --against stock,local -p 512 -n 128
  rpc-bench --rpc A,B -m model.gguf --against tcp --plot tcp.svg -o json -- -fa on

EXIT CODES
  0 all was measured, 1 a run failed, 2 wrong command line)";

}  // namespace caravan
