#include "ip.h"

struct arp {
    uint16_t hardware, protocol;
    uint8_t hardware_size, protocol_size;
    uint16_t operation;
    uint8_t sender_mac[6];
    uint32_t sender_ip;
    uint8_t target_mac[6];
    uint32_t target_ip;
} __attribute__((packed));

enum { TYPE_IP = 0x0800, TYPE_ARP = 0x0806, ARP_REQUEST = 1, ARP_REPLY = 2 };

uint8_t ip_mac[6];
uint32_t ip_address, ip_router;
const struct neighbour ip_everybody = {0xFFFFFFFF, {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}};
uint8_t ip_payload[PAYLOAD_MAX];

static struct neighbour neighbours[16];
static unsigned next_neighbour; /* the oldest entry makes room */
static uint8_t out[FRAME_MAX];
static void (*receive_payload)(const struct neighbour *from, uint8_t protocol, const void *payload, size_t size);

void ip_print(uint32_t ip) { printf("%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255); }

bool ip_parse(const char *s, uint32_t *ip) {
    uint32_t byte;
    *ip = 0;
    for (int i = 0; i < 4; i++) {
        if ((i && *s++ != '.') || !parse_number(&s, 255, &byte))
            return false;
        *ip = *ip << 8 | byte;
    }
    return !*s && *ip;
}

uint16_t ip_checksum(const void *data, size_t size, uint32_t sum) {
    const uint8_t *p = data;
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
    struct ethernet *e = (struct ethernet *)out;
    memcpy(e->to, to, 6);
    memcpy(e->from, ip_mac, 6);
    e->type = swap16(type);
    if (!ne2000_send(out, sizeof *e + payload))
        printf("net: the NE2000 does not send\n");
}

static void send_arp(uint16_t operation, const uint8_t *to, uint32_t ip) {
    struct arp *a = (struct arp *)(out + sizeof(struct ethernet));
    *a = (struct arp){swap16(1), swap16(TYPE_IP), 6, 4, swap16(operation), {0}, swap32(ip_address), {0}, swap32(ip)};
    memcpy(a->sender_mac, ip_mac, 6);
    memcpy(a->target_mac, operation == ARP_REPLY ? to : (uint8_t[6]){0}, 6);
    send(to, TYPE_ARP, sizeof *a);
}

void ip_send(const struct neighbour *n, uint32_t to, uint8_t protocol, size_t size) {
    static uint16_t id;
    struct ip *p = (struct ip *)(out + sizeof(struct ethernet));
    *p = (struct ip){.version_size = 0x45, /* version 4, a header of 5 words */
                     .size = swap16(sizeof *p + size),
                     .id = swap16(id++),
                     .ttl = 64,
                     .protocol = protocol,
                     .from = swap32(ip_address),
                     .to = swap32(to)};
    p->checksum = swap16(ip_checksum(p, sizeof *p, 0));
    memcpy(p + 1, ip_payload, size);
    send(n->mac, TYPE_IP, sizeof *p + size);
}

void ip_send_udp(const struct neighbour *n, uint32_t to, uint16_t from_port, uint16_t to_port, const void *data,
                 size_t size) {
    struct udp *u = (struct udp *)ip_payload;
    *u = (struct udp){swap16(from_port), swap16(to_port), swap16(sizeof *u + size), 0}; /* a checksum of 0: none */
    memcpy(u + 1, data, size);
    ip_send(n, to, UDP, sizeof *u + size);
}

static void receive_arp(const struct arp *a, size_t size) {
    if (size < sizeof *a || swap16(a->hardware) != 1 || swap16(a->protocol) != TYPE_IP || a->hardware_size != 6 ||
        a->protocol_size != 4 || !ip_address || swap32(a->target_ip) != ip_address)
        return;
    learn(swap32(a->sender_ip), a->sender_mac);
    if (swap16(a->operation) == ARP_REQUEST)
        send_arp(ARP_REPLY, a->sender_mac, swap32(a->sender_ip));
}

static void receive_ip(const struct ethernet *e, const struct ip *p, size_t size) {
    size_t header = (p->version_size & 15) * 4;
    if (size < sizeof *p || p->version_size >> 4 != 4 || header < sizeof *p || swap16(p->size) < header ||
        swap16(p->size) > size || ip_checksum(p, header, 0) != 0 || (ip_address && swap32(p->to) != ip_address))
        return;
    if (swap16(p->fragment) & 0x3FFF) /* more fragments, or not the first: we do not put them together */
        return;
    size = swap16(p->size) - header; /* less than what came, if the frame was filled up to Ethernet's least size */
    if (size > PAYLOAD_MAX)
        return;
    learn(swap32(p->from), e->from);
    receive_payload(find(swap32(p->from)), p->protocol, (const uint8_t *)p + header, size);
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

bool ip_start(void (*receive)(const struct neighbour *from, uint8_t protocol, const void *payload, size_t size)) {
    receive_payload = receive;
    if (!ne2000_init(ip_mac))
        return false;
    ne2000_start(ip_mac, NE2000_BROADCAST);
    ne2000_interrupts_on();
    return true;
}

void ip_serve(uint64_t end) {
    wait_until(ne2000_pending || pit_ticks >= end);
    if (ne2000_pending)
        ne2000_service(receive);
}

const struct neighbour *ip_resolve(uint32_t ip) {
    if (ip_router && (ip ^ ip_router) >> 8)
        ip = ip_router;
    struct neighbour *n = find(ip);
    for (int tries = 0; !n && tries < 3; tries++) {
        uint64_t end = pit_ticks + SECOND;
        send_arp(ARP_REQUEST, ip_everybody.mac, ip);
        while (!(n = find(ip)) && pit_ticks < end)
            ip_serve(end);
    }
    if (!n) {
        ip_print(ip);
        printf(" does not answer ARP\n");
    }
    return n;
}
