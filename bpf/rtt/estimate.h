/* The kernel's RTT estimate, and the sample that explains its change. */
#pragma once

#include <linux/types.h>

/* The state of tcp_rtt_estimator(): RFC 6298 (2.3). */
struct estimate {
    u32 srtt_us;   /* times 8 */
    u32 mdev_us;   /* mean deviation, times 4 */
    u32 delivered; /* segments that the peer has acknowledged */
};

enum outcome { NO_SAMPLE, SAMPLE, UNCLEAR };

/* Return the mean deviation after tcp_rtt_estimator() adds a sample that differs from the average by `error_us`. */
static inline u32 mdev_after(u32 mdev_us, s64 error_us)
{
    s64 change = (error_us < 0 ? -error_us : error_us) - (mdev_us >> 2);

    if (error_us < 0 && change > 0)
        change >>= 3;
    return mdev_us + change;
}

/* Find the one sample that changed `before` to `now`. srtt_us grows by the sample minus an eighth of srtt_us, which
 * gives the sample exactly. If mdev_us has not changed as that sample changes it, there were two samples or none. */
static inline enum outcome rtt_sample(const struct estimate *before, const struct estimate *now, u32 *rtt_us)
{
    bool same = now->srtt_us == before->srtt_us && now->mdev_us == before->mdev_us;
    s64 error_us = (s64)now->srtt_us - before->srtt_us;
    s64 sample_us;
    u32 mdev_us;

    if (same && now->delivered == before->delivered)
        return NO_SAMPLE;
    if (before->srtt_us) {
        sample_us = error_us + (before->srtt_us >> 3);
        mdev_us = mdev_after(before->mdev_us, error_us);
    } else { /* the first sample sets the average to itself and the deviation to half of it */
        sample_us = now->srtt_us >> 3;
        mdev_us = sample_us << 1;
    }
    if (now->srtt_us && now->mdev_us == mdev_us && sample_us >= 0) {
        *rtt_us = sample_us;
        return SAMPLE;
    }
    return same ? NO_SAMPLE : UNCLEAR; /* the kernel takes no sample from acknowledgements of retransmitted segments */
}
