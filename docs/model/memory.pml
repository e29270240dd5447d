// A link through shared memory: src/server/links/memory_link.cc. Each end sends bytes through a ring and receives those of the
// other, at the same time. An end that can do neither sets its flag, looks again, and sleeps until a bell arrives over the
// network's link. README.md lists the properties and the -D flags.

#ifndef BYTES
#define BYTES 3        // that each end sends
#endif
#ifndef RING
#define RING 2         // bytes that a ring holds
#endif
#ifndef BELLS
#define BELLS 1        // that the link holds in one direction
#endif
#ifndef KILLS
#define KILLS 0        // ends that may exit at any step
#endif

byte sent[2], received[2];  // positions, in the memory
bool sleeps[2];             // flags, in the memory
chan bell[2] = [BELLS] of { bit };  // to end e
bool is_dead[2];
byte kills = KILLS;

#define CAN_SEND(e) (sent[e] < BYTES && sent[e] - received[1 - e] < RING)
#define CAN_RECEIVE(e) (received[e] < sent[1 - e])
#define IS_DONE(e) (sent[e] == BYTES && received[e] == BYTES)

inline ring(e) {
    if
    :: nfull(bell[1 - e]) -> bell[1 - e]!1
    :: full(bell[1 - e])  // the end has bells that it has not received: it wakes up anyway
    fi
}

inline wake(e) {
    if
    :: sleeps[1 - e] ->
#ifdef RESET_LATE
        ring(e);
        sleeps[1 - e] = false
#else
        sleeps[1 - e] = false;
        ring(e)
#endif
    :: else
    fi
}

proctype End(byte e) {
    do
    :: IS_DONE(e) -> break
    :: !IS_DONE(e) && CAN_SEND(e) ->
        sent[e]++;
        assert(sent[e] - received[1 - e] <= RING);
        wake(e)
    :: !IS_DONE(e) && CAN_RECEIVE(e) ->
        received[e]++;
        wake(e)
    :: !IS_DONE(e) && !CAN_SEND(e) && !CAN_RECEIVE(e) ->
        sleeps[e] = true;
        if
#ifndef NO_LOOK
        :: CAN_SEND(e) || CAN_RECEIVE(e)
        :: !CAN_SEND(e) && !CAN_RECEIVE(e) ->
#else
        :: true ->
#endif
            if
            :: bell[e]?_ ->
                do
                :: nempty(bell[e]) -> bell[e]?_
                :: empty(bell[e]) -> break
                od
            :: is_dead[1 - e] && empty(bell[e]) ->
                if
                :: CAN_RECEIVE(e)  // what the other end sent before its exit still counts
                :: !CAN_RECEIVE(e) ->
                    assert(KILLS > 0);  // an end that is done has sent and received all
                    goto failed
                fi
            fi
        fi;
        sleeps[e] = false
    :: kills > 0 -> kills--; goto failed
    od;
#ifdef REACH_END
    assert(!IS_DONE(1 - e));
#endif
failed:
    is_dead[e] = true
}

init {
    atomic {
        run End(0);
        run End(1)
    }
}
