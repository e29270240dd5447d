// Records, acknowledgements, the window and resuming: src/net/resumable.{h,cc}, wire/extension.h.
//
// End 0 is active (the client), end 1 passive (the server). A byte of a stream is the number of its place in it, so
// whoever receives one knows whether it is the next. What a call does under the transport's lock is one step here. A
// connection is a pair of channels; either side of it may die first, and what is in the channels may still arrive on
// the other one, or not. README.md says what is left out, and what the -D flags change.

#ifndef WINDOW
#define WINDOW 2      // resume_window
#endif
#ifndef COMMANDS
#define COMMANDS 3    // bytes that the client sends
#endif
#ifndef ANSWERS
#define ANSWERS 2     // bytes that the server answers to each of them
#endif
#ifndef SOCKET
#define SOCKET 3      // headers and bytes that a connection holds in one direction
#endif
#ifndef BREAKS
#define BREAKS 2
#endif
#define MAX_RECORD 3  // more than the window, so that a record is bounded by the room
#define TELL_AFTER 1  // tell_after
#ifdef LATE_RESUME
#define CONNECTIONS (2 * BREAKS + 1)
#else
#define CONNECTIONS (BREAKS + 1)  // an attempt to resume fails only by a break
#endif
#define NONE 255

mtype = { header, data, resume, answer };
chan wire[2 * CONNECTIONS] = [SOCKET] of { mtype, byte, byte };
#define TO(e, c) wire[2 * (c) + (e)]
bool dead[2 * CONNECTIONS];    // seen from end e: it sends and receives nothing any more
#define DEAD(e, c) dead[2 * (c) + (e)]
#ifdef CLOSE_GIVEN_UP
bool closed[CONNECTIONS];      // by the active end, in an orderly way
#endif
byte newest = 0;               // connection that the active end has made
byte breaks = BREAKS;
bool is_done = false;          // both have all they want

// The members of ResumableTransport of these names, for either end.
byte conn[2];                  // inner_
byte replay_begin[2], replay_end[2], on_wire[2], record_left[2];
chan control[2] = [3] of { mtype, byte, byte };
byte taken[2], told[2], stashed[2], incoming_left[2];
byte connected_up_to = 0;      // the newest connection that the passive end was given

#define ALL_TAKEN (taken[0] == COMMANDS * ANSWERS && taken[1] == COMMANDS)
#define MIN(a, b) ((a) < (b) -> (a) : (b))
#define ROOM(e) (WINDOW - (replay_end[e] - replay_begin[e]))

bool writes[2];                // a wait's interest

// Meaningless between two steps.
hidden byte want[2], length[2], limit[2], moved[2], from[2];
hidden mtype kind[2];
hidden byte first[2], second[2];

inline drop_connection(e) {
    DEAD(e, conn[e]) = true;
    conn[e] = NONE;
    record_left[e] = 0;
    incoming_left[e] = 0;
    do
    :: len(control[e]) > 0 -> control[e]?kind[e], first[e], second[e]
    :: len(control[e]) == 0 -> break
    od
}

// Of a record of length[e].
inline add_header(e) {
    record_left[e] = length[e];
    control[e]!header(length[e], taken[e]);
    told[e] = taken[e]
}

// Up to limit[e].
inline pump_out(e) {
    do
    :: conn[e] == NONE -> break
    :: conn[e] != NONE && DEAD(e, conn[e]) && (len(control[e]) > 0 || on_wire[e] < limit[e]) -> drop_connection(e)
    :: else ->
        if
        :: record_left[e] == 0 && on_wire[e] < limit[e] ->
            length[e] = MIN(limit[e] - on_wire[e], MAX_RECORD);
            add_header(e)
        :: else
        fi;
        if
        :: len(control[e]) > 0 && len(TO(1 - e, conn[e])) < SOCKET ->
            control[e]?kind[e], first[e], second[e];
            TO(1 - e, conn[e])!kind[e], first[e], second[e]
        :: len(control[e]) == 0 && on_wire[e] < limit[e] && len(TO(1 - e, conn[e])) < SOCKET ->
            assert(on_wire[e] >= replay_begin[e]);
            TO(1 - e, conn[e])!data(on_wire[e], 0);
            on_wire[e]++;
            record_left[e]--
        :: else -> break
        fi
    od
}

inline hear_header(e) {
    incoming_left[e] = first[e];
    assert(second[e] <= on_wire[e]);  // "the peer acknowledged what it was not sent"
    if
    :: second[e] > replay_begin[e] -> replay_begin[e] = second[e]
    :: else
    fi
}

// Reads ahead, for the sake of the acknowledgements.
inline pump_in(e) {
#ifndef NO_STASH
    do
    :: conn[e] == NONE -> break
    :: conn[e] != NONE && DEAD(e, conn[e]) -> drop_connection(e); break
    :: else ->
        if
        :: len(TO(e, conn[e])) > 0 ->
            TO(e, conn[e])?kind[e], first[e], second[e];
            if
            :: kind[e] == header -> hear_header(e)
            :: else ->
                assert(kind[e] == data && incoming_left[e] > 0);
                assert(first[e] == taken[e] + stashed[e]);  // nothing lost, nothing twice, nothing out of order
                incoming_left[e]--;
                stashed[e]++;
                assert(stashed[e] <= WINDOW)  // "the peer sent more than was acknowledged"
            fi
        :: else -> break
        fi
    od
#else
    skip
#endif
}

