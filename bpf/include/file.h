/* Files and their references. */
#pragma once

#include "include/kernel_read.h"

/* Return the number of references to a file, from descriptors of any process and from calls in progress. 0 or less: the
 * last one has been released, and __fput() is about to end what the file stands for. */
static inline s64 references_to(const void *file)
{
    s64 count = 0;

#ifdef OFFSET__file__f_ref__refcnt /* since Linux 6.13, and one less than their number (include/linux/file_ref.h) */
    kernel_read(&count, file, FIELD(file, f_ref, refcnt));
    return count + 1;
#else
    kernel_read(&count, file, FIELD(file, f_count));
    return count;
#endif
}
