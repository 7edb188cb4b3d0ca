//! One VM's memory, moved as the room `memory` says: from the host's memory to where it costs less, and back on a fault.
