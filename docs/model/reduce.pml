// All-reduce between the workers that serve one client on several servers.
//
// A group joins a session on each of several servers, its ranks. A thread of the client appends commands to one outbox per
// session. A connection carries a few of them to the worker, which serves them in order. REDUCE adds up a tensor of all
// ranks, in place, over one link for each pair of ranks. A launch precedes each REDUCE. If it fails, the contribution of
// this rank is absent, and the reduction fails on all ranks. If a rank or link is lost, the group fails.
//
// The value of a tensor, and of a message, is the set of ranks whose contributions it contains; the empty set is absent.
// README.md lists the properties, the simplifications and the -D flags.

#ifndef RANKS
#define RANKS 2        // up to 4
#endif
#ifndef REDUCTIONS
#define REDUCTIONS 3   // of each group
#endif
#ifndef PIECES
#define PIECES 2       // messages for one contribution, if each rank sends its own to all others
#endif
#ifndef LINK
#define LINK 1         // messages that a link holds in one direction
#endif
#ifndef WINDOW
#define WINDOW 1       // commands that a connection holds
#endif
#ifndef READS
#define READS 1        // results that the program reads before the last one
#endif
#ifndef FAULTS
#define FAULTS 0       // lost links, sessions, workers and clients
#endif
#ifndef ABSENT
#define ABSENT 0       // launches that fail
#endif
#ifndef CONTEXTS
#define CONTEXTS 1     // threads of one client that share its sessions, with a group each
#endif
#ifndef CLIENTS
#define CLIENTS 1      // with sessions of their own on the same servers. Either CONTEXTS or CLIENTS is 1
#endif
#define PROGRAMS (CONTEXTS * CLIENTS)
#ifdef RENEW  // after a failure, the program replaces its group by another one. Only with PROGRAMS 1
#define COMMS 2
#else
#define COMMS PROGRAMS
#endif
#define CLIENT_OF(c) ((c) % CLIENTS)
#define WORKERS (CLIENTS * RANKS)
#define WORKER(client, rank) ((client) * RANKS + (rank))
#define ALL ((1 << RANKS) - 1)

// The sessions, by worker. A command has the number of its group.
mtype = { reduce, read, free, push, take, relay, hole, group };
chan outbox[WORKERS] = [COMMS * (2 * REDUCTIONS + 2) + READS + 2] of { mtype, byte };
chan connection[WORKERS] = [WINDOW] of { mtype, byte };
bool is_flushing[WORKERS];    // threads of the client send the outbox whenever the connection has room
byte unread[WORKERS];         // replies that the client expects
bool is_awaited[WORKERS];     // a thread waits for them
bool is_lost[WORKERS];        // the client has lost or closed the session
bool has_left[WORKERS];       // the worker has seen the end of the session
bool order_lock[CLIENTS];

// The links of a group.
chan link[COMMS * RANKS * RANKS] = [LINK] of { byte, byte };  // number of the reduction, value
#define TO(c, from, to) link[((c) * RANKS + (from)) * RANKS + (to)]
bool cut[COMMS * RANKS * RANKS];  // ended. Either end notices at any later time; data in flight may still arrive
#define CUT(c, from, to) cut[((c) * RANKS + (from)) * RANKS + (to)]
bool is_freed[COMMS * RANKS];     // the rank has closed its links in an orderly way: data in flight arrives
byte tensor[COMMS * RANKS];
#define TENSOR(c, r) tensor[(c) * RANKS + (r)]
byte pushed[RANKS];               // copies from other servers, by their target
byte filled[WORKERS];             // holes in the outbox whose bytes have arrived
bool is_busy[RANKS];              // the device of the server

// For the checks.
bool had_fault[CLIENTS];                 // or the client has left early
byte result[COMMS * (REDUCTIONS + 1)];   // of the first rank that completed this reduction; 0: none yet
#define RESULT(c, k) result[(c) * (REDUCTIONS + 1) + (k)]
#define FAILED 255
byte first_failed[COMMS];                // the first reduction that failed on a rank with the group; 0: none

