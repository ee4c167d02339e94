/* Memory and strings. GCC calls memset, memcpy and memcmp of its own accord, even in a freestanding program. */
#include "lib.h"

void *memset(void *to, int value, size_t size) {
    void *p = to;
    asm volatile("rep stosb" : "+D"(p), "+c"(size) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t size) {
    void *p = to;
    asm volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(size) : : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t size) {
    const uint8_t *x = a, *y = b;
    for (; size; size--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *s) {
    const char *end = s;
    while (*end)
        end++;
    return end - s;
}

int strcmp(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return (uint8_t)*a - (uint8_t)*b;
}

char *next_word(char **rest) {
    char *s = *rest;
    while (*s == ' ')
        s++;
    char *word = s;
    while (*s && *s != ' ')
        s++;
    if (*s)
        *s++ = '\0';
    *rest = s;
    return word;
}

bool parse_number(const char **s, uint32_t limit, uint32_t *value) {
    const char *p = *s;
    uint64_t n = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        n = n * 10 + (*p - '0');
        if (n > limit)
            return false;
    }
    if (p == *s)
        return false;
    *s = p;
    *value = n;
    return true;
}
