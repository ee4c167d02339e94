/* A small printf to the serial port. */
#include <stdarg.h>

#include "lib.h"

static char buffer[64]; /* collects characters, so that the UART's FIFO is filled in one go */
static size_t used;
static int printed; /* by this printf() */

static void flush(void) {
    serial_write(buffer, used);
    used = 0;
}

static void put(char c) {
    buffer[used++] = c;
    printed++;
    if (used == sizeof buffer)
        flush();
}

/* Puts `s` into a field of `width` characters. A sign stays in front of zeros. */
static void put_field(const char *s, size_t width, bool left, char pad) {
    size_t length = strlen(s);
    size_t fill = length < width ? width - length : 0;
    if (pad == '0' && *s == '-')
        put(*s++);
    for (; !left && fill; fill--)
        put(pad);
    while (*s)
        put(*s++);
    for (; fill; fill--)
        put(' ');
}

/* Writes `value` backwards from `end`; returns where it begins. */
static char *digits(uint64_t value, unsigned base, char *end) {
    do
        *--end = "0123456789abcdef"[value % base];
    while (value /= base);
    return end;
}

static int vprintf(const char *format, va_list args) {
    printed = 0;
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        bool left = false, is_long = false;
        char pad = ' ', text[24], *s = text + sizeof text - 1;
        size_t width = 0;
        *s = '\0';
        for (format++; *format == '-' || *format == '0'; format++) {
            left |= *format == '-';
            pad = *format == '0' ? '0' : pad;
        }
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + (*format - '0');
        for (; *format == 'l'; format++)
            is_long = true;
        switch (*format) {
        case 'd': {
            int64_t value = is_long ? va_arg(args, int64_t) : va_arg(args, int);
            s = digits(value < 0 ? -(uint64_t)value : (uint64_t)value, 10, s);
            if (value < 0)
                *--s = '-';
            break;
        }
        case 'u':
        case 'x':
            s = digits(is_long ? va_arg(args, uint64_t) : va_arg(args, unsigned), *format == 'x' ? 16 : 10, s);
            break;
        case 'c':
            *--s = va_arg(args, int);
            break;
        case 's':
            s = va_arg(args, char *);
            break;
        default:
            *--s = *format;
        }
        put_field(s, width, left, left ? ' ' : pad);
    }
    flush();
    return printed;
}

int printf(const char *format, ...) {
    va_list args;
    va_start(args, format);
    int count = vprintf(format, args);
    va_end(args);
    return count;
}

_Noreturn void panic(const char *format, ...) {
    va_list args;
    cli();
    used = 0; /* the panic may have struck in the middle of a printf */
    serial_write("panic: ", 7);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    serial_write("\n", 1);
    exit_guest(1);
}
