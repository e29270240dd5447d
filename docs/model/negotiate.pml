// The choice of the transport: src/net/{client,server}_handshake.cc, net/rdma/upgrade.cc, the server's front door. The
// sequence is HELLO;
// for a session, optionally ADMISSION with queue positions until the client is admitted (`place`, true), each of which the
// client confirms by another ADMISSION if both ends announce that (`confirms`); the RDMA offer and
// its reply (`answer`); a token in each direction over RDMA; the verdict; and the first command on the chosen transport:
// RECORDS, or LINK and its reply. One command and its result stand for the rest of the session. A server may accept only RDMA
// (`only_rdma`, in its HELLO); to an older client, which does not know that, it sends a refusal instead of the result.
//
// Any message over RDMA may be lost, any step of RDMA set-up may fail on either side, any wait may time out, and the TCP
// connection may break at any time.

mtype = { hello, admission, place, offer, answer, verdict, records, link, linked, command, result, refusal, token };
chan to_server = [4] of { mtype, bool };  // over TCP
chan to_client = [4] of { mtype, bool };
chan rdma_to_server = [3] of { mtype };
chan rdma_to_client = [3] of { mtype };
bool broken = false;       // the TCP connection broke or was closed: both ends see it, and an RDMA session ends with it
bool only_rdma = false;    // the server's setting
bool confirms = false;     // both ends announce that the client confirms its place in the queue
bool told = false;         // the client knows that its session ended because of that setting
bool rdma_works = true;    // false after the first lost message: a queue pair delivers none after that

mtype = { undecided, tcp, rdma, ended };
mtype client_uses = undecided, server_uses = undecided;

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

active proctype client() {
    bool has_rdma, server_has_rdma, flag, is_link, is_older;
    select (has_rdma: 0 .. 1);
    select (is_link: 0 .. 1);
    select (is_older: 0 .. 1);
    is_older = is_older && !is_link;
    if
    :: !is_older && !is_link -> confirms = true
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
    :: to_client?answer(flag)
    :: broken -> end_of_client()
#ifdef LATE_ANSWER
    :: TCP_MAY_FAIL -> goto over_tcp  // time-out
#else
    :: TCP_MAY_FAIL -> end_of_client()  // time-out: the reply may still arrive
#endif
    fi;
    if
    :: !flag -> goto over_tcp
    :: flag -> send_rdma(rdma_to_server, token)
    :: flag -> goto say_no  // the queue pair could not be connected
    fi;
    if
    :: rdma_to_client?token -> skip
    :: true -> goto say_no  // time-out
    fi;
    SEND(to_server, verdict, true);
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
    assert(client_uses == server_uses);
#ifdef REACH_END
    assert(client_uses != rdma);
#endif
over:
    skip
}

active proctype server() {
    bool has_rdma, flag, is_verified;
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
    :: kind == offer -> SEND(to_client, answer, true)
    :: kind == offer -> SEND(to_client, answer, false); server_uses = tcp; goto first
    fi;
    if
    :: rdma_to_server?token ->
        if
        :: is_verified = true; send_rdma(rdma_to_client, token)
        :: is_verified = false  // the token could not be posted
        fi
    :: true -> is_verified = false  // time-out
    fi;
#ifdef NO_VERDICT
    server_uses = (is_verified -> rdma : tcp);
    goto first;
#endif
    if
    :: to_server?kind(flag) ->
        assert(kind == verdict);  // no byte of the session is mistaken for the verdict
        assert(!flag || is_verified);
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
