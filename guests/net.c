/* A host on an Ethernet: answers ARP (RFC 826), ICMP echo (RFC 792) and UDP echo (RFC 862), and is told on the serial
 * port to ping others and to send datagrams. All hosts are taken to be on the same wire: there is no router. */
#include "lib/lib.h"

struct ethernet {
    uint8_t to[6], from[6];
    uint16_t type;
} __attribute__((packed));

struct arp {
    uint16_t hardware, protocol;
    uint8_t hardware_size, protocol_size;
    uint16_t operation;
    uint8_t sender_mac[6];
    uint32_t sender_ip;
    uint8_t target_mac[6];
    uint32_t target_ip;
} __attribute__((packed));

struct ip {
    uint8_t version_size, service;
    uint16_t size, id, fragment;
    uint8_t ttl, protocol;
    uint16_t checksum;
    uint32_t from, to;
} __attribute__((packed));

struct icmp {
    uint8_t type, code;
    uint16_t checksum, id, sequence;
} __attribute__((packed));

struct udp {
    uint16_t from, to, size, checksum;
} __attribute__((packed));

enum { TYPE_IP = 0x0800, TYPE_ARP = 0x0806, ARP_REQUEST = 1, ARP_REPLY = 2 };
enum { ICMP = 1, UDP = 17, ECHO_REPLY = 0, ECHO_REQUEST = 8, PORT_ECHO = 7, OUR_PORT = 4000 };
enum { SECOND = 100 /* ticks of the PIT */ };
enum { PAYLOAD_MAX = FRAME_MAX - sizeof(struct ethernet) - sizeof(struct ip) };

/* The wire has the high byte first, x86 the low one. */
static uint16_t swap16(uint16_t x) { return __builtin_bswap16(x); }
static uint32_t swap32(uint32_t x) { return __builtin_bswap32(x); }

static uint8_t mac[6];
static uint32_t our_ip = 10u << 24 | 2; /* 10.0.0.2; addresses are kept in the CPU's byte order */
static const uint8_t broadcast[6] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};

static struct neighbour {
    uint32_t ip; /* 0: a free entry */
    uint8_t mac[6];
} neighbours[16];
static unsigned next_neighbour; /* the oldest entry makes room */

static struct { /* the echo request that is under way */
    uint32_t ip;
    uint16_t sequence;
    bool answered;
} ping;

static uint8_t out[FRAME_MAX];
#define OUT_ETHERNET ((struct ethernet *)out)
#define OUT_IP ((struct ip *)(out + sizeof(struct ethernet)))
#define OUT_PAYLOAD (out + sizeof(struct ethernet) + sizeof(struct ip))

