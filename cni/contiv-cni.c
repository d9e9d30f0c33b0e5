/* contiv-cni: the CNI plugin that container runtimes run, one process a call.
 *
 * In: the environment and a network configuration on standard input (CNI specification 1.1). Out: a result or an
 * error on standard output, and the exit status. In between it checks everything that needs no agent, asks the agent
 * over gRPC (contiv/cni/contiv_cni.proto, served by contiv/cni/server.py) and prints the answer in the version asked
 * for. It touches no network itself and keeps nothing: who retries is the runtime.
 *
 *   args.c environment -> config.c configuration -> grpc.c agent -> result.c output; log.c one line a call */
#include "args.h"
#include "config.h"
#include "grpc.h"
#include "json.h"
#include "log.h"
#include "result.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STDIN_TIMEOUT_MS 10000 /* a runtime writes the configuration at once and closes */

struct call {
    enum cni_command command;
    enum cni_version version;
    struct environment environment;
    struct config config;
    char *input;
    size_t input_length;
    struct text output;
    struct failure failure;
};

static double now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* A runtime that starts us with a standard descriptor closed would have the agent's socket take its number. */
static void occupy_standard_descriptors(void)
{
    int descriptor = 0;
    do
        descriptor = open("/dev/null", O_RDWR);
    while (descriptor >= 0 && descriptor <= STDERR_FILENO);
    if (descriptor > STDERR_FILENO)
        (void)close(descriptor);
}

static int input_failed(struct call *call, const char *problem)
{
    return fail(&call->failure, CNI_IO_FAILURE, problem, "cannot read the network configuration from standard input");
}

