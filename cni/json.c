/* The strict reader and the writer that json.h promises. */
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *at;
    const char *end;
    const char *problem;
};

static bool refuse(struct reader *reader, const char *problem)
{
    reader->problem = problem;
    return false;
}

static void skip_space(struct reader *reader)
{
    while (reader->at < reader->end && *reader->at != '\0' && strchr(" \t\r\n", *reader->at) != NULL)
        reader->at++;
}

static bool take(struct reader *reader, char wanted)
{
    if (reader->at == reader->end || *reader->at != wanted)
        return false;
    reader->at++;
    return true;
}

static bool read_literal(struct reader *reader, const char *literal)
{
    size_t length = strlen(literal);
    if ((size_t)(reader->end - reader->at) < length || memcmp(reader->at, literal, length) != 0)
        return refuse(reader, "unknown literal");
    reader->at += length;
    return true;
}

static size_t read_digits(struct reader *reader)
{
    const char *start = reader->at;
    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9')
        reader->at++;
    return (size_t)(reader->at - start);
}

static bool read_number(struct reader *reader)
{
    (void)take(reader, '-');
    if (!take(reader, '0') && read_digits(reader) == 0)
        return refuse(reader, "a value is expected");
    if (take(reader, '.') && read_digits(reader) == 0)
        return refuse(reader, "a digit is expected after the point");
    if (take(reader, 'e') || take(reader, 'E')) {
        if (!take(reader, '+'))
            (void)take(reader, '-');
        if (read_digits(reader) == 0)
            return refuse(reader, "a digit is expected in the exponent");
    }
    return true;
}

/* Four hexadecimal digits, or -1. */
static long read_hex(struct reader *reader)
{
    long unit = 0;
    if (reader->end - reader->at < 4)
        return -1;
    for (int index = 0; index < 4; index++) {
        static const char digits[] = "0123456789abcdef";
        char character = reader->at[index];
        if (character >= 'A' && character <= 'F')
            character = (char)(character - 'A' + 'a');
        const char *digit = character == '\0' ? NULL : strchr(digits, character);
        if (digit == NULL)
            return -1;
        unit = unit << 4 | (digit - digits);
    }
    reader->at += 4;
    return unit;
}

/* After "\u": the code point, surrogate pairs joined; -1 when malformed. */
static long read_escaped_point(struct reader *reader)
{
    long first = read_hex(reader);
    if (first < 0xd800 || first > 0xdfff)
        return first;
    if (first > 0xdbff || !take(reader, '\\') || !take(reader, 'u'))
        return -1;
    long second = read_hex(reader);
    if (second < 0xdc00 || second > 0xdfff)
        return -1;
    return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
}

/* One character of a string as a code point (bytes of UTF-8 sequences one by one, flagged by `raw`). */
static long read_character(struct reader *reader, bool *raw)
{
    static const char escapes[] = "\"\\/bfnrt";
    static const char meanings[] = "\"\\/\b\f\n\r\t";
    unsigned char byte = (unsigned char)*reader->at++;
    *raw = byte != '\\';
    if (*raw)
        return byte;
    if (take(reader, 'u'))
        return read_escaped_point(reader);
    if (reader->at == reader->end || *reader->at == '\0')
        return -1;
    const char *escape = strchr(escapes, *reader->at++);
    return escape == NULL ? -1 : meanings[escape - escapes];
}

static bool read_string(struct reader *reader)
{
    if (!take(reader, '"'))
        return refuse(reader, "a string is expected");
    while (reader->at < reader->end && *reader->at != '"') {
        size_t sequence = utf8_sequence((const unsigned char *)reader->at, (const unsigned char *)reader->end);
        bool raw = true;
        if (sequence == 0)
            return refuse(reader, "malformed UTF-8");
        if (sequence > 1) {
            reader->at += sequence;
            continue;
        }
        long point = read_character(reader, &raw);
        if (point < 0)
            return refuse(reader, "malformed escape");
        if (raw && point < 0x20)
            return refuse(reader, "control character in a string");
    }
    return take(reader, '"') ? true : refuse(reader, "the string does not end");
}

static bool read_value(struct reader *reader, int depth);

static bool read_member(struct reader *reader, int depth)
{
    skip_space(reader);
    if (!read_string(reader))
        return false;
    skip_space(reader);
    if (!take(reader, ':'))
        return refuse(reader, "a colon is expected");
    return read_value(reader, depth);
}

static bool read_list(struct reader *reader, char close, int depth)
{
    reader->at++;
    skip_space(reader);
    if (take(reader, close))
        return true;
    if (depth == JSON_DEPTH_MAX)
        return refuse(reader, "nested too deeply");
    do {
        if (!(close == '}' ? read_member(reader, depth + 1) : read_value(reader, depth + 1)))
            return false;
        skip_space(reader);
    } while (take(reader, ','));
    return take(reader, close) ? true : refuse(reader, "a comma or the end of the list is expected");
}

/* Recursion ends at JSON_DEPTH_MAX. */
static bool read_value(struct reader *reader, int depth)
{
    skip_space(reader);
    if (reader->at == reader->end)
        return refuse(reader, "the text ends too early");
    switch (*reader->at) {
    case '{':
        return read_list(reader, '}', depth);
    case '[':
        return read_list(reader, ']', depth);
    case '"':
        return read_string(reader);
    case 't':
        return read_literal(reader, "true");
    case 'f':
        return read_literal(reader, "false");
    case 'n':
        return read_literal(reader, "null");
    default:
        return read_number(reader);
    }
}

