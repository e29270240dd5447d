// Several queue pairs of one session: src/net/rdma/ring_transport.cc with more than one rail. Two ends send to each other
// concurrently, each message over any pair with a credit. A pair delivers in order, but pairs overtake each other. Send slots
// and completions are as in ring.pml. With BREAKS one pair fails at any time, and loses what it has not delivered.

#define PAIRS 2
#ifndef WINDOW
#define WINDOW 2       // data slots of an end on each pair
#endif
#define RESERVED 6     // reserved_slots
#ifndef MESSAGES
#define MESSAGES 3     // data messages that each end sends
#endif
#ifndef OWED_LIMIT
#define OWED_LIMIT 1
#endif
#define AT(e, p) ((e) * PAIRS + (p))
#define PLACE(e, n) place[(e) * MESSAGES + (n)]

mtype = { data, credit };
// In the completion queue of end e for pair p: kind, credits, number of the data message. A message fills a slot as soon as it
// is sent, the worst case for the number of posted slots.
chan heard[2 * PAIRS] = [8] of { mtype, byte, byte };

byte posted_receives[2 * PAIRS];   // posted and not yet filled
byte credits[2 * PAIRS], owed[2 * PAIRS];
byte kept[2 * PAIRS];              // slots with data that is not consumed yet
byte place[2 * MESSAGES];          // where end e keeps message n: 1 + its pair; 0: nowhere
byte sent[2], taken[2];            // data messages
bool is_broken[PAIRS];             // the pair delivers nothing more
byte breaks = 0;

hidden mtype kind;
hidden byte given, number;

#ifdef SHARED_CREDITS
#define CAN_SEND(e, p) (sent[e] < MESSAGES && credits[AT(e, 0)] + credits[AT(e, 1)] > 0)
#else
#define CAN_SEND(e, p) (sent[e] < MESSAGES && credits[AT(e, p)] > 0)
#endif

inline spend(e, p) {
    if
    :: credits[AT(e, p)] > 0 -> credits[AT(e, p)]--
    :: else -> credits[AT(e, 1 - p)]--
    fi
}

inline post(e, p, what) {
    if
    :: is_broken[p]
    :: else ->
        assert(posted_receives[AT(1 - e, p)] > 0);  // receiver not ready
        posted_receives[AT(1 - e, p)]--;
        heard[AT(1 - e, p)]!what(owed[AT(e, p)], sent[e])
    fi;
    owed[AT(e, p)] = 0
}

inline return_credits(e, p) {
#ifndef NO_CREDIT_MESSAGES
    if
    :: owed[AT(e, p)] >= OWED_LIMIT -> post(e, p, credit)
    :: else
    fi
#else
    skip
#endif
}

inline hear(e, p) {
    heard[AT(e, p)]?kind(given, number);
    credits[AT(e, p)] = credits[AT(e, p)] + given;
    assert(credits[AT(e, p)] <= WINDOW);
    if
    :: kind == credit -> posted_receives[AT(e, p)]++
    :: else ->
        assert(kept[AT(e, p)] + owed[AT(e, p)] <= WINDOW);
        // The receiver's table of early messages has one entry for each data slot.
        assert(number >= taken[e] && number < taken[e] + PAIRS * WINDOW);
        assert(PLACE(e, number) == 0);
        PLACE(e, number) = 1 + p;
        kept[AT(e, p)]++;
#ifdef REACH_EARLY
        assert(number == taken[e]);
#endif
#ifdef NO_REORDER
        assert(number == taken[e] + kept[AT(e, 0)] + kept[AT(e, 1)] - 1)  // consumed in this order
#endif
    fi;
    kind = 0; given = 0; number = 0
}

inline take(e) {
    number = PLACE(e, taken[e]) - 1;
    PLACE(e, taken[e]) = 0;
    kept[AT(e, number)]--;
    taken[e]++;
    posted_receives[AT(e, number)]++;
#ifdef CREDITS_ON_ANY
    number = 0;
#endif
    owed[AT(e, number)]++;
    return_credits(e, number);
    number = 0
}

proctype end_point(byte e) {
end:
    do
    :: atomic { len(heard[AT(e, 0)]) > 0 -> d_step { hear(e, 0); skip } }
    :: atomic { len(heard[AT(e, 1)]) > 0 -> d_step { hear(e, 1); skip } }
    :: atomic { CAN_SEND(e, 0) -> d_step { spend(e, 0); post(e, 0, data); sent[e]++ } }
    :: atomic { CAN_SEND(e, 1) -> d_step { spend(e, 1); post(e, 1, data); sent[e]++ } }
    :: atomic { taken[e] < MESSAGES && PLACE(e, taken[e]) > 0 -> d_step { take(e); skip } }
    od
}

#ifdef BREAKS
active proctype network() {
end:
    do
    :: atomic { breaks == 0 -> breaks = 1; is_broken[0] = true }
    :: break
    od
}
#endif

init {
    atomic {
        byte i;
        for (i : 0 .. 2 * PAIRS - 1) {
            credits[i] = WINDOW;
            posted_receives[i] = WINDOW + RESERVED
        }
        i = 0;
        run end_point(0);
        run end_point(1)
    }
    // Both ends may stop at their label `end`, so a deadlock is reported here. A broken pair ends the connection.
    breaks > 0 || (taken[0] == MESSAGES && taken[1] == MESSAGES);
#ifdef REACH_END
    assert(breaks > 0)
#else
    skip
#endif
}
