/* gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md), the client's side of one unary call.
 *
 * nghttp2 does the frames and flow control on buffers; this file owns the socket, one deadline for everything and the
 * meaning of headers. The socket never blocks: a peer that accepts and says nothing costs the timeout, no more. */
#include "grpc.h"

#include <errno.h>
#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef CONTIV_VERSION
#define CONTIV_VERSION "0"
#endif

#define CONNECT_RETRY_MS 20    /* a full backlog of a Unix socket is EAGAIN, and poll cannot wait for it */
#define CONNECT_TIMEOUT_MS 600 /* absent must be told within a second */
#define PREFIX_SIZE 5

enum { STATUS_UNKNOWN = -1 };

/* grpc/doc/statuscodes.md */
enum grpc_status {
    GRPC_CANCELLED = 1,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_ABORTED = 10,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_UNAVAILABLE = 14,
};

struct exchange {
    const struct grpc_call *call;
    size_t sent; /* of prefix and request */
    uint8_t prefix[PREFIX_SIZE];
    uint8_t *body;
    size_t body_length;
    size_t body_room;
    bool too_large;
    bool no_memory;
    bool closed; /* the stream */
    uint32_t close_code;
    int32_t stream;
    bool grpc_content;
    int http_status;
    int grpc_status;
    char grpc_message[384];
};

static long now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- what nghttp2 calls ------------------------------------------------------------------------------------------ */

static ssize_t read_request(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room, uint32_t *flags,
                            nghttp2_data_source *source, void *user)
{
    struct exchange *exchange = user;
    size_t total = PREFIX_SIZE + exchange->call->request_length;
    size_t written = 0;
    (void)session;
    (void)stream;
    (void)source;
    while (written < room && exchange->sent < PREFIX_SIZE)
        out[written++] = exchange->prefix[exchange->sent++];
    size_t rest = total - exchange->sent;
    size_t count = rest < room - written ? rest : room - written;
    if (count > 0)
        memcpy(out + written, exchange->call->request + (exchange->sent - PREFIX_SIZE), count);
    exchange->sent += count;
    if (exchange->sent == total)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)(written + count);
}

static int small_number(const uint8_t *value, size_t length)
{
    int number = 0;
    if (length == 0 || length > 3)
        return STATUS_UNKNOWN;
    for (size_t index = 0; index < length; index++) {
        if (value[index] < '0' || value[index] > '9')
            return STATUS_UNKNOWN;
        number = number * 10 + (value[index] - '0');
    }
    return number;
}

static int hex_digit(uint8_t character)
{
    if (character >= '0' && character <= '9')
        return character - '0';
    character |= 0x20;
    return character >= 'a' && character <= 'f' ? character - 'a' + 10 : -1;
}

/* grpc-message is percent-encoded UTF-8; what is malformed stays as it is, as the protocol asks. */
static void decode_message(const uint8_t *value, size_t length, char *out, size_t room)
{
    size_t written = 0;
    for (size_t index = 0; index < length && written + 1 < room; index++) {
        int high = index + 2 < length ? hex_digit(value[index + 1]) : -1;
        int low = high >= 0 ? hex_digit(value[index + 2]) : -1;
        if (value[index] == '%' && low >= 0) {
            out[written++] = (char)(high << 4 | low);
            index += 2;
        } else {
            out[written++] = (char)value[index];
        }
    }
    out[written] = '\0';
}

