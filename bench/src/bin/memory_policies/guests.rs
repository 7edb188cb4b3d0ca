//! What the recorded guests do: one kind of work each, after a boot.
//!
//! Owns the scripts. They run as the guest's first program, in the image `tiny`, whose shell and tools are busybox's.

/// A guest to record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    pub(crate) memory_mib: u64,
    /// After `cd /tmp`, which is memory.
    pub(crate) work: &'static str,
}

pub(crate) const ALL: [Guest; 7] = [
    Guest { name: "boot", memory_mib: 128, work: "true" },
    Guest {
        name: "md5 of 40 MiB, five times",
        memory_mib: 160,
        work: "dd if=/dev/urandom of=f bs=1M count=40 2>/dev/null; for i in 1 2 3 4 5; do md5sum f; done",
    },
    Guest {
        name: "gzip and back",
        memory_mib: 160,
        work: "seq 1 900000 >f; md5sum f; gzip -c f >g; for i in 1 2 3; do gunzip -c g | md5sum; done",
    },
    Guest {
        name: "sort",
        memory_mib: 160,
        work: "seq 1 120000 | awk '{print ($1*7919)%120011, $1}' >f; sort -n f | md5sum; sort -k2 f | md5sum",
    },
    Guest {
        name: "awk's table, read and written at random",
        memory_mib: 160,
        work: "awk 'BEGIN{for(i=0;i<200000;i++)a[i]=i; x=1; for(i=0;i<900000;i++){x=(x*16807)%2147483647; a[x%200000]+=i}; print a[7]}'",
    },
    Guest {
        name: "awk's table, a tenth of it hot",
        memory_mib: 160,
        work: "awk 'BEGIN{for(i=0;i<250000;i++)a[i]=i; x=1; for(i=0;i<900000;i++){x=(x*16807)%2147483647; \
               k=(x%10<9)?x%25000:x%250000; a[k]+=i}; print a[7]}'",
    },
    Guest {
        name: "phases: write, md5, sort, gzip, again",
        memory_mib: 160,
        work: "for r in 1 2; do dd if=/dev/urandom of=f$r bs=1M count=20 2>/dev/null; md5sum f*; \
               seq 1 60000 | sort -r | md5sum; seq 1 300000 | gzip -c | wc -c; done; md5sum f*",
    },
];