static void print_ip(uint32_t ip) { printf("%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255); }

/* The sum of 16-bit words with the carries added back in, complemented (RFC 1071). Over data with a right checksum in
 * it the result is 0. */
static uint16_t checksum(const void *data, size_t size) {
    const uint8_t *p = data;
    uint32_t sum = 0;
    for (; size > 1; size -= 2, p += 2)
        sum += p[0] << 8 | p[1];
    if (size)
        sum += p[0] << 8;
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return ~sum;
}

static struct neighbour *find(uint32_t ip) {
    for (size_t i = 0; i < sizeof neighbours / sizeof *neighbours; i++)
        if (neighbours[i].ip == ip)
            return &neighbours[i];
    return NULL;
}

static void learn(uint32_t ip, const uint8_t *from) {
    struct neighbour *n = find(ip);
    if (!n)
        n = &neighbours[next_neighbour++ % (sizeof neighbours / sizeof *neighbours)];
    n->ip = ip;
    memcpy(n->mac, from, 6);
}

static void send(const uint8_t *to, uint16_t type, size_t payload) {
    memcpy(OUT_ETHERNET->to, to, 6);
    memcpy(OUT_ETHERNET->from, mac, 6);
    OUT_ETHERNET->type = swap16(type);
    if (!ne2000_send(out, sizeof(struct ethernet) + payload))
        printf("net: the NE2000 does not send\n");
}

static void send_arp(uint16_t operation, const uint8_t *to, uint32_t ip) {
    struct arp *a = (struct arp *)(out + sizeof(struct ethernet));
    *a = (struct arp){swap16(1), swap16(TYPE_IP), 6, 4, swap16(operation), {0}, swap32(our_ip), {0}, swap32(ip)};
    memcpy(a->sender_mac, mac, 6);
    memcpy(a->target_mac, operation == ARP_REPLY ? to : (uint8_t[6]){0}, 6);
    send(to, TYPE_ARP, sizeof *a);
}

/* Sends OUT_PAYLOAD to a known neighbour. */
static void send_ip(const struct neighbour *n, uint8_t protocol, size_t size) {
    static uint16_t id;
    *OUT_IP = (struct ip){.version_size = 0x45, /* version 4, a header of 5 words */
                          .size = swap16(sizeof(struct ip) + size),
                          .id = swap16(id++),
                          .ttl = 64,
                          .protocol = protocol,
                          .from = swap32(our_ip),
                          .to = swap32(n->ip)};
    OUT_IP->checksum = swap16(checksum(OUT_IP, sizeof(struct ip)));
    send(n->mac, TYPE_IP, sizeof(struct ip) + size);
}

static void send_icmp(const struct neighbour *n, uint8_t type, uint16_t id, uint16_t sequence, const void *data,
                      size_t size) {
    struct icmp *m = (struct icmp *)OUT_PAYLOAD;
    *m = (struct icmp){.type = type, .id = swap16(id), .sequence = swap16(sequence)};
    memcpy(m + 1, data, size);
    m->checksum = swap16(checksum(m, sizeof *m + size));
    send_ip(n, ICMP, sizeof *m + size);
}

static void send_udp(const struct neighbour *n, uint16_t from, uint16_t to, const void *data, size_t size) {
    struct udp *u = (struct udp *)OUT_PAYLOAD;
    *u = (struct udp){swap16(from), swap16(to), swap16(sizeof *u + size), 0}; /* a checksum of 0: none */
    memcpy(u + 1, data, size);
    send_ip(n, UDP, sizeof *u + size);
}

static void receive_arp(const struct arp *a, size_t size) {
    if (size < sizeof *a || swap16(a->hardware) != 1 || swap16(a->protocol) != TYPE_IP || a->hardware_size != 6 ||
        a->protocol_size != 4 || swap32(a->target_ip) != our_ip)
        return;
    learn(swap32(a->sender_ip), a->sender_mac);
    if (swap16(a->operation) == ARP_REQUEST)
        send_arp(ARP_REPLY, a->sender_mac, swap32(a->sender_ip));
}

static void receive_icmp(const struct neighbour *from, const struct icmp *m, size_t size) {
    if (size < sizeof *m || checksum(m, size) != 0)
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
        send_udp(from, PORT_ECHO, swap16(u->from), text, size);
        return;
    }
    printf("udp from ");
    print_ip(from->ip);
    printf(":%u to port %u: ", swap16(u->from), swap16(u->to));
    for (; size; size--, text++)
        printf("%c", *text >= ' ' && *text < 0x7F ? *text : '.');
    printf("\n");
}

static void receive_ip(const struct ethernet *e, const struct ip *p, size_t size) {
    size_t header = (p->version_size & 15) * 4;
    if (size < sizeof *p || p->version_size >> 4 != 4 || header < sizeof *p || swap16(p->size) < header ||
        swap16(p->size) > size || checksum(p, header) != 0 || swap32(p->to) != our_ip)
        return;
    if (swap16(p->fragment) & 0x3FFF) /* more fragments, or not the first: we do not put them together */
        return;
    size = swap16(p->size) - header; /* less than what came, if the frame was filled up to Ethernet's least size */
    if (size > PAYLOAD_MAX)
        return;
    learn(swap32(p->from), e->from);
    const struct neighbour *from = find(swap32(p->from));
    const void *payload = (const uint8_t *)p + header;
    if (p->protocol == ICMP)
        receive_icmp(from, payload, size);
    if (p->protocol == UDP)
        receive_udp(from, payload, size);
}

static void receive(uint8_t *frame, size_t size) {
    const struct ethernet *e = (const struct ethernet *)frame;
    const void *payload = e + 1;
    size -= sizeof *e;
    if (swap16(e->type) == TYPE_ARP)
        receive_arp(payload, size);
    if (swap16(e->type) == TYPE_IP)
        receive_ip(e, payload, size);
}

/* Sleeps until the NE2000 wants something, which it then gets, or until the tick `end`. */
static void serve(uint64_t end) {
    wait_until(ne2000_pending || pit_ticks >= end);
    if (ne2000_pending)
        ne2000_service(receive);
}

static struct neighbour *resolve(uint32_t ip) {
    struct neighbour *n = find(ip);
    for (int tries = 0; !n && tries < 3; tries++) {
        uint64_t end = pit_ticks + SECOND;
        send_arp(ARP_REQUEST, broadcast, ip);
        while (!(n = find(ip)) && pit_ticks < end)
            serve(end);
    }
    if (!n) {
        print_ip(ip);
        printf(" does not answer ARP\n");
    }
    return n;
}

static void do_ping(uint32_t ip, uint32_t count) {
    uint32_t replies = 0;
    for (uint32_t i = 1; i <= count; i++) {
        struct neighbour *n = resolve(ip);
        ping.ip = ip;
        ping.sequence = i;
        ping.answered = false;
        if (n) {
            send_icmp(n, ECHO_REQUEST, 0x706B, i, "abcdefghijklmnopqrstuvwabcdefghi", 32);
            uint64_t end = pit_ticks + SECOND;
            while (!ping.answered && pit_ticks < end)
                serve(end);
        }
        replies += ping.answered;
        printf(ping.answered ? "reply from " : "no reply from ");
        print_ip(ip);
        printf(": seq %u\n", i);
    }
    printf("ping: %u sent, %u received\n", count, replies);
}

static bool parse_ip(const char *s, uint32_t *ip) {
    uint32_t byte;
    *ip = 0;
    for (int i = 0; i < 4; i++) {
        if ((i && *s++ != '.') || !parse_number(&s, 255, &byte))
            return false;
        *ip = *ip << 8 | byte;
    }
    return !*s && *ip;
}

static bool command(char *line) {
    char *rest = line, *verb = next_word(&rest), *first = next_word(&rest);
    const char *second;
    uint32_t ip, number = 1;
    if (strcmp(verb, "ip") == 0 && parse_ip(first, &ip)) {
        our_ip = ip;
        printf("ip ");
        print_ip(our_ip);
        printf("\n");
        return true;
    }
    if (strcmp(verb, "ping") == 0 && parse_ip(first, &ip)) {
        second = next_word(&rest);
        if (*second && (!parse_number(&second, 65535, &number) || *second))
            return false;
        do_ping(ip, number);
        return true;
    }
    if (strcmp(verb, "udp") == 0 && parse_ip(first, &ip)) {
        second = next_word(&rest);
        if (!parse_number(&second, 65535, &number) || *second)
            return false;
        struct neighbour *n = resolve(ip);
        if (n) {
            send_udp(n, OUR_PORT, number, rest, strlen(rest));
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
    if (!ne2000_init(mac)) {
        printf("net: no NE2000 at 0x300\n");
        return;
    }
    ne2000_start(mac, NE2000_BROADCAST);
    ne2000_interrupts_on();
    pit_start(SECOND);
    serial_receive_on();
    printf("net: mac %02x:%02x:%02x:%02x:%02x:%02x, ip ", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    print_ip(our_ip);
    printf("\nready\n");
    for (;;) {
        bool typed = false;
        wait_until(ne2000_pending || (typed = serial_line(line, sizeof line)));
        if (ne2000_pending)
            ne2000_service(receive);
        if (!typed)
            continue;
        if (strcmp(line, "quit") == 0)
            return;
        if (!command(line))
            printf("commands: ip A.B.C.D | ping A.B.C.D [COUNT] | udp A.B.C.D PORT TEXT | stats | quit\n");
    }
}
