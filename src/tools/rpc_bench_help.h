// The text of rpc-bench --help below the options.
#pragma once

namespace caravan {

inline constexpr const char * rpc_bench_help = R"(
Without a model:
  rpc-bench measures the network path to each server. A round trip writes a message into the server's memory and reads
  the same bytes back, in one batch; it fails if they differ. Bandwidth is measured with messages of one size, written
  or read one after the other for --time. It counts payload only; each message also has a header of about 300 bytes.
  If both peers have RDMA, rpc-bench measures TCP and RDMA in turn at each size. Each transport uses up to 64 MiB of
  the server's first device, and the full bandwidth of the network: do not run it while others need that network.

With --allreduce:
  The servers form a group, as for -sm tensor, and add up tensors of 4 KiB to 4 MiB. A batch of 4 to 32 sums is sent at
  once, and the servers report how long each took, from its command to the result. So the time has neither the client's
  network path nor computing; waiting for a slower server is included. Every sum is read from every server and checked;
  a wrong one is an error. The table has the algorithm that the servers use for the size (docs/tensor-parallel.md; n/a:
  an older server). The time of a sum is the mean over the servers; the table has the median of all sums. The
  line below it has the network of the links between the servers, or shared memory (servers of one machine). The
  measurement uses 17 MiB of each server's first device.

With a model:
  The installed, unmodified llama-bench runs the model in each arrangement, once in a round. Each round begins with
  another arrangement, so that a disturbance of the machine affects all of them. The arrangements are

    caravan  Caravan's plug-in with the servers of --rpc, over the transport of GGML_RPC_TRANSPORT; always the first
    one      the same with the first server only: what the others contribute
    tensor   the same with -sm tensor -fa 1: every server computes a part of every layer. Without -- -fa 1 the others
             use llama-bench's default for flash attention
    tcp      the same with GGML_RPC_TRANSPORT=tcp
    rdma     the same with GGML_RPC_TRANSPORT=rdma; fails without RDMA
    stock    ggml's own RPC plug-in, with the same servers or those of --against-rpc. It cannot be measured where
             Caravan is installed in ggml's folder, because Caravan takes its place there; rpc-bench reports that
    stock-tensor
             the same with -sm tensor -fa 1, for which it needs two servers
    local    this machine alone, without RPC: its CPU, or the devices of --local-device

  With RPC the servers compute all layers, unless this machine has devices of its own: then llama-bench distributes
  the layers over all of them, and --device RPC0/RPC1 keeps them on the servers. The overhead over local is meaningful
  only if servers and this machine are alike and use as many threads (-t here, rpc-server -t there). A server on this
  machine gives the best comparison.

  The value of a run is that of its median repetition. The table has the median of all rounds and, in brackets, the
  smallest and largest value. Ratios to the first arrangement, and the overhead (time per generated token less that of
  local), are computed within each round before their median is taken. If a difference of times is negative in some
  round, the table says "below noise".

  Load is the time from opening the file until model and context are ready. The weights that the server has cached
  (rpc-server -c) and the parts of the file in this machine's memory shorten it; --cold drops the latter before each
  run. local may map the file and read it only when it computes.

  The second table separates the first load from the later ones, which profit from the servers' caches, and has the
  share of the weights that the servers already had (n/a: stock and local do not report it).

  The third table has the cost of one generated token on the network. In each round Caravan's plug-in generates -n
  tokens and twice as many in two runs of their own; the difference of their counts belongs to the tokens alone. A
  round trip is a wait for a reply that had not arrived; sends are calls that sent bytes. The times are differences
  too: they scatter on a busy machine, and a larger -n helps. The time of a token consists of

    client   this machine does not wait for a server                                           measured
    compute  the servers are busy, by their own clocks, summed over the servers                measured
    wire     the round trips, each as long as the shortest small query to that server          estimated
    queue    the rest: bytes in transit, links between servers, threads that wake up.          remainder
             It is below noise if the estimates are too high

  The stock plug-in and stock servers report no counts: n/a.

  An arrangement that fails is not run again; the others continue.

Output:
  md prints tables; json has every measurement and all derived values; csv has one line for each measurement.
  Progress goes to stderr. --plot draws tokens per second with the slowest and fastest round, or latency and bandwidth
  by message size.

Environment:
  LLAMA_BENCH          the llama-bench to run [the first on PATH that is not one of Caravan's launchers]
  GGML_RPC_TRANSPORT   auto; tcp: never RDMA; rdma: a session without RDMA is an error [auto]
  TMPDIR               folder for temporary files [/tmp]
  GGML_RPC_POLL_US, GGML_RDMA_DEV, ...
                       as for the programs that use the servers; GGML_RPC_SERVERS is not used

Examples:
  rpc-bench --rpc 192.168.1.45:50052
  rpc-bench --rpc 192.168.1.45:50052 -m model.gguf --against stock,local -p 512 -n 128
  rpc-bench --rpc A,B -m model.gguf --against one,tensor
  rpc-bench --rpc A,B,C --allreduce
  rpc-bench --rpc A,B -m model.gguf --against tcp --plot tcp.svg -o json -- -fa on

Exit codes:
  0  everything was measured
  1  a run failed
  2  wrong command line)";

}  // namespace caravan
