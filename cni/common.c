/* The few helpers that every file needs: failures, UTF-8, identifiers. */
#include "cni.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *const cni_version_names[VERSION_COUNT] = {"0.3.1", "0.4.0", "1.0.0", "1.1.0"};

/* snprintf cuts between bytes; a cut character would make the error itself invalid JSON. */
static void drop_cut_character(char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    const unsigned char *end = at + strlen(text);
    while (at < end) {
        size_t step = utf8_sequence(at, end);
        if (step == 0) {
            if (end - at < 4)
                text[(const char *)at - text] = '\0';
            step = 1;
        }
        at += step;
    }
}

void set_failure(struct failure *failure, int code, const char *details, const char *format, ...)
{
    va_list arguments;
    failure->code = code;
    va_start(arguments, format);
    (void)vsnprintf(failure->msg, sizeof failure->msg, format, arguments);
    va_end(arguments);
    (void)snprintf(failure->details, sizeof failure->details, "%s", details);
    drop_cut_character(failure->msg);
    drop_cut_character(failure->details);
}

size_t utf8_sequence(const unsigned char *at, const unsigned char *end)
{
    static const unsigned long least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = 1;
    unsigned long point = 0;
    if (at >= end)
        return 0;
    if (*at < 0x80)
        return 1;
    if ((*at & 0xe0U) == 0xc0) {
        length = 2;
        point = *at & 0x1fU;
    } else if ((*at & 0xf0U) == 0xe0) {
        length = 3;
        point = *at & 0x0fU;
    } else if ((*at & 0xf8U) == 0xf0) {
        length = 4;
        point = *at & 0x07U;
    } else {
        return 0;
    }
    if ((size_t)(end - at) < length)
        return 0;
    for (size_t index = 1; index < length; index++) {
        if ((at[index] & 0xc0U) != 0x80)
            return 0;
        point = point << 6 | (at[index] & 0x3fU);
    }
    bool surrogate = point >= 0xd800 && point <= 0xdfff;
    return point < least[length] || point > 0x10ffff || surrogate ? 0 : length;
}

static bool is_alphanumeric(char character)
{
    return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z')
           || (character >= '0' && character <= '9');
}

bool is_identifier(const char *text)
{
    if (!is_alphanumeric(text[0]))
        return false;
    for (const char *at = text; *at != '\0'; at++)
        if (!is_alphanumeric(*at) && *at != '_' && *at != '.' && *at != '-')
            return false;
    return true;
}
