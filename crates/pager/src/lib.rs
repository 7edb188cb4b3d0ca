//! One VM's memory, moved as the room `memory` says: from the host's memory to where it costs less, and back on a fault.
//!
//! A pager is a process of its own, one for each VM. It gets its hold on the guest's memory from the [`shim`], a library
//! that is preloaded into an unmodified QEMU, and may die at any instant: the shim keeps the descriptors, the index of
//! where pages are is on the disk, and the next pager goes on.
//!
//! **For the host agent**: [`client::Client`] talks to a running pager ([`control`] has the words). The way of one VM:
//!
//! 1. [`shim::available`] says whether this host can; [`shim::install`], once a host, puts the library where VMs' processes
//!    can read it. Its path, and one for the machine's socket, go into the spec of the VM (`lucarne_vmm::driver::Paging`).
//! 2. Start `lucarne pager` with [`Options`] beside QEMU, before or after it, and again whenever it ends otherwise than by
//!    [`client::Client::terminate`]. A guest that touches memory that is not there stands still until a pager serves.
//! 3. `Client::connect`, then `set_target`, `set_policy`, `set_pinned` as often as wished, `statistics` each interval.
//! 4. Once QEMU has ended its pager ends too; then [`discard`] the folder, unless the VM was hibernated.
//!
//! Memory of other hosts: [`lender::lend`] is the process that keeps copies for them, `Client::set_remote` has a pager keep
//! copies there.
//!
//! A VM may begin with the memory of another: [`snapshot::write_memory_of`] makes a file of it that any number of pagers are
//! given ([`Origin::Snapshot`]). A page that was not changed goes back there without being written anywhere. Or it is a duplicate
//! of one that runs on: that one's pager holds its memory as of one instant ([`client::Client::hold`]), and the duplicate's
//! ([`Origin::Parent`]) fetches from it what its guest touches, or all of it.
//!
//! To hibernate, stop the guest's processors, then `evict_all`: it answers when all is on the disk. The next start of the
//! VM gets the same key and the same folder, and its pages come back on demand.

pub mod capture;
pub mod client;
pub mod control;
pub mod latency;
pub mod lender;
pub mod shim;
pub mod snapshot;

mod allocator;
mod completing;
mod disk;
mod eviction;
mod exit;
mod guest;
mod index;
mod pace;
mod page;
mod pager;
mod parent;
mod peer;
mod places;
mod pool;
mod priority;
mod process;
mod remote;
mod seal;
mod server;
mod shared;
mod source;
mod step;
mod store;
mod uffd;
mod upkeep;
mod wire;

pub use exit::Exit;
pub use parent::{ParentError, is_whole};
pub use peer::{Identity, IdentityError};
pub use process::{KEPT, Options, Origin, PagerError, discard, run, run_observed};
pub use remote::{Borrowing, RemoteStatistics};
pub use step::Step;
