"""The memory engine: names in a disk image, their journal, and what a power loss leaves of them.

See `_io_memory_pages` for the invariants.
"""

from libc.errno cimport (
    EEXIST, EINVAL, EISDIR, ENOENT, ENOMEM, ENOTDIR, ENOTEMPTY, EOPNOTSUPP,
)
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset, strcmp, strlen

from edgecache._io cimport io_name_check
from edgecache._io_memory_pages cimport (
    FILE_BYTES_MAX, JOURNAL_EXCHANGE, JOURNAL_LINK, JOURNAL_RENAME, JOURNAL_UNLINK, POWER_DROP,
    POWER_KEEP, POWER_RANDOM, Entry, Image, JournalRecord, Node, image_random, node_truncate,
    page_power_cut, page_sync, page_used_bytes,
)

# ---- nodes, entries and the journal --------------------------------------------------------------

cdef inline Node* node_new(Image* image, bint is_directory) noexcept nogil:
    cdef Node* node = <Node*>calloc(1, sizeof(Node))
    if node == NULL:
        return NULL
    node.is_directory = is_directory
    node.next = image.nodes
    if image.nodes != NULL:
        image.nodes.previous = node
    image.nodes = node
    return node

cdef inline void node_drop(Image* image, Node* node) noexcept nogil:
    """Give up one reference; frees the node, and a directory's entries, with the last."""
    cdef uint64_t index
    node.references -= 1
    if node.references > 0:
        return
    while node.entries != NULL:
        entry_remove(image, &node.entries, True)
    while node.durable_entries != NULL:
        entry_remove(image, &node.durable_entries, False)
    for index in range(node.page_count):
        free(node.pages[index].live)
        free(node.pages[index].durable)
        free(node.pages[index].earlier)
    free(node.pages)
    if node.previous != NULL:
        node.previous.next = node.next
    else:
        image.nodes = node.next
    if node.next != NULL:
        node.next.previous = node.previous
    free(node)

cdef inline void node_drop_live(Image* image, Node* node) noexcept nogil:
    """As node_drop, for a live entry or an open: the last of them frees the space."""
    cdef uint64_t index
    node.live_references -= 1
    if node.live_references == 0:
        for index in range(node.page_count):
            image.used_bytes -= page_used_bytes(&node.pages[index])
            node.pages[index].blocks = 0
    node_drop(image, node)

cdef inline Entry** entry_find(Entry** link, const char* name) noexcept nogil:
    """Link to the entry of that name, or to the NULL at the end."""
    while link[0] != NULL and strcmp(link[0].name, name) != 0:
        link = &link[0].next
    return link

cdef inline int entry_add(Entry** link, const char* name, Node* node, bint is_live) noexcept nogil:
    cdef Entry* entry = <Entry*>calloc(1, sizeof(Entry))
    if entry == NULL:
        return -ENOMEM
    memcpy(entry.name, name, strlen(name) + 1)
    entry.node = node
    entry.next = link[0]
    link[0] = entry
    node.references += 1
    if is_live:
        node.live_references += 1
    return 0

cdef inline void entry_remove(Image* image, Entry** link, bint is_live) noexcept nogil:
    cdef Entry* entry = link[0]
    link[0] = entry.next
    if is_live:
        node_drop_live(image, entry.node)
    else:
        node_drop(image, entry.node)
    free(entry)

cdef inline void entry_move(Entry** link, Entry** target_list, const char* name) noexcept nogil:
    """Give an entry another name, perhaps in another directory's list."""
    cdef Entry* entry = link[0]
    link[0] = entry.next
    memcpy(entry.name, name, strlen(name) + 1)
    entry.next = target_list[0]
    target_list[0] = entry

