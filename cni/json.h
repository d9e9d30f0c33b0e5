/* A strict JSON reader (RFC 8259) that allocates nothing, and a writer.
 *
 * The reader checks a whole document first; its values are then slices of that document, walked again on each
 * question. Configurations are small and asked a dozen questions, so that beats building a tree, and there is no
 * tree to get wrong. Refused: nesting deeper than JSON_DEPTH_MAX, control characters and malformed UTF-8 in strings,
 * lone surrogates, anything after the value. */
#ifndef CONTIV_JSON_H
#define CONTIV_JSON_H

#include "cni.h"

#define JSON_DEPTH_MAX 64

enum json_kind {
    JSON_NOTHING,
    JSON_NULL,
    JSON_BOOLEAN,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
};

/* NULL when `document` is one JSON value, else what is wrong; `offset` says at which byte. */
const char *json_check(struct span document, size_t *offset);

/* The questions below expect a value that json_check has accepted, or a part of one. */
enum json_kind json_kind(struct span value);

/* How many members of `object` are called `key`; `value` gets the last one. */
size_t json_member(struct span object, const char *key, struct span *value);

/* Take the next element off `rest`, which starts as a whole array; false at its end. */
bool json_next(struct span *rest, struct span *element);

/* Decode a string into `out` with its terminator; false when it is no string, holds a NUL or does not fit. */
bool json_string(struct span value, char *out, size_t room);

/* An integer between 0 and `most`; false when the value is anything else (1.0 and 1e3 are something else). */
bool json_integer(struct span value, long most, long *out);

/* A growing text. Once memory runs out it stays `failed` and further writes do nothing. */
struct text {
    char *at;
    size_t length;
    size_t room;
    bool failed;
};

void text_raw(struct text *text, const char *piece);
void text_number(struct text *text, unsigned long number);
/* A quoted JSON string; bytes that are no UTF-8 become U+FFFD. */
void text_string(struct text *text, const char *value);

#endif
