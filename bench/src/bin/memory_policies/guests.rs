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

/// Those on which the default policy was chosen.
pub(crate) const CHOSEN_ON: [Guest; 7] = [
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

/// Those on which it is judged: they had no part in the choice.
pub(crate) const JUDGED_ON: [Guest; 6] = [
    Guest {
        name: "a tree: written, packed, unpacked, compared",
        memory_mib: 160,
        work: "mkdir d e; for i in $(seq 1 40); do seq $i $((i+20000)) >d/$i; done; tar cf t d; gzip -c t >z; \
               gunzip -c z | tar xf - -C e; for i in $(seq 1 40); do cmp d/$i e/d/$i; done; find . | sort | md5sum; \
               tar cf - e | md5sum",
    },
    Guest {
        name: "files copied and compared",
        memory_mib: 160,
        work: "dd if=/dev/urandom of=a bs=1M count=14 2>/dev/null; \
               for r in 1 2 3; do cp a b; cmp a b; cp b c; cmp a c; done; cat a b c | sha256sum",
    },
    Guest {
        name: "a log: counted, cut, sorted, edited",
        memory_mib: 160,
        work: "awk 'BEGIN{x=1; for(i=0;i<150000;i++){x=(x*16807)%2147483647; \
               print i, \"host\" x%97, \"GET /\" x%1009, x%5*100}}' >l; for r in 1 2 3; do grep -c host4 l; \
               cut -d' ' -f2 l | sort | uniq -c | sort -rn | head -3; sed 's/host/h/' l | md5sum; done",
    },
    Guest {
        name: "md5, gzip and a table at once",
        memory_mib: 160,
        work: "dd if=/dev/urandom of=f bs=1M count=16 2>/dev/null; seq 1 300000 >s; \
               (for i in 1 2 3 4; do md5sum f; done) & (gzip -c s | wc -c) & \
               (awk 'BEGIN{for(i=0;i<80000;i++)a[i]=i; x=1; \
               for(i=0;i<300000;i++){x=(x*16807)%2147483647; a[x%80000]+=i}; print a[7]}') & wait",
    },
    Guest {
        name: "awk's table, what is hot of it drifts",
        memory_mib: 160,
        work: "awk 'BEGIN{for(i=0;i<220000;i++)a[i]=i; x=1; \
               for(i=0;i<900000;i++){x=(x*16807)%2147483647; a[int(i/6)+x%50000]+=i}; print a[7]}'",
    },
    Guest {
        name: "httpd: 64 files, a few often",
        memory_mib: 160,
        work: "ip link set lo up; mkdir w; for i in $(seq 1 64); do dd if=/dev/urandom of=w/$i bs=512k count=1 2>/dev/null; done; \
               httpd -p 127.0.0.1:8080 -h w; x=1; for i in $(seq 1 260); do x=$(( (x*16807) % 2147483647 )); \
               k=$(( x % 10 < 7 ? x % 6 + 1 : x % 64 + 1 )); wget -q -O - http://127.0.0.1:8080/$k >/dev/null; done",
    },
];