cdef inline int journal_add(Image* image, int kind, Node* parent, const char* name, Node* node,
                            Node* target_parent, const char* target_name) noexcept nogil:
    cdef JournalRecord* record
    cdef uint64_t capacity = max(<uint64_t>64, image.journal_capacity * 2)
    if image.journal_count == image.journal_capacity:
        record = <JournalRecord*>realloc(image.journal, capacity * sizeof(JournalRecord))
        if record == NULL:
            return -ENOMEM
        image.journal = record
        image.journal_capacity = capacity
    record = &image.journal[image.journal_count]
    memset(record, 0, sizeof(JournalRecord))
    record.kind = kind
    record.parent = parent
    record.node = node
    record.target_parent = target_parent
    memcpy(record.name, name, strlen(name) + 1)
    memcpy(record.target_name, target_name, strlen(target_name) + 1)
    parent.references += 1
    target_parent.references += 1
    node.references += 1
    image.journal_count += 1
    return 0

cdef inline void journal_apply(Image* image, JournalRecord* record) noexcept nogil:
    """Do a change to the durable entries, unless a change it builds on was lost."""
    cdef Entry** link = entry_find(&record.parent.durable_entries, record.name)
    cdef Entry** target
    if record.kind == JOURNAL_LINK:
        if link[0] == NULL:
            entry_add(link, record.name, record.node, False)
    elif record.kind == JOURNAL_UNLINK:
        if link[0] != NULL and link[0].node == record.node and (
                record.node.durable_entries == NULL):
            entry_remove(image, link, False)
    elif record.kind == JOURNAL_EXCHANGE:
        target = entry_find(&record.target_parent.durable_entries, record.target_name)
        if link[0] != NULL and link[0].node == record.node and target[0] != NULL:
            link[0].node, target[0].node = target[0].node, link[0].node
    elif link[0] != NULL and link[0].node == record.node:
        target = entry_find(&record.target_parent.durable_entries, record.target_name)
        if target[0] != NULL:
            entry_remove(image, target, False)
        entry_move(entry_find(&record.parent.durable_entries, record.name),
                   &record.target_parent.durable_entries, record.target_name)

cdef inline void journal_forget(Image* image, JournalRecord* record) noexcept nogil:
    node_drop(image, record.node)
    node_drop(image, record.target_parent)
    node_drop(image, record.parent)

cdef inline void directory_commit(Image* image, Node* directory) noexcept nogil:
    """Make the changes of a directory durable, with those of others that they build on."""
    cdef uint64_t index, kept = 0
    cdef JournalRecord* record
    directory.commit_limit = image.journal_count
    # Backwards: a change across two directories pulls in all earlier ones of both.
    for index in range(image.journal_count, 0, -1):
        record = &image.journal[index - 1]
        record.commit = (index <= record.parent.commit_limit
                         or index <= record.target_parent.commit_limit)
        if record.commit:
            record.parent.commit_limit = max(record.parent.commit_limit, index)
            record.target_parent.commit_limit = max(record.target_parent.commit_limit, index)
    for index in range(image.journal_count):
        record = &image.journal[index]
        record.parent.commit_limit = 0
        record.target_parent.commit_limit = 0
        if record.commit:
            journal_apply(image, record)
            journal_forget(image, record)
        else:
            image.journal[kept] = record[0]
            kept += 1
    directory.commit_limit = 0
    image.journal_count = kept

cdef inline int path_find(Image* image, const char* name, Node** parent,
                          const char** leaf) noexcept nogil:
    """Walk to the directory above the last component. 0 or a negative errno."""
    cdef char[256] component
    cdef Node* node = image.root
    cdef Entry* entry
    cdef size_t length
    cdef int depth = io_name_check(name)
    if depth < 0:
        return depth
    while depth > 1:
        length = 0
        while name[length] != c"/":
            length += 1
        memcpy(component, name, length)
        component[length] = 0
        entry = entry_find(&node.entries, component)[0]
        if entry == NULL:
            return -ENOENT
        if not entry.node.is_directory:
            return -ENOTDIR
        node = entry.node
        name += length + 1
        depth -= 1
    parent[0] = node
    leaf[0] = name
    return 0

cdef inline int directory_find(Image* image, const char* name, Node** out) noexcept nogil:
    cdef Node* parent = NULL
    cdef const char* leaf = NULL
    cdef Entry* entry
    cdef int result
    out[0] = image.root
    if name[0] == 0:
        return 0
    result = path_find(image, name, &parent, &leaf)
    if result < 0:
        return result
    entry = entry_find(&parent.entries, leaf)[0]
    if entry == NULL:
        return -ENOENT
    out[0] = entry.node
    return 0 if entry.node.is_directory else -ENOTDIR