/* Until end of file, a byte more than allowed, or the deadline. */
static int read_input(struct call *call)
{
    double deadline = now_ms() + STDIN_TIMEOUT_MS;
    call->input = malloc(CONFIG_SIZE_MAX + 1);
    if (call->input == NULL)
        return input_failed(call, "out of memory");
    while (call->input_length <= CONFIG_SIZE_MAX) {
        struct pollfd wait = {.fd = STDIN_FILENO, .events = POLLIN};
        double left = deadline - now_ms();
        int ready = left <= 0 ? 0 : poll(&wait, 1, (int)left + 1);
        if (ready == 0)
            return input_failed(call, "it does not end");
        if (ready < 0 && errno == EINTR)
            continue;
        ssize_t length
            = read(STDIN_FILENO, call->input + call->input_length, CONFIG_SIZE_MAX + 1 - call->input_length);
        if (length < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (length < 0)
            return input_failed(call, strerror(errno));
        if (length == 0)
            return 0;
        call->input_length += (size_t)length;
    }
    return fail(&call->failure, CNI_DECODING_FAILURE, "at most 1 MiB is taken", "network configuration is too large");
}

static int answer_version(struct call *call, struct span document)
{
    char echoed[32];
    bool empty = json_kind(document) == JSON_NOTHING; /* old runtimes send nothing with VERSION */
    if (!empty && check_document(document, &call->failure) < 0)
        return -1;
    if (empty)
        document = (struct span){"{}", 2};
    if (echoed_version(document, echoed, sizeof echoed, &call->failure) < 0)
        return -1;
    print_versions(&call->output, echoed);
    return 0;
}

/* The request's bytes, to be freed; NULL without memory. protobuf-c's strings are not const, but never written to. */
static uint8_t *pack_request(const struct call *call, size_t *length)
{
    Contiv__Cni__V1__PodArgs args = CONTIV__CNI__V1__POD_ARGS__INIT;
    Contiv__Cni__V1__Request request = CONTIV__CNI__V1__REQUEST__INIT;
    const struct pod_args *pod = &call->environment.pod;
    args.namespace_ = (char *)pod->namespace;
    args.name = (char *)pod->name;
    args.infra_container_id = (char *)pod->infra_container_id;
    args.uid = (char *)pod->uid;
    request.cni_version = (char *)cni_version_names[call->version];
    request.container_id = (char *)call->environment.container_id;
    request.netns = (char *)call->environment.netns;
    request.ifname = (char *)call->environment.ifname;
    request.args = &args;
    request.path = (char *)call->environment.path;
    request.network_name = (char *)call->config.name;
    request.config = (ProtobufCBinaryData){call->input_length, (uint8_t *)call->input};
    uint8_t *packed = malloc(contiv__cni__v1__request__get_packed_size(&request));
    *length = packed == NULL ? 0 : contiv__cni__v1__request__pack(&request, packed);
    return packed;
}

static int take_reply(struct call *call, const Contiv__Cni__V1__Reply *reply)
{
    if (reply->outcome_case == CONTIV__CNI__V1__REPLY__OUTCOME_ERROR) {
        const Contiv__Cni__V1__Error *error = reply->error;
        return fail(&call->failure, error->code == 0 ? CNI_INTERNAL : (int)(error->code & 0x7fffffffU), error->details,
                    "%s", error->msg[0] == '\0' ? "the Contiv agent gave no reason" : error->msg);
    }
    if (reply->outcome_case != CONTIV__CNI__V1__REPLY__OUTCOME_RESULT)
        return fail(&call->failure, CNI_AGENT_PROTOCOL, "neither result nor error",
                    "the Contiv agent's reply cannot be read");
    if (call->command == COMMAND_ADD)
        print_result(&call->output, call->version, reply->result);
    return 0;
}

static int ask_agent(struct call *call)
{
    static const char *const methods[] = {
        [COMMAND_ADD] = "/contiv.cni.v1.RemoteCNI/Add",       [COMMAND_DEL] = "/contiv.cni.v1.RemoteCNI/Delete",
        [COMMAND_CHECK] = "/contiv.cni.v1.RemoteCNI/Check",   [COMMAND_STATUS] = "/contiv.cni.v1.RemoteCNI/Status",
        [COMMAND_GC] = "/contiv.cni.v1.RemoteCNI/GarbageCollect",
    };
    struct grpc_reply answer = {NULL, 0};
    size_t length = 0;
    uint8_t *request = pack_request(call, &length);
    if (request == NULL)
        return fail(&call->failure, CNI_INTERNAL, "out of memory", "cannot prepare the request");
    const struct grpc_call remote = {.socket = call->config.socket,
                                     .method = methods[call->command],
                                     .timeout_ms = (int)call->config.timeout_s * 1000,
                                     .request = request,
                                     .request_length = length};
    int outcome = grpc_unary(&remote, &answer, &call->failure);
    free(request);
    if (outcome < 0) {
        /* an agent that cannot be asked makes the node not ready (specification, STATUS) */
        if (call->command == COMMAND_STATUS)
            call->failure.code = CNI_NOT_AVAILABLE;
        return -1;
    }
    Contiv__Cni__V1__Reply *reply = contiv__cni__v1__reply__unpack(NULL, answer.length, answer.message);
    free(answer.message);
    if (reply == NULL)
        return fail(&call->failure, CNI_AGENT_PROTOCOL, "malformed message", "the Contiv agent's reply cannot be read");
    outcome = take_reply(call, reply);
    contiv__cni__v1__reply__free_unpacked(reply, NULL);
    return outcome;
}

static int run(struct call *call)
{
    if (read_command(&call->command, &call->failure) < 0 || read_input(call) < 0)
        return -1;
    struct span document = {call->input, call->input_length};
    if (call->command == COMMAND_VERSION)
        return answer_version(call, document);
    if (check_document(document, &call->failure) < 0)
        return -1;
    read_log_keys(document, &call->config);
    if (negotiate_version(document, &call->version, &call->failure) < 0
        || read_environment(call->command, &call->environment, &call->failure) < 0
        || read_config(document, call->command, call->version, &call->config, &call->failure) < 0)
        return -1;
    return ask_agent(call);
}

static bool write_all(const struct text *text)
{
    size_t written = 0;
    if (text->failed)
        return false;
    while (written < text->length) {
        ssize_t count = write(STDOUT_FILENO, text->at + written, text->length - written);
        if (count < 0 && errno != EINTR)
            return false;
        written += count > 0 ? (size_t)count : 0;
    }
    return true;
}

int main(void)
{
    static struct call call = {.version = VERSION_CURRENT,
                               .environment = {.container_id = "", .netns = "", .ifname = "", .path = ""}};
    double start = now_ms();
    occupy_standard_descriptors();
    (void)signal(SIGPIPE, SIG_IGN);
    int outcome = run(&call);
    if (outcome == 0 && call.output.failed)
        outcome = fail(&call.failure, CNI_INTERNAL, "out of memory", "cannot print the result");
    if (outcome < 0) {
        free(call.output.at);
        call.output = (struct text){0};
        print_error(&call.output, call.version, &call.failure);
    }
    if (!write_all(&call.output) && outcome == 0)
        /* the runtime never learns of the interface: it must take the call for failed and send DEL */
        outcome = fail(&call.failure, CNI_IO_FAILURE, strerror(errno), "cannot write to standard output");
    const char *command = getenv("CNI_COMMAND");
    write_log(&call.config, &(struct log_entry){.command = command,
                                                .environment = &call.environment,
                                                .failure = outcome < 0 ? &call.failure : NULL,
                                                .duration_ms = now_ms() - start});
    free(call.output.at);
    free(call.input);
    return outcome < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
