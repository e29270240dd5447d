// Records, acknowledgements, the window and resuming: src/net/resume/, wire/extension.h.
//
// End 0 is active (the client), end 1 is passive (the server). The value of each byte is its position in the stream, so the
// receiver can check that it is the next one. A call that holds the transport's lock is a single step. A connection is a
// pair of channels; either end of it may die first, and data in the channels may or may not reach the other end.
// README.md lists the simplifications and the -D flags.

#ifndef WINDOW
#define WINDOW 2      // resume_window
#endif
#ifndef COMMANDS
#define COMMANDS 3    // bytes that the client sends, one per command
#endif
#ifndef ANSWERS
#define ANSWERS 2     // bytes of the reply to each command
#endif
#ifndef SOCKET
#define SOCKET 3      // capacity of a connection in one direction, in headers and bytes
#endif
#ifndef BREAKS
#define BREAKS 2
#endif
#define MAX_RECORD 3  // more than the window, so that the free part of the window bounds a record
#define TELL_AFTER 1  // bytes consumed before a standalone acknowledgement
#ifdef LATE_RESUME
#define CONNECTIONS (2 * BREAKS + 1)
#else
#define CONNECTIONS (BREAKS + 1)  // an attempt to resume fails only by a break
#endif
#define NONE 255

mtype = { header, data, resume, answer };
chan wire[2 * CONNECTIONS] = [SOCKET] of { mtype, byte, byte };
#define TO(e, c) wire[2 * (c) + (e)]
bool dead[2 * CONNECTIONS];    // for end e, the connection is broken: it sends and receives no more
#define DEAD(e, c) dead[2 * (c) + (e)]
#ifdef CLOSE_GIVEN_UP
bool closed[CONNECTIONS];      // closed by the active end
#endif
byte newest = 0;               // the latest connection of the active end
byte breaks = BREAKS;
bool is_done = false;          // both ends have received everything

// For each end, the corresponding members of ResumableTransport.
byte conn[2];                  // inner_
byte replay_begin[2], replay_end[2], on_wire[2], record_left[2];
chan control[2] = [3] of { mtype, byte, byte };
byte taken[2], told[2], stashed[2], incoming_left[2];
byte connected_up_to = 0;      // the latest connection that the passive end has accepted

#define ALL_TAKEN (taken[0] == COMMANDS * ANSWERS && taken[1] == COMMANDS)
#define MIN(a, b) ((a) < (b) -> (a) : (b))
#define ROOM(e) (WINDOW - (replay_end[e] - replay_begin[e]))

bool writes[2];                // the current wait includes writability

// Scratch variables, meaningless between steps.
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

// Begins a record of length[e].
inline add_header(e) {
    record_left[e] = length[e];
    control[e]!header(length[e], taken[e]);
    told[e] = taken[e]
}

// Sends up to stream position limit[e].
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
    assert(second[e] <= on_wire[e]);  // no acknowledgement of unsent bytes
    if
    :: second[e] > replay_begin[e] -> replay_begin[e] = second[e]
    :: else
    fi
}

// Reads ahead into the stash, to reach acknowledgements behind data that the application does not consume.
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
                assert(first[e] == taken[e] + stashed[e]);  // no byte lost, duplicated or out of order
                incoming_left[e]--;
                stashed[e]++;
                assert(stashed[e] <= WINDOW)  // the peer keeps the window
            fi
        :: else -> break
        fi
    od
#else
    skip
#endif
}

// The caller has want[e] bytes to send. Sets moved[e] to the number accepted.
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

// The passive end takes an orderly close for the exit of the peer.
inline hear_close(e) {
#ifdef CLOSE_GIVEN_UP
    assert(e == 0 || !closed[conn[e]])
#else
    skip
#endif
}

// The caller wants want[e] bytes. Sets moved[e] to the number received.
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
                assert(first[e] == taken[e]);  // no byte lost, duplicated or out of order
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
    assert(replay_begin[e] <= received && received <= on_wire[e]);  // the peer resumes at bytes that are still kept
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
// The conditions that end a wait of end e on connection c with this interest.
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

// Sends and receives as far as either makes progress (client/session/stream.cc).
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
        // The attempt failed.
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
// As the client: sends and receives as far as either makes progress.
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
// Receives a command and sends the reply; receives nothing while it sends (server/session/session.cc).
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

// Accepts a resuming connection: ResumableTransport::take_over, in a thread per connection.
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

// Breaks connections. Either end may notice first, and the other one at any time after.
active proctype network() {
end:
    do
    :: atomic { breaks > 0 -> breaks-- }  // fewer breaks
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