# ---- power loss ---------------------------------------------------------------------------------

cdef inline int node_sync(Node* node, bint fails) noexcept nogil:
    cdef uint64_t index
    for index in range(node.page_count):
        if page_sync(&node.pages[index], fails) < 0:
            return -ENOMEM
    if not fails:
        node.durable_size_bytes = node.size_bytes
    return 0

cdef inline int node_power_cut(Image* image, Node* node, int mode) noexcept nogil:
    cdef uint64_t index, size_bytes = node.size_bytes
    for index in range(node.page_count):
        page_power_cut(&node.pages[index], image, mode)
    if size_bytes != node.durable_size_bytes and (
            mode == POWER_DROP or (mode == POWER_RANDOM and image_random(image) & 1)):
        size_bytes = node.durable_size_bytes
    node.size_bytes = <uint64_t>FILE_BYTES_MAX          # so that all beyond the end is cleared
    if node_truncate(image, node, size_bytes) < 0:
        return -ENOMEM
    return node_sync(node, False)

cdef inline void tree_power_cut(Image* image, int mode) noexcept nogil:
    """Replace the live entries by the durable ones, after deciding on each journal record."""
    cdef uint64_t index
    cdef Node* node = image.nodes
    cdef Entry* entry
    for index in range(image.journal_count):
        if mode == POWER_KEEP or (mode == POWER_RANDOM and image_random(image) & 1):
            journal_apply(image, &image.journal[index])
    while node != NULL:
        node.references += 1        # none may go while the list is walked
        node = node.next
    for index in range(image.journal_count):
        journal_forget(image, &image.journal[index])
    image.journal_count = 0
    node = image.nodes
    while node != NULL:
        entry = node.durable_entries
        while entry != NULL:        # first, so that what survives keeps its space
            entry.node.live_references += 1
            entry.node.references += 1
            entry = entry.next
        node = node.next
    node = image.nodes
    while node != NULL:
        while node.entries != NULL:
            entry_remove(image, &node.entries, True)
        entry = node.durable_entries
        while entry != NULL:
            entry_add(&node.entries, entry.name, entry.node, True)
            node_drop_live(image, entry.node)
            entry = entry.next
        node = node.next
    nodes_release(image)

cdef inline void nodes_release(Image* image) noexcept nogil:
    """Take back the reference that tree_power_cut put on every node."""
    cdef Node* node = image.nodes
    cdef Node* following
    while node != NULL:
        node.commit_limit = 1       # still has it
        node = node.next
    node = image.nodes
    while node != NULL:
        if node.commit_limit == 0:
            node = node.next
            continue
        node.commit_limit = 0
        following = node.next if node.references > 1 else NULL
        node_drop(image, node)
        # Freeing a directory may have freed its neighbours in the list: begin again.
        node = following if following != NULL else image.nodes

# ---- changes of names ----------------------------------------------------------------------------

cdef inline int entry_create(Image* image, Node* parent, const char* leaf,
                             Node* node) noexcept nogil:
    """Enter a node; a new one is freed again without memory."""
    cdef int result
    node.references += 1
    result = journal_add(image, JOURNAL_LINK, parent, leaf, node, parent, b"")
    if result == 0:
        result = entry_add(entry_find(&parent.entries, leaf), leaf, node, True)
    node_drop(image, node)
    return result

cdef inline int unlink_locked(Image* image, const char* name) noexcept nogil:
    cdef Node* parent = NULL
    cdef const char* leaf = NULL
    cdef Entry** link
    cdef int result = path_find(image, name, &parent, &leaf)
    if result < 0:
        return result
    link = entry_find(&parent.entries, leaf)
    if link[0] == NULL:
        return -ENOENT
    if link[0].node.entries != NULL:
        return -ENOTEMPTY
    result = journal_add(image, JOURNAL_UNLINK, parent, leaf, link[0].node, parent, b"")
    if result == 0:
        entry_remove(image, link, True)
    return result