bool is_failure_known;                   // to the program

byte faults = FAULTS, absent_left = ABSENT, reads = READS, threads = PROGRAMS;

// Scratch variables, meaningless between steps.
hidden mtype moved_kind;
hidden byte moved_comm, number;

#if RANKS == 2
#define ANY(condition) (condition(0) || condition(1))
#elif RANKS == 3
#define ANY(condition) (condition(0) || condition(1) || condition(2))
#else
#define ANY(condition) (condition(0) || condition(1) || condition(2) || condition(3))
#endif

// ---- The exchange of one reduction: OWES(j), EXPECTS(j): messages that rank r sends to j, and receives from j, next.

#if defined DOUBLING
// Recursive doubling: in each step, sums are exchanged with one partner. Of three ranks, rank 2 adds its own to rank 0's
// first, and receives the sum at the end.
#if RANKS == 3
#define STEPS (r == 0 -> 3 : (r == 1 -> 1 : 2))
#define PARTNER (r == 0 -> (step == 1 -> 1 : 2) : 0)
#define SENDS (r == 0 -> step >= 1 : (r == 1 || step == 0))
#define RECEIVES (r == 0 -> step <= 1 : (r == 1 || step == 1))
#else
#define STEPS (RANKS / 2)
#define PARTNER (r ^ (1 << step))
#define SENDS true
#define RECEIVES true
#endif
#define OWES(j) ((j) != r && step < STEPS && (j) == PARTNER && SENDS && sent[j] == 0)
#define EXPECTS(j) ((j) != r && step < STEPS && (j) == PARTNER && RECEIVES && got[j] == 0)
#define CONTENT(j) TENSOR(c, r)
#elif defined SCATTER
// Reduce-scatter and all-gather: rank j receives all contributions to part j of the tensor, then sends their sum to all. The
// second step begins when all messages of the first were sent and received.
#define LACKS(j) ((j) != r && sent[j] == 0)
#if RANKS == 2
#define LACKS_ANY (LACKS(0) || LACKS(1))
#elif RANKS == 3
#define LACKS_ANY (LACKS(0) || LACKS(1) || LACKS(2))
#else
#define LACKS_ANY (LACKS(0) || LACKS(1) || LACKS(2) || LACKS(3))
#endif
#define IS_SCATTERED (contributions == RANKS - 1 && !LACKS_ANY)
#define OWES(j) ((j) != r && (sent[j] == 0 || (sent[j] == 1 && IS_SCATTERED)))
#define EXPECTS(j) ((j) != r && (got[j] == 0 || (got[j] == 1 && IS_SCATTERED)))
#define CONTENT(j) (sent[j] == 0 -> TENSOR(c, r) : own_part)
#else
// Direct: each rank sends its contribution to all others, and adds up all in the order of ranks.
#define OWES(j) ((j) != r && sent[j] < PIECES)
#define EXPECTS(j) ((j) != r && got[j] < PIECES)
#define CONTENT(j) TENSOR(c, r)
#endif

#ifdef TAKE_ANY
#define MAY_RECEIVE(j) ((j) != r)
#elif defined SEND_FIRST
#define MAY_RECEIVE(j) (EXPECTS(j) && !OWES(j))
#else
#define MAY_RECEIVE(j) EXPECTS(j)
#endif

#define CAN_SEND(j) (OWES(j) && (CUT(c, r, j) || len(TO(c, r, j)) < LINK))
#define CAN_RECEIVE(j) (MAY_RECEIVE(j) && len(TO(c, j, r)) > 0)
#define CAN_MOVE(j) (CAN_SEND(j) || CAN_RECEIVE(j))
#define IS_UNFINISHED(j) (OWES(j) || EXPECTS(j))
#define HAS_ENDED(j) ((IS_UNFINISHED(j) && CUT(c, r, j)) || \
    (EXPECTS(j) && is_freed[c * RANKS + j] && len(TO(c, j, r)) == 0))

