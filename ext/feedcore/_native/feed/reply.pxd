"""Parts of a feed reply that compiled code writes without objects of Python."""

from libc.stdint cimport uint64_t

from feedcore._native.codecs.wire cimport page_item_t

# What a receipt of a complete page from stored feeds says, beside the verdicts.
cdef struct receipt_t:
    uint64_t stored  # entries that the stored feed has within the window
    uint64_t timelines  # and the timelines
    uint64_t contents  # that were asked for; 0: none were needed
    uint64_t pulled  # authors whose timelines were merged: all there are
    uint64_t followees
    uint64_t ranking_version
    uint64_t generated_at_ms

cdef bytes encode_receipt(const receipt_t* receipt, bytes verdicts, str arm)
cdef bytes encode_not_modified(bytes head, bytes etag, bytes receipt)
cdef bytes encode_check(bytes entries, bytes verdicts, Py_ssize_t most, Py_ssize_t* count)
cdef bytes kept_ids(bytes entries, bytes verdicts, Py_ssize_t most)
cdef bytes id_array(list idents)
cdef void sort_items(page_item_t* items, Py_ssize_t n) noexcept nogil