static bool is_name(const uint8_t *name, size_t length, const char *wanted)
{
    return strlen(wanted) == length && memcmp(name, wanted, length) == 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t value_length, uint8_t flags, void *user)
{
    static const char content[] = "application/grpc";
    struct exchange *exchange = user;
    (void)session;
    (void)flags;
    if (frame->hd.stream_id != exchange->stream)
        return 0;
    if (is_name(name, name_length, ":status"))
        exchange->http_status = small_number(value, value_length);
    else if (is_name(name, name_length, "content-type"))
        exchange->grpc_content
            = value_length >= sizeof content - 1 && memcmp(value, content, sizeof content - 1) == 0;
    else if (is_name(name, name_length, "grpc-status"))
        exchange->grpc_status = small_number(value, value_length);
    else if (is_name(name, name_length, "grpc-message"))
        decode_message(value, value_length, exchange->grpc_message, sizeof exchange->grpc_message);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t length,
                   void *user)
{
    struct exchange *exchange = user;
    (void)session;
    (void)flags;
    if (stream != exchange->stream || exchange->too_large || exchange->no_memory)
        return 0;
    if (exchange->body_length + length > GRPC_REPLY_SIZE_MAX + PREFIX_SIZE) {
        exchange->too_large = true;
        return 0;
    }
    if (exchange->body_length + length > exchange->body_room) {
        size_t room = 2 * exchange->body_room + length;
        uint8_t *grown = realloc(exchange->body, room);
        if (grown == NULL) {
            exchange->no_memory = true;
            return 0;
        }
        exchange->body = grown;
        exchange->body_room = room;
    }
    memcpy(exchange->body + exchange->body_length, data, length);
    exchange->body_length += length;
    return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t code, void *user)
{
    struct exchange *exchange = user;
    (void)session;
    if (stream == exchange->stream) {
        exchange->closed = true;
        exchange->close_code = code;
    }
    return 0;
}

/* --- the socket -------------------------------------------------------------------------------------------------- */

static int refused(const struct grpc_call *call, int error, struct failure *failure)
{
    bool absent = error == ENOENT || error == ECONNREFUSED || error == EAGAIN || error == ECONNRESET;
    return fail(failure, absent ? CNI_TRY_AGAIN_LATER : CNI_IO_FAILURE, strerror(error), "%s on %s",
                absent ? "the Contiv agent does not listen" : "cannot connect to the Contiv agent", call->socket);
}

/* A connected descriptor, or -1. */
static int connect_to_agent(const struct grpc_call *call, struct failure *failure)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    long give_up = now_ms() + CONNECT_TIMEOUT_MS;
    if (strlen(call->socket) >= sizeof address.sun_path)
        return refused(call, ENAMETOOLONG, failure);
    memcpy(address.sun_path, call->socket, strlen(call->socket));
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return refused(call, errno, failure);
    while (connect(descriptor, (const struct sockaddr *)&address, sizeof address) < 0) {
        int error = errno;
        if ((error != EAGAIN && error != EINTR) || now_ms() >= give_up) {
            (void)close(descriptor);
            return refused(call, error, failure);
        }
        (void)poll(NULL, 0, CONNECT_RETRY_MS);
    }
    return descriptor;
}

static int went_away(struct failure *failure)
{
    return fail(failure, CNI_TRY_AGAIN_LATER, "connection closed",
                "the Contiv agent closed the connection before it answered");
}

static int broken(int error, struct failure *failure)
{
    return fail(failure, CNI_AGENT_PROTOCOL, nghttp2_strerror(error),
                "what answers on agentSocket does not speak HTTP/2");
}

static int send_some(int descriptor, nghttp2_session *session, struct span *pending, struct failure *failure)
{
    for (;;) {
        if (pending->length == 0) {
            const uint8_t *bytes = NULL;
            ssize_t length = nghttp2_session_mem_send(session, &bytes);
            if (length < 0)
                return broken((int)length, failure);
            if (length == 0)
                return 0;
            *pending = (struct span){(const char *)bytes, (size_t)length};
        }
        ssize_t sent = send(descriptor, pending->at, pending->length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN)
            return 0;
        if (sent < 0)
            /* what the peer said before it closed may still be readable and is worth more than EPIPE */
            return errno == EPIPE ? 0 : went_away(failure);
        pending->at += sent;
        pending->length -= (size_t)sent;
    }
}