// Absent if a part is.
#define SUM(a, b) ((a) == 0 || (b) == 0 -> 0 : (a) | (b))

inline receive_from(j) {
    TO(c, j, r)?number, value;
    assert(number == reductions[c]);  // data of different reductions is never added
    got[j]++;
#if defined DOUBLING
    skip
#elif defined SCATTER
    if
    :: got[j] == 1 ->
        assert(value == 0 || value == 1 << j);
        contributions++;
        own_part = SUM(own_part, value)
    :: else ->
        assert(value == 0 || value == ALL);
        sum = SUM(sum, value)
    fi
#else
    assert(value == 0 || value == 1 << j);  // this rank's own contribution, without any other
    if
    :: got[j] == PIECES ->
        sum = SUM(sum, value);
#ifdef ADD_ON_ARRIVAL
        bits = 4 * bits + j;
#endif
#ifdef ADD_BEFORE_SENT
        TENSOR(c, r) = sum
#endif
    :: else
    fi
#endif
}

// Sends and receives all that is possible now, on all links. Smaller steps would add nothing: each direction of a link has
// one writer and one reader, and what is sent before a fault may be lost by it.
inline move() {
    i = 0;
    do
    :: i == RANKS -> break
    :: i < RANKS && OWES(i) && CUT(c, r, i) -> sent[i]++
    :: i < RANKS && OWES(i) && !CUT(c, r, i) && len(TO(c, r, i)) < LINK ->
        TO(c, r, i)!reductions[c], CONTENT(i);
        sent[i]++
    :: i < RANKS && CAN_RECEIVE(i) -> receive_from(i)
    :: else -> i++
    od;
    i = 0
}

inline begin_exchange() {
    reductions[c]++;
    sum = TENSOR(c, r);
    own_part = sum;
    bits = 1
}

// The messages of a step (DOUBLING) or of the whole exchange were sent and received.
inline end_exchange() {
#if defined DOUBLING
    if
    :: !RECEIVES
    :: RECEIVES && r == 2 && !SENDS -> TENSOR(c, r) = value
    :: else ->
        assert((TENSOR(c, r) & value) == 0);
        TENSOR(c, r) = SUM(TENSOR(c, r), value)
    fi;
    sent[PARTNER] = 0;
    got[PARTNER] = 0;
    step++;
    sum = TENSOR(c, r)
#elif defined SCATTER
    sum = SUM(sum, own_part)
#else
    skip
#endif
}

#ifdef RENEW
#define MISS_INPUT lacks_input = true; is_failure_known = true
#else
#define MISS_INPUT skip
#endif

inline complete() {
    assert(sum == 0 || sum == ALL);
    TENSOR(c, r) = sum;
    bits = (sum == 0 -> FAILED : bits);
    // All ranks that complete a reduction hold the same bits, or all know that a contribution is absent.
    assert(RESULT(c, reductions[c]) == 0 || RESULT(c, reductions[c]) == bits);
    RESULT(c, reductions[c]) = bits;
#ifdef RENEW
    // What happened before a group was formed has no effect on it.
    assert(c == 0 || sum == ALL);
    if
    :: sum == 0 -> MISS_INPUT
    :: else
    fi;
#ifdef REACH_RENEWAL
    assert(c == 0);
#endif
#endif
    // All ranks notice a failed group at the next reduction at the latest.
    assert(first_failed[c] == 0 || reductions[c] <= first_failed[c]);
#ifdef REACH_ABSENT
    assert(sum != 0)
#endif
}

inline forget_exchange() {
    i = 0;
    do
    :: i == RANKS -> break
    :: i < RANKS -> sent[i] = 0; got[i] = 0; i++
    od;
    i = 0; value = 0; sum = 0; own_part = 0; contributions = 0; step = 0; bits = 0
}

inline close_links() {
    i = 0;
    do
    :: i == RANKS -> break
    :: i < RANKS -> CUT(c, r, i) = true; CUT(c, i, r) = true; i++
    od;
    i = 0
}

