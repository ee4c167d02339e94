/* A host on an Ethernet: answers ARP (RFC 826), ICMP echo (RFC 792) and UDP echo (RFC 862), and is told on the serial
 * port to ping others and to send datagrams. All hosts are taken to be on the same wire: there is no router. */
#include "lib/ip.h"

struct icmp {
    uint8_t type, code;
    uint16_t checksum, id, sequence;
} __attribute__((packed));

enum { ECHO_REPLY = 0, ECHO_REQUEST = 8, PORT_ECHO = 7, OUR_PORT = 4000 };

static struct { /* the echo request that is under way */
    uint32_t ip;
    uint16_t sequence;
    bool answered;
} ping;

static void send_icmp(const struct neighbour *n, uint8_t type, uint16_t id, uint16_t sequence, const void *data,
                      size_t size) {
    struct icmp *m = (struct icmp *)ip_payload;
    *m = (struct icmp){.type = type, .id = swap16(id), .sequence = swap16(sequence)};
    memcpy(m + 1, data, size);
    m->checksum = swap16(ip_checksum(m, sizeof *m + size, 0));
    ip_send(n, n->ip, ICMP, sizeof *m + size);
}

static void receive_icmp(const struct neighbour *from, const struct icmp *m, size_t size) {
    if (size < sizeof *m || ip_checksum(m, size, 0) != 0)
        return;
    if (m->type == ECHO_REQUEST)
        send_icmp(from, ECHO_REPLY, swap16(m->id), swap16(m->sequence), m + 1, size - sizeof *m);
    if (m->type == ECHO_REPLY && from->ip == ping.ip && swap16(m->sequence) == ping.sequence)
        ping.answered = true;
}

static void receive_udp(const struct neighbour *from, const struct udp *u, size_t size) {
    if (size < sizeof *u || swap16(u->size) < sizeof *u || swap16(u->size) > size)
        return;
    const char *text = (const char *)(u + 1);
    size = swap16(u->size) - sizeof *u;
    if (swap16(u->to) == PORT_ECHO) {
        ip_send_udp(from, from->ip, PORT_ECHO, swap16(u->from), text, size);
        return;
    }
    printf("udp from ");
    ip_print(from->ip);
    printf(":%u to port %u: ", swap16(u->from), swap16(u->to));
    for (; size; size--, text++)
        printf("%c", *text >= ' ' && *text < 0x7F ? *text : '.');
    printf("\n");
}

static void receive(const struct neighbour *from, uint8_t protocol, const void *payload, size_t size) {
    if (protocol == ICMP)
        receive_icmp(from, payload, size);
    if (protocol == UDP)
        receive_udp(from, payload, size);
}

static void do_ping(uint32_t ip, uint32_t count) {
    uint32_t replies = 0;
    for (uint32_t i = 1; i <= count; i++) {
        const struct neighbour *n = ip_resolve(ip);
        ping.ip = ip;
        ping.sequence = i;
        ping.answered = false;
        if (n) {
            send_icmp(n, ECHO_REQUEST, 0x706B, i, "abcdefghijklmnopqrstuvwabcdefghi", 32);
            uint64_t end = pit_ticks + SECOND;
            while (!ping.answered && pit_ticks < end)
                ip_serve(end);
        }
        replies += ping.answered;
        printf(ping.answered ? "reply from " : "no reply from ");
        ip_print(ip);
        printf(": seq %u\n", i);
    }
    printf("ping: %u sent, %u received\n", count, replies);
}

static bool command(char *line) {
    char *rest = line, *verb = next_word(&rest), *first = next_word(&rest);
    const char *second;
    uint32_t ip, number = 1;
    if (strcmp(verb, "ip") == 0 && ip_parse(first, &ip)) {
        ip_address = ip;
        printf("ip ");
        ip_print(ip_address);
        printf("\n");
        return true;
    }
    if (strcmp(verb, "ping") == 0 && ip_parse(first, &ip)) {
        second = next_word(&rest);
        if (*second && (!parse_number(&second, 65535, &number) || *second))
            return false;
        do_ping(ip, number);
        return true;
    }
    if (strcmp(verb, "udp") == 0 && ip_parse(first, &ip)) {
        second = next_word(&rest);
        if (!parse_number(&second, 65535, &number) || *second)
            return false;
        const struct neighbour *n = ip_resolve(ip);
        if (n) {
            ip_send_udp(n, ip, OUR_PORT, number, rest, strlen(rest));
            printf("udp: %lu bytes sent\n", strlen(rest));
        }
        return true;
    }
    if (strcmp(verb, "stats") == 0) {
        printf("stats: %u received, %u sent, %u overruns, %u errors\n", ne2000_stats.received, ne2000_stats.sent,
               ne2000_stats.overruns, ne2000_stats.errors);
        return true;
    }
    return false;
}

void main(void) {
    static char line[256];
    serial_init();
    interrupts_init();
    if (!ip_start(receive)) {
        printf("net: no NE2000 at 0x300\n");
        return;
    }
    ip_address = 10u << 24 | 2; /* 10.0.0.2 */
    pit_start(SECOND);
    serial_receive_on();
    printf("net: mac %02x:%02x:%02x:%02x:%02x:%02x, ip ", ip_mac[0], ip_mac[1], ip_mac[2], ip_mac[3], ip_mac[4], ip_mac[5]);
    ip_print(ip_address);
    printf("\nready\n");
    for (;;) {
        bool typed = false;
        wait_until(ne2000_pending || (typed = serial_line(line, sizeof line)));
        if (ne2000_pending)
            ip_serve(0);
        if (!typed)
            continue;
        if (strcmp(line, "quit") == 0)
            return;
        if (!command(line))
            printf("commands: ip A.B.C.D | ping A.B.C.D [COUNT] | udp A.B.C.D PORT TEXT | stats | quit\n");
    }
}