const char *json_check(struct span document, size_t *offset)
{
    struct reader reader = {document.at, document.at + document.length, NULL};
    if (read_value(&reader, 0)) {
        skip_space(&reader);
        if (reader.at < reader.end)
            (void)refuse(&reader, "there is more after the value");
    }
    *offset = (size_t)(reader.at - document.at);
    return reader.problem;
}

enum json_kind json_kind(struct span value)
{
    struct reader reader = {value.at, value.at + value.length, NULL};
    skip_space(&reader);
    if (reader.at == reader.end)
        return JSON_NOTHING;
    switch (*reader.at) {
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case '"':
        return JSON_STRING;
    case 't':
    case 'f':
        return JSON_BOOLEAN;
    case 'n':
        return JSON_NULL;
    default:
        return JSON_NUMBER;
    }
}

size_t json_member(struct span object, const char *key, struct span *value)
{
    struct reader reader = {object.at, object.at + object.length, NULL};
    size_t found = 0;
    if (json_kind(object) != JSON_OBJECT)
        return 0;
    skip_space(&reader);
    reader.at++;
    do {
        char name[64];
        skip_space(&reader);
        const char *start = reader.at;
        if (!read_string(&reader))
            return found; /* the empty object */
        bool same = json_string((struct span){start, (size_t)(reader.at - start)}, name, sizeof name)
                    && strcmp(name, key) == 0;
        skip_space(&reader);
        (void)take(&reader, ':');
        skip_space(&reader);
        start = reader.at;
        if (!read_value(&reader, 0))
            return found;
        if (same) {
            found++;
            *value = (struct span){start, (size_t)(reader.at - start)};
        }
        skip_space(&reader);
    } while (take(&reader, ','));
    return found;
}

bool json_next(struct span *rest, struct span *element)
{
    struct reader reader = {rest->at, rest->at + rest->length, NULL};
    skip_space(&reader);
    if (!take(&reader, '[') && !take(&reader, ','))
        return false;
    skip_space(&reader);
    const char *start = reader.at;
    if (!read_value(&reader, 0))
        return false; /* the empty array */
    *element = (struct span){start, (size_t)(reader.at - start)};
    *rest = (struct span){reader.at, (size_t)(reader.end - reader.at)};
    return true;
}

static size_t encode_point(unsigned long point, char *out)
{
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    size_t length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t index = length - 1; index > 0; index--) {
        out[index] = (char)(0x80U | (point & 0x3fU));
        point >>= 6;
    }
    out[0] = (char)(lead[length] | point);
    return length;
}

bool json_string(struct span value, char *out, size_t room)
{
    struct reader reader = {value.at, value.at + value.length, NULL};
    size_t length = 0;
    skip_space(&reader);
    if (!take(&reader, '"'))
        return false;
    while (reader.at < reader.end && *reader.at != '"') {
        char bytes[4];
        size_t count = 1;
        bool raw = true;
        long point = read_character(&reader, &raw);
        if (point <= 0)
            return false;
        if (raw)
            bytes[0] = (char)point;
        else
            count = encode_point((unsigned long)point, bytes);
        if (length + count >= room)
            return false;
        memcpy(out + length, bytes, count);
        length += count;
    }
    if (room == 0 || !take(&reader, '"'))
        return false;
    out[length] = '\0';
    return true;
}

bool json_integer(struct span value, long most, long *out)
{
    long number = 0;
    if (value.length == 0)
        return false;
    for (size_t index = 0; index < value.length; index++) {
        char digit = value.at[index];
        if (digit < '0' || digit > '9')
            return false;
        number = number * 10 + (digit - '0');
        if (number > most)
            return false;
    }
    *out = number;
    return true;
}

static void append(struct text *text, const char *piece, size_t length)
{
    if (text->failed)
        return;
    if (text->length + length + 1 > text->room) {
        size_t room = 2 * (text->room + length) + 256;
        char *grown = realloc(text->at, room);
        if (grown == NULL) {
            text->failed = true;
            return;
        }
        text->at = grown;
        text->room = room;
    }
    memcpy(text->at + text->length, piece, length);
    text->length += length;
    text->at[text->length] = '\0';
}

void text_raw(struct text *text, const char *piece)
{
    append(text, piece, strlen(piece));
}

void text_number(struct text *text, unsigned long number)
{
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%lu", number);
    append(text, digits, (size_t)length);
}

void text_string(struct text *text, const char *value)
{
    const unsigned char *at = (const unsigned char *)value;
    const unsigned char *end = at + strlen(value);
    append(text, "\"", 1);
    while (at < end) {
        size_t sequence = utf8_sequence(at, end);
        if (sequence == 0) {
            append(text, "\\ufffd", 6);
            sequence = 1;
        } else if (*at == '"' || *at == '\\') {
            append(text, "\\", 1);
            append(text, (const char *)at, 1);
        } else if (*at < 0x20 || *at == 0x7f) {
            char escape[8];
            (void)snprintf(escape, sizeof escape, "\\u%04x", *at);
            append(text, escape, 6);
        } else {
            append(text, (const char *)at, sequence);
        }
        at += sequence;
    }
    append(text, "\"", 1);
}