static int receive_some(int descriptor, nghttp2_session *session, const struct exchange *exchange,
                        struct failure *failure)
{
    uint8_t bytes[16384];
    ssize_t length = recv(descriptor, bytes, sizeof bytes, 0);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (length <= 0)
        return went_away(failure);
    ssize_t taken = nghttp2_session_mem_recv(session, bytes, (size_t)length);
    /* an answer that is complete stands, whatever follows it */
    return taken < 0 && !exchange->closed ? broken((int)taken, failure) : 0;
}

/* Until the stream is closed, the deadline has passed or the peer is gone. */
static int talk(int descriptor, nghttp2_session *session, struct exchange *exchange, long deadline,
                struct failure *failure)
{
    struct span pending = {NULL, 0};
    while (!exchange->closed && !exchange->too_large && !exchange->no_memory) {
        if (send_some(descriptor, session, &pending, failure) < 0)
            return -1;
        if (!nghttp2_session_want_read(session) && !nghttp2_session_want_write(session))
            return broken(NGHTTP2_ERR_PROTO, failure);
        struct pollfd wait = {.fd = descriptor, .events = POLLIN};
        if (pending.length > 0)
            wait.events |= POLLOUT;
        long left = deadline - now_ms();
        int ready = left <= 0 ? 0 : poll(&wait, 1, (int)left);
        if (ready < 0 && errno != EINTR)
            return fail(failure, CNI_IO_FAILURE, strerror(errno), "cannot wait for the Contiv agent");
        if (ready == 0)
            return fail(failure, CNI_TRY_AGAIN_LATER, "timeoutSeconds", "the Contiv agent did not answer in %d s",
                        exchange->call->timeout_ms / 1000);
        if (ready > 0 && (wait.revents & (POLLIN | POLLHUP | POLLERR)) != 0
            && receive_some(descriptor, session, exchange, failure) < 0)
            return -1;
    }
    return 0;
}

/* --- the call ---------------------------------------------------------------------------------------------------- */

static nghttp2_nv header(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value),
                        NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

static nghttp2_session *open_session(struct exchange *exchange)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_session *session = NULL;
    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return NULL;
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    if (nghttp2_session_client_new(&session, callbacks, exchange) != 0)
        session = NULL;
    nghttp2_session_callbacks_del(callbacks);
    return session;
}

static int submit(nghttp2_session *session, struct exchange *exchange, struct failure *failure)
{
    char timeout[16];
    (void)snprintf(timeout, sizeof timeout, "%dm", exchange->call->timeout_ms);
    const nghttp2_nv headers[] = {
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", exchange->call->method),
        header(":authority", "localhost"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
        header("grpc-timeout", timeout),
        header("user-agent", "contiv-cni/" CONTIV_VERSION),
    };
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
    const nghttp2_data_provider provider = {.read_callback = read_request};
    size_t length = exchange->call->request_length;
    for (int index = 0; index < 4; index++)
        exchange->prefix[1 + index] = (uint8_t)(length >> (24 - 8 * index));
    int error = nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, 1);
    if (error == 0) {
        exchange->stream
            = nghttp2_submit_request(session, NULL, headers, sizeof headers / sizeof *headers, &provider, NULL);
        error = exchange->stream < 0 ? exchange->stream : 0;
    }
    return error == 0 ? 0 : fail(failure, CNI_INTERNAL, nghttp2_strerror(error), "cannot prepare the request");
}

static int code_of_status(int status)
{
    switch (status) {
    case GRPC_CANCELLED:
    case GRPC_DEADLINE_EXCEEDED:
    case GRPC_RESOURCE_EXHAUSTED:
    case GRPC_ABORTED:
    case GRPC_UNAVAILABLE:
        return CNI_TRY_AGAIN_LATER;
    case GRPC_INVALID_ARGUMENT:
        return CNI_INVALID_CONFIG;
    case GRPC_UNIMPLEMENTED:
        return CNI_AGENT_PROTOCOL;
    default:
        return CNI_INTERNAL;
    }
}

