// The credits of the RDMA data path: src/net/rdma/ring_transport.cc. Two ends send to each other concurrently. On a real
// queue pair, a message that finds no posted receive slot at the peer breaks the connection (RNR).

#ifndef DEPTH_0
#define DEPTH_0 9      // slots of end 0 in each direction; the program's rings are deeper
#endif
#ifndef DEPTH_1
#define DEPTH_1 7      // the minimum that the program accepts
#endif
#ifndef RESERVED
#define RESERVED 6     // reserved_slots
#endif
#ifndef MESSAGES
#define MESSAGES 4     // data messages that each end sends
#endif
#define CREDIT_SHARE 3
#ifndef SIGNAL_SHARE
#define SIGNAL_SHARE 4  // more: each send is signalled, as are the messages of a long transfer
#endif
#define DEPTH(e) ((e) == 0 -> DEPTH_0 : DEPTH_1)
#define AT_LEAST_1(n) ((n) > 1 -> (n) : 1)
#define OWED_LIMIT(e) AT_LEAST_1((DEPTH(e) - 6) / CREDIT_SHARE)
#define SIGNAL_EVERY(e) AT_LEAST_1(DEPTH(e) / SIGNAL_SHARE)

mtype = { data, credit };
chan wire[2] = [12] of { mtype, byte, byte };   // to end e: kind, credits, number of the data message
chan heard[2] = [12] of { mtype, byte, byte };  // in end e's completion queue

byte posted_receives[2];  // posted and not yet filled
byte credits[2], owed[2];
byte unfinished[2];       // posted_ - completed_
byte since_signal[2];     // sends since the last signalled one
chan signalled[2] = [12] of { byte };  // for each signalled send: the number of sends that its completion covers
byte sent[2], ready[2], taken[2];      // data messages: sent, received and waiting, consumed
byte arrived[2];          // sends of end e that have reached the peer and whose completion e has not seen

hidden mtype kind[2];
hidden byte given[2], number[2], count[2];

#define CAN_SEND(e) (sent[e] < MESSAGES && credits[e] > 0 && unfinished[e] < DEPTH(e) - RESERVED)
#define OWES(e) (owed[e] >= OWED_LIMIT(e) && unfinished[e] < DEPTH(e))

inline post(e) {
    wire[1 - e]!kind[e](owed[e], sent[e]);
    owed[e] = 0;
    unfinished[e]++;
    assert(unfinished[e] <= DEPTH(e));  // no send slot is reused before it is free
    since_signal[e]++;
    if
    :: since_signal[e] == SIGNAL_EVERY(e) -> signalled[e]!since_signal[e]; since_signal[e] = 0
    :: else
    fi
}

inline return_credits(e) {
#ifndef NO_CREDIT_MESSAGES
    if
    :: OWES(e) -> kind[e] = credit; post(e)
    :: else
    fi
#else
    skip
#endif
}

// Handles one message and one completion from the completion queue.
inline hear(e) {
    if
    :: len(heard[e]) > 0 ->
        heard[e]?kind[e](given[e], number[e]);
        credits[e] = credits[e] + given[e];
        assert(credits[e] <= DEPTH(1 - e) - RESERVED);
        if
        :: kind[e] == credit -> posted_receives[e]++
        :: else ->
            assert(number[e] == ready[e] + taken[e]);  // no message lost, duplicated or out of order
            // The peer sends no more data messages than it has credits.
            assert(ready[e] + owed[e] < DEPTH(e) - RESERVED + 1);
            ready[e]++
        fi
    :: else
    fi;
    if
    :: len(signalled[e]) > 0 ->
        signalled[e]?<count[e]>;
        if
        :: arrived[e] >= count[e] ->
            signalled[e]?count[e];
            arrived[e] = arrived[e] - count[e];
            unfinished[e] = unfinished[e] - count[e]
        :: else
        fi
    :: else
    fi;
    return_credits(e);
    skip
}

#define CAN_COMPLETE(e) (len(signalled[e]) > 0 && arrived[e] >= SIGNAL_EVERY(e))

// The network adapters: a message fills a posted slot of the receiver.
inline deliver(e) {
    wire[e]?kind[e](given[e], number[e]);
    assert(posted_receives[e] > 0);  // receiver not ready
    posted_receives[e]--;
    heard[e]!kind[e](given[e], number[e]);
    arrived[1 - e]++
}

proctype end_point(byte e) {
end:
    do
    :: atomic { len(wire[e]) > 0 -> d_step { deliver(e) } }
    :: atomic { len(heard[e]) > 0 || CAN_COMPLETE(e) -> d_step { hear(e) } }
    :: atomic { CAN_SEND(e) -> d_step { kind[e] = data; credits[e]--; post(e); sent[e]++ } }
    :: atomic {
        ready[e] > 0 -> d_step { ready[e]--; taken[e]++; posted_receives[e]++; owed[e]++; return_credits(e); skip }
    }
    od
}

init {
    atomic {
        credits[0] = DEPTH_1 - RESERVED;
        credits[1] = DEPTH_0 - RESERVED;
        posted_receives[0] = DEPTH_0;
        posted_receives[1] = DEPTH_1;
        run end_point(0);
        run end_point(1)
    }
    // Both ends may stop at their label `end`, so a deadlock is reported here.
    taken[0] == MESSAGES && taken[1] == MESSAGES;
#ifdef REACH_END
    assert(false)
#else
    skip
#endif
}