inline fail_comm() {
    is_failed[c] = true;
    MISS_INPUT;
    if
    :: first_failed[c] == 0 || reductions[c] < first_failed[c] -> first_failed[c] = reductions[c]
    :: else
    fi;
#ifdef REACH_FAILURE
    assert(reductions[c] < REDUCTIONS);
#endif
#ifndef KEEP_LINKS
    close_links()
#endif
}

// ---- Sessions

// A relay's hole holds up the outbox until the source's reply fills it.
#define IS_HELD(w) (outbox[w]?[hole, _] && filled[w] == 0)
inline send_commands(w) {
    do
    :: is_flushing[w] && len(outbox[w]) > 0 && len(connection[w]) < WINDOW && !IS_HELD(w) && !is_lost[w] ->
        outbox[w]?moved_kind, moved_comm;
        if
        :: moved_kind == hole -> filled[w]--
        :: else -> connection[w]!moved_kind, moved_comm
        fi
    :: else -> break
    od;
    is_flushing[w] = is_flushing[w] && len(outbox[w]) > 0
}

#define SELF WORKER(client, r)
#ifdef SEND_ONLY
#define CLIENT_RECEIVES is_awaited[SELF]
#else
#define CLIENT_RECEIVES true
#endif

proctype worker(byte client; byte r) {
    byte c, i, value, sum, own_part, contributions, step, bits;
    byte sent[RANKS], got[RANKS];  // messages of this reduction or step
    byte reductions[COMMS];
    bool is_failed[COMMS];         // the group, on this rank
    bool lacks_input;              // the last reduction failed: the next launch would read what it has not stored
    mtype command;
#ifdef PER_DEVICE
    byte waiting;
#endif
    do
    :: atomic { connection[SELF]?command, c -> d_step { send_commands(SELF) };
        if
        :: command == reduce && is_failed[c] -> MISS_INPUT
        :: command == reduce && !is_failed[c] ->
#if CLIENTS > 1
            !is_busy[r];  // the launch
#endif
#ifdef HOLD_DEVICE
            is_busy[r] = true;
#endif
            if
#ifdef RENEW
            :: lacks_input -> lacks_input = false; TENSOR(c, r) = 0
            :: !lacks_input -> TENSOR(c, r) = 1 << r
            :: !lacks_input && c == 0 && absent_left > 0 -> absent_left--; TENSOR(c, r) = 0
#else
            :: TENSOR(c, r) = 1 << r
            :: absent_left > 0 -> absent_left--; TENSOR(c, r) = 0
#endif
            fi;
#ifdef PER_DEVICE
            waiting++;
            r > 0 || waiting == 2;
            waiting = 0;
#endif
            d_step { begin_exchange() };
#ifdef SKIP_ABSENT
            if
            :: TENSOR(c, r) == 0 -> goto served
            :: else
            fi;
#endif
            do
            :: ANY(CAN_MOVE) -> d_step { move() }
            :: ANY(HAS_ENDED) ->
                assert(had_fault[client]);  // without a fault, and by faults of other clients, no group fails
                d_step { fail_comm() };
                break
            :: !ANY(IS_UNFINISHED) ->
                d_step { end_exchange() };
                if
#ifdef DOUBLING
                :: step < STEPS
                :: step == STEPS -> d_step { complete() }; break
#else
                :: d_step { complete() }; break
#endif
                fi
            od;
served:
            skip;
            d_step { forget_exchange() };
#ifdef HOLD_DEVICE
            is_busy[r] = false
#endif
        :: command == read ->
            CLIENT_RECEIVES || has_left[SELF] -> unread[SELF]--
        :: command == group ->  // the worker closes the links of the group that has failed
            is_freed[r] = true;
#ifndef KEEP_MARKS
            lacks_input = false
#else
            skip
#endif
        :: command == free ->
            is_freed[c * RANKS + r] = true;
#ifdef DROP_ON_FREE
            d_step {
                i = 0;
                do
                :: i == RANKS -> break
                :: i < RANKS && len(TO(c, r, i)) > 0 -> TO(c, r, i)?number, _
                :: else -> i++
                od;
                i = 0
            }
#endif
#ifdef COPIES
        :: command == push -> pushed[1 - r]++
        :: command == take ->
            if
            :: pushed[r] > 0 -> pushed[r]--
            :: has_left[WORKER(client, 1 - r)]
            fi
        :: command == relay ->  // its reply fills the hole
            d_step { filled[WORKER(client, 1 - r)]++; send_commands(WORKER(client, 1 - r)) }
#endif
        fi;
        command = 0;
        c = 0
    }
    :: atomic { has_left[SELF] && len(connection[SELF]) == 0 ->
        d_step {
            c = client;
            do
            :: c < COMMS && !is_freed[c * RANKS + r] -> close_links(); c = c + CLIENTS
            :: c < COMMS && is_freed[c * RANKS + r] -> c = c + CLIENTS
            :: else -> break
            od;
            c = 0
        };
        break
    }
    od
}