/* What the closed stream means: 0 when there is a message to unpack. */
static int judge(const struct exchange *exchange, struct failure *failure)
{
    char details[64];
    if (exchange->no_memory)
        return fail(failure, CNI_INTERNAL, "out of memory", "cannot hold the Contiv agent's reply");
    if (exchange->too_large)
        return fail(failure, CNI_AGENT_PROTOCOL, "at most 4 MiB are taken", "the Contiv agent's reply is too large");
    if (exchange->grpc_status > 0) {
        (void)snprintf(details, sizeof details, "grpc-status %d", exchange->grpc_status);
        return fail(failure, code_of_status(exchange->grpc_status), details, "the Contiv agent refused the call: %s",
                    exchange->grpc_message);
    }
    if (exchange->grpc_status == STATUS_UNKNOWN && exchange->close_code != NGHTTP2_NO_ERROR) {
        bool again = exchange->close_code == NGHTTP2_REFUSED_STREAM || exchange->close_code == NGHTTP2_CANCEL
                     || exchange->close_code == NGHTTP2_ENHANCE_YOUR_CALM;
        (void)snprintf(details, sizeof details, "HTTP/2 error %s", nghttp2_http2_strerror(exchange->close_code));
        return fail(failure, again ? CNI_TRY_AGAIN_LATER : CNI_AGENT_PROTOCOL, details,
                    "the Contiv agent gave up the call");
    }
    if (exchange->http_status != 200 || !exchange->grpc_content || exchange->grpc_status == STATUS_UNKNOWN) {
        (void)snprintf(details, sizeof details, "HTTP status %d", exchange->http_status);
        return fail(failure, CNI_AGENT_PROTOCOL, details, "what answers on agentSocket is no gRPC server");
    }
    return 0;
}

int grpc_unframe(const uint8_t *body, size_t length, struct span *message, struct failure *failure)
{
    if (length < PREFIX_SIZE || body[0] != 0)
        return fail(failure, CNI_AGENT_PROTOCOL, length < PREFIX_SIZE ? "no message" : "compressed message",
                    "the Contiv agent's reply cannot be read");
    size_t announced = (size_t)body[1] << 24 | (size_t)body[2] << 16 | (size_t)body[3] << 8 | body[4];
    if (announced != length - PREFIX_SIZE)
        return fail(failure, CNI_AGENT_PROTOCOL, "length mismatch", "the Contiv agent's reply cannot be read");
    *message = (struct span){(const char *)body + PREFIX_SIZE, announced};
    return 0;
}

static int exchange_messages(int descriptor, struct exchange *exchange, long deadline, struct grpc_reply *reply,
                             struct failure *failure)
{
    struct span message;
    nghttp2_session *session = open_session(exchange);
    if (session == NULL)
        return fail(failure, CNI_INTERNAL, "out of memory", "cannot prepare the request");
    int result = submit(session, exchange, failure);
    if (result == 0)
        result = talk(descriptor, session, exchange, deadline, failure);
    if (result == 0)
        result = judge(exchange, failure);
    if (result == 0)
        result = grpc_unframe(exchange->body, exchange->body_length, &message, failure);
    nghttp2_session_del(session);
    if (result == 0) {
        memmove(exchange->body, message.at, message.length);
        *reply = (struct grpc_reply){exchange->body, message.length};
        exchange->body = NULL;
    }
    free(exchange->body);
    return result;
}

int grpc_unary(const struct grpc_call *call, struct grpc_reply *reply, struct failure *failure)
{
    long deadline = now_ms() + call->timeout_ms;
    struct exchange exchange = {.call = call, .http_status = STATUS_UNKNOWN, .grpc_status = STATUS_UNKNOWN};
    int descriptor = connect_to_agent(call, failure);
    if (descriptor < 0)
        return -1;
    int result = exchange_messages(descriptor, &exchange, deadline, reply, failure);
    (void)close(descriptor);
    return result;
}
