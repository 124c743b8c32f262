//! Pods and nodes as scheduling sees them: parsed once, then only read.

mod node;
mod pod;
mod resources;
mod snapshot;

pub use self::node::{NodeInfo, tolerates};
pub use self::pod::{HostPort, NodeTerm, PodInfo, PodTerm, PreferredTerm, Spread};
pub use self::resources::Resources;
pub use self::snapshot::{Assigned, Snapshot};
