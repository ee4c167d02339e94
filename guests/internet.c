/* A host on the internet: asks for its address (DHCP, RFC 2131), then, as it is told on the serial port, for the address
 * of a name (DNS, RFC 1035) and for a page (HTTP/1.0 over TCP, RFC 793), or answers whoever connects to it. One TCP
 * connection at a time, what arrives out of order is left to be sent again, and each segment waits for its ACK. */
#include "lib/ip.h"

enum { DHCP_CLIENT = 68, DHCP_SERVER = 67, DISCOVER = 1, OFFER, REQUEST, ACKNOWLEDGE = 5 };
enum { OPTION_ROUTER = 3, OPTION_DNS = 6, OPTION_ADDRESS = 50, OPTION_TYPE = 53, OPTION_SERVER = 54 };
enum { OUR_UDP_PORT = 5353, TRIES = 8, TCP_TRIES = 4 };
enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };
enum { WINDOW = 4096, SEGMENT_MOST = 1024 };

struct dhcp {
    uint8_t operation, hardware, size, hops;
    uint32_t id;
    uint16_t seconds, flags;
    uint32_t client, yours, server, relay;
    uint8_t mac[16], names[192];
    uint32_t cookie;
    uint8_t options[64];
} __attribute__((packed));

struct dns {
    uint16_t id, flags, questions, answers, authorities, more;
    uint8_t rest[];
} __attribute__((packed));

struct tcp {
    uint16_t from, to;
    uint32_t sequence, acknowledged;
    uint8_t header, flags; /* the header's size in words, in the upper half of its byte */
    uint16_t window, checksum, urgent;
} __attribute__((packed));

static uint32_t dns_server, dhcp_server, offered, wanted_type, resolved;
static bool answered;

static struct { /* the connection */
    enum { CLOSED, LISTEN, OPENING, OPEN } state;
    uint32_t ip, next, unacknowledged, expected; /* what we send next, what of it is not acknowledged, what is to come */
    uint16_t port, their_port;
    bool finished, refused; /* they have sent all, or nobody listens there */
    size_t received;
    uint8_t data[16384];
} tcp;

/* What a DHCP message says for an option; NULL if nothing. */
static const uint8_t *option(const struct dhcp *m, size_t size, uint8_t code, uint8_t least) {
    const uint8_t *p = m->options, *end = (const uint8_t *)m + size;
    while (p + 2 <= end && *p != 255) {
        if (*p == 0) {
            p++;
            continue;
        }
        if (p + 2 + p[1] > end)
            return NULL;
        if (*p == code && p[1] >= least)
            return p + 2;
        p += 2 + p[1];
    }
    return NULL;
}

static uint32_t address(const uint8_t *p) {
    return p ? (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3] : 0;
}

static void receive_dhcp(const struct dhcp *m, size_t size) {
    if (size < sizeof *m - sizeof m->options || m->operation != 2 || m->id != 0x12345678 ||
        memcmp(m->mac, ip_mac, 6) != 0)
        return;
    const uint8_t *type = option(m, size, OPTION_TYPE, 1);
    if (!type || *type != wanted_type)
        return;
    offered = swap32(m->yours);
    dhcp_server = address(option(m, size, OPTION_SERVER, 4));
    ip_router = address(option(m, size, OPTION_ROUTER, 4));
    dns_server = address(option(m, size, OPTION_DNS, 4));
    answered = true;
}

/* Past a name of a DNS message; NULL if it does not end within it. */
static const uint8_t *past_name(const uint8_t *p, const uint8_t *end) {
    while (p < end && *p && *p < 0xC0)
        p += 1 + *p;
    return p >= end ? NULL : p + (*p ? 2 : 1);
}

static void receive_dns(const struct dns *m, size_t size) {
    const uint8_t *p = m->rest, *end = (const uint8_t *)m + size;
    if (size < sizeof *m || m->id != swap16(7) || m->questions != swap16(1))
        return;
    answered = true;
    if (!(p = past_name(p, end)))
        return;
    p += 4;
    for (int i = 0; i < swap16(m->answers); i++) {
        if (!(p = past_name(p, end)) || p + 10 > end)
            return;
        uint16_t type = p[0] << 8 | p[1], length = p[8] << 8 | p[9];
        if (type == 1 && length == 4 && p + 14 <= end) {
            resolved = address(p + 10);
            return;
        }
        p += 10 + length;
    }
}

static void send_tcp(uint8_t flags, const void *data, size_t size) {
    const struct neighbour *n = ip_resolve(tcp.ip);
    struct tcp *t = (struct tcp *)ip_payload;
    if (!n)
        return;
    *t = (struct tcp){.from = swap16(tcp.port),
                      .to = swap16(tcp.their_port),
                      .sequence = swap32(tcp.unacknowledged),
                      .acknowledged = swap32(flags & ACK ? tcp.expected : 0),
                      .header = 5 << 4,
                      .flags = flags,
                      .window = swap16(WINDOW)};
    memcpy(t + 1, data, size);
    size += sizeof *t;
    uint32_t pseudo = (ip_address >> 16) + (ip_address & 0xFFFF) + (tcp.ip >> 16) + (tcp.ip & 0xFFFF) + TCP + size;
    t->checksum = swap16(ip_checksum(t, size, pseudo));
    ip_send(n, tcp.ip, TCP, size);
}