// ---- The client

#define X WORKER(CLIENT_OF(c), x)
#define J WORKER(CLIENT_OF(c), j)

// The first or the last rank; the others would only add states.
inline choose_rank() {
    if
    :: x = 0
    :: x = RANKS - 1
    fi
}

inline begin_flush(w) {
    is_flushing[w] = true;
    send_commands(w)
}

// The thread may have to wait for connection x.
inline begin_wait() {
#if defined FLUSH_ONE
    d_step { begin_flush(X) }
#elif defined FLUSH_IN_TURN
    j = 0;
    do
    :: j < RANKS && j != x ->
        d_step { begin_flush(J) };
        len(outbox[J]) == 0 || is_lost[J];
        j++
    :: j < RANKS && j == x -> j++
    :: j == RANKS -> j = 0; break
    od;
    skip;
    d_step { begin_flush(X) }
#else
    d_step {
        j = 0;
        do
        :: j < WORKERS -> begin_flush(j); j++
        :: else -> break
        od;
        j = 0
    }
#endif
}

inline flush() {
    begin_wait();
    len(outbox[X]) == 0 || is_lost[X]
}

inline await() {
    begin_wait();
    is_awaited[X] = true;
    unread[X] == 0 || is_lost[X];
    is_awaited[X] = false
}

inline append_read() {
    outbox[X]!read, c;
    unread[X]++
}

inline append_to_all(command) {
    j = 0;
    do
    :: j < RANKS ->
        outbox[J]!command, c;
#ifdef PER_DEVICE
        if
        :: j == 0 && command == reduce -> outbox[J]!command, c  // rank 0 has two devices
        :: else
        fi;
#endif
        j++
    :: else -> j = 0; break
    od
}

#ifdef NO_ORDER
#define LOCK true
#define UNLOCK true
#else
#define LOCK atomic { !order_lock[CLIENT_OF(c)] -> order_lock[CLIENT_OF(c)] = true }
#define UNLOCK order_lock[CLIENT_OF(c)] = false
#endif
#ifdef COPY_UNORDERED
#define LOCK_COPY true
#define UNLOCK_COPY true
#else
#define LOCK_COPY LOCK
#define UNLOCK_COPY UNLOCK
#endif
#ifdef RELAYS
#define COPY_FROM relay
#define COPY_TO hole
#else
#define COPY_FROM push
#define COPY_TO take
#endif
#if CONTEXTS > 1 && FAULTS == 0
#define STEP  // threads of one client interleave
#else
#define STEP atomic
#endif

