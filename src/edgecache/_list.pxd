"""Kernel: an intrusive, doubly linked list of nodes addressed by references, with a sum of bytes.

A node is 16 bytes at the start of whatever is linked; reference r lies at `nodes + r *
granule_bytes` and reference 0 is the null reference. Nothing is allocated and no pointer is
stored, so lists and nodes may lie in shared memory that is mapped at different addresses.

    EvictNode, 16 bytes
    | 0      4 | 4      8 | 8          12 | 12     13 | 13        14 | 14      16 |
    | prev u32 | next u32 | size_bytes u32 | queue u8 | frequency u8 | pins u16   |

`prev` points towards the head (newest), `next` towards the tail (oldest).

Invariants, asserted by `list_check`:
1. The head has no `prev`, the tail no `next`, an empty list has neither head nor tail.
2. Links are mutual: the `prev` of a node's `next` is that node; from the head the tail is reached
   in exactly `count` steps.
3. `size_bytes` is the sum of the nodes' sizes.
4. Every node carries the list's queue number.

Thread-safety: none; the caller holds the lock that guards the list.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct EvictNode:
    uint32_t prev
    uint32_t next
    uint32_t size_bytes             # what the node costs; set by the caller before evict_insert
    uint8_t queue                   # 0: in no list; else the policy's number of its list
    uint8_t frequency               # S3-FIFO 0..3, SIEVE visited bit; the policy's to use
    uint16_t pins                   # > 0: not a victim now; the caller's to change

cdef struct EvictList:
    uint32_t head
    uint32_t tail
    uint64_t size_bytes
    uint64_t count


cdef inline EvictNode* list_node(char* nodes, uint64_t granule_bytes,
                                 uint32_t reference) noexcept nogil:
    return <EvictNode*>(nodes + reference * granule_bytes)


cdef inline void list_push_front(char* nodes, uint64_t granule_bytes, EvictList* queue,
                                 uint32_t reference) noexcept nogil:
    """The node becomes the head. The caller guarantees that it is in no list."""
    cdef EvictNode* node = list_node(nodes, granule_bytes, reference)
    node.prev = 0
    node.next = queue.head
    if queue.head != 0:
        list_node(nodes, granule_bytes, queue.head).prev = reference
    else:
        queue.tail = reference
    queue.head = reference
    queue.size_bytes += node.size_bytes
    queue.count += 1


cdef inline void list_push_back(char* nodes, uint64_t granule_bytes, EvictList* queue,
                                uint32_t reference) noexcept nogil:
    """The node becomes the tail. The caller guarantees that it is in no list."""
    cdef EvictNode* node = list_node(nodes, granule_bytes, reference)
    node.next = 0
    node.prev = queue.tail
    if queue.tail != 0:
        list_node(nodes, granule_bytes, queue.tail).next = reference
    else:
        queue.head = reference
    queue.tail = reference
    queue.size_bytes += node.size_bytes
    queue.count += 1


cdef inline void list_remove(char* nodes, uint64_t granule_bytes, EvictList* queue,
                             uint32_t reference) noexcept nogil:
    """Unlink. The caller guarantees that the node is in this list."""
    cdef EvictNode* node = list_node(nodes, granule_bytes, reference)
    if node.prev != 0:
        list_node(nodes, granule_bytes, node.prev).next = node.next
    else:
        queue.head = node.next
    if node.next != 0:
        list_node(nodes, granule_bytes, node.next).prev = node.prev
    else:
        queue.tail = node.prev
    node.prev = 0
    node.next = 0
    queue.size_bytes -= node.size_bytes
    queue.count -= 1


cdef inline void list_move_front(char* nodes, uint64_t granule_bytes, EvictList* queue,
                                 uint32_t reference) noexcept nogil:
    # A repeated hit on the newest node is common and must not write to shared cache lines.
    if queue.head != reference:
        list_remove(nodes, granule_bytes, queue, reference)
        list_push_front(nodes, granule_bytes, queue, reference)


cdef inline void list_relocate(char* nodes, uint64_t granule_bytes, EvictList* queue,
                               uint32_t source, uint32_t target) noexcept nogil:
    """`target` holds a copy of the linked node `source`: neighbours and ends follow it."""
    cdef EvictNode* node = list_node(nodes, granule_bytes, target)
    if node.prev != 0:
        list_node(nodes, granule_bytes, node.prev).next = target
    else:
        queue.head = target
    if node.next != 0:
        list_node(nodes, granule_bytes, node.next).prev = target
    else:
        queue.tail = target


cdef inline int list_check(char* nodes, uint64_t granule_bytes, const EvictList* queue,
                           uint8_t queue_number) noexcept nogil:
    """0, or the number of the broken invariant."""
    cdef uint32_t reference = queue.head
    cdef uint32_t previous = 0
    cdef uint64_t count = 0
    cdef uint64_t size_bytes = 0
    cdef EvictNode* node
    if (queue.head == 0) != (queue.tail == 0):
        return 1
    while reference != 0:
        node = list_node(nodes, granule_bytes, reference)
        # A step beyond `count` is a cycle or a foreign node: stop before following it for ever.
        if node.prev != previous or count >= queue.count:
            return 1 if previous == 0 else 2
        if node.queue != queue_number:
            return 4
        size_bytes += node.size_bytes
        count += 1
        previous = reference
        reference = node.next
    if previous != queue.tail:
        return 1
    if count != queue.count:
        return 2
    return 3 if size_bytes != queue.size_bytes else 0
