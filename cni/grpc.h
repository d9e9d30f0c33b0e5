/* One unary gRPC call over HTTP/2 on a Unix socket: connect, send, wait for the answer, hang up. */
#ifndef CONTIV_GRPC_H
#define CONTIV_GRPC_H

#include "cni.h"

#include <stdint.h>

#define GRPC_REPLY_SIZE_MAX (4UL << 20) /* what gRPC's own libraries take by default */

struct grpc_call {
    const char *socket; /* path of the Unix socket */
    const char *method; /* "/package.Service/Method" */
    int timeout_ms;     /* for everything together; told to the server as grpc-timeout */
    const uint8_t *request;
    size_t request_length;
};

/* The reply's message, to be freed by the caller. */
struct grpc_reply {
    uint8_t *message;
    size_t length;
};

/* Failures: CNI_TRY_AGAIN_LATER where the server is absent, silent, overloaded or went away; CNI_IO_FAILURE where the
 * socket may not be opened; CNI_AGENT_PROTOCOL where the peer does not speak gRPC as we do; CNI_INVALID_CONFIG and
 * CNI_INTERNAL from its grpc-status. */
int grpc_unary(const struct grpc_call *call, struct grpc_reply *reply, struct failure *failure);

/* Take the one message out of a reply's body (5 bytes of prefix each, gRPC over HTTP/2 "Length-Prefixed-Message"). */
int grpc_unframe(const uint8_t *body, size_t length, struct span *message, struct failure *failure);

#endif
