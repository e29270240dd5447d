// The choice of the transport: src/net/{client,server}_handshake.cc, net/rdma/upgrade.cc, the server's front door. The
// sequence is HELLO;
// for a session, optionally ADMISSION with queue positions until the client is admitted (`place`, true), each of which the
// client confirms by another ADMISSION if both ends announce that (`confirms`); the RDMA offer and
// its reply (`answer`); a token in each direction over RDMA; the verdict; and the first command on the chosen transport:
// RECORDS, or LINK and its reply. One command and its result stand for the rest of the session. A server may accept only RDMA
// (`only_rdma`, in its HELLO); to an older client, which does not know that, it sends a refusal instead of the result.
//
// If both ends announce it, the offer, the reply and the verdict are about two queue pairs (`rails`): the server replies for
// each, a token goes in each direction over each, and the verdict names those that both ends use: those that worked. They are
// one transport from then on.
//
// Any message over RDMA may be lost, any step of RDMA set-up may fail on either side, any wait may time out, and the TCP
// connection may break at any time.

mtype = { hello, admission, place, offer, answer, verdict, records, link, linked, command, result, refusal, token };
chan to_server = [4] of { mtype, byte };  // over TCP; of the reply to the offer and of the verdict: a bit for each queue pair
chan to_client = [4] of { mtype, byte };
// For each queue pair, before the verdict.
#define PAIRS 2
chan tokens_to_server = [PAIRS] of { mtype, byte };
chan tokens_to_client = [PAIRS] of { mtype, byte };
chan rdma_to_server = [3] of { mtype };
chan rdma_to_client = [3] of { mtype };
bool broken = false;       // the TCP connection broke or was closed: both ends see it, and an RDMA session ends with it
bool only_rdma = false;    // the server's setting
bool confirms = false;     // both ends announce that the client confirms its place in the queue
bool rails = false;        // both ends announce several queue pairs
bool told = false;         // the client knows that its session ended because of that setting
bool rdma_works = true;    // false after the first lost message: a queue pair delivers none after that

mtype = { undecided, tcp, rdma, ended };
mtype client_uses = undecided, server_uses = undecided;
byte client_pairs = 0, server_pairs = 0;
#define BIT(p) (1 << (p))

#define SEND(channel, kind, flag) if :: !broken -> channel!kind(flag) :: broken fi

#ifdef TCP_HOLDS
#define TCP_MAY_FAIL false
#else
#define TCP_MAY_FAIL true
#endif

// With TCP_HOLDS, only a session that has switched to RDMA may fail, or one that the server refuses with the reason.
inline end_of_client() {
    assert(TCP_MAY_FAIL || client_uses == rdma || told);
    broken = true;
    client_uses = ended;
    goto over
}
inline end_of_server() { broken = true; server_uses = ended; goto over }

inline send_rdma(channel, kind) {
    if
    :: rdma_works -> channel!kind
    :: rdma_works = false
    fi
}

// A token may be lost.
inline send_token(channel, p) {
    if
    :: channel!token(p)
    :: true
    fi
}

active proctype client() {
    bool has_rdma, server_has_rdma, is_link, is_older;
    byte flag, accepted, pair;
    select (has_rdma: 0 .. 1);
    select (is_link: 0 .. 1);
    select (is_older: 0 .. 1);
    is_older = is_older && !is_link;
    if
    :: !is_older && !is_link -> confirms = true
    :: true
    fi;
    if
    :: !is_older -> rails = true
    :: true
    fi;
    SEND(to_server, hello, has_rdma);
    if
    :: to_client?hello(flag)
    :: broken -> end_of_client()
    fi;
    server_has_rdma = flag;
    if
    :: only_rdma && !is_older && !(has_rdma && server_has_rdma) -> told = true; end_of_client()
    :: else
    fi;
    if
    :: !is_link -> SEND(to_server, admission, true)
    :: true -> goto admitted  // a link, or a session that starts over
    fi;
    do
    :: to_client?place(flag) ->
        if
        :: flag -> break
        :: !flag && confirms -> SEND(to_server, admission, true)
        :: !flag && !confirms
        fi
    :: broken -> end_of_client()
    :: TCP_MAY_FAIL -> end_of_client()  // time-out
    od;
admitted:
    flag = server_has_rdma;
    if
    :: !has_rdma || !flag -> goto over_tcp
    :: has_rdma && flag -> skip
    :: has_rdma && flag -> goto over_tcp  // no queue pair to offer
    fi;
    SEND(to_server, offer, true);
    if
    :: to_client?answer(accepted)
    :: broken -> end_of_client()
#ifdef LATE_ANSWER
    :: TCP_MAY_FAIL -> goto over_tcp  // time-out
#else
    :: TCP_MAY_FAIL -> end_of_client()  // time-out: the reply may still arrive
#endif
    fi;
    if
    :: accepted == 0 -> goto over_tcp
    :: else
    fi;
    for (pair : 0 .. PAIRS - 1) {
        if
        :: (accepted & BIT(pair)) -> send_token(tokens_to_server, pair)
        :: true  // not accepted, or the queue pair could not be connected
        fi
    }
    do
    :: tokens_to_client?token(pair) -> client_pairs = client_pairs | BIT(pair)
    :: true -> break  // all that it waited for are here, or time-out
    od;
#ifdef NAME_ACCEPTED
    client_pairs = (client_pairs -> accepted : 0);
#endif
    if
    :: client_pairs == 0 -> goto say_no
    :: else
    fi;
    SEND(to_server, verdict, client_pairs);
    client_uses = rdma;
    goto first;
say_no:
    SEND(to_server, verdict, false);
over_tcp:
    if
    :: only_rdma && !is_older -> told = true; end_of_client()
    :: else
    fi;
    client_uses = tcp;
first:
    if
    :: client_uses == tcp && !is_link -> SEND(to_server, records, true); SEND(to_server, command, true)
    :: client_uses == tcp && is_link -> SEND(to_server, link, true)
    :: client_uses == rdma && !is_link -> send_rdma(rdma_to_server, records); send_rdma(rdma_to_server, command)
    :: client_uses == rdma && is_link -> send_rdma(rdma_to_server, link)
    fi;
    if
    :: is_link ->
        if
        :: client_uses == tcp && to_client?[_, _] ->
            // The next message from the server belongs to the session.
            assert(to_client?[linked, _]);
            to_client?linked(_);
            SEND(to_server, command, true)
        :: client_uses == rdma && rdma_to_client?[linked] ->
            rdma_to_client?linked;
            send_rdma(rdma_to_server, command)
        :: broken -> end_of_client()
        fi
    :: !is_link
    fi;
    if
    :: client_uses == tcp && to_client?[refusal, _] -> assert(only_rdma); told = true; end_of_client()
    :: client_uses == tcp && to_client?[_, _] && !to_client?[refusal, _] -> assert(to_client?[result, _])
    :: client_uses == rdma && rdma_to_client?[result]
    :: broken -> end_of_client()
    :: client_uses == rdma && !rdma_works -> end_of_client()
    fi;
    assert(client_uses == server_uses && client_pairs == server_pairs);
#ifdef REACH_END
    assert(client_uses != rdma || client_pairs != BIT(0) + BIT(1));
#endif
over:
    skip
}

