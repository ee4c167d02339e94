/* Ethernet, ARP (RFC 826), IPv4 (RFC 791) and UDP (RFC 768) over the NE2000, for one host with one address. Addresses
 * are kept in the CPU's byte order. Needs interrupts_init(), pit_start(SECOND) and sti(). */
#pragma once

#include "lib.h"

struct ethernet {
    uint8_t to[6], from[6];
    uint16_t type;
} __attribute__((packed));

struct ip {
    uint8_t version_size, service;
    uint16_t size, id, fragment;
    uint8_t ttl, protocol;
    uint16_t checksum;
    uint32_t from, to;
} __attribute__((packed));

struct udp {
    uint16_t from, to, size, checksum;
} __attribute__((packed));

enum { ICMP = 1, TCP = 6, UDP = 17 };
enum { SECOND = 100 /* ticks of the PIT */ };
enum { PAYLOAD_MAX = FRAME_MAX - sizeof(struct ethernet) - sizeof(struct ip) };

struct neighbour {
    uint32_t ip; /* 0: a free entry */
    uint8_t mac[6];
};

extern uint8_t ip_mac[6];
extern uint32_t ip_address, ip_router; /* 0: none; without a router all hosts are taken to be on the same wire */

/* What a packet's payload is put into before it is sent. */
extern uint8_t ip_payload[PAYLOAD_MAX];

/* The wire has the high byte first, x86 the low one. */
static inline uint16_t swap16(uint16_t x) { return __builtin_bswap16(x); }
static inline uint32_t swap32(uint32_t x) { return __builtin_bswap32(x); }

/* Starts the card; false if there is none. Packets to our address go to `receive`, once their headers are right. */
bool ip_start(void (*receive)(const struct neighbour *from, uint8_t protocol, const void *payload, size_t size));
/* Sleeps until the card wants something, which it then gets, or until the tick `end`. */
void ip_serve(uint64_t end);
/* The neighbour that leads to an address, asked for if it is not known; NULL, and a word about it, if nobody answers. */
const struct neighbour *ip_resolve(uint32_t to);
/* Sends `size` bytes of ip_payload. */
void ip_send(const struct neighbour *n, uint32_t to, uint8_t protocol, size_t size);
void ip_send_udp(const struct neighbour *n, uint32_t to, uint16_t from_port, uint16_t to_port, const void *data,
                 size_t size);
/* Of all stations on the wire: what a host without an address sends to 255.255.255.255. */
extern const struct neighbour ip_everybody;
/* The sum of 16-bit words with the carries added back in, complemented (RFC 1071); `sum` begins it. Over data with a
 * right checksum in it the result is 0. */
uint16_t ip_checksum(const void *data, size_t size, uint32_t sum);
void ip_print(uint32_t ip);
bool ip_parse(const char *s, uint32_t *ip);