static void receive_tcp(const struct neighbour *from, const struct tcp *t, size_t size) {
    size_t header = (t->header >> 4) * 4;
    uint32_t ip = from->ip;
    uint32_t pseudo = (ip_address >> 16) + (ip_address & 0xFFFF) + (ip >> 16) + (ip & 0xFFFF) + TCP + size;
    if (size < sizeof *t || header < sizeof *t || header > size || ip_checksum(t, size, pseudo) != 0 ||
        swap16(t->to) != tcp.port)
        return;
    if (tcp.state == LISTEN && (t->flags & (SYN | ACK | RST)) == SYN) {
        tcp.ip = ip;
        tcp.their_port = swap16(t->from);
        tcp.expected = swap32(t->sequence) + 1;
        tcp.state = OPENING;
        tcp.next = tcp.unacknowledged + 1;
        return;
    }
    if (tcp.state < OPENING || ip != tcp.ip || swap16(t->from) != tcp.their_port)
        return;
    if (t->flags & RST) {
        tcp.refused = tcp.state == OPENING;
        tcp.finished = true;
        return;
    }
    if (t->flags & ACK && swap32(t->acknowledged) == tcp.next)
        tcp.unacknowledged = tcp.next;
    if (tcp.state == OPENING && tcp.unacknowledged == tcp.next) {
        if (t->flags & SYN)
            tcp.expected = swap32(t->sequence) + 1;
        tcp.state = OPEN;
    }
    if (tcp.state != OPEN)
        return;
    size -= header;
    if (size && swap32(t->sequence) == tcp.expected && tcp.received + size <= sizeof tcp.data) {
        memcpy(tcp.data + tcp.received, (const uint8_t *)t + header, size);
        tcp.received += size;
        tcp.expected += size;
        if (t->flags & FIN) {
            tcp.expected++;
            tcp.finished = true;
        }
    } else if (!size && t->flags & FIN && swap32(t->sequence) == tcp.expected) {
        tcp.expected++;
        tcp.finished = true;
    }
    if (size || t->flags & (FIN | SYN))
        send_tcp(ACK, NULL, 0);
}

static void receive(const struct neighbour *from, uint8_t protocol, const void *payload, size_t size) {
    const struct udp *u = payload;
    if (protocol == TCP)
        receive_tcp(from, payload, size);
    if (protocol != UDP || size < sizeof *u || swap16(u->size) < sizeof *u || swap16(u->size) > size)
        return;
    size = swap16(u->size) - sizeof *u;
    if (swap16(u->to) == DHCP_CLIENT)
        receive_dhcp((const void *)(u + 1), size);
    if (swap16(u->to) == OUR_UDP_PORT)
        receive_dns((const void *)(u + 1), size);
}

/* Serves the wire for a while, or until it is so; whether it is. */
#define within(ticks, is_so)                                                                                           \
    ({                                                                                                                 \
        uint64_t end_ = pit_ticks + (ticks);                                                                           \
        while (!(is_so) && pit_ticks < end_)                                                                           \
            ip_serve(end_);                                                                                            \
        (is_so);                                                                                                       \
    })

static bool ask_dhcp(uint8_t type, uint8_t answer) {
    static struct dhcp m;
    memset(&m, 0, sizeof m);
    m = (struct dhcp){.operation = 1, .hardware = 1, .size = 6, .id = 0x12345678, .cookie = swap32(0x63825363)};
    memcpy(m.mac, ip_mac, 6);
    uint8_t *p = m.options;
    *p++ = OPTION_TYPE, *p++ = 1, *p++ = type;
    if (type == REQUEST)
        for (int i = 0; i < 2; i++) {
            uint32_t value = swap32(i ? dhcp_server : offered);
            *p++ = i ? OPTION_SERVER : OPTION_ADDRESS, *p++ = 4;
            memcpy(p, &value, 4);
            p += 4;
        }
    *p++ = 55, *p++ = 2, *p++ = OPTION_ROUTER, *p++ = OPTION_DNS;
    *p = 255;
    wanted_type = answer;
    answered = false;
    for (int i = 0; i < TRIES && !answered; i++) {
        ip_send_udp(&ip_everybody, ip_everybody.ip, DHCP_CLIENT, DHCP_SERVER, &m, sizeof m);
        within(SECOND, answered);
    }
    return answered;
}