// The caller has want[e] bytes; moved[e] of them are sent.
inline send(e) {
    moved[e] = 0;
    limit[e] = replay_end[e];
    pump_out(e);
    if
    :: conn[e] != NONE && len(control[e]) == 0 && on_wire[e] == replay_end[e] ->
        if
        :: record_left[e] == 0 ->
            if
            :: ROOM(e) < 1 -> pump_in(e)
            :: else
            fi;
#ifdef PROMISE_BEYOND_ROOM
            length[e] = MIN(want[e], MAX_RECORD);
#else
            length[e] = MIN(want[e], MAX_RECORD);
            length[e] = MIN(length[e], ROOM(e));
#endif
            if
            :: length[e] > 0 && conn[e] != NONE -> add_header(e)
            :: else
            fi
        :: else
        fi;
        if
        :: record_left[e] > 0 ->
            from[e] = replay_end[e];
            limit[e] = MIN(want[e], record_left[e]);
#ifdef PROMISE_BEYOND_ROOM
            limit[e] = MIN(limit[e], ROOM(e));
#endif
            limit[e] = from[e] + limit[e];
            replay_end[e] = limit[e];
            pump_out(e);
            replay_end[e] = (on_wire[e] > from[e] -> on_wire[e] : from[e]);
            moved[e] = replay_end[e] - from[e]
        :: else
        fi
    :: else
    fi;
    assert(replay_end[e] - replay_begin[e] <= WINDOW)
}

// An orderly end of the connection is the end of the peer, for the passive end.
inline hear_close(e) {
#ifdef CLOSE_GIVEN_UP
    assert(e == 0 || !closed[conn[e]])
#else
    skip
#endif
}

// The caller wants want[e] bytes; moved[e] of them have come.
inline receive(e) {
    moved[e] = 0;
    do
    :: moved[e] == want[e] -> break
    :: moved[e] < want[e] && stashed[e] > 0 -> stashed[e]--; taken[e]++; moved[e]++
    :: moved[e] < want[e] && stashed[e] == 0 && conn[e] == NONE -> break
    :: else ->
        if
        :: DEAD(e, conn[e]) -> drop_connection(e); break
        :: !DEAD(e, conn[e]) && len(TO(e, conn[e])) == 0 -> hear_close(e); break
        :: else ->
            TO(e, conn[e])?kind[e], first[e], second[e];
            if
            :: kind[e] == header -> hear_header(e)
            :: else ->
                assert(kind[e] == data && incoming_left[e] > 0);
                assert(first[e] == taken[e]);  // nothing lost, nothing twice, nothing out of order
                incoming_left[e]--;
                taken[e]++;
                moved[e]++
            fi
        fi
    od;
    acknowledge_much(e)
}

inline acknowledge_much(e) {
    if
    :: conn[e] != NONE && taken[e] - told[e] >= TELL_AFTER && len(control[e]) == 0 && record_left[e] == 0 ->
        length[e] = 0;
        add_header(e);
        limit[e] = replay_end[e];
        pump_out(e)
    :: else
    fi
}

inline begin_again(e, c, received) {
    assert(replay_begin[e] <= received && received <= on_wire[e]);  // "a place that makes no sense"
    replay_begin[e] = received;
    on_wire[e] = received;
    conn[e] = c;
    told[e] = taken[e];
    limit[e] = replay_end[e];
    pump_out(e)
}

inline forget_stash(e) {
#ifndef KEEP_STASH
    stashed[e] = 0
#else
    skip
#endif
}

#ifdef NO_STASH
#define READS_AHEAD false
#else
#define READS_AHEAD true
#endif
// What a wait of end e on connection c, for this interest, is ended by.
#ifdef PROMISE_BEYOND_ROOM
#define FOR_ROOM(e) (writes[e] && ROOM(e) == 0)
#else
#define FOR_ROOM(e) (writes[e] && ROOM(e) == 0 && record_left[e] == 0)
#endif
#define UNSENT(e) (len(control[e]) > 0 || on_wire[e] < replay_end[e])
#define READY(e, c, read) (conn[e] != c || DEAD(e, c) || \
    ((read || (READS_AHEAD && FOR_ROOM(e))) && len(TO(e, c)) > 0) || \
    ((UNSENT(e) || (writes[e] && !FOR_ROOM(e))) && len(TO(1 - e, c)) < SOCKET))

inline wait_begins(e, is_for_writing) {
    writes[e] = is_for_writing;
    limit[e] = replay_end[e];
    pump_out(e)
}

inline wait_ends(e, c) {
    if
    :: conn[e] == c && DEAD(e, c) -> drop_connection(e)
    :: conn[e] == c && !DEAD(e, c) && FOR_ROOM(e) -> pump_in(e)
    :: else
    fi;
    skip
}

