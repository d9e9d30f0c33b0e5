# csrc/acl.h for the compiled access lists.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "acl.h":
    ctypedef struct acl4_range:
        uint32_t first
        uint32_t last
    cdef enum acl_operation:
        ACL_UNITE, ACL_INTERSECT, ACL_SUBTRACT
    int acl4_combine(acl_operation, const acl4_range *, size_t, const acl4_range *, size_t, acl4_range **,
                     size_t *) nogil
    size_t acl4_settle(acl4_range *, size_t, acl4_range *) nogil
    int acl4_has(const acl4_range *, size_t, uint32_t, uint32_t) nogil
    int acl4_covers(const acl4_range *, size_t, const acl4_range *, size_t) nogil
    int acl4_disjoint(const acl4_range *, size_t, const acl4_range *, size_t) nogil

    ctypedef struct acl_set:
        acl4_range *r4
        void *r6  # of a type that Cython cannot name
        size_t n4
        size_t n6
    int acl_set_combine(acl_operation, const acl_set *, const acl_set *, acl_set *) nogil
    int acl_set_gather(const acl_set *const *, size_t, acl_set *) nogil
    int acl_set_settle(acl_set *) nogil
    int acl_set_equal(const acl_set *, const acl_set *) nogil
    uint64_t acl_set_hash(const acl_set *) nogil
    size_t acl_set_prefixes(const acl_set *) nogil
    cdef enum:
        ACL_PREFIX
    void acl_set_write(const acl_set *, uint8_t *) nogil
    int acl_set_push(acl_set *, size_t *, int, const uint8_t *, unsigned) nogil
    int acl_set_has(const acl_set *, int, const uint8_t *, unsigned) nogil
    int acl_set_covers(const acl_set *, const acl_set *) nogil
    int acl_set_disjoint(const acl_set *, const acl_set *) nogil
    void acl_set_free(acl_set *) nogil

    ctypedef struct acl_pairs:
        uint32_t (*at)[2]
        uint32_t n
    void acl_pairs_free(acl_pairs *) nogil
    ctypedef struct acl_map:
        acl4_range *r4
        void *r6
        uint32_t *l4
        uint32_t *l6
        size_t n4
        size_t n6
    int acl_map_of(const acl_set *, acl_map *) nogil
    int acl_map_overlay(const acl_map *, const acl_map *, int, acl_pairs *, acl_map *) nogil
    void acl_map_relabel(acl_map *, const uint32_t *, uint32_t *, uint32_t *) nogil
    int acl_map_select(const acl_map *, const uint8_t *, acl_set *) nogil
    uint32_t acl_map_at(const acl_map *, int, const uint8_t *) nogil
    int acl_map_equal(const acl_map *, const acl_map *) nogil
    uint64_t acl_map_hash(const acl_map *) nogil
    void acl_map_free(acl_map *) nogil

    cdef enum:
        ACL_PORTS_LAST, ACL_RULE, ACL_FRAGMENT, ACL_TRUNCATED
    ctypedef struct acl_ports:
        const acl4_range *at
        size_t n
    int acl_reads_ports(unsigned, int) nogil
    size_t acl_ports_seen(acl_ports, int, int, acl4_range *) nogil

    ctypedef struct acl_block:
        uint8_t action
        uint8_t destination
        const acl_set *own
        const acl_map *map
        const acl_ports *ports
        uint32_t n_ports
    ctypedef struct acl_rules:
        uint8_t *wire
        size_t n
        size_t cap
        uint8_t closed[2]
    int acl_render(const acl_block *, acl_rules *) nogil
    int acl_drop_repeated(acl_rules *, size_t) nogil
    cdef enum acl_fault:
        ACL_FINE
    acl_fault acl_check(uint8_t *, size_t, size_t *) nogil
    void acl_fingerprint(const uint8_t *, size_t, uint8_t *) nogil
    uint64_t acl_hash(const void *, size_t, uint64_t) nogil

    ctypedef struct acl_packet:
        uint8_t version
        uint8_t protocol
        uint8_t flags
        uint8_t tcp_flags
        uint16_t source_port
        uint16_t destination_port
        uint8_t source[16]
        uint8_t destination[16]
    int64_t acl_match(const uint8_t *, size_t, const acl_packet *) nogil
    int acl_match_many(const uint8_t *, size_t, const acl_packet *, size_t, int32_t *) nogil

cdef extern from "codec.h":
    int cv_parse_ip4(const char *, size_t, uint8_t *) nogil
    int cv_parse_ip6(const char *, size_t, uint8_t *) nogil
    int cv_parse_prefix(const char *, size_t, uint8_t *) nogil