cdef inline bint node_is_below(Node* node, Node* directory) noexcept nogil:
    cdef Entry* entry = directory.entries
    if node == directory:
        return True
    while entry != NULL:
        if entry.node.is_directory and node_is_below(node, entry.node):
            return True
        entry = entry.next
    return False

cdef inline int rename_locked(Image* image, const char* source, const char* target) noexcept nogil:
    cdef Node* parent = NULL
    cdef Node* target_parent = NULL
    cdef const char* leaf = NULL
    cdef const char* target_leaf = NULL
    cdef Entry** replaced
    cdef Node* node
    cdef int result = path_find(image, source, &parent, &leaf)
    if result == 0:
        result = path_find(image, target, &target_parent, &target_leaf)
    if result < 0:
        return result
    if entry_find(&parent.entries, leaf)[0] == NULL:
        return -ENOENT
    node = entry_find(&parent.entries, leaf)[0].node
    if node.is_directory and node_is_below(target_parent, node):
        return -EINVAL
    replaced = entry_find(&target_parent.entries, target_leaf)
    if replaced[0] != NULL:
        if replaced[0].node.is_directory and node_is_below(parent, replaced[0].node):
            return -ENOTEMPTY
        if replaced[0].node == node:
            return 0
        if node.is_directory != replaced[0].node.is_directory:
            return -ENOTDIR if node.is_directory else -EISDIR
        if replaced[0].node.entries != NULL:
            return -ENOTEMPTY
    result = journal_add(image, JOURNAL_RENAME, parent, leaf, node, target_parent, target_leaf)
    if result < 0:
        return result
    if replaced[0] != NULL:
        entry_remove(image, replaced, True)
    entry_move(entry_find(&parent.entries, leaf), &target_parent.entries, target_leaf)
    return 0

cdef inline int exchange_locked(Image* image, const char* source,
                                const char* target) noexcept nogil:
    cdef Node* parent = NULL
    cdef Node* target_parent = NULL
    cdef const char* leaf = NULL
    cdef const char* target_leaf = NULL
    cdef Entry* first
    cdef Entry* second
    cdef int result = path_find(image, source, &parent, &leaf)
    if result == 0:
        result = path_find(image, target, &target_parent, &target_leaf)
    if result < 0:
        return result
    first = entry_find(&parent.entries, leaf)[0]
    second = entry_find(&target_parent.entries, target_leaf)[0]
    if first == NULL or second == NULL:
        return -ENOENT
    if (first.node.is_directory and node_is_below(target_parent, first.node)) or (
            second.node.is_directory and node_is_below(parent, second.node)):
        return -EINVAL
    result = journal_add(image, JOURNAL_EXCHANGE, parent, leaf, first.node, target_parent,
                         target_leaf)
    if result == 0:
        first.node, second.node = second.node, first.node
    return result

cdef inline int link_locked(Image* image, const char* source, const char* target) noexcept nogil:
    cdef Node* parent = NULL
    cdef Node* target_parent = NULL
    cdef const char* leaf = NULL
    cdef const char* target_leaf = NULL
    cdef Entry* entry
    cdef int result = path_find(image, source, &parent, &leaf)
    if result == 0:
        result = path_find(image, target, &target_parent, &target_leaf)
    if result < 0:
        return result
    entry = entry_find(&parent.entries, leaf)[0]
    if entry == NULL:
        return -ENOENT
    if entry.node.is_directory:
        return -EOPNOTSUPP
    if entry_find(&target_parent.entries, target_leaf)[0] != NULL:
        return -EEXIST
    return entry_create(image, target_parent, target_leaf, entry.node)

cdef inline int make_directory_locked(Image* image, const char* name) noexcept nogil:
    cdef Node* parent = NULL
    cdef Node* node
    cdef const char* leaf = NULL
    cdef int result = path_find(image, name, &parent, &leaf)
    if result < 0:
        return result
    if entry_find(&parent.entries, leaf)[0] != NULL:
        return -EEXIST
    node = node_new(image, True)
    return -ENOMEM if node == NULL else entry_create(image, parent, leaf, node)