// Sends and receives as both get on (client/stream.cc).
active proctype client() {
    byte c, received;
    bool has_moved;
again:
    skip;
    d_step { want[0] = COMMANDS - replay_end[0]; send(0); has_moved = moved[0] > 0 };
    d_step { want[0] = COMMANDS * ANSWERS - taken[0]; receive(0); has_moved = has_moved || moved[0] > 0 };
    if
    :: has_moved -> goto again
    :: else
    fi;
    d_step { wait_begins(0, replay_end[0] < COMMANDS); c = conn[0] };
    if
    :: c != NONE ->
        if
        :: ALL_TAKEN -> goto done
        :: stashed[0] > 0
        :: stashed[0] == 0 && READY(0, c, true) ->
            d_step { wait_ends(0, c) }
        fi
    :: else ->
reopen:
        skip;
        d_step {
            newest++;
            c = newest;
            forget_stash(0);
            received = taken[0];
            TO(1, c)!resume(received, 0)
        };
        if
        // This attempt came to nothing.
#ifdef CLOSE_GIVEN_UP
        :: DEAD(0, c) -> closed[c] = true; goto reopen
#else
        :: DEAD(0, c) -> goto reopen
#endif
        :: !DEAD(0, c) && TO(0, c)?[answer, _, _] ->
            d_step { TO(0, c)?answer(received, _); begin_again(0, c, received); skip }
        fi
    fi;
    goto again;
done:
#ifdef REACH_END
    assert(newest < BREAKS);
#endif
    is_done = true
}

#ifdef DUPLEX
// As the client: sends all it has, and receives, as both get on.
active proctype server() {
    byte c;
    bool has_moved;
again:
    skip;
    d_step { want[1] = COMMANDS * ANSWERS - replay_end[1]; send(1); has_moved = moved[1] > 0 };
    d_step { want[1] = COMMANDS - taken[1]; receive(1); has_moved = has_moved || moved[1] > 0 };
    if
    :: has_moved -> goto again
    :: else
    fi;
    d_step { wait_begins(1, replay_end[1] < COMMANDS * ANSWERS); c = conn[1] };
end:
    if
    :: stashed[1] > 0
    :: stashed[1] == 0 && c == NONE && conn[1] != NONE
    :: stashed[1] == 0 && c != NONE && READY(1, c, true) -> d_step { wait_ends(1, c) }
    fi;
    goto again
}
#else
// Takes a command, answers it, and takes nothing while it answers (server/session.cc).
active proctype server() {
    byte c, left;
    bool has_moved;
    do
    :: skip;
        d_step { want[1] = 1; receive(1); left = ANSWERS * moved[1]; wait_begins(1, false); c = conn[1] };
end:
        if
        :: left > 0 || stashed[1] > 0
        :: left == 0 && stashed[1] == 0 && c == NONE && conn[1] != NONE
        :: left == 0 && stashed[1] == 0 && c != NONE && READY(1, c, true) -> d_step { wait_ends(1, c) }
        fi;
        do
        :: left == 0 -> break
        :: left > 0 ->
            d_step { want[1] = left; send(1); left = left - moved[1]; has_moved = moved[1] > 0 };
            if
            :: left == 0 || has_moved
            :: else ->
                d_step { wait_begins(1, true); c = conn[1] };
                if
                :: c == NONE && conn[1] != NONE
                :: c != NONE && READY(1, c, false) -> d_step { wait_ends(1, c) }
                fi
            fi
        od
    od
}
#endif

// Where whoever resumes comes in: ResumableTransport::take_over, in a thread of the comer's own.
proctype door(byte c) {
    byte received;
end:
    !DEAD(1, c) && len(TO(1, c)) > 0;
    d_step {
        TO(1, c)?resume(received, _);
        if
#ifndef LATE_RESUME
        :: c < connected_up_to -> DEAD(1, c) = true
#endif
        :: else ->
            if
            :: conn[1] != NONE -> drop_connection(1)
            :: else
            fi;
            connected_up_to = c;
            forget_stash(1);
            control[1]!answer(taken[1], 0);
            begin_again(1, c, received)
        fi;
        skip
    }
}

// Breaks connections. Which end notices it first, and when the other one does, is open.
active proctype network() {
end:
    do
    :: atomic { breaks > 0 -> breaks-- }  // fewer of them
    :: atomic { breaks > 0 && !is_done && !DEAD(0, newest) -> breaks--; DEAD(0, newest) = true }
    :: atomic { breaks > 0 && !is_done && !DEAD(0, newest) && !DEAD(1, newest) -> breaks--; DEAD(1, newest) = true }
    :: atomic { conn[1] != NONE && DEAD(0, conn[1]) && !DEAD(1, conn[1]) -> DEAD(1, conn[1]) = true }
    :: atomic { DEAD(1, newest) && !DEAD(0, newest) -> DEAD(0, newest) = true }
    od
}

init {
    atomic {
        byte c = 1;
        do
        :: c < CONNECTIONS -> run door(c); c++
        :: else -> break
        od
    }
}