active proctype server() {
    bool has_rdma;
    byte flag, accepted, verified, pair;
    mtype kind;
    select (has_rdma: 0 .. 1);
    if
    :: only_rdma = true
    :: only_rdma = false
    fi;
    if
    :: to_server?hello(_)
    :: broken -> end_of_server()
    fi;
    SEND(to_client, hello, has_rdma);
    if
    :: to_server?kind(flag)
    :: broken -> end_of_server()
    fi;
    if
    :: kind == admission ->
        do
        :: nfull(to_client) -> SEND(to_client, place, false);
#ifndef ADMIT_UNCONFIRMED
            if
            :: confirms ->
                if
                :: to_server?kind(_) -> assert(kind == admission)
                :: broken -> end_of_server()
                :: TCP_MAY_FAIL -> end_of_server()  // the client is silent, and dropped for others
                fi
            :: !confirms
            fi
#endif
        :: nfull(to_client) -> SEND(to_client, place, true); break
        :: broken -> end_of_server()
        od;
        if
        :: to_server?kind(flag)
        :: broken -> end_of_server()
        :: TCP_MAY_FAIL -> end_of_server()  // time-out
        fi
    :: else
    fi;
    if
    :: kind != offer -> server_uses = tcp; goto first_is_here
    :: kind == offer -> accepted = BIT(0)
    :: kind == offer && rails -> accepted = BIT(0) + BIT(1)
    :: kind == offer -> SEND(to_client, answer, 0); server_uses = tcp; goto first
    fi;
    SEND(to_client, answer, accepted);
    do
    :: tokens_to_server?token(pair) ->
        if
        :: verified = verified | BIT(pair); send_token(tokens_to_client, pair)
        :: true  // the token could not be posted
        fi
    :: true -> break  // the verdict is here, or time-out
    od;
#ifdef NO_VERDICT
    server_pairs = verified;
    server_uses = (verified -> rdma : tcp);
    goto first;
#endif
    if
    :: to_server?kind(flag) ->
        assert(kind == verdict);  // no byte of the session is mistaken for the verdict
        assert((flag & ~verified) == 0);
        server_pairs = flag;
        server_uses = (flag -> rdma : tcp)
    :: broken -> end_of_server()
    :: TCP_MAY_FAIL -> end_of_server()  // time-out
    fi;
first:
    if
    :: server_uses == tcp && to_server?[_, _] -> to_server?kind(_)
    :: server_uses == rdma && rdma_to_server?[_] -> rdma_to_server?kind
    :: broken -> end_of_server()
    :: TCP_MAY_FAIL || (server_uses == rdma && !rdma_works) -> end_of_server()  // time-out
    fi;
first_is_here:
    if
    :: only_rdma && server_uses == tcp ->
#ifndef NO_REASON
        SEND(to_client, refusal, true);
        if
        :: broken  // the client has closed the connection
        :: TCP_MAY_FAIL  // time-out
        fi;
#endif
        end_of_server()
    :: else
    fi;
    if
    :: kind == records
    :: kind == link ->
        if
        :: server_uses == tcp -> SEND(to_client, linked, true)
        :: server_uses == rdma -> send_rdma(rdma_to_client, linked)
        fi
    :: else -> end_of_server()  // the session does not begin with RECORDS
    fi;
    assert(client_uses == server_uses || client_uses == ended);
    if
    :: server_uses == tcp && to_server?[_, _] -> to_server?kind(_)
    :: server_uses == rdma && rdma_to_server?[_] -> rdma_to_server?kind
    :: broken -> end_of_server()
    :: server_uses == rdma && !rdma_works -> end_of_server()
    fi;
    assert(kind == command);
    if
    :: server_uses == tcp -> SEND(to_client, result, true)
    :: server_uses == rdma -> send_rdma(rdma_to_client, result)
    fi;
over:
    skip
}

active proctype network() {
end:
    do
    :: atomic { TCP_MAY_FAIL && !broken -> broken = true }
    :: atomic { rdma_works -> rdma_works = false }
    :: break
    od
}
