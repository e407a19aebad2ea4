"""The index of the file layout (see _files_index.pxd)."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

cdef enum:
    QUEUE_SMALL = 0
    QUEUE_MAIN = 1
    FREQUENCY_MAX = 3
    ENTRIES_MIN = 64
    GHOSTS = 65536
    GHOST_PROBES = 64
    SMALL_DIVISOR = 10


cdef int hash_split(bytes hash16, uint64_t* low, uint64_t* high) except -1:
    cdef const unsigned char* text
    cdef int index
    low[0] = high[0] = 0
    if PyBytes_GET_SIZE(hash16) != 16:
        raise ValueError("a key hash has 16 bytes")
    text = <const unsigned char*>PyBytes_AS_STRING(hash16)
    for index in range(8):
        high[0] = high[0] << 8 | text[index]
        low[0] = low[0] << 8 | text[8 + index]
    return 0


cdef bytes hash_join(const FileEntry* entry):
    cdef unsigned char[16] text
    cdef int index
    for index in range(8):
        text[index] = <unsigned char>(entry.hash_high >> (56 - 8 * index))
        text[8 + index] = <unsigned char>(entry.hash_low >> (56 - 8 * index))
    return PyBytes_FromStringAndSize(<char*>text, 16)


@cython.final
cdef class FileIndex:

    def __cinit__(self):
        self.entry_capacity = ENTRIES_MIN
        self.entry_used = 1
        self.cell_mask = ENTRIES_MIN * 2 - 1
        self.next_sequence = 1
        self.entries = <FileEntry*>calloc(self.entry_capacity, sizeof(FileEntry))
        self.cells = <uint32_t*>calloc(self.cell_mask + 1, sizeof(uint32_t))
        self.ghosts = <uint64_t*>calloc(GHOSTS, sizeof(uint64_t))
        if self.entries == NULL or self.cells == NULL or self.ghosts == NULL:
            raise MemoryError("no memory for the index")

    def __dealloc__(self):
        free(self.entries)
        free(self.cells)
        free(self.ghosts)

    # The table: linear probing, no tombstones

    cdef uint32_t find(self, uint64_t low, uint64_t high) noexcept:
        cdef uint64_t cell = low & self.cell_mask
        cdef FileEntry* entry
        while self.cells[cell] != 0:
            entry = &self.entries[self.cells[cell]]
            if entry.hash_low == low and entry.hash_high == high:
                return self.cells[cell]
            cell = (cell + 1) & self.cell_mask
        return 0

    cdef int grow_cells(self) except -1:
        cdef uint64_t mask = self.cell_mask * 2 + 1, cell, old
        cdef uint32_t* cells = <uint32_t*>calloc(mask + 1, sizeof(uint32_t))
        if cells == NULL:
            raise MemoryError("no memory for the index")
        for old in range(self.cell_mask + 1):
            if self.cells[old] != 0:
                cell = self.entries[self.cells[old]].hash_low & mask
                while cells[cell] != 0:
                    cell = (cell + 1) & mask
                cells[cell] = self.cells[old]
        free(self.cells)
        self.cells = cells
        self.cell_mask = mask
        return 0

    cdef uint32_t take_entry(self) except 0:
        cdef uint32_t number = self.free_head, capacity
        cdef FileEntry* entries
        if number != 0:
            self.free_head = self.entries[number].next
            return number
        if self.entry_used == self.entry_capacity:
            if self.entry_capacity >= 0x80000000:
                raise MemoryError("the index of the file layout is full")
            capacity = self.entry_capacity + self.entry_capacity // 2
            entries = <FileEntry*>realloc(self.entries, capacity * sizeof(FileEntry))
            if entries == NULL:
                raise MemoryError("no memory for the index")
            self.entries = entries
            self.entry_capacity = capacity
        number = self.entry_used
        self.entry_used += 1
        return number

    cdef void erase(self, uint32_t number) noexcept:
        """Take an entry out of queue and table, and close the gap in its run of cells."""
        cdef uint64_t hole = self.entries[number].hash_low & self.cell_mask, cell, home
        self.unlink(number)
        while self.cells[hole] != number:
            hole = (hole + 1) & self.cell_mask
        cell = hole
        while True:
            cell = (cell + 1) & self.cell_mask
            if self.cells[cell] == 0:
                break
            home = self.entries[self.cells[cell]].hash_low & self.cell_mask
            if ((cell - home) & self.cell_mask) >= ((cell - hole) & self.cell_mask):
                self.cells[hole] = self.cells[cell]
                hole = cell
        self.cells[hole] = 0
        self.entries[number].next = self.free_head
        self.free_head = number
        self.count -= 1

    # The queues

    cdef void link(self, uint32_t number, uint8_t queue) noexcept:
        cdef FileQueue* line = &self.queues[queue]
        cdef FileEntry* entry = &self.entries[number]
        entry.queue = queue
        entry.prev = 0
        entry.next = line.newest
        if line.newest != 0:
            self.entries[line.newest].prev = number
        else:
            line.oldest = number
        line.newest = number
        line.size_bytes += entry.size_bytes
        line.count += 1

    cdef void unlink(self, uint32_t number) noexcept:
        cdef FileEntry* entry = &self.entries[number]
        cdef FileQueue* line = &self.queues[entry.queue]
        if entry.prev != 0:
            self.entries[entry.prev].next = entry.next
        else:
            line.newest = entry.next
        if entry.next != 0:
            self.entries[entry.next].prev = entry.prev
        else:
            line.oldest = entry.prev
        line.size_bytes -= entry.size_bytes
        line.count -= 1

    cdef object describe(self, const FileEntry* entry):
        return (entry.sequence, entry.expiry_us, entry.size_bytes, entry.body_len, entry.place,
                entry.flags)

    # Entries

    @property
    def used_bytes(self):
        """What all objects take on the device."""
        return self.queues[0].size_bytes + self.queues[1].size_bytes

    @property
    def memory_bytes(self):
        """What the index itself takes."""
        return self.entry_capacity * sizeof(FileEntry) + (self.cell_mask + 1) * 4 + GHOSTS * 8

    def __len__(self):
        return self.count

    def __contains__(self, bytes hash16 not None):
        cdef uint64_t low, high
        hash_split(hash16, &low, &high)
        return self.find(low, high) != 0

    def take_sequence(self):
        """The next sequence number: unique, growing over restarts."""
        self.next_sequence += 1
        return self.next_sequence - 1

    def see_sequence(self, uint64_t sequence):
        """Give out only larger ones from now on."""
        if sequence < <uint64_t>1 << 56:
            self.next_sequence = max(self.next_sequence, sequence + 1)

    def get(self, bytes hash16 not None):
        """(sequence, expiry_us, bytes, body size, place, flags) of an object, or None."""
        cdef uint64_t low, high
        cdef uint32_t number
        hash_split(hash16, &low, &high)
        number = self.find(low, high)
        return None if number == 0 else self.describe(&self.entries[number])

    def sequence_of(self, bytes hash16 not None):
        """The sequence number of an object; 0: there is none."""
        cdef uint64_t low, high
        cdef uint32_t number
        hash_split(hash16, &low, &high)
        number = self.find(low, high)
        return 0 if number == 0 else self.entries[number].sequence

    def put(self, bytes hash16 not None, uint64_t sequence, int64_t expiry_us, uint64_t size_bytes,
            uint64_t body_len, uint32_t place, uint8_t flags):
        """Enter an object, or another version of it (which keeps its turn in the queue).

        Returns:
            What stood there, as `get` gives it, or None.
        """
        cdef uint64_t low, high, cell
        cdef uint32_t number
        cdef FileEntry* entry
        cdef object old = None
        hash_split(hash16, &low, &high)
        number = self.find(low, high)
        if number == 0:
            if (self.count + 1) * 4 > (self.cell_mask + 1) * 3:
                self.grow_cells()
            number = self.take_entry()
            entry = &self.entries[number]
            memset(entry, 0, sizeof(FileEntry))
            entry.hash_low, entry.hash_high = low, high
            cell = low & self.cell_mask
            while self.cells[cell] != 0:
                cell = (cell + 1) & self.cell_mask
            self.cells[cell] = number
            self.count += 1
            entry.size_bytes = size_bytes
            self.link(number, QUEUE_MAIN if self.recalls(low) else QUEUE_SMALL)
        else:
            entry = &self.entries[number]
            old = self.describe(entry)
            self.queues[entry.queue].size_bytes += size_bytes - entry.size_bytes
            entry.size_bytes = size_bytes
        entry.sequence = sequence
        entry.expiry_us = expiry_us
        entry.body_len = body_len
        entry.place = place
        entry.flags = flags
        return old

    def settle(self, bytes hash16 not None, uint64_t sequence):
        """Note that this version is published now; whether it is still the current one."""
        cdef uint64_t low, high
        cdef uint32_t number
        hash_split(hash16, &low, &high)
        number = self.find(low, high)
        if number == 0 or self.entries[number].sequence != sequence:
            return False
        self.entries[number].place = 0
        return True

    def remove(self, bytes hash16 not None):
        """Forget an object: what stood there, as `get` gives it, or None."""
        cdef uint64_t low, high
        cdef uint32_t number
        hash_split(hash16, &low, &high)
        number = self.find(low, high)
        if number == 0:
            return None
        old = self.describe(&self.entries[number])
        self.erase(number)
        return old

    def touch(self, bytes hash16 not None):
        """Note a hit."""
        cdef uint64_t low, high
        cdef uint32_t number
        hash_split(hash16, &low, &high)
        number = self.find(low, high)
        if number != 0 and self.entries[number].frequency < FREQUENCY_MAX:
            self.entries[number].frequency += 1

    def clear(self):
        """Forget everything but the sequence numbers given out."""
        memset(self.cells, 0, (self.cell_mask + 1) * sizeof(uint32_t))
        memset(self.queues, 0, sizeof(self.queues))
        self.entry_used = 1
        self.free_head = 0
        self.count = 0

    # Eviction

    cdef void remember(self, uint64_t low) noexcept:
        self.ghost_count += 1
        self.ghosts[low % GHOSTS] = low >> 32 << 32 | <uint32_t>self.ghost_count

    cdef bint recalls(self, uint64_t low) noexcept:
        """Did the hash leave the small queue within as many departures as there are objects?"""
        cdef uint64_t ghost = self.ghosts[low % GHOSTS]
        return ghost != 0 and ghost >> 32 == low >> 32 and \
            <uint32_t>(self.ghost_count - ghost) < max(self.count, <uint64_t>ENTRIES_MIN)

    def victim(self):
        """The hash of the object that is to go next; None: there is none. It stays until removed.

        *Cost*: gives members another round on its way: amortised constant.
        """
        cdef uint32_t number
        cdef FileEntry* entry
        cdef FileQueue* small = &self.queues[QUEUE_SMALL]
        cdef FileQueue* main = &self.queues[QUEUE_MAIN]
        cdef uint64_t total
        while self.count:
            total = small.size_bytes + main.size_bytes
            if small.count and (main.count == 0 or
                                small.size_bytes * SMALL_DIVISOR >= total):
                number = small.oldest
                entry = &self.entries[number]
                if entry.frequency == 0:
                    self.remember(entry.hash_low)
                    return hash_join(entry)
                entry.frequency = 0
                self.unlink(number)
                self.link(number, QUEUE_MAIN)
                continue
            number = main.oldest
            entry = &self.entries[number]
            if entry.frequency == 0:
                return hash_join(entry)
            entry.frequency -= 1
            self.unlink(number)
            self.link(number, QUEUE_MAIN)
        return None

    def hashes(self):
        """The hashes of all objects, in no order: a list."""
        cdef list found = []
        cdef uint64_t cell
        for cell in range(self.cell_mask + 1):
            if self.cells[cell] != 0:
                found.append(hash_join(&self.entries[self.cells[cell]]))
        return found

    def dump(self):
        """The order of eviction: 17 bytes an object (hash, queue << 2 | frequency), oldest first.
        """
        cdef list parts = []
        cdef uint32_t number
        cdef FileEntry* entry
        cdef int queue
        for queue in range(2):
            number = self.queues[queue].oldest
            while number != 0:
                entry = &self.entries[number]
                parts.append(hash_join(entry))
                parts.append(PyBytes_FromStringAndSize(NULL, 1))
                (<unsigned char*>PyBytes_AS_STRING(parts[len(parts) - 1]))[0] = \
                    <unsigned char>(queue << 2 | entry.frequency)
                number = entry.prev
        return b"".join(parts)

    def restore(self, bytes hash16 not None, uint8_t rank):
        """Move an object to the newest end of the queue that `dump` gave, with its frequency."""
        cdef uint64_t low, high
        cdef uint32_t number
        hash_split(hash16, &low, &high)
        number = self.find(low, high)
        if number == 0 or rank > 7:
            return
        self.unlink(number)
        self.entries[number].frequency = rank & 3
        self.link(number, rank >> 2)

    def check(self):
        """Which invariant does not hold; 0: all do. For tests."""
        cdef uint64_t seen = 0, cell, counted, summed
        cdef uint32_t number
        cdef int queue
        for queue in range(2):
            counted = summed = 0
            number = self.queues[queue].oldest
            while number != 0:
                if self.entries[number].queue != queue or \
                        self.find(self.entries[number].hash_low,
                                  self.entries[number].hash_high) != number:
                    return 1
                counted += 1
                summed += self.entries[number].size_bytes
                number = self.entries[number].prev
                if counted > self.count:
                    return 1
            if counted != self.queues[queue].count or summed != self.queues[queue].size_bytes:
                return 2
            seen += counted
        for cell in range(self.cell_mask + 1):
            if self.cells[cell] != 0:
                seen -= 1
        return 0 if seen == 0 else 1
