/* The smoothed RTT, and the single sample that has changed it. */
#pragma once

#include <linux/types.h>

/* RFC 6298 (2.3) as the kernel does it. */
struct estimate {
    u32 srtt_us;   /* times 8 */
    u32 mdev_us;   /* mean deviation, times 4 */
    u32 delivered; /* segments that the peer is known to have */
};

enum outcome { NO_SAMPLE, SAMPLE, UNCLEAR };

/* What tcp_rtt_estimator() makes of the mean deviation when a sample differs from the average by `error_us`. */
static inline u32 mdev_after(u32 mdev_us, s64 error_us)
{
    s64 change = (error_us < 0 ? -error_us : error_us) - (mdev_us >> 2);

    if (error_us < 0 && change > 0)
        change >>= 3;
    return mdev_us + change;
}

/* Finds the one sample that has turned `before` into `now`. srtt_us grows by the sample less an eighth of itself, which tells the
 * sample exactly. The deviation must have changed as that same sample changes it: with two samples, or none, it has not. */
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
    } else { /* the first sample of all is the average, half of it the deviation */
        sample_us = now->srtt_us >> 3;
        mdev_us = sample_us << 1;
    }
    if (now->srtt_us && now->mdev_us == mdev_us && sample_us >= 0) {
        *rtt_us = sample_us;
        return SAMPLE;
    }
    return same ? NO_SAMPLE : UNCLEAR; /* retransmitted segments are acknowledged without a sample */
}
