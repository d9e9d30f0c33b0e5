/* Fuzz driver for everything that reads foreign bytes without an agent: JSON, configuration, CNI_ARGS, gRPC frames.
 *
 * LLVMFuzzerTestOneInput is libFuzzer's entry. Without libFuzzer the driver mutates its own seeds, or runs the files
 * that it is given: fuzz [seconds | file...]. Besides not crashing it holds properties: a document that is accepted
 * stays accepted when it is wrapped, and what the writer quotes the reader accepts. */
#include "args.h"
#include "config.h"
#include "grpc.h"
#include "json.h"
#include "result.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds, const char *property)
{
    if (holds)
        return;
    (void)fprintf(stderr, "property does not hold: %s\n", property);
    abort();
}

static void check_quoting(const char *text)
{
    struct text quoted = {0};
    size_t offset = 0;
    text_string(&quoted, text);
    require(json_check((struct span){quoted.at, quoted.length}, &offset) == NULL, "what is quoted can be read");
    free(quoted.at);
}

static void check_configuration(struct span document)
{
    static const enum cni_command commands[] = {COMMAND_ADD, COMMAND_DEL, COMMAND_CHECK, COMMAND_STATUS, COMMAND_GC};
    struct failure failure = {0};
    char echoed[32];
    enum cni_version version = VERSION_CURRENT;
    if (check_document(document, &failure) < 0)
        return;
    (void)negotiate_version(document, &version, &failure);
    (void)echoed_version(document, echoed, sizeof echoed, &failure);
    for (size_t index = 0; index < sizeof commands / sizeof *commands; index++) {
        struct config config = {0};
        struct text out = {0};
        size_t offset = 0;
        read_log_keys(document, &config);
        if (read_config(document, commands[index], VERSION_1_1_0, &config, &failure) == 0)
            continue;
        print_error(&out, version, &failure);
        require(json_check((struct span){out.at, out.length}, &offset) == NULL, "errors are JSON");
        free(out.at);
    }
}

static void check_reply(const uint8_t *data, size_t size)
{
    struct failure failure;
    struct span message;
    if (grpc_unframe(data, size, &message, &failure) == 0)
        require(message.length + 5 == size, "the message ends with the body");
    Contiv__Cni__V1__Reply *reply = contiv__cni__v1__reply__unpack(NULL, size, data);
    if (reply == NULL)
        return;
    if (reply->outcome_case == CONTIV__CNI__V1__REPLY__OUTCOME_RESULT) {
        struct text out = {0};
        size_t offset = 0;
        print_result(&out, VERSION_1_1_0, reply->result);
        require(json_check((struct span){out.at, out.length}, &offset) == NULL, "results are JSON");
        free(out.at);
    }
    contiv__cni__v1__reply__free_unpacked(reply, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pod_args pod;
    struct failure failure;
    size_t offset = 0;
    /* exactly as long as the input, so that the sanitizer sees one byte too many */
    char *exact = malloc(size + 1);
    char *wrapped = malloc(size + 3);
    if (exact == NULL || wrapped == NULL)
        abort();
    memcpy(exact, data, size);
    const struct span document = {exact, size};
    exact[size] = '\0';
    check_quoting(exact);
    (void)parse_pod_args(exact, &pod, &failure);
    (void)snprintf(wrapped, size + 3, "[");
    memcpy(wrapped + 1, data, size);
    wrapped[size + 1] = ']';
    if (json_check(document, &offset) == NULL) {
        const char *problem = json_check((struct span){wrapped, size + 2}, &offset);
        require(problem == NULL || strcmp(problem, "nested too deeply") == 0, "an array of a document is a document");
    }
    char *tight = realloc(exact, size == 0 ? 1 : size);
    if (tight == NULL)
        abort();
    check_configuration((struct span){tight, size});
    check_reply((const uint8_t *)tight, size);
    free(tight);
    free(wrapped);
    return 0;
}

#ifndef CONTIV_LIBFUZZER

static const char *const seeds[] = {
    "{\"cniVersion\":\"1.1.0\",\"name\":\"contiv\",\"type\":\"contiv-cni\",\"agentSocket\":\"/run/contiv/cni.sock\","
    "\"logFile\":\"/var/log/contiv/cni.log\",\"logLevel\":\"debug\",\"timeoutSeconds\":30}",
    "{\"cniVersions\":[\"0.4.0\",\"1.0.0\"],\"name\":\"n\",\"cni.dev/valid-attachments\":[{\"containerID\":\"a\","
    "\"ifname\":\"eth0\"}],\"prevResult\":{\"ips\":[{\"address\":\"10.1.1.2/32\"}]}}",
    "[1,-0.5e+10,true,false,null,\"\\u00e9\\ud83d\\ude00\\n\xc3\xa9\",{\"a\":[[[]]]}]",
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=1-2;K8S_POD_INFRA_CONTAINER_ID=ab",
    "\x0a\x23\x0a\x0c\x0a\x04"
    "eth0\x12\x04"
    "ab:c\x12\x0d\x0a\x0b"
    "10.1.1.2/32\x1a\x04\x0a\x02"
    "::",
};

static uint64_t state = 0x9e3779b97f4a7c15U;

/* xorshift64*: the same run each time, so that what is found can be found again */
static size_t below(size_t limit)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (size_t)((state * 0x2545f4914f6cdd1dU) >> 33) % limit;
}

static size_t mutate(uint8_t *data, size_t size, size_t room)
{
    static const char dictionary[] = "{}[]\",:\\u0eE+-.;=/\x80\xc3\xe2\xf0\xff\x01\x1f";
    for (size_t rounds = 1 + below(8); rounds > 0; rounds--) {
        size_t at = size == 0 ? 0 : below(size);
        size_t kind = below(4);
        if (kind == 0 && size > 0)
            data[at] = (uint8_t)below(256);
        else if (kind == 1 && size > 0)
            data[at] = (uint8_t)dictionary[below(sizeof dictionary - 1)];
        else if (kind == 2 && size > 0)
            size = at;
        else if (size > 0 && size * 2 < room) {
            size_t count = 1 + below(size - at);
            memmove(data + at + count, data + at, size - at);
            size += count;
        }
    }
    return size;
}

static void fuzz_for(long seconds)
{
    static uint8_t data[4096];
    time_t end = time(NULL) + seconds;
    unsigned long runs = 0;
    while (time(NULL) < end)
        for (int batch = 0; batch < 256; batch++, runs++) {
            size_t which = below(sizeof seeds / sizeof *seeds);
            size_t size = strlen(seeds[which]);
            memcpy(data, seeds[which], size);
            LLVMFuzzerTestOneInput(data, mutate(data, size, sizeof data));
        }
    (void)printf("fuzz: %lu inputs, no finding\n", runs);
}

static void fuzz_file(const char *path)
{
    static uint8_t data[CONFIG_SIZE_MAX];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    size_t size = fread(data, 1, sizeof data, file);
    (void)fclose(file);
    LLVMFuzzerTestOneInput(data, size);
}

int main(int count, char **arguments)
{
    char *end = NULL;
    long seconds = count == 2 ? strtol(arguments[1], &end, 10) : 10;
    if (count < 2 || (end != NULL && *end == '\0'))
        fuzz_for(seconds);
    else
        for (int index = 1; index < count; index++)
            fuzz_file(arguments[index]);
    return EXIT_SUCCESS;
}

#endif