static void do_resolve(const char *name, uint32_t server) {
    static uint8_t question[300];
    struct dns *m = (struct dns *)question;
    *m = (struct dns){.id = swap16(7), .flags = swap16(0x100), .questions = swap16(1)};
    uint8_t *p = m->rest, *length = p++;
    for (*length = 0; *name; name++)
        if (*name == '.')
            length = p++, *length = 0;
        else
            *p++ = *name, ++*length;
    *p++ = 0, *p++ = 0, *p++ = 1, *p++ = 0, *p++ = 1; /* A, IN */
    answered = false;
    resolved = 0;
    for (int i = 0; i < TRIES && !answered; i++) {
        const struct neighbour *n = ip_resolve(server);
        if (n)
            ip_send_udp(n, server, OUR_UDP_PORT, 53, question, p - question);
        within(SECOND, answered);
    }
    printf("resolved: ");
    ip_print(resolved);
    printf("\n");
}

/* Sends a segment until it is acknowledged, or they have gone. */
static bool send_surely(uint8_t flags, const void *data, size_t size) {
    tcp.next = tcp.unacknowledged + size + !!(flags & (SYN | FIN));
    for (int i = 0; i < TCP_TRIES && tcp.unacknowledged != tcp.next && !tcp.refused; i++) {
        send_tcp(flags, data, size);
        within(SECOND, tcp.unacknowledged == tcp.next || tcp.refused);
    }
    return tcp.unacknowledged == tcp.next;
}

static void begin(uint16_t port) {
    static uint32_t count;
    tcp.state = CLOSED;
    tcp.port = port;
    tcp.unacknowledged = tcp.next = ++count << 20;
    tcp.received = 0;
    tcp.finished = tcp.refused = false;
}

static void do_get(uint32_t ip, uint32_t port, const char *path) {
    static uint16_t next_port = 40000;
    static char request[256];
    const char *verb = "GET ", *version = " HTTP/1.0\r\n\r\n";
    begin(next_port++);
    tcp.ip = ip;
    tcp.their_port = port;
    tcp.state = OPENING;
    if (!send_surely(SYN, NULL, 0)) {
        printf("get: %s\n", tcp.refused ? "refused" : "no answer");
        tcp.state = CLOSED;
        return;
    }
    memcpy(request, verb, strlen(verb));
    memcpy(request + strlen(verb), path, strlen(path));
    memcpy(request + strlen(verb) + strlen(path), version, strlen(version));
    send_surely(PSH | ACK, request, strlen(verb) + strlen(path) + strlen(version));
    within(20 * SECOND, tcp.finished);
    send_surely(FIN | ACK, NULL, 0);
    tcp.state = CLOSED;
    printf("page: %lu bytes, checksum %04x\n", (uint64_t)tcp.received, ip_checksum(tcp.data, tcp.received, 0));
    serial_write((const char *)tcp.data, tcp.received < 256 ? tcp.received : 256);
    printf("\nend of page\n");
}

/* Answers the one who connects with the line that he sends, and closes. */
static void do_listen(uint32_t port) {
    begin(port);
    tcp.state = LISTEN;
    printf("listening\n");
    within(60 * SECOND, tcp.state == OPENING);
    if (tcp.state != OPENING || !send_surely(SYN | ACK, NULL, 0)) {
        printf("nobody came\n");
        return;
    }
    within(20 * SECOND, tcp.finished || (tcp.received && tcp.data[tcp.received - 1] == '\n'));
    for (size_t at = 0; at < tcp.received; at += SEGMENT_MOST)
        send_surely(PSH | ACK, tcp.data + at, tcp.received - at < SEGMENT_MOST ? tcp.received - at : SEGMENT_MOST);
    send_surely(FIN | ACK, NULL, 0);
    within(SECOND, tcp.finished); /* their end is to be acknowledged, too */
    tcp.state = CLOSED;
    printf("served: %lu bytes\n", (uint64_t)tcp.received);
}

static bool command(char *line) {
    char *rest = line, *verb = next_word(&rest), *first = next_word(&rest);
    const char *second = next_word(&rest), *number = first;
    uint32_t ip, port;
    if (strcmp(verb, "resolve") == 0 && *first && strlen(first) < 200) {
        do_resolve(first, dns_server);
        return true;
    }
    if (strcmp(verb, "get") == 0 && ip_parse(first, &ip) && parse_number(&second, 65535, &port) && !*second) {
        do_get(ip, port, next_word(&rest));
        return true;
    }
    if (strcmp(verb, "listen") == 0 && parse_number(&number, 65535, &port) && !*number) {
        do_listen(port);
        return true;
    }
    return false;
}

void main(void) {
    static char line[128];
    serial_init();
    interrupts_init();
    if (!ip_start(receive)) {
        printf("internet: no NE2000 at 0x300\n");
        return;
    }
    pit_start(SECOND);
    serial_receive_on();
    sti();
    if (!ask_dhcp(DISCOVER, OFFER) || !ask_dhcp(REQUEST, ACKNOWLEDGE)) {
        printf("internet: no DHCP server\n");
        return;
    }
    ip_address = offered;
    printf("address ");
    ip_print(ip_address);
    printf(", router ");
    ip_print(ip_router);
    printf(", dns ");
    ip_print(dns_server);
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
            printf("commands: resolve NAME | get A.B.C.D PORT PATH | listen PORT | quit\n");
    }
}