proctype program(byte c) {
    byte k, j, x;
    do
    :: STEP { k < REDUCTIONS ->
#if FAULTS > 0
        if
        :: is_lost[WORKER(CLIENT_OF(c), 0)] -> goto leave
        :: is_lost[WORKER(CLIENT_OF(c), RANKS - 1)] -> goto leave
        :: faults > 0 -> faults--; goto leave
        :: true
        fi;
#endif
        if
#ifdef COPIES
        :: c == 1 ->  // copies from rank x to the other one
            atomic { choose_rank(); outbox[X]!COPY_FROM, c; flush(); x = 1 - x };
            LOCK_COPY;
            outbox[X]!COPY_TO, c;
            UNLOCK_COPY
        :: c == 0 ->
#else
        :: true ->
#endif
            LOCK;
#ifdef RENEW
            if
            :: c == 0 && is_failure_known -> c = 1; append_to_all(group)
            :: true
            fi;
#endif
            append_to_all(reduce);
            UNLOCK
        fi;
        atomic {
            k++;
            if
            :: true
            :: choose_rank(); flush()
            :: reads > 0 -> reads--; choose_rank(); append_read()
            :: reads > 0 -> reads--; choose_rank(); append_read(); await()
            fi;
            x = 0
        }
    }
    :: k == REDUCTIONS -> break
    od;
    atomic { choose_rank(); append_read(); await(); append_to_all(free); k = 0 };
    do
    :: atomic { k < RANKS -> x = k; flush(); await(); k++ }
    :: k == RANKS -> goto over
    od;
leave:
    had_fault[CLIENT_OF(c)] = true;
over:
    skip;
    d_step {
#ifdef REACH_END
        assert(had_fault[CLIENT_OF(c)]);
#endif
        threads--;
        if
        :: threads % CONTEXTS == 0 || had_fault[CLIENT_OF(c)] ->
            j = 0;
            do
            :: j < RANKS -> is_lost[J] = true; has_left[J] = true; j++
            :: else -> break
            od
        :: else
        fi;
        k = 0; j = 0; x = 0
    }
}

// ---- Faults

#if FAULTS > 0
inline choose(variable, limit) {
    variable = 0;
    do
    :: variable < limit - 1 -> variable++
    :: break
    od
}

inline choose_link() {
    choose(b, RANKS - 1);
    b = (a + 1 + b) % RANKS
}

active proctype faulty() {
    byte a, b, c;
end:
    do
    :: atomic { faults > 0 && threads > 0 ->
        faults--;
        choose(a, RANKS);
        choose(c, PROGRAMS);
        had_fault[CLIENT_OF(c)] = true;
        if
        :: choose_link();  // a link breaks, and cannot be resumed in time
            CUT(c, a, b) = true;
            CUT(c, b, a) = true
        :: is_lost[WORKER(CLIENT_OF(c), a)] = true;  // a worker dies
            has_left[WORKER(CLIENT_OF(c), a)] = true;
            c = CLIENT_OF(c);
            do
            :: c < COMMS ->
                b = 0;
                do
                :: b < RANKS -> CUT(c, a, b) = true; CUT(c, b, a) = true; b++
                :: else -> break
                od;
                c = c + CLIENTS
            :: else -> break
            od
        :: is_lost[WORKER(CLIENT_OF(c), a)] = true;  // a session is lost, and its worker notices at last
#ifndef NO_GRACE
            has_left[WORKER(CLIENT_OF(c), a)] = true
#endif
#ifdef LEND
        :: choose_link();  // a link is interrupted and resumed: what was in flight is read from the tensor again
            moved_comm = 0;
            do
            :: len(TO(c, a, b)) > 0 -> TO(c, a, b)?number, _; moved_comm++
            :: len(TO(c, a, b)) == 0 -> break
            od;
            do
            :: moved_comm > 0 -> TO(c, a, b)!number, TENSOR(c, a); moved_comm--
            :: moved_comm == 0 -> break
            od
#endif
        fi;
        a = 0; b = 0; c = 0
    }
    od
}
#endif

init {
    byte n;
    atomic {
        do
        :: n < WORKERS -> run worker(n / RANKS, n % RANKS); n++
        :: else -> break
        od;
        n = 0;
        do
        :: n < PROGRAMS -> run program(n); n++
        :: else -> break
        od;
        n = 0
    }
}
