//! Room 3: whose pages stay where. Decides; a VM's pager and the host agent act.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
